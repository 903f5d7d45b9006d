"""One worker: a process tree with its state, what it costs, and how often it died."""

from collections import deque
from dataclasses import dataclass, field
from math import inf
from typing import Literal
from zlib import crc32

from msgspec import Struct

from .cost import BY_LEVEL, COMPLETES, FROM_GATE, LEVELS, Cost, Costs, guesses
from .events import Failure
from .ledger import HOST_RAM, WHOLE, Claim, GpuId, Holding, in_order
from .spec import Learned, Role, Troubles, WorkerSpec
from .states import DOWN, MOVES, OFF, WorkerState

#: Delays before a restart, in seconds, by the number of failures in a row: at once, then 1, 2, 4 ... 60.
BACKOFF_CAP = 60.0


#: After so many sleeps or wakes in a row that failed, a worker sleeps at level 3: that always works.
BAD_LEVELS = 2

#: After so many wakes in a row that were wrong, the worker no longer sleeps at the levels that they came from.
WRONG_WAKES = 2


#: The fields of Troubles that a worker has as they are there.
_TROUBLES = set(Troubles.__struct_fields__) - {"waits", "reason", "retry_at", "failures", "ready_since"}


class IllegalMove(AssertionError):
    """The core asked for a move that MOVES does not list: a bug in muxd."""


class PendingFailure(Struct, frozen=True):
    """Why a worker is being ended that should serve.

    A wake that failed does not count: the processes are killed for a sleep level that
    does not work, and a cold start is another matter.
    """

    reason: str
    counts: bool = True
    code: str = ""  # of the cause, where it is known


