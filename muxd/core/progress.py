"""What is going on for a group and when it will be ready: for status and for those who wait.

An ETA is an estimate from measured times; where a part of it was never measured on this
host there is none, rather than a guess.
"""

from collections.abc import Iterable
from math import exp, inf, log
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from .clearing import Eviction
from .cost import Cost
from .events import Verb
from .group import Group
from .host_state import HostState
from .idling import Idling
from .placement import why_kept_out
from .states import AT_REST, COMING, LEAVING, WorkerState
from .switching import Switching
from .validation import Cycle, Validation
from .worker import Worker

#: An estimate is good that differs from what comes by no more than this share of that.
NEAR = 0.25

#: So many drains of different length are compared for one estimate.
STEPS = 40

#: The order in which a switch passes through its phases.
LEAVING_PHASES = (WorkerState.DRAINING, WorkerState.FALLING_ASLEEP, WorkerState.STOPPING, WorkerState.UNRESPONSIVE)


class ScalingProgress(NamedTuple):
    """How far an order is after which so many replicas are to serve."""

    ready: int
    wanted: int
    moving: tuple[tuple[str, str], ...]  # the workers that are not yet where they are to be, each with its state


class Progress(Struct, frozen=True):
    """`phase`: a state's name, "queued" or "scaling"; times in seconds."""

    phase: str
    victims: tuple[str, ...] = ()
    elapsed: float = 0.0
    eta: float | None = None
    position: int | None = None  # among the models that wait, 1 is next
    cycle: Cycle | None = None  # of a validation, that is under way
    scaling: ScalingProgress | None = None


def progress_of(host: HostState, switching: Switching, group: Group, now: float) -> Progress:
    progress = _progress_of(host, switching, group, now)
    if group.order is None or group.order.verb is not Verb.SCALE or not group.order.replicas:
        return progress
    scaling = _scaling_of(group)
    if group.state is not WorkerState.READY:
        return replace(progress, scaling=scaling)
    coming = [worker for worker in group.enlisted if worker.state in COMING]
    eta = _slowest_left(coming, now) if coming else 0.0
    return Progress("scaling", (), progress.elapsed, eta, scaling=scaling)


def _scaling_of(group: Group) -> ScalingProgress:
    serving = group.answering
    moving = [worker for worker in group.enlisted if worker not in serving]
    moving += [worker for worker in group.spares if worker.state not in AT_REST]
    return ScalingProgress(len(serving), len(group.enlisted), tuple((worker.name, worker.state) for worker in moving))


def _progress_of(host: HostState, switching: Switching, group: Group, now: float) -> Progress:
    switch = switching.switch_to(group)
    if group.validation is not None and group.is_validated:
        eta, cycle = _until_validated(group, group.validation), next(iter(group.validation.cycles), None)
        return Progress(group.state, (), now - group.since, eta, cycle=cycle)
    if group.sent_away and group.state in LEAVING_PHASES:
        back = _known(group.cost(WorkerState.STARTING)) if group.comes_back else 0.0
        gone = _until_gone(Eviction(group, _level_ordered(group)), now)
        return Progress(group.state, (), now - group.since, _sum(gone, back))
    if group.state in (WorkerState.STARTING, WorkerState.WAKING):
        victims = tuple(sorted(switch.victims)) if switch is not None else ()
        elapsed = now - (switch.since if switch is not None else group.since)
        return Progress(group.state, victims, elapsed, _until_come(group, now))
    if switch is not None:
        blockers = switching.in_the_way(group)
        phase = next((p for p in LEAVING_PHASES if any(b.group.state is p for b in blockers)), group.state)
        alone, come = 0.0 if blockers else _until_alone(host, group, now), _known(group.return_cost)
        eta = _sum(*(_until_gone(b, now, come) for b in blockers), alone, come)
        return Progress(phase, tuple(sorted(switch.victims)), now - switch.since, eta)
    if group.state is WorkerState.BACKOFF and not switching.in_the_way(group):
        retry_in = max(0.0, group.retry_at - now)
        return Progress(group.state, (), now - group.since, _sum(retry_in, _known(group.return_cost)))
    if (group.wanted or switching.is_called(group)) and group.state is not WorkerState.READY:
        eta = _queued_eta(host, switching, group, now)
        return Progress("queued", (), group.oldest_wait(now), eta, switching.position(group))
    return Progress(group.state, (), now - group.since, 0.0 if group.state is WorkerState.READY else None)


