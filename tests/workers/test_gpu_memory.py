from dataclasses import replace
from functools import partial

import pytest
import trio

from muxd.config import Memory, Model
from muxd.gpus import GpuMemory, NoGpus
from muxd.workers.gpu_memory import GiB, GpuMemoryTracker

MODEL = Model("a", gpus=("0",), gpu_release_timeout=5.0)
DECLARED = Model("a", gpus=("0", "1"), gpu_release_timeout=5.0, memory=Memory(weights=40 * GiB, kv=20 * GiB))


class PretendGpus:
    """Two GPUs of 80 GiB; `later` says how much more is free from when on."""

    measured = True

    def __init__(self, used: float = 0.0) -> None:
        self.used = used
        self.later: list[tuple[float, float]] = []
        self.latest: dict[str, GpuMemory] = {}
        self.fails = 0

    async def read(self) -> dict[str, GpuMemory]:
        await trio.lowlevel.checkpoint()
        if self.fails:
            self.fails -= 1
            return {}
        freed = sum(amount for at, amount in self.later if trio.current_time() >= at)
        used = int((self.used - freed) * GiB)
        self.latest = {i: GpuMemory(i, "pretend", 80 * GiB, used) for i in ("0", "1")}
        return self.latest


async def loaded(gpus: PretendGpus, model: Model, size: float) -> GpuMemoryTracker:
    """A footprint of a model whose load has taken `size` GiB on each GPU."""
    footprint = GpuMemoryTracker(gpus, model)
    assert await footprint.until_room_to_load() is None
    gpus.used += size
    await footprint.came()
    return footprint


async def test_where_nothing_can_be_read_nothing_is_waited_for(autojump_clock):
    footprint = GpuMemoryTracker(NoGpus(), DECLARED)
    began = trio.current_time()
    assert await footprint.until_room_to_load() is None
    await footprint.came()
    assert await footprint.until_released(2) is None
    assert await footprint.until_room_to_wake() is None
    assert await footprint.until_gone() is None
    assert trio.current_time() - began < 0.1


async def test_a_load_waits_for_the_declared_size_on_each_of_its_gpus(autojump_clock):
    gpus = PretendGpus(used=60)
    gpus.later = [(trio.current_time() + 2, 15)]
    assert await GpuMemoryTracker(gpus, DECLARED).until_room_to_load() is None
    assert trio.current_time() >= 2


async def test_a_load_that_finds_no_room_says_what_is_missing_where(autojump_clock):
    missing = await GpuMemoryTracker(PretendGpus(used=60), DECLARED).until_room_to_load()
    assert missing is not None
    assert "GPU 0 has 20.0 GiB free of 30.0 GiB needed" in missing
    assert "GPU 1 has 20.0 GiB free" in missing


async def test_an_undeclared_model_waits_until_nobody_is_giving_memory_up(autojump_clock):
    gpus = PretendGpus(used=60)
    now = trio.current_time()
    gpus.later = [(now + step / 200, 2) for step in range(20)]
    assert await GpuMemoryTracker(gpus, MODEL).until_room_to_load() is None
    assert trio.current_time() >= now + 0.09


async def test_a_load_beside_a_sleeper_that_has_just_died_waits_until_the_books_say_so(autojump_clock):
    gpus, held = PretendGpus(), {"b": {"0": 2 * GiB}}  # of a dead process, whose end is not yet told
    footprint = GpuMemoryTracker(gpus, MODEL, held)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(footprint.until_room_to_load)
        await trio.sleep(1)
        del held["b"]
    assert await footprint.until_gone() is None, "it was killed while it loaded, and nothing of it is left"


async def test_what_comes_beside_one_that_is_thought_to_have_too_much_is_gone_once_its_own_memory_is_back(
    autojump_clock,
):
    gpus, held = PretendGpus(used=40), {"b": {"0": 70 * GiB}}
    footprint = GpuMemoryTracker(gpus, MODEL, held)
    assert await footprint.until_room_to_load() is None
    gpus.used += 40
    await footprint.came()
    assert (footprint.awake, held["a"]) == (40 * GiB, {"0": 40 * GiB})
    held["b"] = {"0": 2 * GiB}  # b has slept since, and was measured again
    gpus.used -= 40 + 38
    assert await footprint.until_gone() is None


