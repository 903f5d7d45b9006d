"""What muxd and its proxies say to each other in a session on the control socket, as types that both ends use.

A proxy has one session.  It begins as `GET /v1/session` with `Upgrade: muxd-session` and the proxy's version of the
protocol in the header `Muxd-Protocol`; after muxd's `101 Switching Protocols`, whose header `Muxd-Protocol` is muxd's,
each side writes JSON lines, each one message of this module, told apart by its `type`.  The proxy gives each lease
that it asks for a number, which it never uses again in the session.  The end of the connection, whichever side closed
it, ends every lease of the session.

    proxy: reclaim, of a lease that an earlier muxd had granted -> muxd: granted | over
    proxy: ask -> muxd: queued | switching, again and again -> granted -> revoked -> (restored | proxy: release)
                                                            -> failed | over, and the number is done with

A grant says how many requests may be at the worker at once, where the model has a limit (concurrency_limit): the places
of this lease.  muxd deals them out to all leases on the model, and may tell another number at any time (`places`); of
fewer the holder admits nothing more until it is below.  It reports how many it uses, and what it uses no more goes to
another holder.

Meanwhile the proxy reports its demand, for many leases in one line, and about once a second, where there was any, its
activity: tokens, uses of keys, and the requests that have ended.  muxd asks for the requests that are under way only
while somebody wants to see them, and has the proxy end one where an operator wants it.  A message that is none of
these, or does not fit its type, ends the session; fields that are not listed are ignored.
"""

from enum import StrEnum
from typing import Annotated, Any

from msgspec import Meta, Struct, field

#: The version of this protocol: raised by each change that the other side has to know of.
VERSION = 6

UPGRADE = b"muxd-session"
VERSION_HEADER = b"muxd-protocol"

#: Bytes that one line may have at most: a report of 100 leases with several priorities each has 40 KiB.
LONGEST_LINE = 1 << 20

LeaseNumber = Annotated[int, Meta(ge=0, lt=1 << 62)]
Count = Annotated[int, Meta(ge=0, le=1_000_000)]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]


class RevocationReason(StrEnum):
    """Why a lease is revoked."""

    SWITCH = "switch"  # another model has its turn
    SHUTDOWN = "shutdown"  # of muxd
    WORKER_EXITED = "worker_exited"
    WORKER_UNRESPONSIVE = "worker_unresponsive"
    STOP = "stop"  # this and the following: by an order, a new configuration, or a client that let the model go
    RESTART = "restart"
    SLEEP = "sleep"
    VALIDATE = "validate"
    UNLOAD = "unload"
    RECONFIGURE = "renew"
    REMOVE = "retire"


#: Reasons which say that the lease's worker is gone.
WORKER_LOST = frozenset({RevocationReason.WORKER_EXITED, RevocationReason.WORKER_UNRESPONSIVE})


class WaitingRequests(Struct, frozen=True):
    """Requests of one key and priority that wait for a model."""

    key: Annotated[str, Meta(max_length=256)] = ""
    priority: Annotated[int, Meta(ge=-1_000_000, le=1_000_000)] = 0
    count: Count = 1
    oldest_s: Seconds = 0.0  # that the oldest of them has waited
    batch: bool = False  # they can wait


class LeaseDemand(Struct, frozen=True, omit_defaults=True):
    """What one lease's holder has in flight and what waits; it replaces what was reported before."""

    lease: LeaseNumber
    in_flight: Count = 0
    waiting: tuple[WaitingRequests, ...] = ()
    places: Count = 0  # that it uses: those that it has, or more while as many requests are still at the worker
    deal: Annotated[int, Meta(ge=0)] = 0  # of which muxd has told last
    batch: Count = 0  # so many of those in flight
    oldest_s: Seconds | None = None  # since the oldest of those in flight was sent to the worker
    usual_s: Seconds | None = None  # that the worker took for an answer of late, in the mean


# What a proxy says


