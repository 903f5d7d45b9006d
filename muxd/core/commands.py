"""What to do about it.  The core makes these; the shell carries them out."""

from enum import StrEnum

from msgspec import Struct

from .ledger import GpuId
from .states import WorkerState


class Moment(StrEnum):
    """When a validation measures a worker."""

    BEFORE = "before"  # awake, before it sleeps
    ASLEEP = "asleep"
    AWAKE = "awake"  # after its wake


class StartWorker(Struct, frozen=True):
    """Load it from nothing; answered by WorkerReady or WorkerExited.

    `level`: for which its process is launched; None: the one that is configured.  `gpus`: those that were chosen for
    it; none: those that are configured.
    """

    worker: str
    level: int | None = None
    gpus: tuple[GpuId, ...] = ()


class PrepareStandby(Struct, frozen=True):
    """Start a process of it that waits at its engine's gate; answered by StandbyPrepared or WorkerExited.

    `is_urgent`: somebody waits for the worker; else it takes only the CPU and the disk that nobody else wants.
    """

    worker: str
    is_urgent: bool = False


class ActivateStandby(Struct, frozen=True):
    """Let the process at the gate go on as a start does; answered by WorkerReady, ActivationFailed or WorkerExited."""

    worker: str


class WakeWorker(Struct, frozen=True):
    """Wake it from the level at which it sleeps; answered by WorkerReady, WakeFailed or WorkerExited."""

    worker: str


class SleepWorker(Struct, frozen=True):
    """Put it to sleep at `level`, 0 to 2, or deeper where it sleeps already.

    Answered by WorkerAsleep, SleepFailed or WorkerExited.
    """

    worker: str
    level: int


class DrainWorker(Struct, frozen=True):
    """Look when it has no request left: its router passes none to it any more; answered by WorkerDrained."""

    worker: str


class StopWorker(Struct, frozen=True):
    """End its processes, at once if `kill`; answered by WorkerExited or WorkerStuck."""

    worker: str
    kill: bool = False


class SyncRouter(Struct, frozen=True):
    """Have the group's router pass requests to these workers and no others; answered by RouterSynced."""

    group: str
    urls: tuple[str, ...]


class GrantLease(Struct, frozen=True):
    lease: int
    url: str
    generation: int


class RevokeLease(Struct, frozen=True):
    """Admit nothing more; what is in flight has until `deadline` (the events' clock)."""

    lease: int
    reason: str
    message: str
    deadline: float


class RestoreLease(Struct, frozen=True):
    """Its revocation is called off: it is as good as before."""

    lease: int


class FailLease(Struct, frozen=True):
    """The wait is over without a grant."""

    lease: int
    code: str
    message: str
    retry_after: float | None = None  # seconds


class EndLease(Struct, frozen=True):
    """A revoked lease is over, whether its holder has let go or not."""

    lease: int


class FinishSwitch(Struct, frozen=True):
    """The operator's switch is done: the group is ready."""

    ticket: int
    url: str


class FailSwitch(Struct, frozen=True):
    ticket: int
    code: str
    message: str


class FinishOrder(Struct, frozen=True):
    """An operator's order is done; the group is in this state, as users see it."""

    ticket: int
    state: str


class FailOrder(Struct, frozen=True):
    ticket: int
    code: str
    message: str


class MeasureWorker(Struct, frozen=True):
    """Note what memory a worker has and, where it is awake, ask it something; answered by WorkerMeasured."""

    worker: str
    number: int
    moment: Moment


class ReportCycle(Struct, frozen=True):
    """A validation has had one worker sleep and wake; `error` says what went wrong, "" that nothing did.

    `sleep` and `wake`: seconds; None: it did not come to that.  At level 3 they are those of an end and of a start.
    """

    ticket: int
    worker: str
    level: int
    cycle: int  # from 1 on
    sleep: float | None
    wake: float | None
    error: str = ""


class PrefetchWeights(Struct, frozen=True):
    """Read the group's weight files into the page cache: it is next in line.

    `reserve`: bytes of host RAM that it takes itself on its way, and that the page cache must leave free.
    """

    group: str
    reserve: int = 0


class StopPrefetch(Struct, frozen=True):
    """Read them no further: the group is ready, or no longer next; what was read stays."""

    group: str


class AnswerUnload(Struct, frozen=True):
    """The group goes to sleep, or `reason` says why it does not."""

    ticket: int
    reason: str = ""


