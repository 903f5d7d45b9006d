"""A group's state, as it follows from those of its members, and whether it can do without one of them.

A group is READY while its quorum is: one worker of each role, with the router knowing of it.
"""

from .group import Group
from .states import LOST, WorkerState
from .worker import Worker

_READY = frozenset({WorkerState.READY})
_CARRYING = frozenset({WorkerState.READY, WorkerState.DRAINING})


def derived_state(group: Group) -> WorkerState:
    """Return the state of the group, by the states of its members: of the only one, its own.

    A group in a state of DOWN has no process left, but for one that is stuck.
    """
    if len(group.members) == 1:
        return group.members[0].state
    states = {worker.state for worker in group.enlisted}
    if WorkerState.DRAINING in states:
        return WorkerState.DRAINING
    if _has_quorum(group, _READY):
        return WorkerState.READY
    if WorkerState.STARTING in states:
        return WorkerState.STARTING
    if WorkerState.WAKING in states:
        return WorkerState.WAKING
    if WorkerState.READY in states:  # the router comes, or does not know them yet
        return group.state if group.state in (WorkerState.STARTING, WorkerState.WAKING) else WorkerState.STARTING
    states |= {worker.state for worker in group.spares}
    if WorkerState.DRAINING in states:
        return WorkerState.STOPPING  # one that it does without has something left, and nobody else serves
    for state in (WorkerState.UNRESPONSIVE, WorkerState.STOPPING, WorkerState.FALLING_ASLEEP, WorkerState.ASLEEP):
        if state in states:
            return state
    if group.router is not None and not group.router.is_down and group.router.state is not WorkerState.STUCK:
        return WorkerState.STOPPING  # it ends with the last of those it passes requests to
    by_hope = (WorkerState.BACKOFF, WorkerState.UNLOADED, WorkerState.FAILED, WorkerState.STUCK)
    best = {next(s for s in by_hope if any(w.state is s for w in role)) for role in group.serving_roles}
    if group.router is not None and group.router.state in LOST:
        best.add(group.router.state)
    by_trouble = (WorkerState.STUCK, WorkerState.FAILED, WorkerState.BACKOFF, WorkerState.UNLOADED)
    return next(s for s in by_trouble if s in best)


def _has_quorum(group: Group, states: frozenset[WorkerState], but: Worker | None = None) -> bool:
    """Say whether a worker of each role is in one of the states, with a router that passes requests to it."""
    router = group.router
    if router is not None and (router is but or router.state is not WorkerState.READY):
        return False
    return all(
        any(w.state in states and w is not but and (router is None or w.url in group.routed) for w in workers)
        for workers in group.serving_roles
    )


def carries(group: Group, but: Worker | None = None) -> bool:
    """Say whether requests in flight can come to their end, also without the worker `but`, which is lost."""
    return _has_quorum(group, _CARRYING, but)
