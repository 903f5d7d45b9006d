"""Those who must leave before somebody comes, and when they give way: what of it depends on them, read once."""

from collections.abc import Callable, Sequence
from math import inf

from . import policy
from .clearing import Eviction
from .contender import Contender
from .group import Group
from .ledger import GpuId
from .states import COMING, WorkerState


class Blockers:
    """Those who must leave before somebody comes, and when they do.

    `usual_gap`: of an idle group's clients, as `policy.usual_gap`; None where no idle group is kept for them.
    """

    def __init__(self, evictions: Sequence[Eviction], usual_gap: Callable[[Group], float | None] | None = None) -> None:
        groups = [each.group for each in evictions]
        ready = [group for group in groups if group.state is WorkerState.READY]
        busy = [group for group in ready if not group.idle]
        self._groups = groups
        self.leaving = sum(each.leave_cost.seconds for each in evictions)
        self.drain = max((group.drain_without_long for group in ready), default=0.0)
        self._known_drain = max((group.known_drain for group in ready), default=0.0)
        self.known = self._known_drain + sum(each.leave_cost.known + each.comeback_cost.known for each in evictions)
        self.load = max((group.answers.load for group in ready), default=0.0)
        self.differ = any(group.answers.differ for group in ready)
        self.gives_way = all(
            not g.is_validated and (g.leaves or g.state in (WorkerState.ASLEEP, WorkerState.READY)) for g in groups
        )
        self.is_idle = self.gives_way and not busy
        self._idle = [
            (each.group, each.group.idle_since, each.comeback_cost.seconds)
            for each in evictions
            if each.group.idle_since is not None and each.group in ready and each.group.idle
        ]
        self.have_only_their_turn = all(group.leaves or group in ready for group in groups)  # once somebody is due
        self._busy_since = max((group.since for group in busy), default=-inf)
        self._busy = busy
        self._long_since = min((group.long_since for group in busy), default=inf)
        self._idle_in = max((group.until_idle for group in busy), default=0.0)
        self.go_by_all_gaps = any(not group.gaps for group in ready if group.idle)  # clients of theirs have none yet
        self._kept = [(since, usual_gap(group), comeback) for group, since, comeback in self._idle] if usual_gap else []

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

        `waiting`: as of `kept_until`.  Who leaves already, or sleeps, does so now.  A busy one does when its turn is
        over, and an idle one when its clients are not likely to return any more, or when the other one is due.  For
        batch it is kept longer.
        """
        if not self.gives_way:
            return inf
        at = now
        if self._busy_since > -inf:
            turn_ends = policy.turn_ends_at(contender.measured, self._busy_since, self._known_drain)
            at = max(at, self._closes_at(contender, due, turn_ends, self._fullness, now))
        if self._kept:
            at = max(at, *(min(until, due) for until in self.kept_until(contender, waiting)))
        if contender.is_batch and self._idle:
            there = contender.cost + contender.leave
            at = max(at, *(min(since + there + comeback, due) for _, since, comeback in self._idle))
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

    def kept_until(self, contender: Contender, waiting: float) -> list[float]:
        """Return when each idle one stops waiting for its clients to return.

        `waiting`: how many requests wait for its GPUs, for whichever model: they all come so much later.
        """
        there = contender.cost + contender.leave
        if contender.is_batch:
            waiting = 1.0  # who has no haste does not hurry anybody
        return [since + policy.linger(usual, there + comeback, waiting) for since, usual, comeback in self._kept]


NO_BLOCKERS = Blockers(())


def goes_by_count(group: Group) -> bool:
    """Say whether when a ready group gives way depends on how many requests wait for others, not only since when.

    So it does with an idle one, which is kept for its clients the shorter, and with one that has many answers under
    way, for which the wait target of others is stretched the less.
    """
    return group.idle or group.answers.load > policy.FEW
