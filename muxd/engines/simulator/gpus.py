"""The pretend GPUs of simulated models, read from the ledger that the simulator's processes share with muxd."""

import logging
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import trio

from muxd.config.schema import Config, Daemon
from muxd.core.ledger import GpuId, in_order
from muxd.errors import in_words
from muxd.gpus import GpuMemory
from muxd.own_files import UNREADABLE, make_way, put_aside
from muxd.simulator.gpu_ledger import GpuLedger

log = logging.getLogger(__name__)


class SimulatedGpus:
    """The pretend GPUs of simulated models."""

    measured = True
    there: frozenset[GpuId] = frozenset()

    def __init__(self, ledger: GpuLedger, ids: Iterable[GpuId]) -> None:
        self._ledger = ledger
        self._ids = in_order(set(ids))
        self.latest: dict[GpuId, GpuMemory] = {}

    async def read(self, *, holders: bool = False) -> dict[GpuId, GpuMemory]:
        await trio.lowlevel.checkpoint()
        total = self._ledger.capacity
        try:
            held = {id: self._ledger.holders(id) for id in self._ids}
            self.latest = {id: GpuMemory(id, "simulated GPU", total, sum(held[id].values()), held[id]) for id in held}
        except OSError as error:
            log.warning("the simulated GPUs cannot be read: %s", in_words(error))
            return {}
        return self.latest

    def cover(self, gpus: Iterable[GpuId]) -> None:
        self._ids = in_order({*self._ids, *gpus})  # workers that a reload has removed are on theirs yet


def ledger_path(daemon: Daemon) -> Path:
    """Return the path of the ledger's file."""
    return daemon.state_dir / "simulated-gpus.json"


def open_simulated_gpus(config: Config) -> SimulatedGpus:
    """Return the source for the pretend GPUs that models name; a ledger that cannot be read is put aside."""
    path = ledger_path(config.daemon)
    ledger = GpuLedger(path, config.daemon.simulated_gpu_memory)
    make_way(path)
    try:
        ledger.holders("0")
    except (*UNREADABLE, TypeError) as error:
        put_aside(path, error)
    return SimulatedGpus(ledger, (gpu for model in config.models for gpu in model.gpus))


def read_simulated_gpus(config: Config, ids: Iterable[GpuId]) -> list[GpuMemory]:
    """Return a reading of pretend GPUs without a muxd, which makes no file; nothing is held where none can be read."""
    path, total = ledger_path(config.daemon), config.daemon.simulated_gpu_memory
    held: dict[GpuId, dict[int, int]] = {}
    with suppress(*UNREADABLE, TypeError):
        held = {id: GpuLedger(path, total).holders(id) for id in ids} if path.exists() else {}
    return [GpuMemory(id, "simulated GPU", total, sum(held.get(id, {}).values()), held.get(id, {})) for id in ids]
