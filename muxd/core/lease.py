"""A lease: one holder's wish to send to a group."""

from dataclasses import dataclass
from math import inf

from .events import Waiting


@dataclass(slots=True)
class Lease:
    """One holder's wish to send to a group; granted or waiting."""

    id: int
    group: str
    told: float  # when its holder last said what waits
    waiting: tuple[Waiting, ...]
    in_flight: int = 0
    batch: int = 0  # so many of those in flight
    oldest_since: float = inf  # since when the oldest of those in flight is at the worker; inf: nobody knows
    usual: float | None = None  # seconds that its answers took of late, in the mean; None: nobody knows

    @property
    def since(self) -> float:
        """Return when the oldest waiting request came; inf where none waits."""
        return min((self.told - w.oldest for w in self.waiting), default=inf)

    @property
    def interactive_since(self) -> float:
        """Return when the oldest waiting request came that is no batch; inf where none waits."""
        return min((self.told - w.oldest for w in self.waiting if not w.is_batch), default=inf)

    @property
    def count(self) -> int:
        return sum(w.count for w in self.waiting)

    @property
    def batch_count(self) -> int:
        """Return how many of those that wait are batch."""
        return sum(w.count for w in self.waiting if w.is_batch)

    @property
    def weight(self) -> float:
        """Count the waiting requests, each 2 ** priority times."""
        return sum(w.count * 2.0 ** max(-10, min(10, w.priority)) for w in self.waiting)

    @property
    def busy(self) -> bool:
        return self.in_flight > 0 or bool(self.waiting)
