"""The table `scaling` of a model: what decides, between min_replicas and max_replicas, how many replicas serve."""

from dataclasses import dataclass

from .declarations import key
from .readers import duration, number


@dataclass(frozen=True, slots=True)
class ScalingOptions:
    """When there is one replica more, and when one fewer will do."""

    load: float = key(
        number(above=0, high=1_000_000),
        8,
        doc="So many requests run or wait for each replica; with more there is one more, where memory allows.  One "
        "fewer stays where three quarters of it would do.",
    )
    queue_wait: float = key(
        duration(endless=True),
        "5s",
        doc="There is one more, too, where a request waits for so long behind concurrency_limit.",
    )
    up_after: float = key(duration(), "3s", doc="So long that must hold.")
    down_after: float = key(
        duration(1, endless=True),
        "2min",
        doc="So long fewer must have done; a model with min_replicas = 0 sleeps when so long nothing was asked of it.",
    )
