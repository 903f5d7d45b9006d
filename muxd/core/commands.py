"""What to do about it.  The core makes these; the shell carries them out."""

from dataclasses import dataclass
from enum import StrEnum

from .ledger import GpuId
from .states import WorkerState


class Moment(StrEnum):
    """When a validation measures a worker."""

    BEFORE = "before"  # awake, before it sleeps
    ASLEEP = "asleep"
    AWAKE = "awake"  # after its wake


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Load it from nothing; answered by WorkerReady or WorkerExited.

    `level`: for which its process is launched; None: the one that is configured.  `gpus`: those that were chosen for
    it; none: those that are configured.
    """

    worker: str
    level: int | None = None
    gpus: tuple[GpuId, ...] = ()


@dataclass(frozen=True, slots=True)
class WakeWorker:
    """Wake it from the level at which it sleeps; answered by WorkerReady, WakeFailed or WorkerExited."""

    worker: str


@dataclass(frozen=True, slots=True)
class SleepWorker:
    """Put it to sleep at `level`, 0 to 2, or deeper where it sleeps already.

    Answered by WorkerAsleep, SleepFailed or WorkerExited.
    """

    worker: str
    level: int


@dataclass(frozen=True, slots=True)
class StopWorker:
    """End its processes, at once if `kill`; answered by WorkerExited or WorkerStuck."""

    worker: str
    kill: bool = False


@dataclass(frozen=True, slots=True)
class SyncRouter:
    """Have the group's router pass requests to these workers and no others; answered by RouterSynced."""

    group: str
    urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GrantLease:
    lease: int
    url: str
    generation: int


@dataclass(frozen=True, slots=True)
class RevokeLease:
    """Admit nothing more; what is in flight has until `deadline` (the events' clock)."""

    lease: int
    reason: str
    message: str
    deadline: float


@dataclass(frozen=True, slots=True)
class RestoreLease:
    """Its revocation is called off: it is as good as before."""

    lease: int


@dataclass(frozen=True, slots=True)
class FailLease:
    """The wait is over without a grant."""

    lease: int
    code: str
    message: str
    retry_after: float | None = None  # seconds


@dataclass(frozen=True, slots=True)
class EndLease:
    """A revoked lease is over, whether its holder has let go or not."""

    lease: int


@dataclass(frozen=True, slots=True)
class FinishSwitch:
    """The operator's switch is done: the group is ready."""

    ticket: int
    url: str


@dataclass(frozen=True, slots=True)
class FailSwitch:
    ticket: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class FinishOrder:
    """An operator's order is done; the group is in this state, as users see it."""

    ticket: int
    state: str


@dataclass(frozen=True, slots=True)
class FailOrder:
    ticket: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class MeasureWorker:
    """Note what memory a worker has and, where it is awake, ask it something; answered by WorkerMeasured."""

    worker: str
    number: int
    moment: Moment


@dataclass(frozen=True, slots=True)
class ReportCycle:
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


@dataclass(frozen=True, slots=True)
class AnswerUnload:
    """The group goes to sleep, or `reason` says why it does not."""

    ticket: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PersistStopped:
    """An operator stopped it, or lifted that again: it outlasts muxd."""

    group: str
    stopped: bool


@dataclass(frozen=True, slots=True)
class ReconfigureWorker:
    """No process of it is left: from now on it is what the new configuration says."""

    worker: str


@dataclass(frozen=True, slots=True)
class RemoveWorker:
    """No process of it is left, and the configuration has it no more."""

    worker: str


@dataclass(frozen=True, slots=True)
class RecordMove:
    """A worker changed its state, or a group of several did; for the journal."""

    worker: str  # or the group
    before: WorkerState
    after: WorkerState
    reason: str
    code: str = ""  # of the cause, where it is known


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Send TimerFired at this time; it replaces the timer set before.  None: no timer."""

    at: float | None


@dataclass(frozen=True, slots=True)
class FinishShutdown:
    """Nothing runs any more."""


Command = (
    StartWorker
    | WakeWorker
    | SleepWorker
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
    | AnswerUnload
    | PersistStopped
    | ReconfigureWorker
    | RemoveWorker
    | RecordMove
    | SetTimer
    | FinishShutdown
)
