"""What happened.  The shell makes these; the core only reads them.

Every event carries `time`, seconds on a monotonic clock.
"""

from collections.abc import Mapping
from enum import StrEnum
from math import inf

from msgspec import Struct, field

from .ledger import GpuId
from .spec import NO_DEFAULT, DefaultGroup, GroupSpec, Learned, LoanTerms, Troubles


class Failure(StrEnum):
    """Why a worker ended or could not start, as far as it changes what to do next."""

    EXITED = "exited"  # it ended by itself: restart with backoff
    TIMED_OUT = "timed_out"  # not ready within start_timeout, or a call without an answer
    REFUSED = "refused"  # port taken, cannot be executed, bad configuration: no use trying until that has changed


class Verb(StrEnum):
    """What can be ordered of one group; an operator gives the first six."""

    START = "start"  # load or wake it when its GPUs are free; evicts nobody
    STOP = "stop"  # end its processes and keep them ended until a start
    RESTART = "restart"  # end its processes, then start
    SLEEP = "sleep"  # give the GPU up; the next request may wake it
    SCALE = "scale"  # let so many of its replicas serve; evicts nobody
    VALIDATE = "validate"  # let it sleep and wake at each level, and measure that; it is ready afterwards
    UNLOAD = "unload"  # give the GPU up until somebody wants it: its client has no more use of it
    RECONFIGURE = "renew"  # end its processes: the configuration changed
    REMOVE = "retire"  # likewise, and forget it: the configuration has it no more
    RENEW_ROUTER = "renew_router"  # end its router alone, which is started again: its configuration changed


class Waiting(Struct, frozen=True, array_like=True):
    """Requests of one key and priority that wait for a model at one lease holder."""

    count: int = 1
    oldest: float = 0.0  # seconds the oldest of them has waited
    key: str = ""
    priority: int = 0
    is_batch: bool = False  # they can wait; else somebody waits for the answer


class AdoptedWorker(Struct, frozen=True):
    """A worker that an earlier muxd started, and which was found as that one left it."""

    worker: str
    url: str
    level: int | None = None  # at which it sleeps; None: it is ready
    kept: int | None = None  # bytes that it keeps on each of its GPUs asleep; None: nobody knows
    gpus: tuple[GpuId, ...] = ()  # that were chosen for it; none: those that are configured
    launched: int | None = None  # the level for which it was launched; None: the configured one
    peak: int = 0  # the most bytes that it was measured to have had on one GPU when it fell asleep; 0: unknown
    routed: tuple[str, ...] = ()  # a router's: URLs of the workers of its group to which it passes requests
    unproved: bool = False  # nobody knows whether it answers as it did when it was loaded
    waits: bool = False  # at its engine's gate; it is neither ready nor asleep
    gate_size: int | None = None  # bytes of host RAM that it takes there; None: nobody knows


class Started(Struct, frozen=True):
    """muxd is up: preloaded models may be loaded.  An operator stopped those in `stopped_by_operator`.

    `learned`: what an earlier muxd measured, by worker; `troubles`: what went wrong with workers under one that was
    killed; `held`: until when an operator holds groups; `scaled`: how many replicas groups had, where they were scaled;
    `loans`: by number, with the groups that come back after each.
    """

    time: float
    stopped_by_operator: frozenset[str] = frozenset()
    learned: Mapping[str, Learned] = field(default_factory=dict)
    troubles: Mapping[str, Troubles] = field(default_factory=dict)
    adopted: tuple[AdoptedWorker, ...] = ()
    held: Mapping[str, float] = field(default_factory=dict)
    scaled: Mapping[str, int] = field(default_factory=dict)
    loans: Mapping[int, tuple[LoanTerms, tuple[str, ...]]] = field(default_factory=dict)


class LeaseAsked(Struct, frozen=True):
    time: float
    lease: int
    group: str
    waiting: tuple[Waiting, ...] = (Waiting(),)


class LeaseReclaimed(Struct, frozen=True):
    """A holder to whom an earlier muxd had granted a lease on the worker at `url` goes on with what it has in flight.

    The lease is as good as before where the group is ready there, and over where it is not.
    """

    time: float
    lease: int
    group: str
    url: str
    in_flight: int
    waiting: tuple[Waiting, ...] = ()


