"""Who waits for GPUs, where each thinks of coming to, who is in the way there, and when those give way.

With a hundred models waiting, most are alike: they need as much of the same GPUs, and hold nothing.  For such `Rivals`
it is found once where they would come to and who must leave (`Blockers`).  What is left for each of them is a little
arithmetic with its wait and its costs, which are read once, until the group changes (`Contender`).
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from math import inf
from operator import itemgetter
from typing import NamedTuple

from . import policy
from .clearing import Eviction
from .commands import Comparison
from .group import Group
from .host_state import HostState
from .ledger import HOST_RAM, GpuId
from .policy import Candidate
from .states import AT_REST, COMING, LEAVING, WorkerState

#: Decisions less than this many seconds ahead are made now: a timer need not fire twice for a rounding error.
AT_ONCE = 0.001

#: In place of one who comes first, and when.
NOBODY = (inf, "")

_HOST_RAM = (HOST_RAM,)


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
            (each.group.idle_since, each.comeback_cost.seconds)
            for each in evictions
            if each.group.idle_since is not None and each.group in ready and each.group.idle
        ]
        self.have_only_their_turn = all(group.leaves or group in ready for group in groups)  # once somebody is due
        self._busy_since = max((group.since for group in busy), default=-inf)
        self._busy = busy
        self._long_since = min((group.long_since for group in busy), default=inf)
        self._idle_in = max((group.until_idle for group in busy), default=0.0)
        self.go_by_all_gaps = any(not group.gaps for group in ready if group.idle)  # clients of theirs have none yet
        self._kept = [
            (each.group.idle_since, usual_gap(each.group), each.comeback_cost.seconds)
            for each in evictions
            if usual_gap is not None and each.group.idle_since is not None and each.group in ready and each.group.idle
        ]

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
            at = max(at, *(min(since + there + comeback, due) for since, comeback in self._idle))
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


class Rivals:
    """Those who wait and are alike: they need the same of the same GPUs, and the same groups are in their way."""

    def __init__(self) -> None:
        self.contenders: dict[str, Contender] = {}  # by group
        self._members: list[Contender] | None = None  # the same; None: to be made
        self._first: Group | None = None
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
        self._first = next((contender.group for contender in self.contenders.values()), None)

    @property
    def first(self) -> Group:
        assert self._first is not None
        return self._first

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
        return sum(contender.weight for contender in self.members if not contender.is_batch) / self._width

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


class Due(NamedTuple):
    """One whose wait has come so near to its bound that those in its way must drain."""

    since: float
    name: str
    at: float  # when it may come
    contender: Contender
    rivals: Rivals


class Outlook(NamedTuple):
    """When those who wait may come: who is due, the longest due first; who else may come now; when the next one may.

    `first`: who of those that have to wait yet comes first as things stand, and when.
    """

    due: list[Due]
    now: list[Contender]
    next: float
    first: tuple[float, str]  # inf and "": nobody


class Lineup:
    """Everybody who waits.

    `in_the_way`: who must leave before a group comes.
    """

    def __init__(
        self,
        host: HostState,
        in_the_way: Callable[[Group], list[Eviction]],
        wait_target: float,
        *,
        keep_turns: bool,
    ) -> None:
        self._host = host
        self._placement = host.placement
        self._in_the_way = in_the_way
        self.wait_target = wait_target
        self.batch_max_wait = 600.0  # likewise, of those for whom only batch requests wait
        self.keep_turns = keep_turns  # an idle model waits for its clients to return
        self._learned = -1  # how often something had been learned of the host when groups were last read
        self._contenders: dict[str, Contender] = {}  # by group
        self._rivals: dict[Hashable, Rivals] = {}  # by likeness
        self._found: dict[int, tuple[list[Eviction], Blockers]] = {}  # by the plan's id: many rivals have the same one
        self._turns: dict[frozenset[GpuId], float] = {}  # of all who wait for one of the GPUs, in seconds
        self._waiting: dict[frozenset[GpuId], float] = {}  # likewise, how many requests wait
        self._places: dict[frozenset[GpuId], dict[str, int]] = {}  # of those who wait for one of the GPUs

    def line_up(self, off_limits: frozenset[GpuId]) -> None:
        """Let those who wait think of GPUs, all who are alike at once, and find who is in their way there."""
        self._read_changed()
        self._turns.clear()
        self._waiting.clear()
        self._places.clear()
        self._found.clear()
        for rivals in self._rivals.values():
            first = rivals.first
            if first.is_placed:
                rivals.stay(is_free=first.gpus.isdisjoint(off_limits))
                continue
            is_free = self._placement.place(first, off_limits)
            if not is_free:
                self._placement.place(first)
            rivals.take_place(is_free=is_free)

    def _face(self, rivals: Rivals) -> Rivals:
        """Find who is in the way of rivals, unless nothing has changed for them since that was found last."""
        if rivals.is_faced:
            return rivals
        host, first, faced = self._host, rivals.first, None
        if first.is_placed and not host.fixed:
            there = host.ledger.changes_of(first.gpus) + host.ledger.changes_of(_HOST_RAM)
            gaps = host.leases.gaps_noted if rivals.blockers.go_by_all_gaps else 0
            as_of = host.second, host.learned, self.keep_turns, self.wait_target
            faced = first, first.gpus, first.changes, there, rivals.is_free, gaps, as_of
        if faced is None or rivals.faced != faced:
            evictions = self._in_the_way(first)
            if id(evictions) not in self._found:
                self._found[id(evictions)] = evictions, self._blockers(evictions)
            _, blockers = self._found[id(evictions)]
            can_come = rivals.is_free and blockers.gives_way and not blockers.hold_on(first.gpus)
            rivals.face(blockers, is_open=can_come and not self._placement.is_kept_off(first))
        rivals.is_faced, rivals.faced = True, faced
        return rivals

    def _read_changed(self) -> None:
        """Read those groups again that have changed."""
        changed = self._host.take_changed()
        is_all_anew = self._learned != self._host.learned
        if is_all_anew:
            self._learned = self._host.learned
            changed = dict(self._host.groups) | changed
        if changed:
            self._places.clear()
            self._waiting.clear()
        for name, group in changed.items():
            former = self._contenders.get(name)
            if former is None or is_all_anew or former.group is not group or former.changes != group.changes:
                self._turns.clear()
                self._read_anew(name, group)
            else:
                former.note_waiting()
                self._rivals[former.likeness].note_waiting()

    def _read_anew(self, name: str, group: Group) -> None:
        """Read a group that may wait no more, or be like others than before."""
        former = self._contenders.pop(name, None)
        contender = self._read(group) if waits(group) else None
        if former is not None and (contender is None or contender.likeness != former.likeness):
            self._rivals[former.likeness].remove(name)
            if not self._rivals[former.likeness].contenders:
                del self._rivals[former.likeness]
        if contender is not None:
            if contender.likeness not in self._rivals:
                self._rivals[contender.likeness] = Rivals()
            self._rivals[contender.likeness].add(contender)
            self._contenders[name] = contender

    def _read(self, group: Group) -> Contender:
        come = group.return_cost
        return Contender(
            group.name,
            weight=weight_of(group),
            since=group.contends_since,
            is_batch=group.is_batch,
            timeout=group.spec.switch_timeout,
            cost=0.0,
            turn=0.0,
            group=group,
            likeness=group.name if group.is_target else self._placement.likeness(group),
            come=come.seconds,
            known=come.known,
            leave=group.leave_cost(group.sleep_level).seconds,
            drain=group.known_drain,
            ready_at=group.retry_at if group.state in AT_REST and not group.is_kept_away else inf,
            changes=group.changes,
        )

    def _blockers(self, evictions: Sequence[Eviction]) -> Blockers:
        return Blockers(evictions, self._usual_gap if self.keep_turns else None)

    def _usual_gap(self, group: Group) -> float | None:
        return policy.usual_gap(group.gaps or self._host.leases.gaps)

    def sleepers(self) -> list[Rivals]:
        """Return those who sleep, and could be started anew on other GPUs."""
        self._read_changed()
        return [rivals for rivals in self._rivals.values() if rivals.first.may_be_on_anew]

    # When somebody may come

    def look(self, limit: float) -> Outlook:
        """Say when those may come who can; what is to be until `limit` is now."""
        now, due, come, earliest, first = self._host.now, [], [], inf, NOBODY
        for rivals in self._rivals.values():
            if not (rivals.is_free and self._face(rivals).is_open):
                continue
            dues = self._dues(rivals)
            times = rivals.blockers.give_way(rivals.members, dues, self._waiting_beside_idle(rivals), now)
            for contender, due_at, at in zip(rivals.members, dues, times, strict=True):
                if contender.ready_at > now:
                    earliest = min(earliest, contender.ready_at)
                    continue
                if limit < at <= first[0] and at < inf:
                    first = min(first, (at, contender.name))
                if due_at <= limit:
                    due.append(Due(due_at, contender.name, at, contender, rivals))
                elif at <= limit:
                    come.append(contender)
                elif at < earliest:
                    earliest = at
        return Outlook(sorted(due), come, earliest, first)

    def give_way_at(self, evictions: Sequence[Eviction], group: Group) -> float:
        """Return when these give way to the group; inf: not before an event changes something."""
        blockers = self._blockers(evictions)
        if not group.wanted:
            return self._host.now if blockers.is_idle else inf
        contender = self._reckoned(group)
        return blockers.give_way_at(contender, self.due_at(group), self._waiting_beside(group), self._host.now)

    def comes_at(self, group: Group) -> float | None:
        """Return when a group that waits may come to where it was lined up for; inf: not before an event changes that.

        None where it has not been lined up yet.
        """
        self._read_changed()
        contender = self._contenders[group.name]
        rivals = self._rivals[contender.likeness]
        if rivals.faced is None:
            return None
        rivals.is_faced, blockers = False, rivals.blockers
        self._found.clear()
        if self._face(rivals).blockers is not blockers:
            self._turns.clear()
        if not rivals.is_open:
            return inf
        now = self._host.now
        if contender.ready_at > now:
            return contender.ready_at
        due = self._due_at(contender, rivals.blockers, self._turns_on(group.gpus) - rivals.turn_of(contender))
        return rivals.blockers.give_way_at(contender, due, self._waiting_beside_idle(rivals), now)

    def hurries_others(self, group: Group) -> bool:
        """Say whether others may come the sooner the more requests wait for a group: an idle one is kept from them.

        One who is kept off by another switch, or by one who is due, is not asked again before that has changed.
        """
        self._read_changed()
        own = self._rivals[self._contenders[group.name].likeness]
        return not group.is_batch and any(
            each.is_free
            and each.blockers.keep_idle
            and (each is not own or len(each.members) > 1)
            and not each.gpus.isdisjoint(own.may_be_on)
            for each in self._rivals.values()
        )

    def kept_until(self, leaving: Eviction, group: Group) -> float:
        """Return when one who gives way stops waiting for its clients to return, because the group is wanted."""
        contender = self._reckoned(group)
        kept = self._blockers([leaving]).kept_until(contender, self._waiting_beside(group))
        return max(kept, default=self._host.now)

    def due_at(self, group: Group) -> float:
        """Return when whatever is on the group's GPUs must begin to drain, for its wait to stay within its bound."""
        contender = self._reckoned(group)
        others = self._turns_on(group.gpus)
        if group.name not in self._contenders:
            return self._due_at(contender, self._blockers(self._in_the_way(group)), others)
        rivals = self._rivals[contender.likeness]
        return self._due_at(contender, rivals.blockers, others - rivals.turn_of(contender))

    def _dues(self, rivals: Rivals) -> list[float]:
        """Return when each of the rivals' members is due, as `due_at`."""
        return self._face(rivals).dues(self._turns_on(rivals.gpus), self.wait_target, self.batch_max_wait)

    def _reckoned(self, group: Group) -> Contender:
        """Return the group as one who waits, with what the switch to it costs."""
        self._read_changed()
        contender = self._contenders.get(group.name)
        if contender is None:
            contender = self._read(group)
            contender.reckon(self._blockers(self._in_the_way(group)).leaving)
        else:
            self._face(self._rivals[contender.likeness])
        return contender

    def _due_at(self, contender: Contender, blockers: Blockers, others: float) -> float:
        target = self.batch_max_wait
        if not contender.is_batch:
            target = blockers.stretched(contender, self.wait_target)
        return policy.due_at(contender, others, drain=blockers.drain, wait_target=target)

    def _turns_on(self, gpus: frozenset[GpuId]) -> float:
        """Return the seconds that the turns of all who wait for one of the GPUs take there.

        Those to whom any of several GPUs will do have their turns on all of these side by side.
        """
        if gpus not in self._turns:
            self._turns[gpus] = sum(self._face(rivals).turns for rivals in self._rivals_on(gpus))
        return self._turns[gpus]

    def _rivals_on(self, gpus: frozenset[GpuId]) -> list[Rivals]:
        return [rivals for rivals in self._rivals.values() if not rivals.may_be_on.isdisjoint(gpus)]

    def _waiting_beside_idle(self, rivals: Rivals) -> float:
        """Count the requests that wait for the rivals' GPUs; 0 where no idle group is kept from them: nobody asks."""
        return self._waiting_on(rivals.gpus) if rivals.blockers.keep_idle else 0.0

    def _waiting_on(self, gpus: frozenset[GpuId]) -> float:
        """Count the requests that wait for one of the GPUs, each as `weight_of`, but for batch."""
        if gpus not in self._waiting:
            self._waiting[gpus] = sum(rivals.waiting for rivals in self._rivals_on(gpus))
        return self._waiting[gpus]

    def _waiting_beside(self, group: Group) -> float:
        """Count likewise those that wait for the group's GPUs, its own among them, though it be in line nowhere."""
        contender = self._contenders.get(group.name)
        in_line_for = self._rivals[contender.likeness].may_be_on if contender is not None else frozenset[GpuId]()
        own = weight_of(group) if in_line_for.isdisjoint(group.gpus) else 0.0
        return self._waiting_on(group.gpus) + own

    def compare(self, most: int) -> tuple[Comparison, ...]:
        """Return what is compared of those who wait, as they were lined up last: the best first, at most so many."""
        now, found = self._host.now, []
        for rivals in self._rivals.values():
            for contender, due_at in zip(rivals.members, self._dues(rivals), strict=True):
                is_shut = not rivals.is_open or contender.ready_at > now
                score = policy.score(contender, self.wait_target, now)
                found.append((is_shut, due_at - now > AT_ONCE, -score, contender.name, due_at, contender, rivals))
        return tuple(self._comparison(*each) for each in nsmallest(most, found, key=itemgetter(0, 1, 2, 3)))

    def _comparison(
        self, is_shut: bool, _: bool, minus: float, name: str, due_at: float, contender: Contender, rivals: Rivals
    ) -> Comparison:
        now = self._host.now
        at = inf if is_shut else rivals.blockers.give_way_at(contender, due_at, self._waiting_beside_idle(rivals), now)
        count, waited = contender.group.waiting_count, now - contender.since
        return Comparison(name, count, waited, -minus, due_at - now, at - now, contender.cost)

    # Who is first

    def ranked(self, contenders: Iterable[Contender]) -> list[Contender]:
        """Sort those who are not due, best first, by what serving them is worth."""
        return policy.ranked(contenders, self.wait_target, self._host.now)

    def position(self, group: Group) -> int:
        """Return the group's place among those who wait for its GPUs; 1 is next."""
        self._read_changed()
        if group.gpus not in self._places:
            on_them = self._rivals_on(group.gpus)
            dues = [each for rivals in on_them for each in zip(rivals.members, self._dues(rivals), strict=True)]
            limit = self._host.now + AT_ONCE
            first = sorted((due_at, contender.name) for contender, due_at in dues if due_at <= limit)
            rest = self.ranked(contender for contender, due_at in dues if due_at > limit)
            names = [*(name for _, name in first), *(contender.name for contender in rest)]
            self._places[group.gpus] = {name: place for place, name in enumerate(names, start=1)}
        places = self._places[group.gpus]
        return places.get(group.name, len(places) + 1)


def weight_of(group: Group) -> float:
    """Count the requests that wait for the group, each 2 ** priority times."""
    return group.weight * 2.0**group.spec.priority


def waits(group: Group) -> bool:
    """Say whether requests wait for the group while it is not on its GPUs, or on its way off them."""
    return group.wanted and (group.state in AT_REST or group.state in LEAVING)