@pytest.mark.parametrize("once_asleep", [2, 40])
async def test_a_wake_beside_one_that_is_thought_to_have_too_much_is_gone_once_its_own_memory_is_back(
    autojump_clock, once_asleep
):
    gpus, held = PretendGpus(used=40), {"b": {"0": 40 * GiB}}
    footprint = GpuMemoryTracker(gpus, MODEL, held)
    assert await footprint.until_room_to_load() is None
    gpus.used += 40
    await footprint.came()
    gpus.used -= 38
    assert await footprint.until_released(2) is None
    held["b"] = {"0": 70 * GiB}
    assert await footprint.until_room_to_wake() is None
    gpus.used += 38
    await footprint.came()
    assert held["a"] == {"0": 40 * GiB}
    held["b"] = {"0": once_asleep * GiB}
    gpus.used = once_asleep
    assert await footprint.until_gone() is None


async def test_a_sleep_waits_until_the_memory_is_really_back(autojump_clock):
    gpus = PretendGpus()
    footprint = await loaded(gpus, MODEL, 50)
    gpus.later = [(trio.current_time() + 3, 48)]
    assert await footprint.until_released(2) is None
    assert trio.current_time() >= 3


async def test_memory_that_does_not_come_back_is_told(autojump_clock):
    footprint = await loaded(PretendGpus(), MODEL, 50)
    assert "did not come back in 5 s" in str(await footprint.until_released(2))


@pytest.mark.parametrize(("taken_meanwhile", "room"), [(25, True), (40, False)])
async def test_a_wake_waits_for_all_that_its_sleep_gave_up(autojump_clock, taken_meanwhile, room):
    gpus = PretendGpus()
    footprint = await loaded(gpus, MODEL, 50)
    gpus.used = 2
    assert await footprint.until_released(2) is None
    gpus.used += taken_meanwhile
    assert (await footprint.until_room_to_wake() is None) is room


async def test_the_memory_of_a_dead_process_is_waited_for(autojump_clock):
    gpus = PretendGpus(used=10)
    footprint = await loaded(gpus, MODEL, 50)
    assert "did not come back" in str(await footprint.until_gone())
    gpus.used = 10
    assert await footprint.until_gone() is None


async def test_what_dies_while_it_loads_must_give_back_all_it_took(autojump_clock):
    gpus = PretendGpus(used=10)
    footprint = GpuMemoryTracker(gpus, MODEL)
    assert await footprint.until_room_to_load() is None
    gpus.used = 60
    assert "51136 MiB on GPU 0 of its memory did not come back" in str(await footprint.until_gone())


async def test_neighbours_that_sleep_beside_it_are_not_counted_as_its_memory(autojump_clock):
    gpus = PretendGpus()
    footprint = await loaded(gpus, MODEL, 8)
    gpus.used = 1
    assert await footprint.until_released(2) is None
    gpus.used += 6  # others came, and sleep with a part still held
    assert await footprint.until_room_to_wake() is None
    gpus.used += 7
    await footprint.came()
    gpus.used -= 8
    assert await footprint.until_gone() is None


async def test_a_reading_that_fails_is_made_again(autojump_clock):
    gpus = PretendGpus()
    footprint = await loaded(gpus, MODEL, 50)
    gpus.used = 2
    gpus.fails = 3
    assert await footprint.until_released(2) is None
    assert gpus.fails == 0


async def test_a_sleep_like_the_one_before_is_not_watched_for_more_to_come(autojump_clock):
    gpus = PretendGpus()
    footprint = await loaded(gpus, MODEL, 50)
    took = []
    for _ in range(3):
        gpus.used = 2
        began = trio.current_time()
        assert await footprint.until_released(2) is None
        took.append(trio.current_time() - began)
        assert await footprint.until_room_to_wake() is None
        gpus.used = 50
        await footprint.came()
    assert took[0] > 0
    assert took[1:] == [0, 0]


async def test_a_sleep_that_gives_less_back_than_the_one_before_is_watched_until_no_more_comes(autojump_clock):
    gpus = PretendGpus()
    footprint = await loaded(gpus, MODEL, 50)
    gpus.used = 2
    assert await footprint.until_released(2) is None
    assert await footprint.until_room_to_wake() is None
    gpus.used = 50
    await footprint.came()
    gpus.used, now = 20, trio.current_time()  # more than half is back
    gpus.later = [(now + step / 200, 1) for step in range(1, 19)]
    assert await footprint.until_released(2) is None
    assert footprint.asleep == 2 * GiB


