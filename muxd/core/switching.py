"""Switches: one group comes, others give way.

Theory of operation
-------------------
A group needs GPUs, and other groups may hold them: its *blockers*.  To bring it is a *switch*, a transaction in two
halves.  First its *victims*, the blockers of the moment it was begun, drain and leave their GPUs: READY -> DRAINING ->
FALLING_ASLEEP -> ASLEEP, or STOPPING -> UNLOADED at level 3; one that sleeps already falls asleep deeper, ASLEEP ->
FALLING_ASLEEP -> ASLEEP, or is ended.  Once the ledger shows that what the target needs is free, the target is started
or woken, and the switch has *begun*.  It is over when the target is READY, or has
failed.  No client can cancel a switch: the requests that asked for it may all be gone, and it is finished all the same,
as a half-made one would have cost as much and served nobody.  An operator's switch may drop one that has not begun;
what drained for it then serves again, with the leases that are still held (`_resume_spared`).

`settle` runs after every event.  It brings the running switches forward, then looks at everybody who wants a GPU, best
first (`_in_order`): an operator's switch and validations, models with requests waiting, groups that crashed, models to
be preloaded.  For each it asks *when* its blockers give way (`gives_way_at`):

    the blocker                               gives way
    leaves already, or sleeps                 now
    READY, no request in flight               after its linger: its clients usually return within that
    READY, requests in flight                 when the waiter is due, and after a turn as long as the switch costs
    anything else                             not for this one; an event will change that

The linger and the turn end, whatever happens, when the oldest waiter is *due*: when a drain and the switch just fit
into its stated bound (`policy.bound`).  If that time has come the switch begins, else `next_decision` says when to look
again, and muxd's timer wakes the core then.

Three rules keep a cheap model from starving a dear one.  Who is due comes first, the longest due before the others.
While a group is due and only the active model's minimum turn keeps it back, its GPUs are kept for it (`_kept_for`):
no cheaper group may begin a turn in front of it.  And the GPUs of an operator's open switch are kept for that one,
as are those of a group that is being validated (`validation`), from its first cycle to the end of its last.

Switches on different GPUs run side by side; two that touch the same GPU never do (`_claimed`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf

from . import policy
from .commands import Command
from .group import Group
from .host_state import END_GRACE, HostState
from .ledger import GpuId
from .placement import Eviction
from .policy import Candidate
from .states import AT_REST, COMING, LEAVING, WorkerState

#: Decisions less than this many seconds ahead are made now: a timer need not fire twice for a rounding error.
AT_ONCE = 0.001


@dataclass(slots=True)
class Switch:
    target: str
    victims: dict[str, int]  # by name: the level at which each must sleep
    since: float
    begun: bool = False  # the target is starting or waking


@dataclass(slots=True)
class OperatorSwitch:
    """An operator's `switch`: goes ahead of the queue; `tickets` wait for its end."""

    group: str
    tickets: list[int] = field(default_factory=list)


class Rivals:
    """Those who wait for the same GPUs, best first: the place of each from 1 on, and the seconds of their turns."""

    def __init__(self, candidates: Iterable[Candidate]) -> None:
        ordered = list(candidates)
        self.place_of = {c.group: place for place, c in enumerate(ordered, start=1)}
        self.turn_of = {c.group: policy.turns([c]) for c in ordered}
        self.turns = policy.turns(ordered)


