"""Switches: one group comes, others give way.

Theory of operation
-------------------
A group needs GPUs, and other groups may hold them: its *blockers*.  To bring it is a *switch*, a transaction in two
halves.  First its *victims*, the blockers of the moment it was begun, drain and leave their GPUs: READY -> DRAINING ->
FALLING_ASLEEP -> ASLEEP, or STOPPING -> UNLOADED at level 3; one that sleeps already falls asleep deeper, ASLEEP ->
FALLING_ASLEEP -> ASLEEP, or is ended.  Once the ledger shows that what the target needs is free, the target is started
or woken, and the switch has *begun*.  It is over when the target is READY, or has
failed.  No client can cancel a switch: the requests that asked for it may all be gone, and it is finished all the same,
as a half-made one would have cost as much and served nobody.  An operator's switch may drop one that has not begun: one
in its way, and that of the operator's switch which it supersedes, unless others want its model as well.  What drained
for it then serves again, with the leases that are still held (`_resume_spared`).

`settle` runs after every event.  It brings the running switches forward, then looks at everybody who wants a GPU: an
operator's switch and validations, models with requests waiting, best first (`_next_contender`), groups that crashed,
models to be preloaded.  For each it asks *when* its blockers give way (`blockers`):

    the blocker                               gives way
    leaves already, or sleeps                 now
    READY, no request in flight               after its linger: its clients usually return within that
    READY, requests in flight                 when the contender is due, and after a turn as long as a switch or drain
    anything else                             not for this one; an event will change that

The linger and the turn end, whatever happens, when the oldest contender is *due*: when a drain and the switch just fit
into its stated bound (`policy.bound`).  If that time has come the switch begins, else `next_decision` says when to look
again, and muxd's timer wakes the core then.

Three rules keep a cheap model from starving a dear one.  Who is due comes first, the longest due before the others.
While a group is due and only the active model's minimum turn keeps it back, its GPUs are kept for it (`_kept_for`):
no cheaper group may begin a turn in front of it.  And the GPUs of an operator's open switch are kept for that one,
as are those of a group that is being validated (`validation`), from its first cycle to the end of its last.

Switches on different GPUs run side by side; two that touch the same GPU never do (`_claimed`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf

from . import replicas, standby
from .blockers import Blockers
from .clearing import Eviction
from .commands import Cause, Command, Comparison, RecordSwitch
from .contender import waits
from .group import Group
from .host_state import HostState
from .lease_book import END_GRACE
from .ledger import GpuId
from .lineup import AT_ONCE, NOBODY, Lineup
from .operator_switch import OperatorSwitch
from .spec import NO_DEFAULT, DefaultGroup
from .states import AT_REST, COMING, WorkerState
from .worker import Worker


@dataclass(slots=True)
class Switch:
    target: str
    victims: dict[str, int]  # by name: the level at which each must sleep
    since: float
    begun: bool = False  # the target is starting or waking
    spared: frozenset[str] = (
        frozenset()
    )  # replicas that leave for the target, while the others of their groups serve on


#: States of a victim that kept more than was thought, and was then ordered to start.
_CAME_BACK = COMING | {WorkerState.READY}

#: Groups of which a switch tells what was compared, and leases that it names.
COMPARED = 16


class Switching:
    """Decides which switches to make and brings them forward."""

    def __init__(
        self, host: HostState, wait_target: float, *, keep_turns: bool = True, default: DefaultGroup = NO_DEFAULT
    ) -> None:
        self.host = host
        self._placement = host.placement
        self.lineup = Lineup(host, self.in_the_way, wait_target, keep_turns=keep_turns)
        self.running: list[Switch] = []
        self._to: dict[str, Switch] = {}  # the same, by target
        self._all_claimed: frozenset[GpuId] = frozenset()  # by them, as `_claimed`
        self._claimed_as_of: tuple[int, ...] = ()  # what had changed when this was found; (): to be found anew
        self.operator_switch = OperatorSwitch(host)
        self.preload: list[str] = []  # still to be loaded once, in this order
        self.default = default
        self.next_decision = inf  # when a busy group will have had its turn
        self.next_in_line = ""  # the first of those for whom requests wait, and who have to wait yet
        self._next_since = inf  # when the oldest of its requests came
        self._kept_for: frozenset[GpuId] = frozenset()  # GPUs that nobody may take before one who is due
        self._idle: frozenset[GpuId] = frozenset()  # GPUs on which somebody would fit who sleeps, and is wanted
        self._spent: dict[str, float] = {}  # seconds that switches to a sleeper took while it would have, by group

    def _keep(self, running: list[Switch]) -> None:
        """Let these switches run and no others; note who is the target of one."""
        targets = {switch.target for switch in (*self.running, *running)}
        self.running = running
        self._to = {switch.target: switch for switch in running}
        self._claimed_as_of = ()
        for group in (self.host.groups[name] for name in targets):
            is_target = self.switch_to(group) is not None
            if group.is_target is not is_target:
                group.is_target = is_target
                self.host.touch(group)

    def switch_to(self, group: Group) -> Switch | None:
        return self._to.get(group.name)

    def settle(self) -> Iterator[Command]:
        """Bring running switches forward, then begin those whose time has come."""
        yield from self._keep_held_replicas()
        self._finish()
        for switch in list(self.running):
            yield from self._forward(switch)
        yield from self._resume_spared()
        yield from self._end_hopeless()
        self.next_decision = inf
        self._kept_for = frozenset()
        yield from self._start_anew_elsewhere()
        for group in self._called():
            self._placement.place(group)  # those GPUs are kept for it, whether it may come now or not
            yield from self._consider(group, Cause.OPERATOR if self.operator_switch.is_to(group) else Cause.VALIDATION)
        while (next_one := self._next_contender()) is not None:
            group, cause = next_one
            yield from self._begin(group, self._placement.plan(group), cause, self.lineup.compare(COMPARED))
        for group, cause in self._at_leisure():
            yield from self._consider(group, cause)
        yield from self._rest_unwanted()
        yield from self._complete()

    def _end_hopeless(self) -> Iterator[Command]:
        """End sleepers that are wanted, and can come as new processes alone."""
        for group in self.host.doubtful():
            is_called = (group.wanted or self.is_called(group)) and self.host.lent.isdisjoint(group.gpus)
            if is_called and group.state is WorkerState.ASLEEP and self._placement.must_start_anew(group):
                yield from self.host.stop(group, "it is started anew: its memory is taken where it sleeps", kill=True)
        self.host.end_doubts()

    def _start_anew_elsewhere(self) -> Iterator[Command]:
        """End sleepers that are to be started on idle GPUs instead of woken on theirs."""
        alike = self.lineup.sleepers()
        idle = self.host.ledger.idle(frozenset().union(*[rivals.first.may_be_on_anew for rivals in alike]))
        idle -= self.off_limits(None, urgent=False) if idle else idle
        fitting = [rivals for rivals in alike if idle and self._placement.fits_elsewhere(rivals.first, idle)]
        sleepers = [contender.group for rivals in fitting for contender in rivals.members]
        self._idle = idle if sleepers else frozenset()
        if sleepers:
            self.lineup.line_up(self.off_limits(None, urgent=False))
        for group in list(self._sooner_elsewhere(sleepers)) if sleepers else ():
            yield from self.host.stop(group, "it is started anew on GPUs that nobody must leave", kill=True)

    def _sooner_elsewhere(self, sleepers: Iterable[Group]) -> Iterator[Group]:
        """Yield those sleepers, of whom new processes fit on idle GPUs, for whom somebody else would have to leave.

        A cold start is dear, but its price is paid once, and that of switches again and again: it is worth it once
        what the switches to this sleeper took, the next one included, is as much.  A guess counts for nothing.
        """
        for group in sleepers:
            start, evictions = group.cost(WorkerState.STARTING), self.in_the_way(group)
            if self.switch_to(group) is not None or group.is_kept_away:
                continue
            if not self.host.lent.isdisjoint(group.gpus):
                yield group
                continue
            if not start.measured or not evictions:
                continue
            wait = max(0.0, self.lineup.give_way_at(evictions, group) - self.host.now)
            if self._spent.get(group.name, 0.0) + wait + _measured(evictions, group) >= start.seconds:
                self._spent.pop(group.name, None)
                yield group

    def stop_deciding(self) -> None:
        """Call off whatever was under way or planned, as muxd shuts down."""
        self._keep([])
        self.next_in_line = ""
        self.preload.clear()
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

    def _keep_held_replicas(self) -> Iterator[Command]:
        """Let replicas serve again that drain for another group, and whose own one is held since."""
        for switch in [switch for switch in self.running if switch.spared and not switch.begun]:
            kept: dict[str, list[Worker]] = {}
            for worker in self._spared(switch):
                if worker.is_spare and worker.state is WorkerState.DRAINING and not worker.retired:
                    kept.setdefault(worker.group, []).append(worker)
            for group, workers in ((self.host.groups[name], workers) for name, workers in kept.items()):
                if group.is_fixed and group.is_pinned:
                    yield from replicas.enlist(self.host, group, workers, f"{group.name} is held")

    def _finish(self) -> None:
        """Forget the switches that are over: the target is ready or has failed, or what is in its way is stuck."""
        going_on = [s for s in self.running if self._is_under_way(s)]
        if len(going_on) < len(self.running):
            self._keep(going_on)

    def _is_under_way(self, switch: Switch) -> bool:
        target = self._target(switch)
        if switch.begun:
            return target.state in COMING
        victims = self._remaining(switch)
        if target.state not in AT_REST:
            return False
        for group, _ in victims:
            if group.stuck_on(target.gpus) or group.is_fixed or group.state in _CAME_BACK:
                return False
        if switch.spared and any(w.is_spare and not w.sleeps_at(w.sleep_level) for w in self._spared(switch)):
            return True
        return bool(victims) or self._placement.fits(target)  # else they kept more than was thought: planned anew

    def _spared(self, switch: Switch) -> list[Worker]:
        return [self.host.workers[name] for name in sorted(switch.spared) if name in self.host.workers]

    def _remaining(self, switch: Switch) -> list[Eviction]:
        """Return the victims that have not left yet."""
        victims, groups = switch.victims, self.host.groups
        names = [name for name, level in victims.items() if not groups[name].sleeps_at(level)]
        return [Eviction(groups[name], victims[name]) for name in sorted(names)]

    def in_the_way(self, group: Group) -> list[Eviction]:
        """Return who must leave before the group comes: a switch's victims that are left, or whom a plan chooses."""
        switch = self.switch_to(group)
        return self._placement.plan(group) if switch is None else self._remaining(switch)

    def _target(self, switch: Switch) -> Group:
        return self.host.groups[switch.target]

    def _forward(self, switch: Switch) -> Iterator[Command]:
        target = self._target(switch)
        for victim in self._remaining(switch):
            yield from self._forward_victim(victim, target)
        if switch.begun or not self._placement.fits(target) or not self._placement.is_quiet(target):
            return
        if self._placement.lacks_host_ram(target):
            if any(self._placement.gives_host_ram(victim) for victim in self._remaining(switch)):
                return
            if waiting := standby.in_the_way(self.host, target):
                for worker in waiting:
                    if worker.state is WorkerState.STANDBY:
                        yield from self.host.stop_worker(worker, f"its host RAM goes to {target.name}", kill=True)
                return
        switch.begun = True
        yield from self.host.activate(target)

    def _forward_victim(self, victim: Eviction, target: Group) -> Iterator[Command]:
        """Let it leave once it is drained; a sleeper goes deeper."""
        group, level = victim
        if group.state is WorkerState.DRAINING:
            yield from self.host.leases.end_overdue(group)
            if not group.granted:
                yield from self.host.deactivate(group, level)
        elif group.state in (WorkerState.ASLEEP, WorkerState.FALLING_ASLEEP):
            message = f"the memory that {group.name} keeps asleep goes to {target.name}"
            yield from self.host.deepen(group, level, message)

    def _resume_spared(self) -> Iterator[Command]:
        """Let groups serve again that drain for nothing any more, with the leases that are still held."""
        wanted_away = {name for s in self.running for name in s.victims}
        for group in self.host.in_state(WorkerState.DRAINING):
            if not group.sent_away and group.name not in wanted_away:
                yield from self.host.resume(group, "what it drained for was called off")

    def call_off(self, group: Group) -> None:
        """Call off every switch to a group that is ordered away, unless the switch has begun."""
        self.drop(group)
        self.preload = [name for name in self.preload if name != group.name]

    def drop(self, group: Group) -> None:
        """Drop a switch to it that has not begun."""
        self._keep([s for s in self.running if s.begun or s.target != group.name])

    def forget(self, group: Group) -> None:
        """Forget a group that is about to be removed."""
        self.call_off(group)
        self._spent.pop(group.name, None)
        for switch in self.running:
            switch.victims.pop(group.name, None)
        self._claimed_as_of = ()

    def is_coming(self, group: Group) -> bool:
        """Say whether a switch brings the group, or an operator wants it on its GPUs now."""
        switch = self.switch_to(group)
        return (switch is not None and self._is_under_way(switch)) or self.is_called(group)

    def claimants(self, group: Group) -> list[Group]:
        """Return the groups that running switches bring to a GPU that this one needs, or that are validated there."""
        needs = group.gpus
        others = (s for s in self.running if s.target != group.name and self._is_under_way(s))
        return [*(self._target(s) for s in others if needs & self._claimed(s)), *self.validated_beside(group)]

    def _validated(self, but: Group | None) -> list[Group]:
        """Return the other groups that are being validated."""
        return [other for other in self.host.validating if other.is_validated and other is not but]

    def validated_beside(self, group: Group) -> list[Group]:
        """Return the other groups that are being validated on GPUs that this one needs."""
        return [other for other in self._validated(but=group) if not group.gpus.isdisjoint(other.gpus)]

    def position(self, group: Group) -> int:
        """Return the group's place among the models that wait for its GPUs; 1 is next."""
        return self.lineup.position(group)

    def begin_unopposed(self, group: Group) -> Iterator[Command]:
        """Bring it to GPUs that are free."""
        yield from self._begin(group, [], Cause.ORDER)

    def drop_unbegun(self, group: Group) -> None:
        """Call off the switches in the way of `group` that have not begun: an operator wants it."""
        needs = group.gpus
        self._keep([s for s in self.running if s.begun or s.target == group.name or not needs & self._claimed(s)])

    def drop_on(self, gpus: frozenset[GpuId]) -> None:
        """Call off the switches on these GPUs that have not begun: they are lent."""
        self._keep([s for s in self.running if s.begun or gpus.isdisjoint(self._claimed(s))])

    def _claimed(self, switch: Switch) -> frozenset[GpuId]:
        """Return the GPUs that a switch is about: no other switch may touch them.

        One that gave way, has ended and may come to any GPUs has none of them any more, wherever it may come to next.
        """
        groups = self.host.groups
        victims = [group for name in switch.victims if (group := groups[name]).is_placed]
        spared = self._spared(switch) if switch.spared else ()
        return groups[switch.target].gpus.union(*[group.gpus for group in (*victims, *spared)])

    # New ones

    def is_called(self, group: Group) -> bool:
        """Say whether an operator wants the group on its GPUs now: by a switch, or to validate it."""
        return self.operator_switch.is_to(group) or (group.validation is not None and group.validation.calls)

    def _called(self) -> list[Group]:
        """Return whom operators want on their GPUs now, the one that they switch to first."""
        first = [self.operator_switch.target] if self.operator_switch.target is not None else []
        return [*first, *(group for group in self.host.validating if self.is_called(group))]

    def _next_contender(self) -> tuple[Group, Cause] | None:
        """Return who of those for whom requests wait comes now, and why; else note when to look again.

        Who is due comes first, the longest due before the others; then the one that is worth most.
        """
        self._kept_for = frozenset()
        noted, limit, first = inf, self.host.now + AT_ONCE, NOBODY
        while True:
            self.lineup.line_up(self.off_limits(None, urgent=False))
            outlook = self.lineup.look(limit)
            first = min(first, outlook.first)
            for due in outlook.due:
                if due.at <= limit:
                    return due.contender.group, Cause.DUE
                noted = min(noted, due.at)
                if due.rivals.blockers.have_only_their_turn:
                    # Models that cost less would come sooner, and could begin turn after turn in front of this one,
                    # which the active model's minimum turn alone keeps back: they must not.
                    self._kept_for |= due.rivals.gpus
                    break
            else:
                if outlook.now:
                    return self.lineup.ranked(outlook.now)[0].group, Cause.BEST
                self.next_decision = min(self.next_decision, noted, outlook.next)
                self.next_in_line = first[1]
                self._next_since = self.host.groups[first[1]].contends_since if first[1] else inf
                return None

    def _at_leisure(self) -> Iterator[tuple[Group, Cause]]:
        """Yield who comes where nobody has to leave for it: crashed groups, models to be preloaded, the default one.

        To the place of a pinned one that crashed it comes when those who have some of it are idle.
        """
        for group in self.host.in_state(WorkerState.BACKOFF):
            self._placement.place(group)
            if not group.wanted and (group.keeps_place or not self._placement.evictions(group)):
                yield group, Cause.CRASH
        for place, name in enumerate(self.preload):  # in order, but on different GPUs side by side
            earlier = (self.host.groups[n].gpus for n in self.preload[:place])
            if self._placement.place(self.host.groups[name], frozenset().union(*earlier)):
                yield self.host.groups[name], Cause.PRELOAD
        default = self.host.groups.get(self.default.name)
        if default is not None and self.host.is_started and self._comes_back(default):
            yield default, Cause.DEFAULT

    def is_default(self, group: Group) -> bool:
        return group.name == self.default.name

    def is_to_be_preloaded(self, group: Group) -> bool:
        return group.name in self.preload

    def _comes_back(self, group: Group) -> bool:
        """Say whether the default group comes now, as nothing else is wanted; else note when to look again."""
        at_rest = group.state in (WorkerState.UNLOADED, WorkerState.STANDBY, WorkerState.ASLEEP) and group.order is None
        if not at_rest or group.wanted or group.stopped_by_operator or group.is_put_away or self.is_coming(group):
            return False
        if self._placement.never_loads(group) or not self._placement.place(group) or self._placement.is_kept_off(group):
            return False
        wanted = self.host.leases.wanted.values()
        if any(waits(other) and not other.may_be_on.isdisjoint(group.gpus) for other in wanted):
            return False
        awake = [each.group for each in self._placement.evictions(group) if each.group.state is WorkerState.READY]
        if any(other.in_use for other in awake):
            return False
        at = max((other.unused_since + self.default.after for other in awake), default=self.host.now)
        if at > self.host.now + AT_ONCE:
            self.next_decision = min(self.next_decision, at)
            return False
        return True

    def _consider(self, group: Group, cause: Cause) -> Iterator[Command]:
        """Begin the switch to this group, if it may come now; else note when to decide again."""
        at = self._may_come_at(group, urgent=cause in (Cause.OPERATOR, Cause.VALIDATION))
        if at > self.host.now + AT_ONCE or self.host.now < group.retry_at:
            self.next_decision = min(self.next_decision, at)
        else:
            yield from self._begin(group, self._placement.plan(group), cause)

    def _may_come_at(self, group: Group, *, urgent: bool) -> float:
        """Return when a switch to the group may begin; inf: not before an event changes something."""
        if group.state not in AT_REST or not self._placement.place(group, self.off_limits(group, urgent=urgent)):
            return inf
        if group.is_kept_away:
            return inf
        if self.host.now < group.retry_at:
            return group.retry_at
        evictions = self._placement.plan(group)
        if self._placement.is_kept_off(group) or Blockers(evictions).hold_on(group.gpus):
            return inf
        return self.host.now if urgent else self.lineup.give_way_at(evictions, group)

    def still_waits(self, group: Group) -> bool:
        """Say whether a group's requests, which have changed in number or age, leave every decision as it was.

        They change when the group itself may come, and nobody else's bound: that depends on who waits, not on how much.
        An idle one alone is kept the less, the more requests wait for its GPUs, for whichever group.
        Its place in the queue is found anew with the next decision, when somebody may come.
        """
        if not waits(group):
            return True
        if self.is_called(group) or group.name in self.preload:
            return False
        if group.name == self.next_in_line and group.contends_since > self._next_since:
            return False  # its oldest request has gone: another one may be next
        if self._idle or not self._kept_for.isdisjoint(group.gpus):
            return False  # its GPUs are kept from others for as long as it, or who shares them, is due
        contender = self.lineup.contender(group)
        if self.lineup.hurries_others(contender):
            return False
        at = self.lineup.comes_at(contender)
        if at is None:
            at = self._may_come_at(group, urgent=False)
        self.next_decision = min(self.next_decision, at)
        return at > self.host.now + AT_ONCE

    def off_limits(self, group: Group | None, *, urgent: bool) -> frozenset[GpuId]:
        """Return the GPUs that no switch to the group, or to any (None), may be made to.

        They are those of running switches and of other groups that are validated and, unless it is `urgent`, those kept
        for an operator's open switch or for one who waited long.
        """
        as_of = self.host.moves, self.host.renewals, self.host.learned
        if self._claimed_as_of != as_of or self.host.fixed or self.host.validating or self.host.composed:
            self._claimed_as_of = as_of
            self._all_claimed = frozenset[GpuId]().union(*map(self._claimed, self.running))
        claimed = self._all_claimed | self.host.lent
        if self.host.validating:
            claimed = claimed.union(*(other.gpus for other in self._validated(but=group)))
        if urgent:
            return claimed
        return claimed | self.operator_switch.gpus | self._kept_for

    def _learn(self, leaving: Eviction, group: Group) -> None:
        """Note that nobody returned to an idle group for as long as it was kept from the one that is about to come."""
        since = leaving.group.idle_since
        if since is None or leaving.group.state is not WorkerState.READY:
            return
        if since < self.lineup.kept_until(leaving, group) <= self.host.now + AT_ONCE:
            self.host.leases.note_gap(leaving.group, inf)

    def is_measured(self, group: Group) -> bool:
        """Say whether all that its turn is reckoned from was measured on this host, none of it guessed."""
        leaving = (b.leave_cost for b in self.in_the_way(group))
        return group.return_cost.measured and all(cost.measured for cost in leaving)

    def _begin(
        self, group: Group, blockers: Sequence[Eviction], cause: Cause, compared: tuple[Comparison, ...] = ()
    ) -> Iterator[Command]:
        if blockers and self._idle and group.may_be_on_anew and self._placement.fits_elsewhere(group, self._idle):
            back = sum(each.comeback_cost.seconds for each in blockers if each.comeback_cost.measured)
            self._spent[group.name] = self._spent.get(group.name, 0.0) + _measured(blockers, group) + back
        spared = self._placement.spared(group, blockers)
        names = frozenset(worker.name for workers in spared.values() for worker in workers)
        blockers = [blocker for blocker in blockers if blocker.group.name not in spared]
        for blocker in blockers:
            self._learn(blocker, group)
        switch = Switch(group.name, {b.group.name: b.level for b in blockers}, self.host.now, spared=names)
        # One whose target has died, and comes again with the same event, is over.
        self._keep([*(s for s in self.running if s.target != group.name), switch])
        yield self._told(switch, group, cause, compared)
        for name, workers in spared.items():
            message = f"{name} gives way to {group.name} with these alone"
            yield from replicas.let_spare(self.host, self.host.groups[name], workers, message)
        for blocker in blockers:
            active = blocker.group
            if active.state is WorkerState.READY:
                message = f"{active.name} gives way to {group.name}"
                yield from self.host.drain(active, "switch", message, self.host.now + active.spec.drain_timeout)
        yield from self._forward(switch)

    def _told(self, switch: Switch, group: Group, cause: Cause, compared: tuple[Comparison, ...]) -> RecordSwitch:
        """Return why the switch begins, for the journal."""
        order = group.order
        tickets = self.operator_switch.tickets if self.operator_switch.is_to(group) else ()
        return RecordSwitch(
            group.name,
            tuple(switch.victims.items()),
            cause,
            tuple(group.waiting)[:COMPARED],
            (*tickets, *(order.tickets if order is not None else ())),
            compared,
            self.lineup.batch_max_wait if group.is_batch else self.lineup.wait_target,
        )

    def _rest_unwanted(self) -> Iterator[Command]:
        """Let a crashed group whose GPU another one has taken wait for a request like any other."""
        for group in self.host.in_state(WorkerState.BACKOFF):
            unwanted = not group.wanted and not self.is_called(group)
            is_taken = self._placement.evictions(group) and not group.keeps_place
            if unwanted and (is_taken or self._placement.is_kept_off(group)):
                yield from self.host.rest(group, WorkerState.BACKOFF)

    def _complete(self) -> Iterator[Command]:
        """Bring the members that groups which are up still lack."""
        for group in self.host.composed:
            if group.stays_up:
                if homeless := self._placement.homeless(group):
                    self._placement.with_room(homeless, self.off_limits(None, urgent=False))
                yield from self.host.complete(group)
                waits = (w.retry_at for w in group.members if w.state in (WorkerState.BACKOFF, WorkerState.FAILED))
                self.next_decision = min(self.next_decision, *(at for at in waits if at > self.host.now), inf)

    # When to look again

    def deadlines(self) -> Iterator[float]:
        """Yield every time at which something here must be looked at again."""
        yield self.next_decision
        for group in self.host.in_state(WorkerState.DRAINING):
            if group.granted:
                yield group.drain_deadline + END_GRACE
        for group in self.host.composed:
            if group.is_cut_off and group.granted:
                yield group.drain_deadline + END_GRACE


def _measured(evictions: Sequence[Eviction], group: Group) -> float:
    """Return the seconds that a switch to the group takes, as far as they were measured."""
    costs = [*(each.leave_cost for each in evictions), group.return_cost]
    return sum(cost.seconds for cost in costs if cost.measured)