async def test_how_long_each_wait_took_is_remembered(autojump_clock):
    gpus = PretendGpus(used=60)
    footprint = GpuMemoryTracker(gpus, DECLARED)
    took = []
    for wait in (footprint.until_room_to_load, partial(footprint.until_released, 2), footprint.until_room_to_wake):
        now = trio.current_time()
        gpus.later = [(now + 1 + len(took), 40)]
        assert await wait() is None
        took.append((footprint.waited, trio.current_time() - now))
        gpus.used, gpus.later = 70, []
        await footprint.came()
    gpus.later = [(trio.current_time() + 4, 60)]
    assert await footprint.until_gone(patience=0.0) is not None
    assert footprint.waited == 0
    assert await footprint.until_gone() is None
    assert footprint.waited == pytest.approx(4, abs=0.1)
    assert [waited for waited, _ in took] == [elapsed for _, elapsed in took]
    assert took[0][0] >= 1


async def test_of_gpus_that_a_script_was_seen_not_to_use_nothing_is_measured_any_more(autojump_clock):
    gpus = PretendGpus(used=10)
    footprint = GpuMemoryTracker(gpus, Model("a", gpus=("0", "1"), gpu_release_timeout=5.0))
    assert await footprint.until_room_to_load() is None
    gpus.used += 40
    footprint.update(Model("a", gpus=("1",), gpu_release_timeout=5.0))
    await footprint.came()
    assert footprint.awake == 40 * GiB
    gpus.used -= 38
    assert await footprint.until_released(2) is None
    assert footprint.asleep == 2 * GiB


async def test_what_others_take_and_leave_beside_it_is_not_taken_for_its_own(autojump_clock):
    """One comes at 10, another beside it; the first leaves while the other stays, then comes back and ends."""
    held: dict[str, dict[int, int]] = {}
    gpus = PretendGpus(used=0)
    first, second = GpuMemoryTracker(gpus, MODEL, held), GpuMemoryTracker(gpus, replace(MODEL, name="b"), held)
    assert await first.until_room_to_load() is None
    gpus.used = 10
    await first.came()
    assert await second.until_room_to_load() is None
    gpus.used = 30
    await second.came()
    assert (first.awake, second.awake) == (10 * GiB, 20 * GiB)
    gpus.used = 21
    assert await first.until_released(2) is None, "20 GiB are the other one's"
    assert first.asleep == 1 * GiB
    gpus.used = 1
    assert await second.until_gone() is None
    gpus.used = 1
    assert await first.until_room_to_wake() is None
    gpus.used = 10
    await first.came()
    assert first.awake == 10 * GiB


def side_by_side(gpus: PretendGpus) -> tuple[GpuMemoryTracker, GpuMemoryTracker]:
    """Trackers of two models of 30 GiB that know of each other, the second one's worker loaded."""
    held: dict[str, dict[int, int]] = {}
    model = replace(DECLARED, gpus=("0",), memory=Memory(weights=20 * GiB, kv=10 * GiB))
    return GpuMemoryTracker(gpus, model, held), GpuMemoryTracker(gpus, replace(model, name="b"), held)


async def test_the_end_of_another_one_while_it_loads_is_not_taken_for_less_of_its_own(autojump_clock):
    gpus = PretendGpus()
    first, second = side_by_side(gpus)
    assert await second.until_room_to_load() is None
    gpus.used = 30
    await second.came()
    assert await first.until_room_to_load() is None
    gpus.used = 10  # the second one's worker has died; the first one's has loaded a third
    assert await second.until_gone() is None
    gpus.used = 30
    await first.came()
    assert first.awake == 30 * GiB
    gpus.used = 2
    assert await first.until_released(2) is None
    assert first.asleep == 2 * GiB


