"""What the core is told of a worker when it is configured."""

from dataclasses import dataclass

from .ledger import WHOLE, Claim, GpuId


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What the core needs to know of a worker; all times in seconds."""

    name: str
    gpus: frozenset[GpuId] = frozenset({"0"})
    share: int = WHOLE  # bytes of each of its GPUs, to serve; WHOLE: all that sleepers leave
    on_cards: bool = True  # its GPUs are real; else names that only keep it apart from others
    memory: int = 0  # bytes that it needs on its GPUs together; 0: nobody said
    sleep_level: int = 2
    preload: bool = False
    drain_timeout: float = 300.0
    restart_limit: int = 5
    restart_window: float = 600.0
    stable_after: float = 60.0
    cool_down: float = 60.0

    @property
    def claim(self) -> Claim:
        """Return the memory that the worker needs to serve."""
        return dict.fromkeys(self.gpus, self.share)