class LeaseWish(Struct, frozen=True, tag_field="type", tag="ask"):
    """Ask for a lease on `model`, a model's name or served name."""

    lease: LeaseNumber
    model: Annotated[str, Meta(max_length=4096)]
    waiting: tuple[WaitingRequests, ...] = (WaitingRequests(),)
    request: Annotated[str, Meta(max_length=256)] = ""  # the id of the request that waits longest
    key: Annotated[str, Meta(max_length=256)] = ""  # the name of that request's API key


class LeaseClaim(Struct, frozen=True, tag_field="type", tag="reclaim"):
    """Go on with a lease that an earlier muxd, or an earlier session, had granted on the worker at `url`.

    muxd grants it, or says that it is over.
    """

    lease: LeaseNumber
    model: Annotated[str, Meta(max_length=4096)]
    url: Annotated[str, Meta(max_length=4096)]
    in_flight: Count = 0
    waiting: tuple[WaitingRequests, ...] = ()
    places: Count | None = None  # that it uses; None: it had no limit


class DemandReport(Struct, frozen=True, tag_field="type", tag="report"):
    """The demand of some leases; one that is over by now is ignored."""

    leases: tuple[LeaseDemand, ...]


class LeaseRelease(Struct, frozen=True, tag_field="type", tag="release"):
    """The holder lets go: nothing is in flight under the lease any more."""

    lease: LeaseNumber


class UnloadWish(Struct, frozen=True, tag_field="type", tag="unload"):
    """A client has no more use of a model: it may sleep, unless others use it."""

    model: Annotated[str, Meta(max_length=4096)]


class KeepWish(Struct, frozen=True, tag_field="type", tag="keep"):
    """A client wants a model awake for so long after its last use, in place of its first idle time."""

    model: Annotated[str, Meta(max_length=4096)]
    seconds: Annotated[float, Meta(gt=0, le=1e9)] | None = None  # None: for ever
    age: Annotated[float, Meta(ge=0)] = 0.0  # seconds since a client said so last; of several, the latest word counts


class ToldRequest(Struct, frozen=True, omit_defaults=True):
    """One request as the proxy knows it, without anything of its bodies; times are in seconds.

    `state`: running, waiting or ended.  `since`: its arrival, in seconds since the epoch.  `completion_tokens`: by the
    response's usage; with `by_events` as many as its stream had events, which is what is known without usage.  `end`,
    of one that has ended: ok, client_gone, cut or refused.
    """

    id: str
    state: str
    model: str
    since: float
    key: str = ""
    route: str = ""
    client: str = ""  # its address
    agent: str = ""  # what it calls itself; only while the request is under way
    waited_s: float = 0.0
    first_token_s: float | None = None  # from the arrival; None where there is none so far, or no stream
    duration_s: float = 0.0  # so far, or whole
    prompt_tokens: int = 0
    completion_tokens: int = 0
    by_events: bool = False
    status: int = 0
    end: str = ""
    code: str = ""  # the proxy's own error code


class KeyUsage(Struct, frozen=True, omit_defaults=True):
    """What one API key's requests ("" for requests without a key) took of one model since the last report."""

    key: str
    model: str
    requests: int = 0
    refused: int = 0  # of these, by the proxy itself
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    event_tokens: int = 0  # of streams without usage, by their events


class ModelActivity(Struct, frozen=True, omit_defaults=True):
    """What a model gave since the last report; `tokens` may be negative where events were more than usage says."""

    model: str
    tokens: int = 0
    first_tokens_s: tuple[float, ...] = ()  # of streams, from the request's arrival; at most some of them


class ActivityReport(Struct, frozen=True, tag_field="type", tag="activity"):
    """What a proxy did in the `seconds` since its last report; `left_out` requests ended besides `ended`."""

    models: tuple[ModelActivity, ...] = ()
    keys: tuple[KeyUsage, ...] = ()
    ended: tuple[ToldRequest, ...] = ()
    left_out: int = 0
    seconds: Annotated[float, Meta(ge=0, le=1e9)] = 1.0


