"""The supervisor's state at the moment of a scrape, copied: a thread writes the page while muxd goes on."""

from collections.abc import Mapping, Sequence

from msgspec import Struct, field

from muxd.core.states import WorkerState
from muxd.core.view import ScaleView, WorkerView
from muxd.gpus import GpuMemory
from muxd.workers import Runner

from .switches import SwitchKind, Tally


class WorkerFacts(Struct, frozen=True):
    name: str
    state: WorkerState
    restarts: int
    woke_wrong: int
    memory: Mapping[str, int]  # bytes on all its GPUs together, by "declared", "awake", "asleep", where known

    @classmethod
    def of(cls, worker: WorkerView, runner: Runner) -> "WorkerFacts":
        gpu_memory = runner.gpu_memory
        known = {"declared": gpu_memory.declared or None, "awake": gpu_memory.awake, "asleep": gpu_memory.asleep}
        memory = {kind: size for kind, size in known.items() if size is not None}
        return cls(worker.name, worker.state, worker.restarts, worker.woke_wrong_count, memory)


class Facts(Struct, frozen=True):
    version: str
    uptime: float  # seconds
    workers: tuple[WorkerFacts, ...]
    gpus: tuple[GpuMemory, ...]  # as last read
    switches: Mapping[SwitchKind, Tally]
    scrape_failures: Mapping[str, int]  # failed scrapes of engines, by model
    replicas: Mapping[str, ScaleView] = field(default_factory=dict)  # by model, of those that may have more or fewer
    scalings: Mapping[tuple[str, str], int] = field(default_factory=dict)  # steps by model and "up" or "down"
    usage: Mapping[tuple[str, str], Sequence[int]] = field(default_factory=dict)  # by key and model: see usage_book
