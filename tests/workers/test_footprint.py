import pytest
import trio

from muxd.config import Memory, Model
from muxd.gpus import GpuMemory, NoGpus
from muxd.workers.footprint import Footprint, GiB

MODEL = Model("a", gpus=(0,), gpu_release_timeout=5.0)
DECLARED = Model("a", gpus=(0, 1), gpu_release_timeout=5.0, memory=Memory(weights=40 * GiB, kv=20 * GiB))


class PretendGpus:
    """Two GPUs of 80 GiB; `later` says how much more is free from when on."""

    simulated = True

    def __init__(self, used: float = 0.0) -> None:
        self.used = used
        self.later: list[tuple[float, float]] = []
        self.latest: dict[int, GpuMemory] = {}

    async def read(self) -> dict[int, GpuMemory]:
        await trio.lowlevel.checkpoint()
        freed = sum(amount for at, amount in self.later if trio.current_time() >= at)
        used = int((self.used - freed) * GiB)
        self.latest = {i: GpuMemory(i, "pretend", 80 * GiB, used) for i in (0, 1)}
        return self.latest


async def loaded(gpus: PretendGpus, model: Model, size: float) -> Footprint:
    """A footprint of a model whose load has taken `size` GiB on each GPU."""
    footprint = Footprint(gpus, model)
    assert await footprint.until_room_to_load() is None
    gpus.used += size
    await footprint.loaded()
    return footprint


async def test_where_nothing_can_be_read_nothing_is_waited_for(autojump_clock):
    footprint = Footprint(NoGpus(), DECLARED)
    began = trio.current_time()
    assert await footprint.until_room_to_load() is None
    await footprint.loaded()
    await footprint.about_to_sleep()
    assert await footprint.until_released() is None
    assert await footprint.until_room_to_wake() is None
    assert await footprint.until_gone() is None
    assert trio.current_time() - began < 0.1


async def test_a_load_waits_for_the_declared_size_on_each_of_its_gpus(autojump_clock):
    gpus = PretendGpus(used=60)
    gpus.later = [(trio.current_time() + 2, 15)]
    assert await Footprint(gpus, DECLARED).until_room_to_load() is None
    assert trio.current_time() >= 2


async def test_a_load_that_finds_no_room_says_what_is_missing_where(autojump_clock):
    missing = await Footprint(PretendGpus(used=60), DECLARED).until_room_to_load()
    assert missing is not None
    assert "GPU 0 has 20.0 GiB free of 30.0 GiB needed" in missing
    assert "GPU 1 has 20.0 GiB free" in missing


async def test_an_undeclared_size_is_learned_from_the_first_load(autojump_clock):
    gpus = PretendGpus()
    footprint = await loaded(gpus, MODEL, 50)
    footprint.forget()
    gpus.used = 60
    assert "of 50.0 GiB needed" in str(await footprint.until_room_to_load())


async def test_a_sleep_waits_until_the_memory_is_really_back(autojump_clock):
    gpus = PretendGpus()
    footprint = await loaded(gpus, MODEL, 50)
    await footprint.about_to_sleep()
    gpus.later = [(trio.current_time() + 3, 48)]
    assert await footprint.until_released() is None
    assert trio.current_time() >= 3


async def test_memory_that_does_not_come_back_is_told(autojump_clock):
    footprint = await loaded(PretendGpus(), MODEL, 50)
    await footprint.about_to_sleep()
    assert "did not come back in 5 s" in str(await footprint.until_released())


@pytest.mark.parametrize(("taken_meanwhile", "room"), [(25, True), (40, False)])
async def test_a_wake_waits_for_all_that_its_sleep_gave_up(autojump_clock, taken_meanwhile, room):
    gpus = PretendGpus()
    footprint = await loaded(gpus, MODEL, 50)
    await footprint.about_to_sleep()
    gpus.used = 2
    assert await footprint.until_released() is None
    gpus.used += taken_meanwhile
    assert (await footprint.until_room_to_wake() is None) is room


async def test_the_memory_of_a_dead_process_is_waited_for(autojump_clock):
    gpus = PretendGpus(used=10)
    footprint = await loaded(gpus, MODEL, 50)
    assert "did not come back" in str(await footprint.until_gone())
    gpus.used = 10
    assert await footprint.until_gone() is None
