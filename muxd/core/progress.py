"""What is going on for a worker and when it will be ready: for status and for those who wait.

An ETA is an estimate from measured times; where a part of it was never measured on this
host there is none, rather than a guess.
"""

from dataclasses import dataclass
from math import inf

from .host_state import HostState
from .states import WorkerState
from .switching import AT_REST, Switching
from .worker import Cost, Worker

#: The order in which a switch passes through its phases.
LEAVING_PHASES = (WorkerState.DRAINING, WorkerState.FALLING_ASLEEP, WorkerState.STOPPING, WorkerState.UNRESPONSIVE)


@dataclass(frozen=True, slots=True)
class Progress:
    """`phase`: a state's name, or "queued"; times in seconds."""

    phase: str
    victims: tuple[str, ...] = ()
    elapsed: float = 0.0
    eta: float | None = None
    position: int | None = None  # among the models that wait, 1 is next


def progress_of(host: HostState, switching: Switching, worker: Worker, now: float) -> Progress:
    switch = switching.switch_to(worker)
    if worker.sent_away and worker.state in LEAVING_PHASES:
        back = _known(worker.costs[WorkerState.STARTING]) if worker.comes_back else 0.0
        return Progress(worker.state, (), now - worker.since, _sum(_until_gone(worker, now), back))
    if worker.state in (WorkerState.STARTING, WorkerState.WAKING):
        victims = tuple(sorted(switch.victims)) if switch is not None else ()
        elapsed = now - (switch.since if switch is not None else worker.since)
        return Progress(worker.state, victims, elapsed, _left(worker.costs[worker.state], worker, now))
    if switch is not None:
        blockers = switching.in_the_way(worker)
        phase = next((p for p in LEAVING_PHASES if any(b.state is p for b in blockers)), worker.state)
        eta = _sum(*(_until_gone(b, now) for b in blockers), _known(worker.return_cost))
        return Progress(phase, tuple(sorted(switch.victims)), now - switch.since, eta)
    if worker.state is WorkerState.BACKOFF and not switching.in_the_way(worker):
        retry_in = max(0.0, worker.retry_at - now)
        return Progress(worker.state, (), now - worker.since, _sum(retry_in, _known(worker.return_cost)))
    if (worker.wanted or switching.is_wished(worker)) and worker.state is not WorkerState.READY:
        eta = _queued_eta(host, switching, worker, now)
        return Progress("queued", (), worker.oldest_wait(now), eta, switching.position(worker))
    return Progress(worker.state, (), now - worker.since, 0.0 if worker.state is WorkerState.READY else None)


def next_step(host: HostState, switching: Switching, worker: Worker, now: float) -> str | None:
    """Return what happens to the worker next, as a phrase after its name; None where its state says it all."""
    match worker.state:
        case WorkerState.READY:
            return _next_of_ready(host, switching, worker, now)
        case WorkerState.DRAINING:
            return _next_of_draining(worker, now)
        case WorkerState.BACKOFF if not switching.in_the_way(worker):
            return f"starts again in {max(0.0, worker.retry_at - now):.0f}s"
        case WorkerState.UNLOADED if worker.stopped_by_operator:
            return f"stays down until `muxctl start {worker.name}`"
        case WorkerState.STUCK:
            return "needs its processes ended by hand, or the GPU reset"
        case state if state in AT_REST:
            return _next_at_rest(host, switching, worker, now)
    return None


def _next_of_ready(host: HostState, switching: Switching, worker: Worker, now: float) -> str | None:
    rivals = [w for w in host.workers.values() if w.wanted and w.state in AT_REST and worker in switching.in_the_way(w)]
    turns = {w.name: switching.gives_way_at(worker, w) for w in rivals}
    if not turns:
        return None
    rival = min(turns, key=lambda name: turns[name])
    left = max(0.0, turns[rival] - now)
    if worker.idle and left > 0:
        return f"kept for {left:.1f}s: its client usually returns; then gives way to {rival}"
    if left == inf:
        return None
    if not switching.is_measured(host.workers[rival]):
        return f"gives way to {rival} after its turn"
    return f"gives way to {rival} in at most {left:.0f}s"


def _next_of_draining(worker: Worker, now: float) -> str:
    count = worker.in_flight
    what = f"finishes {count} request{'s' if count != 1 else ''}"
    return what if worker.drain_deadline == inf else f"{what}, for at most {max(0.0, worker.drain_deadline - now):.0f}s"


def _next_at_rest(host: HostState, switching: Switching, worker: Worker, now: float) -> str:
    if never := host.never_loads(worker):
        return str(never)
    if worker.wanted or switching.is_coming(worker):
        holders = " and ".join(w.name for w in switching.in_the_way(worker))
        if not holders and (others := switching.claimants(worker)):
            return f"waits until {' and '.join(w.name for w in others)} has come: one at a time comes to a GPU"
        return f"waits for {holders} to give way" if holders else "is about to be loaded"
    verb = "wakes" if worker.state is WorkerState.ASLEEP else "starts"
    if worker.state is WorkerState.FAILED and now < worker.retry_at:
        return f"is tried again by a request in {worker.retry_at - now:.0f}s or later"
    return f"{verb} at its next request"


def _queued_eta(host: HostState, switching: Switching, worker: Worker, now: float) -> float | None:
    """Return the seconds until those in its way must begin to drain, plus the drain and the switch; None if unknown."""
    blockers = switching.in_the_way(worker)
    ahead = max(
        (switching.gives_way_at(b, worker) - now for b in blockers if b.state is WorkerState.READY), default=None
    )
    if ahead is None:
        return None
    return _sum(max(0.0, ahead), *(_until_gone(b, now) for b in blockers), _known(worker.return_cost))


def _until_gone(worker: Worker, now: float) -> float | None:
    """Return the seconds until a worker that gives way is off its GPUs; None if unknown."""
    if worker.state is WorkerState.READY:
        return _sum(0.0 if worker.idle else _known(worker.costs[WorkerState.DRAINING]), _known(worker.leave_cost))
    if worker.state is WorkerState.DRAINING:
        drained = _left(worker.costs[WorkerState.DRAINING], worker, now) if worker.granted else 0.0
        return _sum(drained, _known(worker.leave_cost))
    if worker.state in worker.costs:
        return _left(worker.costs[worker.state], worker, now)
    return None


def _left(cost: Cost, worker: Worker, now: float) -> float | None:
    """Return the seconds left of an average; None where nothing was measured, or where this time takes longer."""
    left = cost.seconds - (now - worker.since)
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
