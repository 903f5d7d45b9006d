"""Limits and counters that all client connections of a proxy share, and the interfaces to those who answer them."""

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import trio
from msgspec import Struct

from muxd.http.known_heads import KnownHeads
from muxd.http.request import Request
from muxd.proxy.answers import Refusal

from .connection_slots import ConnectionSlots, SlotHolder
from .reactor import Reactor

#: Bytes that all heads over 4 KiB may take.
HEAD_MEMORY = 64 << 20


class ProxyLimits(Struct, frozen=True):
    """Limits of one proxy; times in seconds, sizes in bytes."""

    max_body: int
    buffer_memory: int  # for all request bodies held at once
    head_memory: int = HEAD_MEMORY  # for all heads over 4 KiB
    max_head: int = 128 * 1024
    max_clients: int = 16384
    most_idle: int = 1024  # idle connections to one worker that are kept for later requests
    head_timeout: float = 10.0  # for a request's head, from its first byte
    body_timeout: float = 30.0  # between two reads of a body, and for a whole body, beside the time that its bytes earn
    body_rate: int = 500  # bytes that earn a body another second, as in Apache's RequestReadTimeout
    fresh_for: float = 0.2  # a connection without a request is not closed for another for so long
    idle_timeout: float = 75.0  # between two requests
    write_timeout: float = 60.0  # a client that reads nothing for so long is closed
    linger_timeout: float = 5.0  # for a client to read that it is refused


class PendingResponse(Protocol):
    """A response that is still to come, to a request that is not answered at once."""

    deadline: float  # when on_deadline is to be called, on the monotonic clock; inf for never

    def on_deadline(self) -> None: ...

    def on_kept(self) -> None:
        """Handle that the client does not read as fast as bytes are sent: some are kept."""

    def on_drained(self) -> None:
        """Handle that the kernel has taken all that was kept."""

    def cut(self, refusal: Refusal) -> None:
        """End the response now, with this error where the client can still be told."""

    def abandon(self, lost: int) -> None:
        """Handle that the client is gone, and has not received `lost` bytes of what it was sent."""

    def probe(self) -> bytes:
        """Return harmless bytes that may be sent now, to learn whether the client is still there."""


class DeliveryReport(Protocol):
    """The receiver of the word that a response was delivered."""

    def delivered(self, lost: int) -> None:
        """Note that the response is over, and that the client did not receive `lost` bytes of it.  Called once."""


class CompleteResponse(NamedTuple):
    """A whole response, and the object to report its delivery to."""

    data: bytes
    receipt: DeliveryReport


class RequestHandler(Protocol):
    """Answers requests that need no worker, and returns a pending response to those that do."""

    def answer(self, client: "Downstream", request: Request) -> CompleteResponse | PendingResponse: ...

    def precheck(self, address: str, head: Request) -> CompleteResponse | None:
        """Return the response to a request that is refused by its head alone, else None."""

    def reject(self, address: str, head: Request, refusal: Refusal) -> CompleteResponse:
        """Return the response to bytes that are no usable request; `head` has as much of it as was received."""


class Downstream(Protocol):
    """A client's connection, as a pending response sees it."""

    def send(self, data: bytes) -> bool: ...

    def relay(self, data: bytes) -> None: ...

    def keep(self, data: bytes | memoryview, error: OSError | None = None) -> None: ...

    address: str  # of the client
    sock: socket.socket
    unwritten: bytes

    def heed(self) -> None:
        """Take over the pending response's deadline, which has changed."""

    def lighten(self, size: int) -> None:
        """Note that `size` bytes of a request's body are no longer held."""

    def grown(self, size: int, more: int) -> None:
        """Note that a body has grown by `more` bytes to `size` bytes; raise Refusal where that is too much."""

    def again(self, callback: Callable[[], None]) -> None:
        """Call `callback` when other connections have had their turn."""

    def resume(self, answer: Callable[[], "CompleteResponse | PendingResponse"]) -> None:
        """Answer the request by what `answer` returns, in place of the pending response."""

    def finish(self, data: bytes, receipt: DeliveryReport) -> None:
        """Send a whole response, of less than LARGE bytes, after which the connection may stay open.

        As `send` and `answered`.
        """

    def answered(self, receipt: DeliveryReport, keep_alive: bool = True) -> None:
        """Note that all bytes of the response were handed to this connection, to be sent if not sent yet.

        The request's body, as far as it is still there, is no longer held.
        """

    def cut(self, receipt: DeliveryReport, last: bytes = b"", *, reset: bool = False) -> None:
        """End the connection so that the client notices that its response is not whole."""


@dataclass(slots=True)
class ConnectionContext:
    """The reactor, the limits, the request handler, the memory held and the slots taken by all client connections."""

    reactor: Reactor
    limits: ProxyLimits
    answerer: RequestHandler
    held: int = 0  # bytes of request bodies
    heads: int = 0  # bytes of request heads over 4 KiB
    places: ConnectionSlots = field(init=False)
    known_heads: KnownHeads = field(default_factory=KnownHeads)  # to all of them
    closing: bool = False  # the proxy ends: no further request is read on any connection
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
        """Wait until no client is connected."""
        while self.clients:
            self._left = trio.Event()
            await self._left.wait()
