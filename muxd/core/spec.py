"""What the core is told of a worker when it is configured."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What the core needs to know of a worker; all times in seconds."""

    name: str
    gpus: frozenset[int] = frozenset({0})
    on_cards: bool = True  # its GPUs are cards; else numbers that only keep it apart from others
    memory: int = 0  # bytes that it needs on its GPUs together; 0: nobody said
    sleep_level: int = 2
    preload: bool = False
    drain_timeout: float = 300.0
    restart_limit: int = 5
    restart_window: float = 600.0
    stable_after: float = 60.0
    cool_down: float = 60.0
