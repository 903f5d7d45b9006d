"""The leases on all groups: who waits and is let in, who is told to let go, and when clients return."""

from collections import deque
from collections.abc import Iterator
from math import inf

from .commands import Command, EndLease, GrantLease, RevokeLease
from .events import DemandReported, Waiting
from .group import Group
from .host_books import HostBooks
from .lease import Lease
from .states import WorkerState

#: Ages of answers that differ by less, in seconds, are those of the same one: reports take their time.
SAME_AGE = 1.0

#: A holder cuts what is in flight at the deadline; so much later its lease is taken from it.
END_GRACE = 1.0


class LeaseBook:
    def __init__(self, host: HostBooks) -> None:
        self._host = host
        self.all: dict[int, Lease] = {}
        self.wanted: dict[str, Group] = {}  # groups for which requests wait
        self.gaps: deque[float] = deque(maxlen=1)  # the last of all models: what is expected of one without its own
        self.gaps_noted = 0  # so far, of anybody's clients
        self._last_grant = -inf

    # What holders say

    def ask(self, lease_id: int, group: Group, waiting: tuple[Waiting, ...]) -> None:
        lease = Lease(lease_id, group.name, self._host.now, waiting)
        self.all[lease_id] = group.waiting[lease_id] = lease
        group.is_put_away = False
        self._note_demand(group)
        self._note_use(group)

    def report(self, group: Group, lease: Lease, said: DemandReported) -> bool:
        """Take in what the holder of an open lease on the group says; say whether the group's use is another."""
        now, is_another = self._host.now, False
        if group.state is WorkerState.READY:
            is_another = group.answers.note_load(group.in_flight, now)
        else:
            group.answers.skip_load(now)
        lease.in_flight, lease.batch = said.in_flight, said.batch
        lease.note_waiting(now, said.waiting)
        since = inf if said.oldest is None else said.time - said.oldest
        if since != lease.oldest_since and not abs(since - lease.oldest_since) < SAME_AGE:
            group.answers.note_ended(now - lease.oldest_since)
            lease.oldest_since = since
        if said.usual is not None:
            lease.usual = said.usual
        if lease.usual is not None:
            told = (*group.granted.values(), *group.waiting.values())
            is_another = group.answers.note_told(told) or is_another
        if is_another:
            self._host.touch(group)
        is_another = self._note_demand(group) or is_another
        self._note_use(group)
        return is_another

    def forget(self, lease_id: int) -> None:
        lease = self.all.pop(lease_id, None)
        if lease is not None:
            group = self._host.groups[lease.group]
            group.waiting.pop(lease_id, None)
            was_granted = group.granted.pop(lease_id, None) is not None
            group.answers.note_ended(self._host.now - lease.oldest_since)
            self._note_demand(group)
            if was_granted:
                self._note_use(group)

    def _note_demand(self, group: Group) -> bool:
        """Note who waits for the group, and whether it is in use, by its leases; say whether its use is another."""
        is_another = group.note_leases()
        if group.wanted:
            self.wanted[group.name] = group
        else:
            self.wanted.pop(group.name, None)
        if is_another:
            self._host.touch(group)
        else:
            self._host.note_change(group)
        return is_another

    def _note_use(self, group: Group) -> None:
        """Note the end of its last answer, and at its next request the gap between the two.

        Where another model has served meanwhile, the request may have come only because that one answered: such a gap
        says nothing about clients who return by themselves.
        """
        now = self._host.now
        if group.wanted or not group.idle:
            since, group.idle_since = group.idle_since, None
            if since is not None or not group.uses or now - group.uses[-1] >= 1.0:  # else it is wanted all along
                group.uses.append(now)
                self._host.touch(group)
            if since is not None and (group.state is WorkerState.READY or self._last_grant <= since):
                self.note_gap(group, now - since)
        elif group.idle_since is None and group.state in (WorkerState.READY, WorkerState.DRAINING):
            group.idle_since = now
            self._host.touch(group)

    def note_gap(self, group: Group, seconds: float) -> None:
        """Learn how long a group's clients took to return; inf: nobody did while it was kept for them.

        A return makes up for one time that nobody came.
        """
        self.gaps_noted += 1
        self._host.touch(group)
        for gaps in (group.gaps, self.gaps):
            if seconds < inf and inf in gaps:
                gaps.remove(inf)
            gaps.append(seconds)

    # What holders are told

    def grant_all(self, group: Group) -> Iterator[Command]:
        """Admit everybody who waits for a ready group.

        Until its holder reports, all that waited counts as in flight: nobody is switched
        away between a grant and the requests that it lets through.
        """
        admitted = list(group.waiting.values())
        if not admitted:
            return
        group.waiting.clear()
        group.answers.skip_load(self._host.now)
        for lease in admitted:
            group.granted[lease.id] = lease
            lease.in_flight, lease.batch = lease.count, lease.batch_count
            lease.note_waiting(lease.told, ())
        self._last_grant = self._host.now
        self._note_demand(group)
        for lease in admitted:
            yield GrantLease(lease.id, group.url, group.generation)

    def grant_again(
        self, lease_id: int, group: Group, in_flight: int, waiting: tuple[Waiting, ...]
    ) -> Iterator[Command]:
        """Take a lease on a ready group for granted, as an earlier muxd did."""
        lease = Lease(lease_id, group.name, self._host.now, waiting, in_flight)
        self.all[lease_id] = group.granted[lease_id] = lease
        self._note_demand(group)
        self._note_use(group)
        yield GrantLease(lease_id, group.url, group.generation)

    def revoke_all(self, group: Group, reason: str, message: str, deadline: float) -> Iterator[Command]:
        for lease in group.granted:
            yield RevokeLease(lease, reason, message, deadline)

    def end_overdue(self, group: Group) -> Iterator[Command]:
        """Take away leases that were not let go, once the drain's deadline is well over."""
        if group.granted and self._host.now >= group.drain_deadline + END_GRACE:
            yield from self._end_all(group)

    def cut_off(self, group: Group, code: str, message: str) -> Iterator[Command]:
        """Take every granted lease away at once, and tell their holders why: nothing carries their requests."""
        yield from self.revoke_all(group, code, message, self._host.now)
        yield from self._end_all(group)

    def _end_all(self, group: Group) -> Iterator[Command]:
        for lease in list(group.granted):
            self.forget(lease)
            yield EndLease(lease)
