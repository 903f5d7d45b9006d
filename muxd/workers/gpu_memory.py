"""Measures what one worker takes on its GPUs, and waits until memory is really free.

An engine may answer a release, and a process may be gone, before the memory is back; a load or a wake into memory
that is not free ends the engine.  Every GPU is looked at by itself.  A reading that fails is made again; where the
host's GPUs cannot be measured at all, the waits return at once.
"""

from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager

import trio

from muxd.config import Model
from muxd.core.ledger import GpuId
from muxd.gpus import NOISE, GpuMemory, Gpus
from muxd.saved_state import TrackedMemory

GiB = 1 << 30

#: Seconds between two readings while a worker waits for memory: at first, and at most after doubling.
POLL, SLOW_POLL = 0.002, 0.05

#: Seconds between two readings that must agree: memory that comes back quickly is back by then.  A first sleep waits
#: for two such readings; a later sleep is over when it has given up as much as the one before, which saves 10 ms on
#: every switch but the first.
SETTLED = 0.01

Taken = dict[GpuId, int]  # bytes that are taken on each GPU


class GpuMemoryTracker:
    """The GPU memory of one model's worker; it outlasts the worker's processes.

    Methods that wait return None when all is well, and what is wrong when the model's gpu_release_timeout is over.
    """

    def __init__(self, gpus: Gpus, model: Model, held: dict[str, Taken] | None = None) -> None:
        """Track the memory of one model; `held`: what each worker was last seen to have, shared by all trackers.

        A reading is of a whole GPU; what `held` says of the others is taken off it.  Since one worker at a time comes
        to a GPU or leaves it, what changes between two readings is that worker's, though others end at any time.
        """
        self._gpus = gpus
        self._name = model.name
        self._held = held if held is not None else {}
        self._on = model.gpus
        self._patience = model.gpu_release_timeout
        self.declared = model.memory.total if model.memory is not None else 0
        self._share = self.declared // max(1, model.gpus_each)  # declared bytes on each GPU; 0: not declared
        self._cache = model.memory.kv if model.memory is not None else 0  # declared bytes of the KV cache
        self._before: Taken | None = None  # as read before the worker's last load or wake
        self._awake: Taken | None = None  # as read when the worker was ready after that
        self._level: int | None = None  # at which the worker sleeps; None: it is awake, or on its way
        self._given_up: dict[int, Taken] = {}  # what the worker's last sleep at each level gave up, since its load
        self._kept: int | None = None  # bytes that the worker's last sleep left with its processes
        self._kept_before = 0  # likewise, for the sleep before the worker's last wake; 0 after a load
        self._at_gate = 0  # bytes that a process which waits at its engine's gate was seen to have, for its context
        self.waited = 0.0  # seconds that the last wait took, for room or for memory to come back

    def update(self, model: Model) -> None:
        """Take over a configuration that changed in nothing that the running processes depend on."""
        self._patience = model.gpu_release_timeout
        if model.gpus != self._on:  # the model has a launch script, whose server was seen to use these GPUs
            self._on, self._share = model.gpus, self.declared // max(1, model.gpus_each)
            self._before, self._awake = self._on_own_gpus(self._before), self._on_own_gpus(self._awake)
            self._given_up = {level: self._on_own_gpus(taken) or {} for level, taken in self._given_up.items()}

    def saved(self) -> TrackedMemory:
        """Return what was measured, for the next muxd."""
        return TrackedMemory(
            before=self._before,
            awake=self._awake,
            level=self._level,
            given_up=self._given_up,
            kept=self._kept,
            kept_before=self._kept_before,
        )

    def restore(self, saved: TrackedMemory) -> None:
        """Take over what an earlier muxd measured of a worker that lives on."""
        self._before, self._awake, self._level = saved.before, saved.awake, saved.level
        self._given_up, self._kept, self._kept_before = dict(saved.given_up), saved.kept, saved.kept_before
        held = self.awake if saved.level is None else self._kept
        if held is not None and self._on:
            self._held[self._name] = dict.fromkeys(self._on, held // len(self._on))

    def _on_own_gpus(self, taken: Taken | None) -> Taken | None:
        return {gpu: size for gpu, size in taken.items() if gpu in self._on} if taken is not None else None

    @property
    def awake(self) -> int | None:
        """Return the bytes that the worker had on its GPUs when it was last ready; None where nobody measured them."""
        if not self._before or not self._awake:  # or it has no GPU
            return None
        return max(0, sum(self._awake.values()) - sum(self._before.values())) + self._kept_before

    @property
    def asleep(self) -> int | None:
        """Return the bytes that the last sleep left on the GPUs; None where the worker has not slept since its load."""
        return self._kept

    # The worker loads or wakes

    async def until_room_to_load(self) -> str | None:
        """Wait until as much as the model declares is free, and two readings agree.

        Readings that agree show that no other process is just giving memory up.
        """
        self._begin_anew()
        self._kept_before, self._at_gate = self._at_gate, 0
        with self._timed():
            missing, _ = await self._until_free(dict.fromkeys(self._on, self._share))
            self._before = await self._settled()
        self._expect()
        return missing

    def _begin_anew(self) -> None:
        """Forget what was measured of the worker's former processes."""
        self._before = self._awake = self._level = None
        self._given_up = {}
        self._kept, self._kept_before, self._at_gate = None, 0, 0

    def wait_at_gate(self) -> None:
        """Note that a process begins that will take nothing but a CUDA context until it is to load."""
        self._begin_anew()
        self._held[self._name] = dict.fromkeys(self._on, 0)

    async def came_to_gate(self, pids: Collection[int]) -> None:
        """Note what the worker's processes have on its GPUs while they wait, where figures by process are told."""
        reading = await self._gpus.read(holders=True)
        holders = {gpu: reading[gpu].holders or {} for gpu in self._on if gpu in reading}
        taken = {gpu: sum(size for pid, size in found.items() if pid in pids) for gpu, found in holders.items()}
        self._held[self._name] = {**dict.fromkeys(self._on, 0), **taken}
        self._at_gate = sum(taken.values())

    async def least(self) -> tuple[int, int]:
        """Return the bytes that are free on that of its GPUs which has least, and those that the smallest has in all.

        Both are 0 where one of the GPUs cannot be read.
        """
        reading = await self._gpus.read()
        if not self._on or any(gpu not in reading for gpu in self._on):
            return 0, 0
        return min(reading[gpu].free for gpu in self._on), min(reading[gpu].total for gpu in self._on)

    async def until_room_to_wake(self) -> str | None:
        """Wait until all that the worker's last sleep gave up is free again."""
        with self._timed():
            gave = self._given_up.get(self._level if self._level is not None else 3, {})
            missing, reading = await self._until_free(gave)
            self._before = self._in(reading) if reading is not None else await self._read()
            self._awake = self._level = None
        self._expect()
        self._kept_before = self._kept or 0
        return missing

    def _expect(self) -> None:
        """Note that the worker may have as much as it declares from now on, for others who end meanwhile."""
        if self._share:
            self._held[self._name] = dict.fromkeys(self._on, self._share)

    async def came(self) -> None:
        """Note what the worker has on its GPUs, now that it is ready after a load or a wake."""
        self._awake = await self._read()
        if self._before is not None and self._awake is not None:
            kept = self._kept_before // max(1, len(self._on))
            took = {gpu: max(0, self._awake[gpu] - self._before[gpu]) + kept for gpu in self._awake}
            self._held[self._name] = took

    async def taken(self) -> int | None:
        """Read what is taken on the worker's GPUs, by whatever is no other worker; None where nobody can measure it."""
        now = await self._read() if self._gpus.measured and self._on else None
        return None if now is None else sum(now.values())

    # The worker sleeps or ends

    async def peak(self) -> int | None:
        """Read what an awake worker has, and return the bytes on that of its GPUs where it has most.

        None where nobody can measure them, or they are within the noise of such measurements.
        """
        now = await self._read()
        if self._before is None or not now:
            return None
        most = max(size - self._before[gpu] for gpu, size in now.items()) + self._kept_before // len(self._on)
        return most if most > NOISE else None

    def _others(self) -> Taken:
        """Return what all other workers are known to have on each of its GPUs."""
        others = [held for name, held in self._held.items() if name != self._name]
        return {gpu: sum(held.get(gpu, 0) for held in others) for gpu in self._on}

    async def until_released(self, level: int) -> str | None:
        """Wait, after the worker's sleep at `level`, until most of what that gives up is free and no more comes back.

        A part of the memory stays with the worker's processes: at level 0 all but the KV cache.
        """
        awake, had = self._awake, self.awake
        with self._timed():
            over, now = await self._until_given_back(level=level)
            is_as_before = self._is_as_before(level, awake, now)
            if not is_as_before:
                now = await self._settled()
        if over is None and awake is not None and now is not None:
            if not is_as_before:  # a figure taken from an unsettled reading every time would drift
                self._given_up[level] = {gpu: max(0, awake[gpu] - now[gpu]) for gpu in awake}
            self._kept = max(0, (had or 0) - sum(self._given_up[level].values()))
            self._held[self._name] = dict.fromkeys(self._on, self._kept // max(1, len(self._on)))
        if over is None:
            self._level = level
        return over

    def _is_as_before(self, level: int, awake: Taken | None, now: Taken | None) -> bool:
        """Say whether this sleep has given up as much on each GPU as the worker's last one at this level."""
        if awake is None or now is None or level not in self._given_up:
            return False
        return all(awake[gpu] - now[gpu] + NOISE >= self._given_up[level].get(gpu, 0) for gpu in awake)

    async def until_gone(self, patience: float | None = None) -> str | None:
        """Wait until memory is back after the end of the worker's processes; `patience` in seconds.

        One that ended asleep at level 1 or 2 had given it back: others have taken its place on the GPUs.
        """
        missing = None
        with self._timed():
            if self._level in (None, 0):
                missing, _ = await self._until_given_back(patience)
        if missing is None:
            self.forget()
        return missing

    def forget(self) -> None:
        """Note that nothing of the worker's is left on its GPUs."""
        self._held.pop(self._name, None)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began = trio.current_time()
        yield
        self.waited = trio.current_time() - began

    # Waiting for free memory, and for memory to come back

    async def _until_free(self, need: Taken) -> tuple[str | None, dict[GpuId, GpuMemory] | None]:
        """Wait until so much is free on each GPU; return what is short, and the last reading; None: none was made."""
        short: list[str] = []
        reading: dict[GpuId, GpuMemory] = {}
        if not self._gpus.measured or not any(need.values()):
            return None, None

        async def enough() -> bool:
            nonlocal reading
            reading = await self._gpus.read()
            short[:] = [
                f"GPU {gpu} has {reading[gpu].free / GiB:.1f} GiB free of {size / GiB:.1f} GiB needed"
                if gpu in reading
                else f"the memory of GPU {gpu} cannot be read"
                for gpu, size in need.items()
                if gpu not in reading or reading[gpu].free + NOISE < size
            ]
            return not short

        if await self._within(self._patience, enough):
            return None, reading
        return f"{', '.join(short)} after {self._patience:g} s: end what else holds the memory", reading

    async def _until_given_back(self, patience: float | None = None, level: int = 3) -> tuple[str | None, Taken | None]:
        """Wait until at least half of what the worker has is free again on each GPU; at level 0, of its KV cache.

        Return what did not come back, and the last reading.
        """
        if self._before is None:
            return None, None
        limits = {gpu: self._limit(gpu, level) for gpu in self._before}
        patience = self._patience if patience is None else patience
        over: list[str] = []
        now: Taken | None = None

        async def is_back() -> bool:
            nonlocal now
            now = await self._read()
            if now is None:
                over[:] = ["an unknown amount, as it cannot be read,"]
                return False
            over[:] = [
                f"{now[gpu] - limit >> 20} MiB on GPU {gpu}" for gpu, limit in limits.items() if now[gpu] > limit
            ]
            return not over

        if await self._within(patience, is_back):
            return None, now
        return f"{', '.join(over)} of its memory did not come back in {patience:g} s", now

    def _limit(self, gpu: GpuId, level: int) -> int:
        """Return the bytes that may still be taken on a GPU once the worker has slept at `level`, or ended (3).

        Less than nothing was taken before where another worker was then thought to have more than it had, as after its
        wake while the memory of a third one came back late: once that is set right, no memory would ever be enough.
        """
        assert self._before is not None
        count = max(1, len(self._on))
        base = self._before[gpu] - self._kept_before // count
        held = max(0, self._awake[gpu] - base) if self._awake is not None else self._share
        if self._level == 0:
            held = (self._kept or 0) // count
        gives = held if level > 0 else min(held, self._cache // count or 2 * NOISE)
        return max(0, base) + max(NOISE, held - gives // 2)

    async def _within(self, patience: float, condition: Callable[[], Awaitable[bool]]) -> bool:
        """Poll `condition`, at least once; return whether it held within `patience` seconds."""
        pause = POLL
        with trio.move_on_after(patience):
            while not await condition():
                await trio.sleep(pause)
                pause = min(2 * pause, SLOW_POLL)
            return True
        return await condition()

    # Readings

    async def _read(self) -> Taken | None:
        """Return what is taken on its GPUs, by whatever is no other worker; None where one of them cannot be read."""
        return self._in(await self._gpus.read())

    def _in(self, reading: dict[GpuId, GpuMemory]) -> Taken | None:
        if not all(gpu in reading for gpu in self._on):
            return None
        others = self._others()
        return {gpu: reading[gpu].used - others[gpu] for gpu in self._on}

    async def _settled(self) -> Taken | None:
        """Wait until two readings in a row agree, at most gpu_release_timeout; return the last one.

        A GPU on which less is taken than others are known to have is read again: one of them has died, and the books do
        not say so yet.
        """
        last = await self._read()
        with trio.move_on_after(self._patience):
            while last is not None:
                await trio.sleep(SETTLED)
                now = await self._read()
                if now is None or all(abs(now[gpu] - last[gpu]) < NOISE and now[gpu] > -NOISE for gpu in now):
                    return now
                last = now
        return last