class PersistStopped(Struct, frozen=True):
    """An operator stopped it, or lifted that again: it outlasts muxd."""

    group: str
    stopped: bool


class PersistHold(Struct, frozen=True):
    """An operator holds it until then (the events' clock), or None: nobody does any more; it outlasts muxd."""

    group: str
    until: float | None


class GrantLoan(Struct, frozen=True):
    """These GPUs are clear of models; those in `returning` come back after the loan."""

    number: int
    gpus: tuple[GpuId, ...]
    returning: tuple[str, ...]


class FailLoan(Struct, frozen=True):
    number: int
    code: str
    message: str


class RecallLoan(Struct, frozen=True):
    """Have the borrower end; answered by LoanEnded."""

    number: int
    reason: str


class FinishLoan(Struct, frozen=True):
    """The loan is over, without a borrower who would have to end."""

    number: int


class ReconfigureWorker(Struct, frozen=True):
    """No process of it is left: from now on it is what the new configuration says."""

    worker: str


class RemoveWorker(Struct, frozen=True):
    """No process of it is left, and the configuration has it no more."""

    worker: str


class RecordMove(Struct, frozen=True):
    """A worker changed its state, or a group of several did; for the journal."""

    worker: str  # or the group
    before: WorkerState
    after: WorkerState
    reason: str
    code: str = ""  # of the cause, where it is known


class Cause(StrEnum):
    """Why a switch begins."""

    OPERATOR = "operator"  # wants it now
    VALIDATION = "validation"  # likewise, to validate it
    DUE = "due"  # the wait of its requests is so near its bound that a drain and the switch just fit
    BEST = "best"  # of those who may come now, serving it is worth most
    ORDER = "order"  # an operator's, and nobody has to leave
    CRASH = "crash"  # it comes back by itself
    PRELOAD = "preload"  # so configured, or it was awake before its GPUs were lent
    DEFAULT = "default"  # nothing else is wanted


class Comparison(Struct, frozen=True):
    """What the policy compared of one group for which requests waited when a switch was decided; in seconds."""

    group: str
    waiting: int  # requests
    waited: float  # by the oldest of them
    score: float  # waiting work per second of switch cost, aged by the wait; the greatest comes first
    due_in: float  # until those in its way must begin to drain, for its wait to stay within its bound
    comes_in: float  # until they give way; inf: not before something else happens
    cost: float  # of the switch to it


class RecordSwitch(Struct, frozen=True):
    """A switch begins; for the journal.

    `leases` wait for the target, the oldest first, and `tickets` are of operators' orders that bring it.  `compared`
    has all who waited, as far as they were compared: the best first, at most COMPARED.
    """

    target: str
    victims: tuple[tuple[str, int], ...]  # each with the level at which it must sleep
    cause: Cause
    leases: tuple[int, ...] = ()
    tickets: tuple[int, ...] = ()
    compared: tuple[Comparison, ...] = ()
    wait_target: float = 0.0  # seconds; batch_max_wait where only batch waits for the target


class RecordScale(Struct, frozen=True):
    """So many replicas of a group serve from now on, or are to; for the journal.

    As many as before: more were wanted, and the reason says why there are none.
    """

    group: str
    before: int
    after: int
    reason: str


class SetTimer(Struct, frozen=True):
    """Send TimerFired at this time; it replaces the timer set before.  None: no timer."""

    at: float | None


class FinishShutdown(Struct, frozen=True):
    """Nothing runs any more."""


class FinishHandover(Struct, frozen=True):
    """Every worker is at rest, and may be left to the next muxd."""


Command = (
    StartWorker
    | PrepareStandby
    | ActivateStandby
    | WakeWorker
    | SleepWorker
    | DrainWorker
    | StopWorker
    | SyncRouter
    | GrantLease
    | RevokeLease
    | RestoreLease
    | FailLease
    | EndLease
    | FinishSwitch
    | FailSwitch
    | FinishOrder
    | FailOrder
    | MeasureWorker
    | ReportCycle
    | PrefetchWeights
    | StopPrefetch
    | AnswerUnload
    | PersistStopped
    | PersistHold
    | GrantLoan
    | FailLoan
    | RecallLoan
    | FinishLoan
    | ReconfigureWorker
    | RemoveWorker
    | RecordMove
    | RecordSwitch
    | RecordScale
    | SetTimer
    | FinishShutdown
    | FinishHandover
)
