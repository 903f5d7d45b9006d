"""What all client connections of a proxy share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import trio

from muxd.http.request import Request
from muxd.proxy.answers import Refusal

from .connection_slots import ConnectionSlots, SlotHolder
from .reactor import Reactor


@dataclass(frozen=True, slots=True)
class ProxyLimits:
    """Times in seconds, sizes in bytes."""

    max_body: int
    buffer_memory: int  # all request bodies held at once
    head_memory: int = 64 << 20  # all heads over 4 KiB
    max_head: int = 128 * 1024
    max_clients: int = 16384
    most_idle: int = 1024  # connections to one worker that are kept for later
    head_timeout: float = 10.0  # a request's head, from its first byte
    body_timeout: float = 30.0  # between two reads of a body, and for all of it beside what its bytes earn
    body_rate: int = 500  # bytes that earn a body another second, as in Apache's RequestReadTimeout
    fresh_for: float = 0.2  # in which a connection without a request need not make room for another
    idle_timeout: float = 75.0  # between two requests
    write_timeout: float = 60.0  # for a client that reads nothing at all
    linger_timeout: float = 5.0  # for a client to take note that it is refused


class PendingResponse(Protocol):
    """A request that is not answered at once."""

    deadline: float  # when to call on_deadline, inf for never

    def on_deadline(self) -> None: ...

    def on_kept(self) -> None:
        """The client does not take all that is sent."""

    def on_drained(self) -> None:
        """The client has taken all that was sent."""

    def cut(self, refusal: Refusal) -> None:
        """End it now, with this error where the client can still be told."""

    def abandon(self, lost: int) -> None:
        """The client is gone, and has not taken `lost` bytes of what it was sent."""

    def probe(self) -> bytes:
        """Harmless bytes that the client may be sent now, to learn whether it still listens."""


class DeliveryReport(Protocol):
    """What is to be told of an answer."""

    def delivered(self, lost: int) -> None:
        """Nothing more of it is on its way; `lost` bytes of it the client did not take.  Told once."""


class CompleteResponse(NamedTuple):
    """A whole answer."""

    data: bytes
    receipt: DeliveryReport


class RequestHandler(Protocol):
    """Answers what needs no worker, and starts the journey of what does."""

    def answer(self, client: "Downstream", request: Request) -> CompleteResponse | PendingResponse: ...

    def precheck(self, address: str, head: Request) -> CompleteResponse | None:
        """The answer to a request whose body need not be waited for."""

    def reject(self, address: str, head: Request, refusal: Refusal) -> CompleteResponse:
        """The answer to what is no usable request, of which `head` is as much as there is."""


class Downstream(Protocol):
    """A client's connection, as a journey sees it."""

    def send(self, data: bytes) -> bool: ...

    def relay(self, data: bytes) -> None: ...

    address: str  # the peer's

    def heed(self) -> None:
        """The journey's deadline has changed."""

    def lighten(self, size: int) -> None:
        """So much of a request's body is no longer held."""

    def grown(self, size: int, more: int) -> None:
        """A body has become `size` bytes, `more` of which are new; raises the Refusal where that is too much."""

    def again(self, callback: Callable[[], None]) -> None:
        """Call it when others have had their turn."""

    def resume(self, answer: Callable[[], "CompleteResponse | PendingResponse"]) -> None:
        """The journey is over, and its request is answered by what `answer` returns."""

    def answered(self, receipt: DeliveryReport, *, keep_alive: bool) -> None:
        """All of the answer is sent, or on its way."""

    def cut(self, receipt: DeliveryReport, last: bytes = b"", *, reset: bool = False) -> None:
        """End the connection so that the client notices that its answer is not whole."""


@dataclass(slots=True)
class ConnectionContext:
    reactor: Reactor
    limits: ProxyLimits
    answerer: RequestHandler
    held: int = 0  # bytes of request bodies
    heads: int = 0  # bytes of heads that are worth counting
    places: ConnectionSlots = field(init=False)
    closing: bool = False  # no further request on any connection
    _left: trio.Event = field(default_factory=trio.Event)

    def __post_init__(self) -> None:
        self.places = ConnectionSlots(self.limits.max_clients, self.limits.fresh_for)

    @property
    def clients(self) -> int:
        return self.places.taken

    def client_left(self, client: SlotHolder) -> None:
        self.places.leave(client)
        if not self.clients:
            self._left.set()

    async def empty(self) -> None:
        """Return when no client is connected."""
        while self.clients:
            self._left = trio.Event()
            await self._left.wait()
