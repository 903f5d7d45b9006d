"""A lease: one holder's wish to send to a group."""

from dataclasses import dataclass, field
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
    count: int = field(init=False)  # of the requests that wait; this and the next by `note_waiting`
    batch_count: int = field(init=False)  # so many of these are batch
    weight: float = field(init=False)  # of those that wait, each counted 2 ** priority times
    since: float = field(init=False)  # when the oldest of them came; inf: none waits
    interactive_since: float = field(init=False)  # likewise of those that are no batch

    def __post_init__(self) -> None:
        self.note_waiting(self.told, self.waiting)

    def note_waiting(self, told: float, waiting: tuple[Waiting, ...]) -> None:
        """Take in what waits, as the holder said at `told`."""
        self.told, self.waiting = told, waiting
        self.count = self.batch_count = 0
        self.weight, self.since, self.interactive_since = 0.0, inf, inf
        for each in waiting:
            came = told - each.oldest
            self.count += each.count
            self.weight += each.count * 2.0 ** max(-10, min(10, each.priority)) if each.priority else each.count
            if came < self.since:
                self.since = came
            if each.is_batch:
                self.batch_count += each.count
            elif came < self.interactive_since:
                self.interactive_since = came

    @property
    def busy(self) -> bool:
        return self.in_flight > 0 or bool(self.waiting)
