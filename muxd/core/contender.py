"""A group for which requests wait, as its wait and its costs were read when it changed last."""

from collections.abc import Hashable
from dataclasses import dataclass

from .group import Group
from .policy import Candidate
from .states import AT_REST, LEAVING


@dataclass(slots=True)
class Contender(Candidate):
    """A group for which requests wait, as it is until it changes again."""

    group: Group
    likeness: Hashable  # as `Placement.likeness`
    come: float  # seconds to get it ready
    known: float  # those of them that were measured, and are not a guess
    leave: float  # seconds to get it off its GPUs again
    drain: float  # seconds to drain it, as far as that was measured
    ready_at: float  # when its restart delays are over; inf where it is on its way off its GPUs, or kept away

    changes: int  # of the group, when all but its requests was read
    measured: float = 0.0  # of its cost, what is not a guess of its own
    terms: tuple[float, ...] = ()  # all that its bound depends on

    def reckon(self, leaving: float) -> None:
        """Take in how many seconds those in its way take to leave."""
        self.cost, self.measured = leaving + self.come, leaving + self.known
        self.turn = max(self.cost, self.drain)
        self._note_terms()

    def note_waiting(self) -> None:
        """Take in how many of the group's requests wait, and since when."""
        self.weight, self.since = weight_of(self.group), self.group.contends_since
        self._note_terms()

    def _note_terms(self) -> None:
        self.terms = self.is_batch, self.known, self.cost, self.turn, self.weight, self.timeout


def weight_of(group: Group) -> float:
    """Count the requests that wait for the group, each 2 ** priority times."""
    return group.weight * 2.0**group.spec.priority


def waits(group: Group) -> bool:
    """Say whether requests wait for the group while it is not on its GPUs, or on its way off them."""
    return group.wanted and (group.state in AT_REST or group.state in LEAVING)