async def test_the_end_of_another_one_while_it_sleeps_is_not_taken_for_memory_that_it_gave_up(autojump_clock):
    gpus = PretendGpus()
    first, second = side_by_side(gpus)
    for tracker in (second, first):
        assert await tracker.until_room_to_load() is None
        gpus.used += 30
        await tracker.came()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.until_released, 2)
        await trio.sleep(1)
        gpus.used = 30  # the second one's worker has died
        assert await second.until_gone() is None
        await trio.sleep(1)
        gpus.used = 2
    assert first.asleep == 2 * GiB
    gpus.used = 52  # the second one, and a stranger with 20
    assert await first.until_room_to_wake() is None, "28 GiB are free, as many as it gave up"


async def test_one_that_ends_while_another_loads_does_not_wait_for_the_other_ones_memory(autojump_clock):
    gpus = PretendGpus()
    first, second = side_by_side(gpus)
    assert await first.until_room_to_load() is None
    gpus.used = 30
    await first.came()
    assert await second.until_room_to_load() is None
    gpus.used = 28  # the first one's worker has died; the second one's has nearly loaded
    assert await first.until_gone(patience=0.0) is None


def shallow(gpus: PretendGpus) -> GpuMemoryTracker:
    """A tracker of a model with weights of 30 GiB and a KV cache of 10."""
    return GpuMemoryTracker(gpus, replace(DECLARED, gpus=("0",), memory=Memory(weights=30 * GiB, kv=10 * GiB)))


async def test_at_level_0_the_kv_cache_alone_comes_back_and_what_stays_is_measured(autojump_clock):
    gpus = PretendGpus()
    tracker = shallow(gpus)
    assert await tracker.until_room_to_load() is None
    gpus.used = 40
    await tracker.came()
    gpus.later = [(trio.current_time() + 2, 10)]
    assert await tracker.until_released(0) is None
    assert trio.current_time() >= 2
    assert (tracker.awake, tracker.asleep) == (40 * GiB, 30 * GiB)


async def test_a_cache_that_does_not_come_back_is_told(autojump_clock):
    gpus = PretendGpus()
    tracker = shallow(gpus)
    assert await tracker.until_room_to_load() is None
    gpus.used = 40
    await tracker.came()
    assert "5120 MiB on GPU 0 of its memory did not come back in 5 s" in str(await tracker.until_released(0))


async def test_one_that_goes_deeper_is_waited_for_until_its_weights_are_gone_and_wakes_into_room_for_both(
    autojump_clock,
):
    gpus = PretendGpus()
    tracker = shallow(gpus)
    for deep in (2, 1):  # the second time after a wake from the deeper level
        assert await (tracker.until_room_to_load() if deep == 2 else tracker.until_room_to_wake()) is None
        gpus.used = 40
        await tracker.came()
        gpus.used = 30
        assert await tracker.until_released(0) is None
        gpus.later = [(trio.current_time() + 3, 29)]
        began = trio.current_time()
        assert await tracker.until_released(2) is None
        assert trio.current_time() >= began + 3
        assert tracker.asleep == 1 * GiB
        gpus.used, gpus.later = 1, []
    gpus.used = 60  # of others
    assert "GPU 0 has 20.0 GiB free of 39.0 GiB needed" in str(await tracker.until_room_to_wake())


async def test_a_wake_from_level_0_waits_for_its_cache_alone(autojump_clock):
    gpus = PretendGpus()
    tracker = shallow(gpus)
    assert await tracker.until_room_to_load() is None
    gpus.used = 40
    await tracker.came()
    gpus.used = 30
    assert await tracker.until_released(0) is None
    gpus.used = 70  # of others
    assert await tracker.until_room_to_wake() is None
    gpus.used = 80
    await tracker.came()
    assert tracker.awake == 40 * GiB
    gpus.used = 41
    assert await tracker.until_released(2) is None
    assert tracker.asleep == 1 * GiB


@pytest.mark.parametrize(("level", "waits"), [(0, True), (2, False)])
async def test_what_dies_asleep_is_waited_for_where_its_weights_were_on_the_gpu(autojump_clock, level, waits):
    gpus = PretendGpus()
    tracker = shallow(gpus)
    assert await tracker.until_room_to_load() is None
    gpus.used = 40
    await tracker.came()
    gpus.used = 30 if level == 0 else 0
    assert await tracker.until_released(level) is None
    gpus.used = 30
    assert (await tracker.until_gone() is not None) is waits