def next_step(host: HostState, switching: Switching, idling: Idling, group: Group, now: float) -> str | None:
    """Return what happens to the group next, as a phrase after its name; None where its state says it all."""
    if group.validation is not None and group.validation.cycles:
        level, number = group.validation.cycles[0]
        return f"is validated at level {level}, cycle {number}; its clients wait until {_cycles_left(group.validation)}"
    match group.state:
        case WorkerState.READY:
            return _next_of_ready(host, switching, idling, group, now)
        case WorkerState.DRAINING:
            return _next_of_draining(host, group, now)
        case WorkerState.BACKOFF if not switching.in_the_way(group):
            return f"starts again in {max(0.0, group.retry_at - now):.0f}s"
        case WorkerState.UNLOADED if group.stopped_by_operator:
            return f"stays down until `muxctl start {group.name}`"
        case WorkerState.STUCK:
            return "needs its processes ended by hand, or the GPU reset"
        case state if state in AT_REST:
            at_rest = _next_at_rest(host, switching, group, now)
            unused = _next_of_unused(idling, group, now) if state is WorkerState.ASLEEP else None
            return f"{at_rest}; {unused}" if unused else at_rest
    return None


def _cycles_left(validation: Validation) -> str:
    count = len(validation.cycles)
    return "that is over" if count == 1 else f"all {count} are over"


def _until_validated(group: Group, validation: Validation) -> float | None:
    """Return the seconds that the cycles of a validation take from the first one's beginning; None if unknown."""
    levels = [cycle.level for cycle in validation.cycles]
    moves = [cost for level in levels for cost in (group.leave_cost(level), group.comeback_cost(level))]
    return _sum(*map(_known, moves))


def _next_of_ready(host: HostState, switching: Switching, idling: Idling, group: Group, now: float) -> str | None:
    rivals = (g for g in host.groups.values() if g.wanted and g.state in AT_REST)
    blockings = ((rival, b) for rival in rivals for b in switching.in_the_way(rival) if b.group is group)
    turns = {rival.name: switching.lineup.give_way_at([blocking], rival) for rival, blocking in blockings}
    if not turns:
        return _next_of_unused(idling, group, now)
    rival = min(turns, key=lambda name: turns[name])
    left = max(0.0, turns[rival] - now)
    if group.idle and left > 0:
        return f"kept for {left:.1f}s: its client usually returns; then gives way to {rival}"
    if left == inf:
        return None
    if not switching.is_measured(host.groups[rival]):
        return f"gives way to {rival} after its turn"
    at_most = max(left, switching.lineup.due_at(host.groups[rival]) - now)  # before that only in a quiet moment
    return f"gives way to {rival} in at most {at_most:.0f}s"


def _next_of_unused(idling: Idling, group: Group, now: float) -> str | None:
    """Return what becomes of a group unless somebody uses it."""
    rung = idling.next_rung(group)
    if rung is None:
        return None
    at, level = rung
    what = "ends" if level == 3 else f"sleeps at level {level}"
    return f"{what} in {max(0.0, at - now):.0f}s, unless it is used"


def _next_of_draining(host: HostState, group: Group, now: float) -> str:
    if not group.granted and (others := host.placement.changing_beside(group)):
        names = " and ".join(dict.fromkeys(worker.group for worker in others))
        return f"waits until {names} has its memory: one at a time changes on a GPU"
    count = group.in_flight
    what = f"finishes {count} request{'s' if count != 1 else ''}"
    return what if group.drain_deadline == inf else f"{what}, for at most {max(0.0, group.drain_deadline - now):.0f}s"


def _next_at_rest(host: HostState, switching: Switching, group: Group, now: float) -> str:
    if never := host.placement.never_loads(group):
        return str(never)
    if not host.lent.isdisjoint(group.gpus) and (group.wanted or switching.is_coming(group)):
        return "waits until its GPU is given back: it is lent"
    if crowded := host.placement.crowded_out(group):
        return crowded
    if kept_out_by := host.placement.kept_out_by(group):
        return why_kept_out(group, kept_out_by)
    if group.wanted or switching.is_coming(group):
        holders = " and ".join(b.group.name for b in switching.in_the_way(group))
        if not holders and (others := switching.claimants(group)):
            return f"waits until {' and '.join(w.name for w in others)} has come: one at a time comes to a GPU"
        return f"waits for {holders} to give way" if holders else "is about to be loaded"
    verb = "wakes" if group.state is WorkerState.ASLEEP else "starts"
    if group.state is WorkerState.STANDBY:
        verb = "starts from its gate" if group.serving[0].is_at_gate else "is on its way to its gate, and starts"
    if group.lost_role and now < group.retry_at:
        by_request = f"by a request in {group.retry_at - now:.0f}s or later"
        return f"is tried again {'once its port is free' if group.awaits_port else by_request}"
    is_lent = bool(host.lent) and (group.may_be_on <= host.lent or (group.is_placed and bool(group.gpus & host.lent)))
    return f"{verb} at its next request" + (" once its GPU is given back: it is lent" if is_lent else "")


