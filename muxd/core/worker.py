"""One worker: a process tree with its state, what it costs, and how often it died."""

from collections import deque
from dataclasses import dataclass, field
from zlib import crc32

from .events import Failure
from .ledger import Claim
from .spec import Role, WorkerSpec
from .states import DOWN, MOVES, WorkerState

#: How much the newest measurement counts in a moving average.
NEWEST = 0.3

#: Delays before a restart, in seconds, by the number of failures in a row: at once, then 1, 2, 4 ... 60.
BACKOFF_CAP = 60.0


#: After so many sleeps or wakes in a row that failed, a worker sleeps at level 3: that always works.
BAD_LEVELS = 2


class IllegalMove(AssertionError):
    """The core asked for a move that MOVES does not list: a bug in muxd."""


@dataclass(frozen=True, slots=True)
class PendingFailure:
    """Why a worker is being ended that should serve.

    A wake that failed does not count: the processes are killed for a sleep level that
    does not work, and a cold start is another matter.
    """

    reason: str
    counts: bool = True
    code: str = ""  # of the cause, where it is known


@dataclass(slots=True)
class Cost:
    """A duration in seconds: a guess until it was measured, then a moving average."""

    seconds: float
    measured: bool = False

    def learn(self, seconds: float) -> None:
        self.seconds = seconds if not self.measured else self.seconds + NEWEST * (seconds - self.seconds)
        self.measured = True


def _costs() -> dict[WorkerState, Cost]:
    return {
        WorkerState.STARTING: Cost(60.0),
        WorkerState.WAKING: Cost(5.0),
        WorkerState.FALLING_ASLEEP: Cost(1.0),
        WorkerState.STOPPING: Cost(5.0),
        WorkerState.DRAINING: Cost(5.0),
    }


@dataclass(slots=True)
class Worker:
    spec: WorkerSpec
    group: str  # the name of the group that it is a member of
    state: WorkerState = WorkerState.UNLOADED
    since: float = 0.0
    reason: str = ""  # why it is in this state, where that needs saying
    url: str = ""
    generation: int = 0  # counts its starts and wakes
    costs: dict[WorkerState, Cost] = field(default_factory=_costs)
    kept: int = 0  # bytes of each of its GPUs that its last sleep left with its process
    ready_since: float | None = None  # first ready since its last failure; sleep does not interrupt it
    failures: deque[float] = field(default_factory=deque)
    in_a_row: int = 0
    restarts: int = 0
    retry_at: float = 0.0  # in backoff and failed: when the next start may be
    trial: bool = False  # started once more from "failed"
    pending_failure: PendingFailure | None = None  # being ended for this failure
    bad_levels: int = 0  # sleeps and wakes in a row that failed
    level_trouble: str = ""  # why the last of these failed
    ended: str = ""  # how its process last came to its end
    ended_code: str = ""  # of the cause, where it is known
    ended_at: float = 0.0
    story: deque[str] = field(default_factory=lambda: deque(maxlen=12))

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def is_router(self) -> bool:
        return self.spec.role is Role.ROUTER

    @property
    def is_down(self) -> bool:
        """Say whether the worker has no process."""
        return self.state in DOWN

    def may_come(self, now: float) -> bool:
        """Say whether the worker can be started or woken now: it rests, and waits for no restart delay."""
        if self.state in (WorkerState.BACKOFF, WorkerState.FAILED):
            return now >= self.retry_at
        return self.state in (WorkerState.UNLOADED, WorkerState.ASLEEP)

    def move(self, to: WorkerState, now: float, reason: str = "") -> None:
        if to not in MOVES[self.state]:
            raise IllegalMove(f"{self.name}: {self.state} -> {to} ({reason}); before that: {'; '.join(self.story)}")
        cost = self.costs.get(self.state)
        if cost is not None and to in _COMPLETES[self.state]:
            cost.learn(now - self.since)
        self.story.append(f"{now:.3f} {self.state} -> {to} {reason}".rstrip())
        self.state, self.since, self.reason = to, now, reason

    def renew(self, spec: WorkerSpec) -> None:
        """Take over another configuration, and forget what was learned of processes of the former one."""
        self.spec = spec
        self.costs = _costs()
        self.kept = 0
        self.failures.clear()
        self.in_a_row = self.bad_levels = 0
        self.level_trouble = ""
        self.retry_at = 0.0
        self.trial = False
        self.ready_since = None

    def claim_asleep(self, level: int) -> Claim:
        """Return the memory that the worker keeps while it sleeps at `level`; at level 3 there is no process."""
        return dict.fromkeys(self.spec.gpus, self.kept) if level < 3 and self.kept else {}

    @property
    def sleep_level(self) -> int:
        """Return the level that the worker really sleeps at: 3 where its own has failed too often."""
        return 3 if self.bad_levels >= BAD_LEVELS else self.spec.sleep_level

    @property
    def return_cost(self) -> Cost:
        """Return the cost of getting the worker ready from its present state: a wake or a start."""
        return self.costs[WorkerState.WAKING if self.state is WorkerState.ASLEEP else WorkerState.STARTING]

    @property
    def comeback_cost(self) -> Cost:
        """Return the cost of getting the worker ready again once it has left its GPUs."""
        return self.costs[WorkerState.STARTING if self.sleep_level == 3 else WorkerState.WAKING]

    @property
    def leave_cost(self) -> Cost:
        """Return the cost of getting the worker off its GPUs once it is drained."""
        return self.costs[WorkerState.STOPPING if self.sleep_level == 3 else WorkerState.FALLING_ASLEEP]

    def level_failed(self, why: str) -> None:
        """Note that a sleep or a wake at the worker's level did not work."""
        self.bad_levels += 1
        self.level_trouble = why

    def became_ready(self, now: float, url: str) -> None:
        self.url = url
        if self.ready_since is None:
            self.ready_since = now
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


#: Which way out of a state means that what it does was done: only such times are learned.
_COMPLETES = {
    WorkerState.STARTING: {WorkerState.READY},
    WorkerState.WAKING: {WorkerState.READY},
    WorkerState.FALLING_ASLEEP: {WorkerState.ASLEEP},
    WorkerState.STOPPING: {WorkerState.UNLOADED},
    WorkerState.DRAINING: {WorkerState.FALLING_ASLEEP, WorkerState.STOPPING},
}


def backoff(name: str, in_a_row: int) -> float:
    """Return the seconds to wait after `in_a_row` earlier failures: 0, then 1, 2, 4 ... 60, up to 10 % more.

    The jitter keeps workers that died together from starting together.  It comes from
    the name, not from chance, so that the core stays a function of its events.
    """
    if in_a_row == 0:
        return 0.0
    delay = min(BACKOFF_CAP, 2.0 ** min(in_a_row - 1, 10))
    return delay * (1.0 + 0.1 * (crc32(f"{name}/{in_a_row}".encode()) / 2**32))
