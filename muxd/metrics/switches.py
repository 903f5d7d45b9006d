"""Switches as they happened: how many, from what to what, and where their time went.

A switch is counted when its target is ready.  One that fails, is called off or is
superseded leaves no trace here; its failure shows in muxd_worker_state and in the journal.

Its time has four parts, which together are the time from the decision to the target's
being ready.  Where several gave way, they are those of the one that was off the GPU last.

- drain: from the revocation until nothing is in flight; 0 where nothing served.
- sleep: the engine's pause and release calls, or until the process has ended (level 3).
  What was tried in vain before that is in it: a sleep that failed and became a kill.
- free: waiting until the memory is measured to be free, what was given up as well as room
  for the target.
- wake: the engine's resume and reload calls, or the start, until the target is ready.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf

from muxd.core.commands import RecordMove
from muxd.core.states import WorkerState
from muxd.core.switching import AT_REST, Switch

PARTS = ("drain", "sleep", "free", "wake")

#: States in which a target is on its way.
COMING = (WorkerState.STARTING, WorkerState.WAKING)


@dataclass(frozen=True, slots=True)
class SwitchKind:
    """`origin`: who gave way, joined by "+"; `level`: how deep they sleep, likewise where they differ; "" for none."""

    origin: str
    target: str
    level: str


@dataclass(slots=True)
class Tally:
    count: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))

    def add(self, seconds: dict[str, float]) -> None:
        self.count += 1
        for part, value in seconds.items():
            self.seconds[part] += value

    def copy(self) -> "Tally":
        return Tally(self.count, dict(self.seconds))


@dataclass(frozen=True, slots=True)
class _Leave:
    """How a worker last came off its GPUs; times are the events'."""

    at: float
    drained: float  # when nothing was in flight any more; -inf where it did not drain
    freeing: float  # seconds until its memory was measured to be free, the last of it
    level: int


@dataclass(frozen=True, slots=True)
class _Coming:
    """A switch whose target has begun."""

    kind: SwitchKind
    since: float
    seconds: dict[str, float]  # what is known by then


class Switches:
    """Is told every move, in order; gives its tallies."""

    def __init__(self) -> None:
        self._tallies: dict[SwitchKind, Tally] = {}
        self._on: dict[str, float] = {}  # who is on the GPU -> when it had nothing more in flight, or -inf
        self._left: dict[str, _Leave] = {}
        self._coming: dict[str, _Coming] = {}

    def note(self, move: RecordMove, at: float, running: Iterable[Switch], *, level: int, waited: float) -> None:
        """A worker of this sleep level moved.

        `running`: the switches under way.  `waited`: seconds that the worker last waited for memory.
        """
        name, before, after = move.worker, move.before, move.after
        if before in COMING:
            self._arrive(name, after, at, waited)
        if after in COMING:
            self._on[name] = -inf
            self._begin(next((switch for switch in running if switch.target == name), None), at)
        elif after in AT_REST:
            drained = self._on.pop(name, None)
            if drained is not None:
                self._left[name] = _Leave(at, drained, waited, level if after is WorkerState.ASLEEP else 3)
        elif before is WorkerState.DRAINING:
            self._on[name] = -inf if after is WorkerState.READY else at

    def tallies(self) -> dict[SwitchKind, Tally]:
        """A copy, in the order in which these kinds of switch first happened."""
        return {kind: tally.copy() for kind, tally in self._tallies.items()}

    def _begin(self, switch: Switch | None, at: float) -> None:
        """Its target's GPUs are free: all that gave way has, or was removed from the configuration meanwhile."""
        if switch is None:
            return
        leaves = {name: self._left[name] for name in sorted(switch.victims) if name in self._left}
        levels = sorted({str(leave.level) for leave in leaves.values()})
        seconds = dict.fromkeys(PARTS, 0.0)
        if leaves:
            last = max(leaves.values(), key=lambda leave: leave.at)
            drained = max(switch.since, last.drained)
            freeing = min(last.freeing, at - drained)
            seconds |= {"drain": drained - switch.since, "sleep": at - drained - freeing, "free": freeing}
        self._coming[switch.target] = _Coming(
            SwitchKind("+".join(leaves), switch.target, "+".join(levels)), at, seconds
        )

    def _arrive(self, target: str, after: WorkerState, at: float, waited: float) -> None:
        """It is ready, or will not be."""
        coming = self._coming.pop(target, None)
        if coming is None or after is not WorkerState.READY:
            return
        took = at - coming.since
        room = min(waited, took)
        seconds = coming.seconds | {"free": coming.seconds["free"] + room, "wake": took - room}
        self._tallies.setdefault(coming.kind, Tally()).add(seconds)
