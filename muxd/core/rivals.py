"""Those who wait and are alike.

With a hundred models waiting, most need as much of the same GPUs, and hold nothing.  Where they would come to, and who
must leave there, is found once for all of them; what is left for each is a little arithmetic with its wait and its
costs.
"""

from math import inf

from . import policy
from .blockers import NO_BLOCKERS, Blockers
from .contender import Contender
from .group import Group
from .ledger import GpuId


class Rivals:
    """Those who wait and are alike: they need the same of the same GPUs, and the same groups are in their way."""

    def __init__(self) -> None:
        self.contenders: dict[str, Contender] = {}  # by group
        self._members: list[Contender] | None = None  # the same; None: to be made
        self.first: Group  # of them; there is one from the first `add` on
        self.blockers = NO_BLOCKERS
        self.is_open = False  # somebody of them may come, now or later
        self.is_free = False  # no other switch, loan or validation keeps them from their GPUs
        self.is_faced = False  # their blockers are those since they were lined up
        self.faced: tuple[object, ...] | None = None  # as of what their blockers were found; None: to be found anew
        self.gpus: frozenset[GpuId] = frozenset()
        self.may_be_on: frozenset[GpuId] = frozenset()
        self._width: float = 1  # so many of them may have their turns side by side
        self._turns: float | None = None  # None: to be added up
        self._dues: tuple[tuple[float, ...], list[float]] | None = None  # and what they were reckoned from

    def add(self, contender: Contender) -> None:
        contender.reckon(self.blockers.leaving)
        self.contenders[contender.name] = contender
        self._note_contenders()

    def remove(self, name: str) -> None:
        del self.contenders[name]
        self._note_contenders()

    def note_waiting(self) -> None:
        """Note that the requests of one of them are others, in number or age."""
        self._dues = None

    def _note_contenders(self) -> None:
        self._turns = self._dues = self._members = None
        for contender in self.contenders.values():
            self.first = contender.group
            break

    @property
    def members(self) -> list[Contender]:
        """Return all of them, in the order in which they came."""
        if self._members is None:
            self._members = [*self.contenders.values()]
        return self._members

    def stay(self, *, is_free: bool) -> None:
        """Take in whether they may come to the GPUs that are settled for them; who is in their way is open."""
        self.is_free, self.is_faced = is_free, False
        if self.gpus is not self.first.gpus or self.may_be_on is not self.gpus:
            self.gpus = self.may_be_on = self.first.gpus
            self._width = 1 if self.gpus else inf  # without a GPU, nobody's turn counts

    def take_place(self, *, is_free: bool) -> None:
        """Take in likewise to which of several GPUs they would come, by the first of them."""
        self.is_free, self.is_faced = is_free, False
        gpus, self.may_be_on = self.first.gpus, self.first.may_be_on
        self.gpus, self._width = gpus, len(self.may_be_on) // len(gpus) if gpus else inf
        for contender in self.members:
            if contender.group.gpus is not gpus:
                contender.group.place(gpus)

    def face(self, blockers: Blockers, *, is_open: bool) -> None:
        """Take in who is in their way, and whether somebody of them may come."""
        if blockers.leaving != self.blockers.leaving:
            for contender in self.members:
                contender.reckon(blockers.leaving)
            self._turns = self._dues = None
        self.blockers, self.is_open = blockers, is_open

    @property
    def waiting(self) -> float:
        """Count the requests that wait for each of their GPUs, as `weight_of`; batch has no haste, and counts not."""
        return sum([contender.weight for contender in self.members if not contender.is_batch]) / self._width

    @property
    def turns(self) -> float:
        """Return the seconds that their turns take on each of their GPUs."""
        if self._turns is None:
            self._turns = policy.turns(self.members)
        return self._turns / self._width

    def turn_of(self, contender: Contender) -> float:
        """Return what one of them has of these turns."""
        return 0.0 if contender.is_batch else (contender.turn + contender.cost) / self._width

    def dues(self, turns: float, wait_target: float, batch_max_wait: float) -> list[float]:
        """Return when each of `members` is due, where `turns` is what the turns of all on these GPUs take."""
        blockers = self.blockers
        of_blockers = blockers.known, blockers.drain, blockers.load, blockers.differ
        given = turns, wait_target, batch_max_wait, *of_blockers, self._width
        if self._dues is not None and self._dues[0] == given:
            return self._dues[1]
        ahead: dict[tuple[float, ...], tuple[float, float]] = {}  # by the terms: many have the same
        found = []
        for contender in self.members:
            terms = contender.terms
            if terms not in ahead:
                target = batch_max_wait
                if not contender.is_batch:
                    target = self.blockers.stretched(contender, wait_target)
                others = turns - self.turn_of(contender)
                ahead[terms] = policy.bound(contender, others, target), policy.lead(contender, blockers.drain)
            bound, lead = ahead[terms]
            found.append(contender.since + bound - lead)
        self._dues = given, found
        return found