class RequestsTold(Struct, frozen=True, tag_field="type", tag="requests"):
    """The requests that are under way, the oldest of each model first; there are `left_out` more."""

    number: int
    requests: tuple[ToldRequest, ...] = ()
    left_out: int = 0


class RequestsCancelled(Struct, frozen=True, tag_field="type", tag="cancelled"):
    """So many requests of that id were ended."""

    number: int
    count: int


ProxyMessage = (
    LeaseWish
    | LeaseClaim
    | DemandReport
    | LeaseRelease
    | UnloadWish
    | KeepWish
    | ActivityReport
    | RequestsTold
    | RequestsCancelled
)


# What muxd says


class ToldError(Struct, frozen=True):
    """An error of muxd/errors.py."""

    code: str
    message: str
    retryable: bool = False
    details: dict[str, Any] = {}


class LeaseQueued(Struct, frozen=True, tag_field="type", tag="queued"):
    """Others are served first; `position` among the models that wait, 1 is next."""

    lease: LeaseNumber
    position: int | None = None
    eta_s: float | None = None  # None: nobody knows


class LeaseComing(Struct, frozen=True, tag_field="type", tag="switching"):
    """The model comes; `phase` is the state of what is waited for, `victims` are those that leave for it."""

    lease: LeaseNumber
    phase: str
    victims: tuple[str, ...] = field(default=(), name="from")
    eta_s: float | None = None


class LeaseGranted(Struct, frozen=True, omit_defaults=True, tag_field="type", tag="granted"):
    """Requests may be sent to `url`; `generation` tells the worker's present life from the last."""

    lease: LeaseNumber
    url: str
    generation: int
    places: int | None = None  # how many may be there at once; None: no limit
    deal: int = 0  # grows with each number of places that muxd tells for this lease


class LeasePlaces(Struct, frozen=True, tag_field="type", tag="places"):
    """From now on so many requests may be at the worker at once; None: no limit."""

    lease: LeaseNumber
    places: int | None = None
    deal: int = 0


class LeaseRevoked(Struct, frozen=True, tag_field="type", tag="revoked"):
    """Admit no more; what is in flight has `deadline_s` seconds (None: no limit), and then the lease is released."""

    lease: LeaseNumber
    reason: RevocationReason
    message: str
    deadline_s: float | None = None


class LeaseRestored(Struct, frozen=True, tag_field="type", tag="restored"):
    """The revocation is called off."""

    lease: LeaseNumber


class LeaseFailed(Struct, frozen=True, tag_field="type", tag="failed"):
    """The wait is over without a grant, and the lease with it; `retry_after_s` None: another try is no use."""

    lease: LeaseNumber
    error: ToldError
    retry_after_s: float | None = None


class LeaseOver(Struct, frozen=True, tag_field="type", tag="over"):
    """muxd has ended the lease: its worker may be put to sleep at any time."""

    lease: LeaseNumber


class UnloadAnswer(Struct, frozen=True, tag_field="type", tag="unloads"):
    """The model goes to sleep, or `reason` says why it does not."""

    model: str
    reason: str | None = None


class SessionRefused(Struct, frozen=True, tag_field="type", tag="refused"):
    """muxd ends the session, for what the proxy has said."""

    error: ToldError


class RequestsWanted(Struct, frozen=True, tag_field="type", tag="list"):
    """Somebody wants to know which requests are under way; `number` names the question."""

    number: int


class CancelWish(Struct, frozen=True, tag_field="type", tag="cancel"):
    """An operator wants the requests with this id ended."""

    number: int
    id: str


LeaseProgress = LeaseQueued | LeaseComing
LeaseMessage = LeaseProgress | LeaseGranted | LeasePlaces | LeaseRevoked | LeaseRestored | LeaseFailed | LeaseOver
Question = RequestsWanted | CancelWish
MuxdMessage = LeaseMessage | UnloadAnswer | SessionRefused | Question


def seconds(value: float | None) -> float | None:
    """Return a duration as it is told: seconds rounded to milliseconds, None for an unknown or unbounded one."""
    return None if value is None or value == float("inf") else round(value, 3)
