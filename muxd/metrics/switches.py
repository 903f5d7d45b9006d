"""The switches that were made: how many, from which workers to which, and where their time went.

A switch is counted when its target is ready.  A switch that fails, is called off or is
superseded is not counted; its failure shows in muxd_worker_state and in the journal.

A switch's time has four parts, whose sum is the time from the decision until the target
is ready.  Where several victims gave way, the parts are those of the victim that left its
GPUs last.

- drain: from the revocation until nothing is in flight; 0 where no victim was serving.
- sleep: the engine's pause and release calls, or until the process has ended (level 3).
  The time of a sleep that failed and became a kill is included.
- free: the wait until the memory is measured to be free, both the victim's own and the
  room for the target.
- wake: the engine's resume and reload calls, or the start, until the target is ready.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf

from msgspec import Struct

from muxd.core.commands import RecordMove
from muxd.core.states import AT_REST, COMING, WorkerState
from muxd.core.view import SwitchView

PARTS = ("drain", "sleep", "free", "wake")


class SwitchKind(Struct, frozen=True):
    """The labels of one sort of switch.

    `origin` has the victims' names joined by "+", and `level` their different sleep levels joined by "+"; both are ""
    where nobody gave way.
    """

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


class SwitchEnd(Struct, frozen=True):
    """A switch whose target has begun to come is over; `seconds` by part, of one that made its target ready."""

    target: str
    is_ready: bool
    seconds: dict[str, float]


class _Leave(Struct, frozen=True):
    """How a worker last left its GPUs; times are those of the core's events."""

    at: float
    drained: float  # the time at which nothing was in flight any more; -inf where the worker did not drain
    freeing: float  # seconds that the worker last waited for its memory to be measured free
    level: int


class _Coming(Struct, frozen=True):
    """A switch whose target has begun to start or wake."""

    kind: SwitchKind
    since: float
    seconds: dict[str, float]  # by part; free and wake are completed when the target is ready


class Switches:
    """The tallies of all switches, computed from every worker's moves in order."""

    def __init__(self) -> None:
        self._tallies: dict[SwitchKind, Tally] = {}
        self._on_gpu: dict[str, float] = {}  # worker -> the time at which it had nothing more in flight, or -inf
        self._leaves: dict[str, _Leave] = {}
        self._coming: dict[str, _Coming] = {}

    def note(
        self, move: RecordMove, at: float, running: Iterable[SwitchView], *, level: int, waited: float
    ) -> SwitchEnd | None:
        """Note a move that a worker made at the time `at`, on the clock of the core's events; return what it ended.

        `running` has the switches that are under way, `level` is the level at which the worker sleeps, and `waited`
        is how many seconds the worker last waited for memory.
        """
        name, before, after = move.worker, move.before, move.after
        end = self._arrive(name, after, at, waited) if before in COMING else None
        if after in COMING:
            self._on_gpu[name] = -inf
            self._begin(next((switch for switch in running if switch.target == name), None), at)
        elif after in AT_REST:
            drained = self._on_gpu.pop(name, None)
            if drained is not None:
                self._leaves[name] = _Leave(at, drained, waited, level if after is WorkerState.ASLEEP else 3)
        elif before is WorkerState.DRAINING:
            self._on_gpu[name] = -inf if after is WorkerState.READY else at
        elif before is WorkerState.ASLEEP:
            self._on_gpu[name] = -inf  # it sleeps deeper, or ends, for another one
        return end

    def tallies(self) -> dict[SwitchKind, Tally]:
        """Return a copy of the tallies, in the order in which the kinds of switch first happened."""
        return {kind: tally.copy() for kind, tally in self._tallies.items()}

    def _begin(self, switch: SwitchView | None, at: float) -> None:
        """Note that a switch's target begins to start or wake, and compute the drain, sleep and free times.

        By now every victim has left the target's GPUs, or a reload has removed it from the configuration.  One of
        several workers may still be about to leave other GPUs: what counts of it ends now.
        """
        if switch is None:
            return
        still = {
            name: _Leave(at, self._on_gpu[name], 0.0, level)
            for name, level in switch.victims.items()
            if name in self._on_gpu
        }
        left = self._leaves | still
        leaves = {name: left[name] for name in sorted(switch.victims) if name in left}
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

    def _arrive(self, target: str, after: WorkerState, at: float, waited: float) -> SwitchEnd | None:
        """Count the switch to `target` where the target is ready, and forget it where the target failed."""
        coming = self._coming.pop(target, None)
        if coming is None:
            return None
        if after is not WorkerState.READY:
            return SwitchEnd(target, False, coming.seconds)
        took = at - coming.since
        room = min(waited, took)
        seconds = coming.seconds | {"free": coming.seconds["free"] + room, "wake": took - room}
        self._tallies.setdefault(coming.kind, Tally()).add(seconds)
        return SwitchEnd(target, True, seconds)