class DemandReported(Struct, frozen=True, array_like=True):
    """A lease holder says what it has in flight and what waits; it replaces what it said before."""

    time: float
    lease: int
    in_flight: int
    waiting: tuple[Waiting, ...] = ()
    batch: int = 0  # so many of those in flight
    oldest: float | None = None  # seconds since the oldest of those in flight was sent to the worker; None: unknown
    usual: float | None = None  # seconds that a worker took for a request of late, in the mean; None: unknown
    more: bool = False  # another report follows at once, and nothing is decided before that one


class LeaseEnded(Struct, frozen=True):
    """The holder closed its lease, or is gone."""

    time: float
    lease: int


class SwitchAsked(Struct, frozen=True):
    """An operator wants this group ready, ahead of the queue.  `ticket` names the question."""

    time: float
    ticket: int
    group: str


class HoldAsked(Struct, frozen=True):
    """An operator wants this group ready as SwitchAsked says, and to stay, as if it were pinned, until then."""

    time: float
    ticket: int
    group: str
    until: float = inf


class HoldEnded(Struct, frozen=True):
    """An operator holds this group no more."""

    time: float
    group: str


class LoanAsked(Struct, frozen=True):
    """An operator wants GPUs for something that is none of muxd's; answered by GrantLoan or FailLoan."""

    time: float
    number: int
    terms: LoanTerms


class LoanEnded(Struct, frozen=True):
    """The borrower is gone, or an operator wants the GPUs back; nothing of the borrower is left there."""

    time: float
    number: int


class KeepAsked(Struct, frozen=True):
    """A client wants this group awake for so many seconds after its last use, in place of its ladder's first rung."""

    time: float
    group: str
    seconds: float
    as_of: float  # when the client said so; what was said before is told later by a proxy that came back to muxd


class OrderGiven(Struct, frozen=True):
    """An operator's order for one group.  `now`: what is in flight is not waited for.

    `level`: of a sleep; None: the one that is configured, or the deeper one at which the group sleeps already.
    `levels`: of a validation; none: all that the group has.  Each is tried `cycles` times.  `replicas`: of a scaling.
    """

    time: float
    ticket: int
    group: str
    verb: Verb
    now: bool = False
    level: int | None = None
    levels: tuple[int, ...] = ()
    cycles: int = 1
    replicas: int = 0


class ValidationEnded(Struct, frozen=True):
    """Who ordered a validation is gone: nobody is left to be told what it finds."""

    time: float
    ticket: int
    group: str


class WorkerMeasured(Struct, frozen=True):
    """A validation's question to a worker is answered.  `number` names the question; `error` says what is wrong."""

    time: float
    worker: str
    number: int
    error: str = ""


class UnloadAsked(Struct, frozen=True):
    """A client has no more use of this group: it may sleep, if nobody else has."""

    time: float
    ticket: int
    group: str


class Reconfigured(Struct, frozen=True):
    """A new configuration holds.  The groups in `changed` need other processes than they have.

    Of other groups some workers may be new or gone; those in `routers` need another process of their router.
    """

    time: float
    specs: tuple[GroupSpec, ...]
    changed: frozenset[str]
    wait_target: float
    keep_turns: bool = True
    default: DefaultGroup = NO_DEFAULT
    batch_max_wait: float = 600.0
    routers: frozenset[str] = frozenset()


class GpusMeasured(Struct, frozen=True):
    """The GPUs that can be read have so much memory for workers, in bytes; those named before keep theirs."""

    time: float
    totals: Mapping[GpuId, int]
    there: frozenset[GpuId] = frozenset()  # all GPUs of this host, readable or not; none: nobody knows
    strangers: Mapping[GpuId, str] = field(default_factory=dict)  # who else has memory there, for users
    left: Mapping[GpuId, int] = field(default_factory=dict)  # bytes that strangers leave, where there are some


class HostRamLimited(Struct, frozen=True):
    """So many bytes of host RAM models may have together for copies of their weights."""

    time: float
    size: int


class WeightsSeen(Struct, frozen=True):
    """So many bytes the weights of each model have, of which it certainly needs GPU memory; all that is known."""

    time: float
    sizes: Mapping[str, int]