def _queued_eta(host: HostState, switching: Switching, group: Group, now: float) -> float | None:
    """Return the seconds until those in its way must begin to drain, plus the drain and the switch; None if unknown."""
    blockers = switching.in_the_way(group)
    ahead = max(
        (switching.lineup.give_way_at([b], group) - now for b in blockers if b.group.state is WorkerState.READY),
        default=None,
    )
    if ahead is None and not blockers:  # it waits only for others to come
        others = [progress_of(host, switching, other, now).eta for other in switching.claimants(group)]
        known = [eta for eta in others if eta is not None]
        return _sum(max(known), _known(group.return_cost)) if known and len(known) == len(others) else None
    if ahead is None:
        return None
    come = _known(group.return_cost)
    return _sum(max(0.0, ahead), *(_until_gone(b, now, come) for b in blockers), come)


def _level_ordered(group: Group) -> int:
    """Return the level to which the group's order leads: 3 for every order but a sleep."""
    order = group.order
    if order is None or order.verb not in (Verb.SLEEP, Verb.UNLOAD, Verb.SCALE):
        return 3
    return group.sleep_level if order.level is None else order.level


def _until_gone(leaving: Eviction, now: float, come: float | None = 0.0) -> float | None:
    """Return the seconds until a group that gives way is off its GPUs; None if unknown.

    `come`: seconds that follow, until the one who waits is there.
    """
    group, leave = leaving.group, _known(leaving.leave_cost)
    after = _sum(leave, come) or 0.0
    if group.state is WorkerState.READY:
        average = _known(group.cost(WorkerState.DRAINING))
        return _sum(_until_drained(group, average, group.spec.drain_timeout, after, now), leave)
    if group.state is WorkerState.DRAINING:
        left = _left(group.cost(WorkerState.DRAINING), group.since, now)
        return _sum(_until_drained(group, left, group.drain_deadline - now, after, now), leave)
    if group.state is WorkerState.ASLEEP:
        return _known(leaving.leave_cost)
    return _slowest_left((worker for worker in group.members if worker.state in LEAVING), now)


def _until_drained(group: Group, by_average: float | None, at_most: float, after: float, now: float) -> float | None:
    """Return the seconds until nothing of a group is in flight, by how much is; None if unknown.

    `by_average`: before anything is known of its answers; `after`: seconds of what follows.
    """
    if group.idle:
        return 0.0
    usual = group.answers.usual
    left = by_average if usual is None else likeliest_drain(group.in_flight, usual, after)
    if left is not None and (long := group.long_left(now)) is not None:
        left = max(left, long)
    return None if left is None else max(0.0, min(left, at_most))


def likeliest_drain(count: int, usual: float, after: float) -> float:
    """Return the seconds of a drain of `count` answers that, with the seconds `after` it, are most often NEAR.

    Answers end by chance, after `usual` seconds in the mean.  The mean of the last one's end is not what comes most
    often, as long drains are rare.
    """

    def ended(by: float) -> float:
        return (1.0 - exp(-by / usual)) ** count if by > 0 else 0.0

    if usual <= 0 or count <= 0:
        return 0.0

    def hits(drain: float) -> float:
        whole = drain + after
        return ended(whole / (1 - NEAR) - after) - ended(whole / (1 + NEAR) - after)

    span = usual * (log(count) + 3.0)
    return max((span * step / STEPS for step in range(STEPS + 1)), key=hits)


def _until_alone(host: HostState, group: Group, now: float) -> float | None:
    """Return the seconds until no other worker's memory changes on the group's GPUs; None if unknown."""
    changing = host.placement.changing_beside(group)
    return _slowest_left(changing, now) if changing else 0.0


def _until_come(group: Group, now: float) -> float | None:
    """Return the seconds until the members that start or wake are ready; the router counts where it comes alone."""
    workers = [worker for worker in group.serving if worker.state in COMING]
    return _slowest_left(workers or [worker for worker in group.members if worker.state in COMING], now)


def _slowest_left(workers: Iterable[Worker], now: float) -> float | None:
    """Return the most seconds that a worker's move takes yet; None if one is unknown, or nobody moves."""
    left = [
        _left(worker.cost(worker.state), worker.since, now)
        for worker in workers
        if worker.state is not WorkerState.UNRESPONSIVE  # how long a kill takes is not measured
    ]
    known = [seconds for seconds in left if seconds is not None]
    return max(known) if known and len(known) == len(left) else None


def _left(cost: Cost, since: float, now: float) -> float | None:
    """Return the seconds left of an average; None where nothing was measured, or where this time takes longer."""
    left = cost.seconds - (now - since)
    return left if cost.measured and left > 0 else None


def _known(cost: Cost) -> float | None:
    return cost.seconds if cost.measured else None


def _sum(*parts: float | None) -> float | None:
    """Return the sum, or None where a part is unknown."""
    total = 0.0
    for part in parts:
        if part is None:
            return None
        total += part
    return total
