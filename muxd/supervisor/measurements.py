"""What the core has to know of this machine, read and told to it: GPUs, who else is on them, host RAM, weights."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

import trio

from muxd.config import Config
from muxd.core.events import GpusMeasured, HostRamLimited, WeightsSeen
from muxd.core.ledger import GpuId
from muxd.core.states import CHANGING, DOWN, WorkerState
from muxd.core.view import HostView
from muxd.engines.registry import kind_of
from muxd.host.hardware import available_memory
from muxd.strangers import StrangerWatch, is_below
from muxd.threads import in_thread
from muxd.workers import Runner, WorkerContext

#: Seconds that reading the weight files' sizes of all models may take.
WEIGHING = 5.0

#: The share of the available host RAM that copies of weights may take; the rest is for all else that servers need.
HOST_SHARE = 0.9


class Measurements:
    """Reads this machine for the core; a reading that changes nothing for the core is not told."""

    def __init__(self, context: WorkerContext, view: Callable[[], HostView], runners: Mapping[str, Runner]) -> None:
        self.strangers = StrangerWatch()
        self._context = context
        self._view = view
        self._runners = runners

    async def measure_gpus(self, config: Config) -> None:
        """Read the GPUs, and tell the core what is there for its workers, where that has changed."""
        gpus, budgets = self._context.gpus, config.gpus
        reading = await gpus.read(holders=True)
        host = self._view()
        children = [runner.child for runner in self._runners.values() if runner.child is not None]
        shims, sessions = {child.shim_pid for child in children}, {child.pid for child in children}
        is_ours = partial(is_below, shims=shims, sessions=sessions)
        self.strangers.look(reading, is_ours, {gpu: self._used_by_workers(host, gpu) for gpu in reading})
        found = {gpu: strangers for gpu, strangers in self.strangers.found.items() if gpu in reading}
        totals = {gpu: budgets.most(gpu, memory.total) for gpu, memory in reading.items()}
        totals = totals if gpus.measured else budgets.declared()
        left = {gpu: budgets.most(gpu, reading[gpu].total, strangers.size) for gpu, strangers in found.items()}
        who = {gpu: str(strangers) for gpu, strangers in found.items()} if reading else host.strangers
        room = host.capacity
        if gpus.there != host.gpus_there or who != host.strangers or not {**totals, **left}.items() <= room.items():
            self._context.tell(GpusMeasured(trio.current_time(), totals, gpus.there, who, left))

    def _used_by_workers(self, host: HostView, gpu: GpuId) -> int | None:
        """Return the bytes that workers were last seen to have on a GPU; None where one changes or was not measured."""
        held = self._context.held_memory
        runners = self._runners  # one that is being taken over has a process before the core is told of it
        on_it = [w for w in host.workers.values() if gpu in w.gpus and (w.state not in DOWN or runners[w.name].child)]
        if any(w.state in CHANGING | {WorkerState.STUCK} or gpu not in held.get(w.name, {}) for w in on_it):
            return None
        return sum(held[worker.name][gpu] for worker in on_it)

    async def measure_host_ram(self, config: Config) -> None:
        """Tell the core how much host RAM the copies of weights may take; nothing where nobody can say."""
        size = config.daemon.host_memory
        if size is None and any(not kind_of(model).is_pretend for model in config.models):
            with suppress(OSError, ValueError):
                size = int(HOST_SHARE * await in_thread(available_memory, abandon_on_cancel=True)) or None
        if size is not None:
            self._context.tell(HostRamLimited(trio.current_time(), size))

    async def weigh_models(self, config: Config) -> None:
        """Tell the core how much GPU memory each model needs at least, by the size of its weight files."""
        models = config.models

        def weigh() -> dict[str, int]:
            return {m.name: kind_of(m).certain_need(m, {**os.environ, **m.env}) for m in models}

        if not all(kind_of(model).is_pretend for model in models):
            sizes: dict[str, int] = {}
            with trio.move_on_after(WEIGHING):  # the files may lie on a disk that hangs
                sizes = await in_thread(weigh, abandon_on_cancel=True)
            self._context.tell(WeightsSeen(trio.current_time(), sizes))