class WorkerReady(Struct, frozen=True):
    """It serves at `url`: after a start or after a wake; `note` is what an operator should know of that, or "".

    `unproved`: it woke, and was not asked whether it answers as it did when it was loaded.
    """

    time: float
    worker: str
    url: str
    note: str = ""
    unproved: bool = False


class StandbyPrepared(Struct, frozen=True):
    """Its process waits at its engine's gate, with so many bytes of host RAM; None where nobody can measure them."""

    time: float
    worker: str
    size: int | None = None


class ActivationFailed(Struct, frozen=True):
    """Its gate could not be opened in time; nobody knows whether its process goes on."""

    time: float
    worker: str
    reason: str
    code: str = ""  # as in SleepFailed


class WorkerAsleep(Struct, frozen=True):
    """It fell asleep, and its GPU memory is measured to be free, but for `kept` bytes on each of its GPUs.

    `taken`: bytes that it had before, after it had served, on that of its GPUs where it had most.  Either is None where
    nobody can measure it.
    """

    time: float
    worker: str
    kept: int | None = 0
    taken: int | None = None


class WorkerDrained(Struct, frozen=True):
    """It has no request left; its group's router passes none to it any more."""

    time: float
    worker: str


class SleepFailed(Struct, frozen=True):
    """An engine call of its sleep failed or is in doubt; nobody knows what it holds."""

    time: float
    worker: str
    reason: str
    code: str = ""  # of the cause, where it is known: the code of an error in muxd.errors


class WakeFailed(Struct, frozen=True):
    """An engine call of its wake failed or is in doubt; nobody knows what it holds.

    `is_wrong`: every call was answered, and the worker answers otherwise than when it was loaded.
    """

    time: float
    worker: str
    reason: str
    code: str = ""  # as in SleepFailed
    is_wrong: bool = False


class WorkerHung(Struct, frozen=True):
    """It has stopped answering its liveness probe."""

    time: float
    worker: str
    reason: str


class WorkerDied(Struct, frozen=True):
    """No process of it is left, but its GPU memory is not free yet; WorkerExited follows."""

    time: float
    worker: str
    reason: str


class WorkerExited(Struct, frozen=True):
    """No process of it is left and its GPU memory is free; also the end of a start that came to nothing."""

    time: float
    worker: str
    failure: Failure = Failure.EXITED
    reason: str = ""
    code: str = ""  # as in SleepFailed


class PortFreed(Struct, frozen=True):
    """The port for which its last start was refused is free again."""

    time: float
    worker: str


class WorkerStuck(Struct, frozen=True):
    """SIGKILL did not end it, or its GPU memory did not come back, within the time allowed."""

    time: float
    worker: str
    reason: str


class RouterSynced(Struct, frozen=True):
    """The group's router passes requests to the workers with these URLs, whether it was last told of them or not."""

    time: float
    group: str
    urls: tuple[str, ...]


class ShutdownAsked(Struct, frozen=True):
    """Everything is to stop; leases get until `deadline`.  A second one with an earlier deadline hurries."""

    time: float
    deadline: float


class HandoverAsked(Struct, frozen=True):
    """The workers are to be left to the next muxd: what has begun is finished, and nothing else is begun."""

    time: float


class HandoverWithdrawn(Struct, frozen=True):
    """This muxd goes on after all."""

    time: float


class TimerFired(Struct, frozen=True):
    """The time that the last SetTimer named has come."""

    time: float


#: What changes the state of one worker, if it is in a state that this can change.
WorkerEvent = (
    WorkerReady
    | StandbyPrepared
    | ActivationFailed
    | WorkerAsleep
    | SleepFailed
    | WakeFailed
    | WorkerHung
    | WorkerDied
    | WorkerExited
    | PortFreed
    | WorkerStuck
)

Event = (
    Started
    | LeaseAsked
    | LeaseReclaimed
    | DemandReported
    | LeaseEnded
    | SwitchAsked
    | HoldAsked
    | HoldEnded
    | KeepAsked
    | LoanAsked
    | LoanEnded
    | OrderGiven
    | ValidationEnded
    | WorkerMeasured
    | UnloadAsked
    | Reconfigured
    | GpusMeasured
    | HostRamLimited
    | WeightsSeen
    | WorkerEvent
    | WorkerDrained
    | RouterSynced
    | ShutdownAsked
    | HandoverAsked
    | HandoverWithdrawn
    | TimerFired
)
