"""The states of a worker and every legal move between them.

The diagram in docs/architecture.md is printed from MOVES (`python -m muxd.core.states`), and a
test compares the two.
"""

from enum import StrEnum


class WorkerState(StrEnum):
    UNLOADED = "unloaded"  # no process; a request starts it, unless an operator stopped it
    STANDBY = "standby"  # its next process waits at its engine's gate, or is on its way there; no weights anywhere
    STARTING = "starting"  # the process loads its model
    READY = "ready"  # serves, or could at once
    DRAINING = "draining"  # admits nothing more, finishes what is in flight
    FALLING_ASLEEP = "falling_asleep"  # engine calls of its sleep, or to a deeper level, are under way
    ASLEEP = "asleep"  # the process lives, its GPU memory is given up as its level says
    WAKING = "waking"  # engine calls of its wake are under way
    STOPPING = "stopping"  # its processes are being ended
    UNRESPONSIVE = "unresponsive"  # stopped answering; its processes are being killed
    BACKOFF = "backoff"  # died; waits before the next start
    FAILED = "failed"  # died too often or cannot start; one trial start after a cool-down
    STUCK = "stuck"  # survived SIGKILL, or its GPU memory did not come back


#: Those without a process: nothing is left to end.
DOWN = frozenset({WorkerState.UNLOADED, WorkerState.BACKOFF, WorkerState.FAILED})

_S = WorkerState

#: Those without weights or a cache anywhere: it comes by a start.
OFF = DOWN | {WorkerState.STANDBY}

#: States in which a worker is of no use to its group until somebody mends it, or its cool-down is over.
LOST = frozenset({_S.FAILED, _S.STUCK})

#: States in which a worker is on its way off the GPU: nothing need be asked of it again.
LEAVING = frozenset({_S.FALLING_ASLEEP, _S.STOPPING, _S.UNRESPONSIVE})

#: States in which it comes to its GPUs.
COMING = frozenset({_S.STARTING, _S.WAKING})

#: States in which what it has of its GPUs changes.
CHANGING = COMING | LEAVING

#: States in which it serves or is to: one that dies is started again, and its memory is kept for it.
UP = COMING | {_S.READY}

#: States with a process that nobody has begun to end.
RUNNING = UP | {_S.DRAINING, _S.FALLING_ASLEEP, _S.ASLEEP, _S.STANDBY}

#: States from which it can be brought to its GPUs; nothing more happens to it until somebody wants it.
AT_REST = OFF | {_S.ASLEEP}

MOVES: dict[WorkerState, frozenset[WorkerState]] = {
    _S.UNLOADED: frozenset({_S.STANDBY, _S.STARTING}),
    _S.STANDBY: frozenset({_S.STARTING, _S.STOPPING, _S.UNLOADED, _S.STUCK}),
    _S.STARTING: frozenset({_S.READY, _S.STOPPING, _S.BACKOFF, _S.FAILED, _S.STUCK}),
    _S.READY: frozenset({_S.DRAINING, _S.STOPPING, _S.UNRESPONSIVE, _S.BACKOFF, _S.FAILED, _S.STUCK}),
    _S.DRAINING: frozenset({_S.READY, _S.FALLING_ASLEEP, _S.STOPPING, _S.UNRESPONSIVE, _S.UNLOADED, _S.STUCK}),
    _S.FALLING_ASLEEP: frozenset({_S.ASLEEP, _S.STOPPING, _S.UNLOADED, _S.STUCK}),
    _S.ASLEEP: frozenset({_S.WAKING, _S.FALLING_ASLEEP, _S.STOPPING, _S.UNRESPONSIVE, _S.UNLOADED, _S.STUCK}),
    _S.WAKING: frozenset({_S.READY, _S.STOPPING, _S.BACKOFF, _S.FAILED, _S.STUCK}),
    _S.STOPPING: frozenset({_S.UNLOADED, _S.BACKOFF, _S.FAILED, _S.STUCK}),
    _S.UNRESPONSIVE: frozenset({_S.UNLOADED, _S.BACKOFF, _S.FAILED, _S.STUCK}),
    _S.BACKOFF: frozenset({_S.STARTING, _S.UNLOADED}),
    _S.FAILED: frozenset({_S.STARTING, _S.BACKOFF, _S.UNLOADED}),
    _S.STUCK: frozenset({_S.UNLOADED}),
}


def diagram() -> str:
    """MOVES as a Mermaid state diagram, one arrow a line, in the order of the table."""
    lines = ["stateDiagram-v2", "    [*] --> unloaded"]
    for before, afters in MOVES.items():
        lines += [f"    {before} --> {after}" for after in WorkerState if after in afters]
    return "\n".join(lines)


if __name__ == "__main__":
    print(diagram())
