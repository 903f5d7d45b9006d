"""What one worker takes on its GPUs, as measured, and the waits until memory is really free.

An engine may answer a release, and a process may be gone, before the memory is back; a
load or a wake into memory that is not free ends the engine.  Where nothing can be read
nothing is waited for.
"""

import trio

from muxd.config import Model
from muxd.gpus import NOISE, GpuMemory, Gpus

GiB = 1 << 30

#: Between two readings while memory is waited for.
POLL = 0.05

#: Two equal readings so far apart: what is going to come back quickly is back.
SETTLED = 0.01


class Footprint:
    """Of one model's worker; all sizes are bytes over all its GPUs together.

    Methods that wait give None when all is well, and what is wrong when the model's
    gpu_release_timeout is over.
    """

    def __init__(self, gpus: Gpus, model: Model) -> None:
        self._gpus = gpus
        self._indices = model.gpus
        self._patience = model.gpu_release_timeout
        self._load = model.memory.total if model.memory is not None else 0  # declared, else as last measured
        self._declared = model.memory is not None
        self._before = 0  # taken, by whomever, before it was loaded
        self._ready = 0  # and when it was ready
        self._awake = 0  # and before its sleep
        self._given_up = 0  # by its sleep

    @property
    def _held(self) -> int:
        """What its load was seen to take."""
        return max(0, self._ready - self._before)

    async def until_room_to_load(self) -> str | None:
        missing = await self._until_free(self._load)
        self._before = self._taken(self._gpus.latest)
        return missing

    async def loaded(self) -> None:
        self._ready = self._taken(await self._gpus.read())
        if not self._declared:
            self._load = self._held

    async def about_to_sleep(self) -> None:
        self._awake = self._taken(await self._gpus.read())

    async def until_released(self) -> str | None:
        """After its sleep: most of what its load took is free (a part stays with the process), and no more comes."""
        over = await self._until_half_is_back(self._awake)
        if over is None:
            self._given_up = max(0, self._awake - await self._settled())
        return over

    async def until_room_to_wake(self) -> str | None:
        return await self._until_free(self._given_up)

    async def until_gone(self) -> str | None:
        """After the end of its processes, from awake."""
        return await self._until_half_is_back(self._ready)

    def forget(self) -> None:
        """A new life begins: nothing of the last one is there."""
        self._before = self._ready = self._awake = self._given_up = 0

    # Readings

    def _taken(self, reading: dict[int, GpuMemory]) -> int:
        return sum(reading[i].used for i in self._indices if i in reading)

    async def _until_half_is_back(self, taken: int) -> str | None:
        if self._held < NOISE:
            return None
        limit = taken - self._held // 2
        with trio.move_on_after(self._patience):
            while self._taken(await self._gpus.read()) > limit:
                await trio.sleep(POLL)
            return None
        over = self._taken(await self._gpus.read()) - limit
        return f"{over >> 20} MiB of its GPU memory did not come back in {self._patience:g} s"

    async def _settled(self) -> int:
        """What is taken once two readings in a row agree."""
        last = self._taken(self._gpus.latest)
        with trio.move_on_after(self._patience):
            while True:
                await trio.sleep(SETTLED)
                now = self._taken(await self._gpus.read())
                if abs(now - last) < NOISE:
                    return now
                last = now
        return last

    async def _until_free(self, need: int) -> str | None:
        """An equal share of `need` is free on each GPU."""
        share = need // max(1, len(self._indices))
        short: list[GpuMemory] = []
        with trio.move_on_after(self._patience):
            while short := self._short_of(share, await self._gpus.read()):
                await trio.sleep(POLL)
        if not short:
            return None
        lacking = [f"GPU {g.index} has {g.free / GiB:.1f} GiB free of {share / GiB:.1f} GiB needed" for g in short]
        return f"{', '.join(lacking)} after {self._patience:g} s: end what else holds the memory"

    def _short_of(self, share: int, reading: dict[int, GpuMemory]) -> list[GpuMemory]:
        return [g for i, g in reading.items() if i in self._indices and g.free + NOISE < share]
