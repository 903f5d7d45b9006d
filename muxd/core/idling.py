"""What becomes of groups that nobody uses.

A group climbs down its ladder (`Group.ladder`): after each rung's time without a use it sleeps deeper, and ends at
last.  For some time after its last use a group is sheltered (`GroupSpec.sheltered_for`): it leaves for no other one,
and who does not fit beside it is refused.  An operator's hold, which is the same without a use, ends at its time.

A use is a request that was let in, or waits; probes and scrapes are none, as nobody leases for them.  Coming to its
GPUs counts as one.  Only groups that have changed are looked at, and those whose time has come.
"""

from collections.abc import Callable, Iterator
from math import inf

from .commands import Command, PersistHold
from .group import Group
from .host_state import HostState
from .orders import Orders
from .states import WorkerState


class Idling:
    """Says when unused groups are to sleep deeper, and who is sheltered; `stays_up`: it is not to sleep by itself."""

    def __init__(self, host: HostState, orders: Orders, stays_up: Callable[[Group], bool]) -> None:
        self._host = host
        self._orders = orders
        self._stays_up = stays_up
        self._times: dict[str, float] = {}  # by group: when it is to be looked at again

    @property
    def next(self) -> float:
        """Return when something is to be done next; inf: not before an event changes something."""
        return min(self._times.values(), default=inf)

    def forward(self) -> Iterator[Command]:
        """Do what is due."""
        concerned = self._host.take_stirred()
        if self.next <= self._host.now:
            due = [name for name, at in self._times.items() if at <= self._host.now]
            concerned |= {name: self._host.groups[name] for name in due if name in self._host.groups}
        for name, group in concerned.items():
            if self._host.groups.get(name) is not group or not _has_rules(group):
                self._times.pop(name, None)
                continue
            if group.held_until is not None and group.held_until <= self._host.now:
                yield from self.unhold(group)
            self._shelter(group)
            self._climb_down(group)
            self._note(group)

    def note_changes(self) -> None:
        """Note when those are to be looked at again who have changed since; what is due is so at once."""
        for name, group in self._host.take_stirred().items():
            if self._host.groups.get(name) is group and _has_rules(group):
                self._note(group)
            else:
                self._times.pop(name, None)

    def _note(self, group: Group) -> None:
        at = min(self._next_rung(group)[0], self._sheltered_until(group), group.held_until or inf)
        if group.is_sheltered_at(self._host.now) is not group.is_sheltered:
            at = self._host.now
        if at < inf:
            self._times[group.name] = at
        else:
            self._times.pop(group.name, None)

    # Holds

    def hold(self, group: Group, until: float) -> Iterator[Command]:
        """Let the group leave for an operator's order only, until then."""
        self._host.fix(group, held_until=until, is_sheltered=group.is_sheltered)
        yield PersistHold(group.name, until)

    def unhold(self, group: Group) -> Iterator[Command]:
        """End an operator's hold."""
        if group.held_until is not None:
            self._host.fix(group, held_until=None, is_sheltered=group.is_sheltered)
            yield PersistHold(group.name, None)

    # Shelter

    def _shelter(self, group: Group) -> None:
        if (is_sheltered := group.is_sheltered_at(self._host.now)) is not group.is_sheltered:
            self._host.fix(group, held_until=group.held_until, is_sheltered=is_sheltered)

    def _sheltered_until(self, group: Group) -> float:
        """Return when a sheltered group that nobody uses is not sheltered any more; inf where nothing ends it."""
        is_ending = group.is_sheltered_at(self._host.now) and not group.in_use
        return group.unused_since + group.spec.sheltered_for if is_ending else inf

    # The ladder

    def _climb_down(self, group: Group) -> None:
        at, level = self._next_rung(group)
        if at <= self._host.now:
            self._orders.send_to_rest(
                group, f"nobody has used {group.name} for {self._host.now - group.unused_since:.0f} s", level
            )

    def _next_rung(self, group: Group) -> tuple[float, int]:
        """Return when the group is to sleep deeper than it does, and how deep then; inf for never, as things are."""
        ladder = group.ladder
        is_asleep = group.state is WorkerState.ASLEEP
        if not ladder or not (is_asleep or group.state is WorkerState.READY) or group.in_use or group.order is not None:
            return inf, 3
        if group.is_target or group.is_pinned or self._stays_up(group):
            return inf, 3
        now, depth = self._host.now - group.unused_since, group.level if is_asleep else -1
        ahead = [rung for rung in ladder if group.level_from(rung.level) > depth]
        due = [rung for rung in ahead if rung.after <= now]
        rung = due[-1] if due else ahead[0] if ahead else None
        return (inf, 3) if rung is None else (group.unused_since + rung.after, group.level_from(rung.level))

    def next_rung(self, group: Group) -> tuple[float, int] | None:
        """Return when the group is to sleep deeper, and how deep then; None for never, as things are."""
        at, level = self._next_rung(group)
        return (at, level) if at < inf else None


def _has_rules(group: Group) -> bool:
    """Say whether anything becomes of the group when nobody uses it."""
    is_told = group.keep_alive is not None or group.held_until is not None or group.is_sheltered
    return is_told or bool(group.spec.ladder or group.spec.sheltered_for)