@dataclass(slots=True)
class Worker:
    """One process tree, and what is learned of its lives."""

    spec: WorkerSpec
    group: str  # the name of the group that it is a member of
    state: WorkerState = WorkerState.UNLOADED
    since: float = 0.0
    reason: str = ""  # why it is in this state, where that needs saying
    url: str = ""
    generation: int = 0  # counts its starts and wakes
    costs: Costs = field(default_factory=guesses)
    launched: int | None = None  # the level for which its process was launched, where that is not the configured one
    launch_note: str = ""  # why
    peak: int = 0  # the most bytes that its process was measured to have had on one GPU when it fell asleep; 0: unknown
    excess: int = 0  # likewise, where that was more than workers may have
    copy: int = 0  # bytes of host RAM that its process has for a copy of its weights
    took: dict[WorkerState, float] = field(default_factory=dict)  # seconds that the last move out of each state took
    level: int = 3  # at which it sleeps or slept last, or towards which it falls asleep; 3: its process had ended
    kept: dict[int, int] = field(default_factory=dict)  # bytes of each of its GPUs that it keeps asleep, by level
    ready_since: float | None = None  # first ready since its last failure; sleep does not interrupt it
    failures: deque[float] = field(default_factory=deque)
    in_a_row: int = 0
    restarts: int = 0
    retry_at: float = 0.0  # in backoff and failed: when the next start may be
    trial: bool = False  # started once more from "failed"
    pending_failure: PendingFailure | None = None  # being ended for this failure
    bad_levels: int = 0  # sleeps and wakes in a row that failed
    level_trouble: str = ""  # why the last of these failed, or its last wake was wrong
    wrong_wakes: tuple[int, ...] = ()  # by their levels: those since the last right one from the same level
    woke_wrong_count: int = 0  # its wrong wakes so far
    unproved: bool = False  # it woke, and nobody has asked whether it answers as it did when it was loaded
    distrusted: frozenset[int] = frozenset()  # levels from which it woke wrong too often
    ended: str = ""  # how its process last came to its end
    ended_code: str = ""  # of the cause, where it is known
    ended_at: float = 0.0
    awaits_port: bool = False  # its last start was refused as somebody had its port; it comes once that is free
    story: deque[str] = field(default_factory=lambda: deque(maxlen=12))
    name: str = field(init=False)
    gpus: frozenset[GpuId] = frozenset()  # on which it runs, or would run if it were started now
    is_at_gate: bool = False  # its process has come to its engine's gate, or has started from there
    is_ahead: bool = False  # its process was begun before the worker was wanted
    gate_size: int = 0  # bytes of host RAM that a process of it was last measured to take there; 0: unknown
    gate_failures: int = 0  # processes in a row that ended before the worker was wanted
    gate_retry_at: float = 0.0  # when the next one may be begun; inf: not before the worker has served
    is_spare: bool = False  # its group does without it for now: it leaves its GPUs, or has left them
    retired: bool = False  # the configuration has it no more, though its group: it goes as soon as it can
    drain_deadline: float = 0.0  # of a spare one
    drains_requests: bool = True  # some were in flight when its last drain began: what it takes says what drains take
    is_drain_watched: bool = False  # somebody looks when a spare one that drains has nothing left
    is_drained: bool = False  # it was seen to have nothing left

    def __post_init__(self) -> None:
        self.name = self.spec.name
        self._take_gpus()

    def _take_gpus(self) -> None:
        """Take all GPUs of the spec, or for now the first ones where any will do."""
        self.gpus = frozenset(in_order(self.spec.gpus)[: self.spec.gpu_count])

    @property
    def learned(self) -> Learned:
        """Return what was measured of the worker so far."""
        return Learned({key: c.seconds for key, c in self.costs.items() if c.measured}, dict(self.kept))

    def recall(self, learned: Learned) -> None:
        """Take over what an earlier muxd measured of the worker."""
        self.costs |= {key: Cost(seconds, measured=True) for key, seconds in learned.seconds.items()}
        self.kept |= learned.kept

    @property
    def troubles(self) -> Troubles:
        """Return what went wrong with the worker so far."""
        waits: Literal["", "backoff", "failed"] = (
            "backoff" if self.state is WorkerState.BACKOFF else "failed" if self.state is WorkerState.FAILED else ""
        )
        return Troubles(
            waits=waits,
            reason=self.reason if waits else "",
            retry_at=self.retry_at if waits else 0.0,
            failures=tuple(self.failures),
            ready_since=self.ready_since if self.failures or self.in_a_row else None,
            **{name: getattr(self, name) for name in _TROUBLES},
        )

    def recall_troubles(self, troubles: Troubles, now: float) -> None:
        """Go on with what went wrong under an earlier muxd; one that waited for another start waits on."""
        for name in ("ready_since", *_TROUBLES):
            setattr(self, name, getattr(troubles, name))
        self.failures = deque(troubles.failures)
        if troubles.waits:
            self.state, self.reason = WorkerState(troubles.waits), troubles.reason
            self.since, self.retry_at = now, troubles.retry_at
            self.story.append(f"{now:.3f} as an earlier muxd left it: {self.state} {self.reason}".rstrip())

    @property
    def standby_holding(self) -> Holding:
        """Return what a process of the worker has at its gate: as measured, else as its specification guesses.

        A CUDA context, which it has too, is not counted: whoever loads finds out how much is free.
        """
        size = self.gate_size or self.spec.standby or 0
        return Holding({HOST_RAM: size} if size else {}, 3)

    def standby_failed(self, failure: Failure) -> None:
        """Note that a process ended before the worker was wanted; after too many no other is begun until it has served.

        The worker itself may be started all the same.
        """
        self.gate_failures += 1
        is_over = failure is Failure.REFUSED or self.gate_failures >= self.spec.restart_limit
        self.gate_retry_at = inf if is_over else self.since + backoff(self.name, self.gate_failures)

    @property
    def gpu_claim(self) -> Claim:
        """Return the memory of GPUs that the worker needs to serve."""
        return dict.fromkeys(self.gpus, self.share)

    def update(self, spec: WorkerSpec) -> None:
        """Take over a configuration that the processes do not depend on; where any GPUs will do, it stays on its."""
        self.spec = spec
        if not spec.any_of:
            self._take_gpus()

    @property
    def is_router(self) -> bool:
        return self.spec.role is Role.ROUTER

    def spare(self, deadline: float) -> None:
        """Let the group do without the worker, which has until the deadline to finish what it has."""
        self.is_spare, self.drain_deadline = True, deadline
        self.is_drain_watched = self.is_drained = False

    @property
    def cause(self) -> str:
        """Return the code of why the worker is being ended or has failed; "" for no reason that anybody knows."""
        if self.pending_failure is not None:
            return self.pending_failure.code
        return self.ended_code if self.state in (WorkerState.BACKOFF, WorkerState.FAILED) else ""

    @property
    def is_down(self) -> bool:
        """Say whether the worker has no process."""
        return self.state in DOWN

    def may_come(self, now: float) -> bool:
        """Say whether the worker can be started or woken now: it rests, and waits for no restart delay."""
        if self.state in (WorkerState.BACKOFF, WorkerState.FAILED):
            return now >= self.retry_at
        return self.state in (WorkerState.UNLOADED, WorkerState.ASLEEP, WorkerState.STANDBY)

    def retry_wait(self, now: float) -> float:
        """Return the seconds until its next start may be, as far as restart delays go; -inf where there are none."""
        if self.state not in (WorkerState.BACKOFF, WorkerState.FAILED):
            return -inf
        wait = self.retry_at - now
        return min(wait, PORT_RETRY) if self.awaits_port else wait

    def move(self, to: WorkerState, now: float, reason: str = "") -> None:
        if to not in MOVES[self.state]:
            raise IllegalMove(f"{self.name}: {self.state} -> {to} ({reason}); before that: {'; '.join(self.story)}")
        if to in COMPLETES.get(self.state, ()):
            self.took[self.state] = now - self.since
            if self._is_typical:
                self.costs[self._cost_key].learn(now - self.since)
        self.story.append(f"{now:.3f} {self.state} -> {to} {reason}".rstrip())
        self.state, self.since, self.reason = to, now, reason
        if to in DOWN or to is WorkerState.READY:
            self.is_ahead = self.is_at_gate = False
        if to in DOWN:
            self.launched, self.launch_note, self.copy, self.peak, self.excess = None, "", 0, 0, 0

    @property
    def _is_typical(self) -> bool:
        """Say whether what the worker's present state took tells how long it will take the next time.

        A start that was begun before its process had come to the gate is neither one from nothing nor one from there.
        """
        if self.state is WorkerState.DRAINING:
            return self.drains_requests
        return not self.is_ahead or (self.state is WorkerState.STARTING and self.is_at_gate)

    @property
    def _cost_key(self) -> tuple[WorkerState, int | None]:
        """Return under which key the cost of the worker's present state is; a start is told by where it begins."""
        if self.state is WorkerState.STARTING and self.is_at_gate:
            return FROM_GATE
        return self.state, self.level if self.state in BY_LEVEL else None

    def adopt(self, state: WorkerState, now: float, reason: str) -> None:
        """Begin in the state in which an earlier muxd has left the worker: the one way that MOVES does not list."""
        assert self.state is WorkerState.UNLOADED, f"{self.name} is {self.state}"
        self.story.append(f"{now:.3f} {reason}: {state}")
        self.state, self.since, self.reason = state, now, ""
        self.ready_since = now if self.ready_since is None else self.ready_since

    def renew(self, spec: WorkerSpec) -> None:
        """Take over another configuration, and forget what was learned of processes of the former one."""
        self.spec = spec
        self._take_gpus()
        self.costs = guesses()
        self.kept.clear()
        self.failures.clear()
        self.in_a_row = self.bad_levels = 0
        self.level_trouble = ""
        self.wrong_wakes, self.distrusted = (), frozenset()
        self.retry_at = 0.0
        self.gate_size = self.gate_failures = 0
        self.gate_retry_at = 0.0
        self.trial = False
        self.ready_since = None

    @property
    def share(self) -> int:
        """Return the bytes of each of its GPUs that the worker needs to serve: as told, else as measured, else WHOLE.

        What was measured is true of one process, once it has served: the next one takes what it finds.
        """
        return self.peak if self.spec.share == WHOLE and self.peak else self.spec.share

    @property
    def claim(self) -> Claim:
        """Return the memory that the worker needs to serve, of its GPUs and of host RAM."""
        return {**self.gpu_claim, HOST_RAM: self.copy} if self.copy else self.gpu_claim

    def holding_asleep(self, level: int) -> Holding:
        """Return what the worker keeps while it sleeps at `level`: as measured, else as declared."""
        if level == 3:
            return Holding({}, 3)
        in_host = {HOST_RAM: self.copy} if self.copy else {}
        if level == 0:  # where nobody can say what its weights take, it keeps all
            kept = self.kept.get(0, self.spec.resident or self.share)
            return Holding({**dict.fromkeys(self.gpus, kept), **in_host}, 0)
        kept = self.kept.get(level, 0)
        return Holding({**(dict.fromkeys(self.gpus, kept) if kept else {}), **in_host}, level)

    def can_sleep_at(self, level: int) -> bool:
        """Say whether the worker's process, or the next one as it is configured, can sleep at `level`."""
        launched = self.launch_level if self.launched is None else self.launched
        if level in self.distrusted or launched == 3:
            return level == 3
        if launched == self.spec.sleep_level:
            return self.spec.can_sleep_at(level)
        return level in (launched, 3) or (level in self.spec.levels and level != self.spec.sleep_level)

    @property
    def launch_level(self) -> int:
        """Return the level for which the worker's next process is launched: one from which it does not wake wrong.

        In the place of level 2, whose reload is what goes wrong, that is level 1, and in the place of any other 3.
        """
        level = self.spec.sleep_level
        if level == 2 and level in self.distrusted and 1 in self.spec.launchable:
            level = 1
        return 3 if level in self.distrusted else level

    @property
    def distrust(self) -> str:
        """Return why the worker does not sleep as it is configured to, or "" where its wakes gave no reason."""
        if self.spec.sleep_level not in self.distrusted:
            return ""
        woke = f"{WRONG_WAKES} wakes in a row from level {self.spec.sleep_level} were wrong"
        return f"sleeps at {self.launch_level}: {woke}"

    @property
    def sleep_level(self) -> int:
        """Return the level at which the worker sleeps: 3 where sleeps and wakes have failed too often."""
        if self.bad_levels >= BAD_LEVELS:
            return 3
        return self.launch_level if self.launched is None else self.launched

    @property
    def levels_left(self) -> list[int]:
        """Return the levels at which the worker may sleep when room is needed, the shallowest first."""
        if self.state in OFF or self.state in (WorkerState.STOPPING, WorkerState.UNRESPONSIVE, WorkerState.STUCK):
            return [3]
        least = self.sleep_level
        if self.state in (WorkerState.FALLING_ASLEEP, WorkerState.ASLEEP):
            least = self.level + (self.state is WorkerState.ASLEEP)
        deep = [level for level in LEVELS if level >= least and self.can_sleep_at(level)]
        return [*(deep if self.bad_levels < BAD_LEVELS else ()), 3]

    def sleeps_at(self, level: int) -> bool:
        """Say whether the worker sleeps at `level` or deeper, or has ended."""
        return self.state in OFF or (self.state is WorkerState.ASLEEP and self.level >= level)

    def level_for(self, level: int) -> int:
        """Return the level at which the worker is once its group has gone to `level`: its own where that is deeper."""
        if self.state is WorkerState.ASLEEP and self.level >= level:
            return self.level
        return next(each for each in self.levels_left if each >= level)

    def cost(self, state: WorkerState, level: int | None = None) -> Cost:
        """Return what being in `state` takes: of a sleep or a wake at `level`, by default the worker's last one.

        A wake that was never measured is not guessed to be dearer than a start that was.
        """
        if state is WorkerState.STARTING and self.is_at_gate:
            return self._from_gate
        if state not in BY_LEVEL:
            return self.costs[state, None]
        found = self.costs[state, self.level if level is None else level]
        if found.measured or state is not WorkerState.WAKING:
            return found
        start = self.costs[WorkerState.STARTING, None]
        return Cost(min(found.seconds, start.seconds)) if start.measured else found

    @property
    def _from_gate(self) -> Cost:
        """Return the cost of a start from the gate: where it was never measured, no more than one from nothing."""
        found, start = self.costs[FROM_GATE], self.costs[WorkerState.STARTING, None]
        return Cost(min(found.seconds, start.seconds)) if start.measured and not found.measured else found

    @property
    def return_cost(self) -> Cost:
        """Return the cost of getting the worker ready from its present state: a wake or a start."""
        return self.cost(WorkerState.WAKING if self.state is WorkerState.ASLEEP else WorkerState.STARTING)

    def comeback_cost(self, level: int) -> Cost:
        """Return the cost of getting the worker ready again from `level`."""
        if 3 in (level, self.sleep_level):
            found = self.costs[FROM_GATE]  # the next process will wait there by then
            return found if self.spec.standby is not None and found.measured else self.cost(WorkerState.STARTING)
        return self.cost(WorkerState.WAKING, level)

    def leave_cost(self, level: int) -> Cost:
        """Return the cost of getting the worker to `level` once it is drained."""
        is_end = 3 in (level, self.sleep_level)
        return self.cost(WorkerState.STOPPING) if is_end else self.cost(WorkerState.FALLING_ASLEEP, level)

    def level_failed(self, why: str) -> str:
        """Note that a sleep or a wake at the worker's level did not work; return why."""
        self.bad_levels += 1
        self.level_trouble = why
        return why

    def woke_wrong(self, why: str, *, counts: bool = True) -> str:
        """Note that the worker woke, and answers otherwise than when it was loaded; return what happened, for users.

        One that is tried by an operator does not count against the level.
        """
        reason = self.level_trouble = f"its wake from level {self.level} was wrong: {why}"
        self.wrong_wakes = (*self.wrong_wakes, self.level) if counts else self.wrong_wakes
        self.woke_wrong_count += 1
        if self.wrong_wakes.count(self.level) >= WRONG_WAKES:
            self.distrusted |= {self.level}
            self._forget_wrong_wakes()
            self.level_trouble = ""
        return reason

    def _forget_wrong_wakes(self) -> None:
        """Forget the wrong wakes from the worker's level."""
        self.wrong_wakes = tuple(level for level in self.wrong_wakes if level != self.level)

    def became_ready(self, now: float, url: str, *, unproved: bool = False) -> None:
        self.url, self.unproved = url, unproved
        self.gate_failures, self.gate_retry_at = 0, 0.0
        if self.ready_since is None:
            self.ready_since = now
        if self.state is WorkerState.WAKING:
            self.bad_levels, self.level_trouble = 0, ""
            self._forget_wrong_wakes()
        elif not self.bad_levels:
            self.level_trouble = ""  # it was loaded anew after a wake that was wrong
        if self.trial:
            self.trial = False
            self.failures.clear()

    def fail(self, now: float, failure: Failure, *, counts: bool = True) -> WorkerState:
        """Count a failure and say where it leads: to "backoff" with retry_at set, or to "failed"."""
        if not counts:
            self.retry_at = now
            return WorkerState.BACKOFF
        if self.ready_since is not None and now - self.ready_since >= self.spec.stable_after:
            self.in_a_row = 0
        self.ready_since = None
        self.failures.append(now)
        while self.failures[0] < now - self.spec.restart_window:
            self.failures.popleft()
        if failure is Failure.REFUSED or self.trial or len(self.failures) >= self.spec.restart_limit:
            self.retry_at = now + self.spec.cool_down
            return WorkerState.FAILED
        self.retry_at = now + backoff(self.name, self.in_a_row)
        self.in_a_row += 1
        return WorkerState.BACKOFF


#: The code of a start that was refused as somebody had the worker's port: PortFreed follows.
PORT_TAKEN = "port_taken"

#: Seconds after which it is worth another try for a worker that waits for its port: that is seen four times a second.
PORT_RETRY = 5.0


def backoff(name: str, in_a_row: int) -> float:
    """Return the seconds to wait after `in_a_row` earlier failures: 0, then 1, 2, 4 ... 60, up to 10 % more.

    The jitter keeps workers that died together from starting together.  It comes from
    the name, not from chance, so that the core stays a function of its events.
    """
    if in_a_row == 0:
        return 0.0
    delay = min(BACKOFF_CAP, 2.0 ** min(in_a_row - 1, 10))
    return delay * (1.0 + 0.1 * (crc32(f"{name}/{in_a_row}".encode()) / 2**32))
