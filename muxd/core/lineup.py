"""Who waits for GPUs, where each thinks of coming to, and when those in its way there give way to it.

A group that waits is a `Contender`, read anew when it changes; those that are alike are `Rivals`, looked at once; who
is in their way are their `Blockers`.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from heapq import nsmallest
from math import inf
from operator import itemgetter
from typing import NamedTuple

from . import policy
from .blockers import Blockers, Idle
from .clearing import Eviction
from .commands import Comparison
from .contender import Contender, waits, weight_of
from .group import Group
from .host_state import HostState
from .ledger import HOST_RAM, GpuId
from .rivals import Rivals
from .states import AT_REST

#: Decisions less than this many seconds ahead are made now: a timer need not fire twice for a rounding error.
AT_ONCE = 0.001

#: In place of one who comes first, and when.
NOBODY = (inf, "")

_HOST_RAM = (HOST_RAM,)


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

    def contender(self, group: Group) -> Contender:
        """Return a group that waits as it is now."""
        self._read_changed()
        return self._contenders[group.name]

    def comes_at(self, contender: Contender) -> float | None:
        """Return when a contender may come to where it was lined up for; inf: not before an event changes that.

        None where it has not been lined up yet.
        """
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
        due = self._due_at(contender, rivals.blockers, self._turns_on(rivals.gpus) - rivals.turn_of(contender))
        return rivals.blockers.give_way_at(contender, due, self._waiting_beside_idle(rivals), now)

    def hurries_others(self, contender: Contender) -> bool:
        """Say whether others may come the sooner the more requests wait for it: an idle one is kept from them.

        One who is kept off by another switch, or by one who is due, is not asked again before that has changed.
        """
        own = self._rivals[contender.likeness]
        keep = [each for each in self._rivals.values() if each.is_free and each.blockers.keep_idle]
        return not contender.is_batch and any(
            (each is not own or len(each.contenders) > 1) and not each.gpus.isdisjoint(own.may_be_on) for each in keep
        )

    def kept_until(self, leaving: Eviction, group: Group) -> float:
        """Return when one who gives way stops waiting for its clients to return, because the group is wanted."""
        since = leaving.group.idle_since
        if since is None or not self.keep_turns:
            return self._host.now
        idle = Idle(since, leaving.comeback_cost.seconds, self._usual_gap(leaving.group))
        return idle.kept_until(self._reckoned(group), self._waiting_beside(group))

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
            self._turns[gpus] = sum([self._face(rivals).turns for rivals in self._rivals_on(gpus)])
        return self._turns[gpus]

    def _rivals_on(self, gpus: frozenset[GpuId]) -> list[Rivals]:
        return [rivals for rivals in self._rivals.values() if not rivals.may_be_on.isdisjoint(gpus)]

    def _waiting_beside_idle(self, rivals: Rivals) -> float:
        """Count the requests that wait for the rivals' GPUs; 0 where no idle group is kept from them: nobody asks."""
        return self._waiting_on(rivals.gpus) if rivals.blockers.keep_idle else 0.0

    def _waiting_on(self, gpus: frozenset[GpuId]) -> float:
        """Count the requests that wait for one of the GPUs, each as `weight_of`, but for batch."""
        if gpus not in self._waiting:
            self._waiting[gpus] = sum([rivals.waiting for rivals in self._rivals_on(gpus)])
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