class Switching:
    """Decides which switches to make and brings them forward."""

    def __init__(self, host: HostState, wait_target: float, *, keep_turns: bool = True) -> None:
        self.host = host
        self._placement = host.placement
        self.wait_target = wait_target
        self.keep_turns = keep_turns  # an idle model waits for its clients to return
        self.running: list[Switch] = []
        self.operator_switch: OperatorSwitch | None = None
        self.preload: list[str] = []  # still to be loaded once, in this order
        self.next_decision = inf  # when a busy group will have had its turn
        self._kept_for: frozenset[GpuId] = frozenset()  # GPUs that nobody may take before one who is due
        self._queue: list[Candidate] = []  # who waited when it was last decided, best first
        self._plans: dict[str, list[Eviction]] = {}  # who would leave for each group, found since the last change
        self._candidates: dict[str, Candidate] = {}  # likewise
        self._dues: dict[str, float] = {}  # likewise: when each group is due
        self._rivals_for: dict[frozenset[GpuId], Rivals] = {}  # who of them still waits, by the GPUs asked for

    def switch_to(self, group: Group) -> Switch | None:
        return next((s for s in self.running if s.target == group.name), None)

    def settle(self) -> Iterator[Command]:
        """Bring running switches forward, then begin those whose time has come."""
        self._finish()
        for switch in list(self.running):
            yield from self._forward(switch)
        yield from self._resume_spared()
        yield from self._end_hopeless()
        self.next_decision = inf
        self._kept_for = frozenset()
        self.forget_plans()
        self._think_of_places()
        self._line_up()
        for group, urgent in self._in_order():
            yield from self._consider(group, urgent=urgent)
        yield from self._rest_unwanted()
        yield from self._complete()

    def _end_hopeless(self) -> Iterator[Command]:
        """End sleepers that are wanted, and can come as new processes alone."""
        for group in self.host.groups.values():
            is_called = group.wanted or self.is_called(group)
            if is_called and group.state is WorkerState.ASLEEP and self._placement.must_start_anew(group):
                yield from self.host.stop(group, "it is started anew: its memory is taken where it sleeps", kill=True)

    def stop_deciding(self) -> None:
        """Call off whatever was under way or planned, as muxd shuts down."""
        self.running.clear()
        self.preload.clear()
        self._queue.clear()
        self._rivals_for.clear()
        self.next_decision = inf

    def skip_preloaded(self) -> None:
        """Take from the list what has been loaded once, or cannot be."""
        over = (WorkerState.READY, WorkerState.FAILED, WorkerState.STUCK)
        self.preload = [
            name
            for name in self.preload
            if self.host.groups[name].state not in over
            and not self._placement.never_loads(self.host.groups[name])
            and not self._placement.fixed_in_the_way(self.host.groups[name])
        ]

    # Running switches

    def _finish(self) -> None:
        """Forget the switches that are over: the target is ready or has failed, or what is in its way is stuck."""
        self.running = [s for s in self.running if self._is_under_way(s)]

    def _is_under_way(self, switch: Switch) -> bool:
        target = self._target(switch)
        if switch.begun:
            return target.state in COMING
        victims = self._remaining(switch)
        came_back = COMING | {WorkerState.READY}  # one that kept more than was thought, and was then ordered to start
        if target.state not in AT_REST or any(
            v.group.stuck_for(target) or v.group.is_fixed or v.group.state in came_back for v in victims
        ):
            return False
        return bool(victims) or self._placement.fits(target)  # else they kept more than was thought: planned anew

    def _remaining(self, switch: Switch) -> list[Eviction]:
        """Return the victims that have not left yet."""
        victims = (Eviction(self.host.groups[name], level) for name, level in sorted(switch.victims.items()))
        return [victim for victim in victims if not victim.group.sleeps_at(victim.level)]

    def in_the_way(self, group: Group) -> list[Eviction]:
        """Return who must leave before the group comes: a switch's victims that are left, or whom a plan chooses."""
        switch = self.switch_to(group)
        return self._plan(group) if switch is None else self._remaining(switch)

    def _plan(self, group: Group) -> list[Eviction]:
        """Return who would leave for the group.

        It is found once between two changes: with 50 models waiting, a decision asks hundreds of times.
        """
        if group.name not in self._plans:
            self._plans[group.name] = self._placement.plan(group)
        return self._plans[group.name]

    def forget_plans(self) -> None:
        """Find out anew who would leave for whom: something has changed."""
        self._placement.forget_evictions()
        self._plans.clear()
        self._candidates.clear()
        self._dues.clear()

    def _target(self, switch: Switch) -> Group:
        return self.host.groups[switch.target]

    def _forward(self, switch: Switch) -> Iterator[Command]:
        target = self._target(switch)
        for victim in self._remaining(switch):
            yield from self._forward_victim(victim, target)
        if switch.begun or not self._placement.fits(target) or not self._placement.is_quiet(target):
            return
        if self._placement.lacks_host_ram(target) and any(
            self._placement.gives_host_ram(v) for v in self._remaining(switch)
        ):
            return
        switch.begun = True
        yield from self.host.activate(target)

    def _forward_victim(self, victim: Eviction, target: Group) -> Iterator[Command]:
        """Let it leave once it is drained; a sleeper goes deeper."""
        group, level = victim
        if group.state is WorkerState.DRAINING:
            yield from self.host.end_overdue(group)
            if not group.granted:
                yield from self.host.deactivate(group, level)
        elif group.state in (WorkerState.ASLEEP, WorkerState.FALLING_ASLEEP):
            message = f"the memory that {group.name} keeps asleep goes to {target.name}"
            yield from self.host.deepen(group, level, message)

    def _resume_spared(self) -> Iterator[Command]:
        """Let groups serve again that drain for nothing any more, with the leases that are still held."""
        wanted_away = {name for s in self.running for name in s.victims}
        for group in self.host.groups.values():
            if group.state is WorkerState.DRAINING and not group.sent_away and group.name not in wanted_away:
                yield from self.host.resume(group, "what it drained for was called off")

    def call_off(self, group: Group) -> None:
        """Call off every switch to a group that is ordered away, unless the switch has begun."""
        self.drop(group)
        self.preload = [name for name in self.preload if name != group.name]

    def drop(self, group: Group) -> None:
        """Drop a switch to it that has not begun."""
        self.running = [s for s in self.running if s.begun or s.target != group.name]
        group.is_target = self.switch_to(group) is not None

    def forget(self, group: Group) -> None:
        """Forget a group that is about to be removed."""
        self.call_off(group)
        for switch in self.running:
            switch.victims.pop(group.name, None)

    def is_coming(self, group: Group) -> bool:
        """Say whether a switch brings the group, or will as an operator wishes."""
        return self.switch_to(group) is not None or self.is_called(group)

    def claimants(self, group: Group) -> list[Group]:
        """Return the groups that running switches bring to a GPU that this one needs, or that are validated there."""
        needs = group.gpus
        others = (s for s in self.running if s.target != group.name and self._is_under_way(s))
        return [*(self._target(s) for s in others if needs & self._claimed(s)), *self.validated_beside(group)]

    def _validated(self, but: Group) -> list[Group]:
        """Return the other groups that are being validated."""
        return [other for other in self.host.validating if other.is_validated and other is not but]

    def validated_beside(self, group: Group) -> list[Group]:
        """Return the other groups that are being validated on GPUs that this one needs."""
        return [other for other in self._validated(but=group) if not group.gpus.isdisjoint(other.gpus)]

    def begin_unopposed(self, group: Group) -> Iterator[Command]:
        """Bring it to GPUs that are free."""
        yield from self._begin(group, [])

    def drop_unbegun(self, group: Group) -> None:
        """Call off the switches in the way of `group` that have not begun: an operator wants it."""
        needs = group.gpus
        self.running = [s for s in self.running if s.begun or s.target == group.name or not needs & self._claimed(s)]

    def _claimed(self, switch: Switch) -> frozenset[GpuId]:
        """Return the GPUs that a switch is about: no other switch may touch them."""
        return frozenset().union(*(self.host.groups[n].gpus for n in (switch.target, *switch.victims)))

    # New ones

    def _in_order(self) -> Iterator[tuple[Group, bool]]:
        """Yield who wants a GPU, best first: operators' orders (urgent), demand, crashed groups, preloads."""
        if self.operator_switch is not None:
            yield self.host.groups[self.operator_switch.group], True
        yield from ((group, True) for group in self.host.validating if self.is_called(group))
        for candidate in self._queue:
            yield self.host.groups[candidate.group], False
        for group in self.host.groups.values():
            if group.state is WorkerState.BACKOFF and not group.wanted and not self._placement.evictions(group):
                yield group, False
        for place, name in enumerate(self.preload):  # in order, but on different GPUs side by side
            earlier = (self.host.groups[n].gpus for n in self.preload[:place])
            if self._place(self.host.groups[name], frozenset().union(*earlier)):
                yield self.host.groups[name], False

    def position(self, group: Group) -> int:
        """Return the group's place among the models that wait for its GPUs; 1 is next."""
        rivals = self._rivals(group)
        return rivals.place_of.get(group.name, len(rivals.place_of) + 1)

    def is_wished(self, group: Group) -> bool:
        """Say whether an operator's switch to the group is open."""
        return self.operator_switch is not None and self.operator_switch.group == group.name

    def is_called(self, group: Group) -> bool:
        """Say whether an operator wants the group on its GPUs now: by a switch, or to validate it."""
        return self.is_wished(group) or (group.validation is not None and group.validation.calls)

    def _place(self, group: Group, off_limits: frozenset[GpuId] = frozenset()) -> bool:
        """Choose the group's GPUs, if any will do; say whether they are none that is off limits."""
        before = group.gpus
        is_placed = self._placement.place(group, off_limits)
        if group.gpus != before:
            self._plans.pop(group.name, None)
            self._candidates.pop(group.name, None)
            self._rivals_for.clear()
            self._dues.clear()
        return is_placed

    def _think_of_places(self) -> None:
        """Think of GPUs for those who want to come to any; they change their mind until a switch to them is made."""
        targets = {switch.target for switch in self.running}
        for group in self.host.groups.values():
            group.is_target = group.name in targets
            if group.wanted or self.is_called(group) or group.state is WorkerState.BACKOFF:
                self._place(group)

    def _line_up(self) -> None:
        """Order the waiting models: those whose time has come, the longest due first; then by what serving them is
        worth.

        Once a decision: with many models waiting, every look at each of them counts.
        """
        self._queue = [self._candidate(w) for w in self.host.groups.values() if _waits(w)]
        self._rivals_for.clear()
        due = {c.group: self._due_at(self.host.groups[c.group]) for c in self._queue}
        now = self.host.now + AT_ONCE
        first = sorted((c for c in self._queue if due[c.group] <= now), key=lambda c: (due[c.group], c.group))
        self._queue = first + policy.ranked((c for c in self._queue if due[c.group] > now), self.wait_target)
        self._rivals_for.clear()  # which have been in another order

    def _candidate(self, group: Group) -> Candidate:
        if group.name not in self._candidates:
            self._candidates[group.name] = self._new_candidate(group)
        return self._candidates[group.name]

    def _new_candidate(self, group: Group) -> Candidate:
        leaving = sum(b.leave_cost.seconds for b in self.in_the_way(group))
        cost = leaving + group.return_cost.seconds
        weight = sum(lease.weight for lease in group.waiting.values())
        turn = max(cost, group.cost(WorkerState.DRAINING).seconds)
        return Candidate(group.name, weight, group.oldest_wait(self.host.now), cost, turn)

    def _consider(self, group: Group, *, urgent: bool) -> Iterator[Command]:
        """Begin the switch to this group, if it may come now; else note when to decide again."""
        at = self._may_come_at(group, urgent=urgent)
        if at == inf:
            return
        blockers, is_delayed = self._plan(group), self.host.now < group.retry_at
        if is_delayed or at > self.host.now + AT_ONCE:
            self.next_decision = min(self.next_decision, at)
            if not is_delayed and all(self._is_due(b.group, group) for b in blockers):
                # The active model's minimum turn is all that keeps this one back.  Models that cost less
                # would come sooner, and could begin turn after turn in front of it: they must not.
                self._kept_for |= group.gpus
            return
        yield from self._begin(group, blockers)

    def _may_come_at(self, group: Group, *, urgent: bool) -> float:
        """Return when a switch to the group may begin; inf: not before an event changes something."""
        if group.state not in AT_REST or not self._place(group, self._off_limits(group, urgent=urgent)):
            return inf
        if group.is_kept_away:
            return inf
        if self.host.now < group.retry_at:
            return group.retry_at
        if self._placement.crowded_out(group) or self._placement.fixed_in_the_way(group):
            return inf
        blockers = self._plan(group)
        if any(b.group.stuck_for(group) or b.group.state in COMING for b in blockers):
            return inf  # one that comes back by itself after it lost its quorum has no switch that keeps others off
        return max((self.gives_way_at(b, group) for b in blockers if not urgent), default=self.host.now)

    def still_waits(self, group: Group) -> bool:
        """Say whether a group's requests, which have changed in number or age, leave every decision as it was.

        They change when the group itself may come, and nobody else's bound: that depends on who waits, not on how much.
        Its place in the queue is found anew with the next decision, when somebody may come.
        """
        if not _waits(group):
            return True
        if self.is_called(group) or group.name in self.preload:
            return False
        if not self._kept_for.isdisjoint(group.gpus):
            return False  # its GPUs are kept from others for as long as it, or who shares them, is due
        for found in (self._plans, self._candidates, self._dues):
            found.pop(group.name, None)
        at = self._may_come_at(group, urgent=False)
        self.next_decision = min(self.next_decision, at)
        return at > self.host.now + AT_ONCE

    def _off_limits(self, group: Group, *, urgent: bool) -> frozenset[GpuId]:
        """Return the GPUs that no switch to the group may be made to: those of running switches and of other groups
        that are validated and, unless it is `urgent`, those kept for an operator's open switch or for one who waited
        long."""
        claimed = frozenset[GpuId]().union(*map(self._claimed, self.running))
        claimed = claimed.union(*(other.gpus for other in self._validated(but=group)))
        if urgent:
            return claimed
        wished = self.host.groups[self.operator_switch.group].gpus if self.operator_switch is not None else frozenset()
        return claimed | wished | self._kept_for

    def gives_way_at(self, blocker: Eviction, group: Group) -> float:
        """Return when `blocker` gives way to `group`: at once where it leaves already, inf for no reason.

        An idle one is kept for as long as its clients are likely to return, and as the wait of `group` allows.
        """
        active = blocker.group
        if active.is_validated:
            return inf
        if active.leaves or active.state is WorkerState.ASLEEP:
            return self.host.now
        if active.state is not WorkerState.READY:
            return inf
        if not group.wanted:
            return self.host.now if active.idle else inf
        own = self._candidate(group)
        due = self._due_at(group)
        if active.idle:
            return max(self.host.now, min(self._kept_until(blocker, group, own), due))
        return max(due, policy.turn_ends_at(own, active.since))

    def _kept_until(self, blocker: Eviction, group: Group, own: Candidate) -> float:
        """Return when an idle `blocker` stops waiting for its clients to return, because `group` is wanted."""
        active = blocker.group
        if active.idle_since is None or not self.keep_turns or not group.wanted:
            return self.host.now
        back = group.leave_cost(group.sleep_level).seconds + blocker.comeback_cost.seconds
        return active.idle_since + policy.linger(active.gaps or self.host.gaps, own.cost + back)

    def _learn(self, blocker: Eviction, group: Group) -> None:
        """Note that nobody returned to an idle `blocker` for as long as it was kept from `group`."""
        since = blocker.group.idle_since
        if since is None:
            return
        kept_until = self._kept_until(blocker, group, self._candidate(group))
        if since < kept_until <= self.host.now + AT_ONCE:
            self.host.note_gap(blocker.group, inf)

    def is_measured(self, group: Group) -> bool:
        """Say whether all that its turn is reckoned from was measured on this host, none of it guessed."""
        leaving = (b.leave_cost for b in self.in_the_way(group))
        return group.return_cost.measured and all(cost.measured for cost in leaving)

    def _is_due(self, blocker: Group, group: Group) -> bool:
        if blocker.leaves:
            return True
        due = group.wanted and blocker.state is WorkerState.READY
        return due and self._due_at(group) <= self.host.now + AT_ONCE

    def _due_at(self, group: Group) -> float:
        """Return when whatever is on the group's GPUs must begin to drain, for its wait to stay within its bound."""
        if group.name not in self._dues:
            self._dues[group.name] = self._find_due_at(group, self._candidate(group))
        return self._dues[group.name]

    def _find_due_at(self, group: Group, own: Candidate) -> float:
        active = (b.group for b in self.in_the_way(group) if b.group.state is WorkerState.READY)
        drains = [blocker.cost(WorkerState.DRAINING).seconds for blocker in active]
        rivals = self._rivals(group)
        return policy.due_at(
            own,
            rivals.turns - rivals.turn_of.get(group.name, 0.0),
            now=self.host.now,
            drain=max(drains, default=0.0),
            wait_target=self.wait_target,
        )

    def _rivals(self, group: Group) -> Rivals:
        """Return those who still wait for a GPU that this group needs, itself included, best first.

        They are found once for all who need the same GPUs: with 50 models waiting, a decision is three times as fast.
        """
        groups, needs = self.host.groups, group.gpus
        if needs not in self._rivals_for:
            waiting = (c for c in self._queue if _waits(groups[c.group]))
            self._rivals_for[needs] = Rivals(c for c in waiting if not needs.isdisjoint(groups[c.group].gpus))
        return self._rivals_for[needs]

    def _begin(self, group: Group, blockers: Sequence[Eviction]) -> Iterator[Command]:
        switch = Switch(group.name, {b.group.name: b.level for b in blockers}, self.host.now)
        self.running.append(switch)
        group.is_target = True
        self._rivals_for.clear()
        self._dues.clear()
        for blocker in blockers:
            active = blocker.group
            if active.state is WorkerState.READY:
                self._learn(blocker, group)
                message = f"{active.name} gives way to {group.name}"
                yield from self.host.drain(active, "switch", message, self.host.now + active.spec.drain_timeout)
        yield from self._forward(switch)
        self.forget_plans()

    def _rest_unwanted(self) -> Iterator[Command]:
        """Let a crashed group whose GPU another one has taken wait for a request like any other."""
        for group in self.host.groups.values():
            unwanted = not group.wanted and not self.is_called(group)
            has_no_room = group.state is WorkerState.BACKOFF and unwanted
            if has_no_room and (self._placement.evictions(group) or self._placement.crowded_out(group)):
                yield from self.host.rest(group, WorkerState.BACKOFF)

    def _complete(self) -> Iterator[Command]:
        """Bring the members that groups which are up still lack."""
        for group in self.host.groups.values():
            if len(group.members) > 1 and group.stays_up:
                yield from self.host.complete(group)
                waits = (w.retry_at for w in group.members if w.state in (WorkerState.BACKOFF, WorkerState.FAILED))
                self.next_decision = min(self.next_decision, *(at for at in waits if at > self.host.now), inf)

    # When to look again

    def deadlines(self) -> Iterator[float]:
        """Yield every time at which something here must be looked at again."""
        yield self.next_decision
        for group in self.host.groups.values():
            if group.state is WorkerState.DRAINING and group.granted:
                yield group.drain_deadline + END_GRACE


def _waits(group: Group) -> bool:
    """Say whether requests wait for the group while it is not on its GPUs, or on its way off them."""
    return group.wanted and (group.state in AT_REST or group.state in LEAVING)
