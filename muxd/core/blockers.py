"""Those who must leave before somebody comes, and when they give way: what of it depends on them, read once."""

from collections.abc import Callable, Sequence
from math import inf
from typing import NamedTuple

from . import policy
from .clearing import Eviction
from .contender import Contender
from .group import Group
from .ledger import GpuId
from .states import COMING, WorkerState

#: States from which a group gives way by itself, if it does not leave yet.
_GIVE_WAY = (WorkerState.ASLEEP, WorkerState.READY)


class Idle(NamedTuple):
    """A group without requests that must leave, and may be kept for its clients' next one."""

    since: float
    comeback: float  # seconds to get it ready again
    usual: float | None  # as `policy.usual_gap`

    def kept_until(self, contender: Contender, waiting: float) -> float:
        """Return when it stops waiting for its clients to return.

        `waiting`: how many requests wait for its GPUs, for whichever model: they all come so much later.
        """
        if contender.is_batch:
            waiting = 1.0  # who has no haste does not hurry anybody
        there_and_back = contender.cost + contender.leave + self.comeback
        return self.since + policy.linger(self.usual, there_and_back, waiting)


class Blockers:
    """Those who must leave before somebody comes, and when they do.

    `usual_gap`: of an idle group's clients, as `policy.usual_gap`; None where no idle group is kept for them.
    """

    def __init__(self, evictions: Sequence[Eviction], usual_gap: Callable[[Group], float | None] | None = None) -> None:
        self._groups: list[Group] = []
        self._busy: list[Group] = []
        self._idle: list[Idle] = []
        self.leaving = self.drain = self.load = 0.0
        self._known_drain = self._idle_in = 0.0
        self._busy_since, self._long_since = -inf, inf
        self.gives_way = self.have_only_their_turn = True  # the latter once somebody is due
        self.differ = False
        self.go_by_all_gaps = False  # clients of an idle one have none yet
        known = 0.0
        for each in evictions:
            group, leave, comeback = each.group, each.leave_cost, each.comeback_cost
            self._groups.append(group)
            self.leaving += leave.seconds
            known += leave.known + comeback.known
            if group.is_validated or not (group.state in _GIVE_WAY or group.leaves):
                self.gives_way = False
            if group.state is WorkerState.READY:
                self._add_ready(group, comeback.seconds, usual_gap)
            elif not group.leaves:
                self.have_only_their_turn = False
        self.known = self._known_drain + known
        self.is_idle = self.gives_way and not self._busy
        self._kept = self._idle if usual_gap is not None else []

    def _add_ready(self, group: Group, comeback: float, usual_gap: Callable[[Group], float | None] | None) -> None:
        """Take in one that serves until then."""
        self.drain = max(self.drain, group.drain_without_long)
        self._known_drain = max(self._known_drain, group.known_drain)
        self.load = max(self.load, group.answers.load)
        self.differ = self.differ or group.answers.differ
        if not group.idle:
            self._busy.append(group)
            self._busy_since = max(self._busy_since, group.since)
            self._long_since = min(self._long_since, group.long_since)
            self._idle_in = max(self._idle_in, group.until_idle)
            return
        self.go_by_all_gaps = self.go_by_all_gaps or not group.gaps
        if group.idle_since is not None:
            self._idle.append(Idle(group.idle_since, comeback, usual_gap(group) if usual_gap is not None else None))

    @property
    def keep_idle(self) -> bool:
        """Say whether an idle one among them is kept for its clients."""
        return bool(self._kept)

    def hold_on(self, gpus: frozenset[GpuId]) -> bool:
        """Say whether one of them is stuck there, or comes.

        One that comes back by itself, after it lost its quorum, has no switch that keeps others off.
        """
        return any(group.stuck_on(gpus) or group.state in COMING for group in self._groups)

    def stretched(self, contender: Contender, wait_target: float) -> float:
        """Return the wait target of a group for which others wait than batch, as it is where they give way to it."""
        overhead = contender.known + self.known
        return policy.stretched(wait_target, overhead, self.load, contender.weight, differ=self.differ)

    def give_way_at(self, contender: Contender, due: float, waiting: float, now: float) -> float:
        """Return when they give way to a group for which requests wait, and is due at `due`; inf for no reason.

        `waiting`: as of `Idle.kept_until`.  Who leaves already, or sleeps, does so now.  A busy one does when its turn
        is over, and an idle one when its clients are not likely to return any more, or when the other one is due.  For
        batch it is kept longer.
        """
        if not self.gives_way:
            return inf
        at = now
        if self._busy_since > -inf:
            turn_ends = policy.turn_ends_at(contender.measured, self._busy_since, self._known_drain)
            at = max(at, self._closes_at(contender, due, turn_ends, self._fullness, now))
        if self._kept:
            at = max(at, *[min(idle.kept_until(contender, waiting), due) for idle in self._kept])
        if contender.is_batch and self._idle:
            there = contender.cost + contender.leave
            at = max(at, *[min(idle.since + there + idle.comeback, due) for idle in self._idle])
        return at

    def give_way(
        self, contenders: Sequence[Contender], dues: Sequence[float], waiting: float, now: float
    ) -> Sequence[float]:
        """Return the same for many who wait, by when each is due."""
        if not self.gives_way:
            return [inf] * len(dues)
        if self._kept or (self._idle and any(contender.is_batch for contender in contenders)):
            return [self.give_way_at(each, due, waiting, now) for each, due in zip(contenders, dues, strict=True)]
        if self._busy_since == -inf:
            return [now] * len(dues)
        ends: dict[float, float] = {}  # of its turn, by the cost of the switch: most have the same
        found, full = [], self._fullness
        for contender, due in zip(contenders, dues, strict=True):
            cost = contender.measured
            if cost not in ends:
                ends[cost] = policy.turn_ends_at(cost, self._busy_since, self._known_drain)
            at = self._closes_at(contender, due, ends[cost], full, now)
            found.append(at if at > now else now)
        return found

    @property
    def _fullness(self) -> float:
        """Return the greatest fullness of the busy ones, as it is now: it changes with each answer that ends."""
        return max((group.fullness for group in self._busy), default=0.0)

    def _closes_at(self, contender: Contender, due: float, turn_ends: float, full: float, now: float) -> float:
        """Return when the busy ones among them, so full, close for one who is due then, once their turn has ended."""
        at = due if due > turn_ends else turn_ends
        if full < 1.0 and not contender.is_batch:
            quiet = max(policy.quiet_from(contender.since, due, full, self._idle_in), turn_ends, now)
            if quiet < at and quiet < self._long_since:
                return quiet
        return at


NO_BLOCKERS = Blockers(())


def goes_by_count(group: Group) -> bool:
    """Say whether when a ready group gives way depends on how many requests wait for others, not only since when.

    So it does with an idle one, which is kept for its clients the shorter, and with one that has many answers under
    way, for which the wait target of others is stretched the less.
    """
    return group.idle or group.answers.load > policy.FEW
