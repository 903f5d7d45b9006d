"""One worker as the core sees it: its state, its leases, what it costs, and how often it died."""

from collections import deque
from dataclasses import dataclass, field
from math import inf
from zlib import crc32

from . import policy
from .events import Failure, Verb, Waiting
from .ledger import Claim
from .spec import WorkerSpec
from .states import LEAVING, MOVES, WorkerState

#: How much the newest measurement counts in a moving average.
NEWEST = 0.3

#: Delays before a restart, in seconds, by the number of failures in a row: at once, then 1, 2, 4 ... 60.
BACKOFF_CAP = 60.0


#: After so many sleeps or wakes in a row that failed, a worker sleeps at level 3: that always works.
BAD_LEVELS = 2


#: So many of the last times that a worker was wanted tell how often it is: LRU-K (O'Neil et al., SIGMOD 1993).
USES = 8


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
class Order:
    """What a worker is to do, by an operator (whose `tickets` wait for its end) or by a new configuration."""

    verb: Verb
    tickets: list[int] = field(default_factory=list)
    now: bool = False  # what is in flight is not waited for
    killed: bool = False  # a stop that was under way has been hurried
    is_down: bool = False  # of a restart: the processes have ended


@dataclass(slots=True)
class Lease:
    """One holder's wish to send to a worker; granted or waiting."""

    id: int
    worker: str
    told: float  # when its holder last said what waits
    waiting: tuple[Waiting, ...]
    in_flight: int = 0

    def oldest(self, now: float) -> float:
        """Return the seconds that the oldest waiting request has waited; 0 where none waits."""
        return max((w.oldest + (now - self.told) for w in self.waiting), default=0.0)

    @property
    def count(self) -> int:
        return sum(w.count for w in self.waiting)

    @property
    def weight(self) -> float:
        """Count the waiting requests, each 2 ** priority times."""
        return sum(w.count * 2.0 ** max(-10, min(10, w.priority)) for w in self.waiting)

    @property
    def busy(self) -> bool:
        return self.in_flight > 0 or bool(self.waiting)


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
    state: WorkerState = WorkerState.UNLOADED
    since: float = 0.0
    reason: str = ""  # why it is in this state, where that needs saying
    url: str = ""
    generation: int = 0  # counts its starts and wakes
    granted: dict[int, Lease] = field(default_factory=dict)
    waiting: dict[int, Lease] = field(default_factory=dict)
    costs: dict[WorkerState, Cost] = field(default_factory=_costs)
    idle_since: float | None = None  # its last answer ended then; None while requests run or wait, or none ever did
    gaps: deque[float] = field(default_factory=lambda: deque(maxlen=policy.GAPS))  # from an answer to the next request
    kept: int = 0  # bytes of each of its GPUs that its last sleep left with its process
    uses: deque[float] = field(default_factory=lambda: deque(maxlen=USES))  # when requests last came to it while idle
    drain_deadline: float = inf
    ready_since: float | None = None  # first ready since its last failure; sleep does not interrupt it
    failures: deque[float] = field(default_factory=deque)
    in_a_row: int = 0
    restarts: int = 0
    retry_at: float = 0.0  # in backoff and failed: when the next start may be
    trial: bool = False  # started once more from "failed"
    pending_failure: PendingFailure | None = None  # being ended for this failure
    bad_levels: int = 0  # sleeps and wakes in a row that failed
    level_trouble: str = ""  # why the last of these failed
    order: Order | None = None
    stopped_by_operator: bool = False  # an operator stopped it: it stays down until a start
    retired: bool = False  # the configuration has it no more: it goes as soon as it can
    pending_spec: WorkerSpec | None = None  # what it is to be once its processes have ended
    ended: str = ""  # how its process last came to its end
    ended_code: str = ""  # of the cause, where it is known
    ended_at: float = 0.0
    story: deque[str] = field(default_factory=lambda: deque(maxlen=12))

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def shown_state(self) -> str:
        """Return the state as users see it: "stopped" for a worker without a process that an operator stopped."""
        return "stopped" if self.stopped_by_operator and self.state is WorkerState.UNLOADED else self.state

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
        self.spec, self.pending_spec = spec, None
        self.costs = _costs()
        self.gaps.clear()
        self.kept = 0
        self.failures.clear()
        self.in_a_row = self.bad_levels = 0
        self.level_trouble = ""
        self.retry_at = 0.0
        self.trial = False
        self.ready_since = None

    @property
    def in_flight(self) -> int:
        return sum(lease.in_flight for lease in self.granted.values())

    @property
    def waiting_count(self) -> int:
        return sum(lease.count for lease in (*self.waiting.values(), *self.granted.values()))

    @property
    def idle(self) -> bool:
        return not any(lease.busy for lease in self.granted.values())

    @property
    def in_use(self) -> bool:
        """Say whether requests run or wait."""
        return not self.idle or self.wanted

    @property
    def wanted(self) -> bool:
        """Say whether requests wait for the worker."""
        return any(lease.waiting for lease in self.waiting.values())

    @property
    def sent_away(self) -> bool:
        """Say whether an order takes the worker off its GPUs, whoever else wants that."""
        return self.order is not None and self.order.verb is not Verb.START

    @property
    def comes_back(self) -> bool:
        """Say whether the worker leaves only to be started again at once."""
        return self.order is not None and self.order.verb is Verb.RESTART

    @property
    def leaves(self) -> bool:
        """Say whether the worker is on its way off its GPUs, and not only to come back at once."""
        return self.state in LEAVING and not self.comes_back

    def demand(self, now: float) -> float:
        """Return how often per second the worker was wanted of late; 0 where it never was."""
        return len(self.uses) / max(1.0, now - self.uses[0]) if self.uses else 0.0

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

    def oldest_wait(self, now: float) -> float:
        return max((lease.oldest(now) for lease in self.waiting.values()), default=0.0)

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
