"""A client's connection: it answers requests one at a time and in order.

While a request is being answered nothing is read: requests that the client pipelines meanwhile
stay in the kernel, and the mask of an event tells that the client has ended its sending.

The connection's deadline belongs to its current state: the code that ends a state clears or replaces it.

    state                                   deadline
    bytes are kept in the outbox            write_timeout, from when the kernel last took some
    a response is pending                   that of the pending response, or of the next probe
    bytes are written at the turn's end     none: they are written before any deadline is looked at
    IDLE, HEAD, BODY, LINGERING             that of the phase
"""

import socket
import struct
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from math import inf
from time import monotonic

from muxd.errors import BodyTooLarge, MuxdError
from muxd.http.figures import LISTED
from muxd.http.request import Request, RequestParser
from muxd.http.response import CONTINUE
from muxd.proxy.answers import UNAVAILABLE, Refusal

from .connection import Connection
from .context import CompleteResponse, ConnectionContext, DeliveryReport, PendingResponse
from .reactor import BROKEN, DATA, ENDED, READ_SIZE, READABLE, WRITABLE

_READ_AT_ONCE = LISTED  # bytes of a read between two requests; those of a body are larger
_TURNS = 8  # reads in a row until other connections get their turn
_PROBES = 2
_PROBE_AGAIN = 1.0  # seconds between two probes
_LAST_CHANCE = 1.0  # seconds for a new connection to send its request, when the proxy ends


class Phase(Enum):
    """What the connection is doing."""

    IDLE = auto()  # between two requests
    HEAD = auto()  # a request's head is being received, or the connection is new
    BODY = auto()  # a request's body is being received
    BUSY = auto()  # a request is being answered
    LEAVING = auto()  # the last response is being sent
    LINGERING = auto()  # the last response is sent; bytes that the client still sends are discarded


_IDLE, _HEAD, _BODY, _BUSY, _LEAVING, _LINGERING = Phase  # globals: each look-up in the class takes 20 ns more


class ClientConnection(Connection):
    """The connection of one client, from its accept to its close."""

    __slots__ = (
        "_advancing",
        "_backlog",
        "_body_since",
        "_context",
        "_ended",
        "_held",
        "_held_heads",
        "_parser",
        "_probe_at",
        "_probes",
        "_reading",
        "_receipt",
        "_unread",
        "address",
        "peer",
        "pending",
        "phase",
        "request",
    )

    def __init__(self, context: ConnectionContext, sock: socket.socket, address: str, peer: str) -> None:
        """Register the accepted `sock`; `address` is the client's, `peer` the one whose slots it counts against."""
        super().__init__(context.reactor, sock)
        self._context = context
        self.address = address
        self.peer = peer
        self._parser = RequestParser(context.limits.max_head, context.limits.max_body, known_heads=context.known_heads)
        self._backlog: deque[Request] = deque()  # complete requests that wait for their turn
        self._advancing = False
        self._reading = False
        self._unread = False  # the kernel may have more bytes, for which no further edge comes
        self._ended = False  # the client has closed its sending side, or the connection
        self._probes = 0
        self._probe_at = inf  # when the next probe is sent
        self._held = 0  # bytes of this connection in _context.held
        self._held_heads = 0  # bytes of this connection in _context.heads
        self.request: Request | None = None  # the request that is being answered
        self.pending: PendingResponse | None = None
        self._receipt: DeliveryReport | None = None  # of the last response, until the kernel has all of it
        self.phase = _HEAD  # so that head_timeout limits a client that sends nothing at all
        self.deadline = self.reactor.after(context.limits.head_timeout)
        self._body_since = 0.0
        context.places.take(self, monotonic())
        self.reactor.add(sock, self)

    # Called by the reactor

    def on_event(self, mask: int) -> None:
        """Handle an event of the socket: most often a whole request with a head that is known.

        What `_read_some`, `_feed`, `_advance` and `_begin` do with such a request, with less work.
        """
        phase = self.phase
        if mask != DATA or not (phase is _IDLE or (phase is _HEAD and not self._parser.mid_message)):
            self._on_any_event(mask)
            return
        try:
            data = self.sock.recv(_READ_AT_ONCE)
        except BlockingIOError:
            return
        except OSError:
            self.on_lost()
            return
        known, context = self._parser.known, self._context
        if (
            known is None
            or self._ended
            or len(data) >= _READ_AT_ONCE
            or (request := known.request(data, context.limits.max_body)) is None
        ):
            self._unread, self._reading = True, True
            self._take_read(data, _READ_AT_ONCE)
            if self._unread:
                self._read_some()
            self._reading = False
            return
        self._held = held = len(request.body)
        context.held = total = context.held + held
        if total > context.limits.buffer_memory and held:
            self._backlog.append(request)
            self._refuse(_no_memory())
            return
        self.phase = _BUSY
        context.places.resting.pop(self, None)
        self.deadline = inf
        self.request = request
        answer = context.answerer.answer(self, request)
        if isinstance(answer, CompleteResponse) or answer.deadline != inf:
            self._take(answer, request)
        elif self.request is request:  # else the request was answered already
            self.pending = answer

    def _on_any_event(self, mask: int) -> None:
        if mask == DATA and not self.outbox:
            self._unread = True
            if self.pending is None:
                self._read()
            return
        if mask & BROKEN:
            self.on_lost()
            return
        if mask & WRITABLE and self.outbox:
            self._on_writable()
        if mask & READABLE:
            self._unread = True
            if mask & ENDED and not self._ended:
                self._ended = True
                if self.pending is not None:
                    self._probe()
            if not self.closed:
                self._read()

    def write(self) -> None:
        """Give the kernel what was sent in this turn, as `Connection.write` does; where it has all bytes, go on."""
        if data := self.unwritten:
            self.unwritten = b""
            try:
                sent = self.sock.send(data)
            except OSError as error:
                self.keep(data, error)
                return
            if sent < len(data):
                self.keep(memoryview(data)[sent:])
                return
        elif self.outbox or self.closed:
            return
        if self.pending is None:
            self._go_on()

    def _go_on(self) -> None:
        """Report the last response as delivered, and answer the next request, or await one, or leave.

        The kernel has all bytes, and no response is pending.
        """
        receipt = self._receipt
        if receipt is not None:
            self._receipt = None
            receipt.delivered(0)
        phase, parser, context = self.phase, self._parser, self._context
        if phase is _LEAVING:
            self._linger()
        elif self._backlog:
            self._advance()
        elif phase is _BUSY and not (parser.mid_message or parser.broken is not None or context.closing):
            reactor = self.reactor
            self.phase = _IDLE
            self.deadline = at = reactor.now + context.limits.idle_timeout
            if at < reactor.next_sweep:
                reactor.at(at)
            context.places.resting[self] = reactor.now  # as `rest`
            if self._unread and not self._reading:
                reactor.again(self._read)
        elif phase is not _LINGERING:
            self._await_rest()

    def _on_writable(self) -> None:
        if self.flush():
            self.deadline = self.reactor.after(self._context.limits.write_timeout)
        if self.outbox:
            return
        self.deadline = inf
        if self.pending is not None:
            self.heed()
            self.pending.on_drained()
        else:
            self._go_on()

    def on_deadline(self) -> None:
        if self.outbox or self.phase in (_IDLE, _LINGERING):
            self.on_lost()
        elif self.pending is not None:
            now = monotonic()
            if self._probe_at <= now:
                self._probe()
            if self.pending is not None and self.pending.deadline <= now:
                self.pending.on_deadline()
            self.heed()
        elif self._parser.mid_message:
            self._refuse(Refusal(408, "request_timeout", "the request did not arrive in time"))
        else:
            self.close()

    def heed(self) -> None:
        """Take over the pending response's deadline, unless write_timeout counts, as long as bytes are kept."""
        if self.pending is not None and not self.outbox:
            self.deadline = self.reactor.at(min(self.pending.deadline, self._probe_at))

    def on_lost(self) -> None:
        """Abandon the pending response, as the client is gone, and close the connection."""
        if self.pending is not None:
            pending, self.pending = self.pending, None
            pending.abandon(self._undelivered())
        self.close()

    def _undelivered(self) -> int:
        """Return the bytes that were sent and that the client, now gone, has not received."""
        return self.unsent() + self.unacknowledged()

    def _report_delivery(self, lost: int) -> None:
        """Report the last response as delivered but for `lost` bytes, where that is not reported yet."""
        receipt, self._receipt = self._receipt, None
        if receipt is not None:
            receipt.delivered(lost)

    # A client that has ended its sending is probed, as it may be gone

    def _probe(self) -> None:
        """Send the client bytes without a meaning, to learn whether it is gone or has only ended its sending.

        A FIN looks the same in both cases.  A client that is gone replies to the bytes with a
        reset, which ends its request; a client that is still there gets its response.  The
        bytes are an interim response (RFC 9110, 15.2) before the response, and a comment
        within an event stream.  They are sent twice: a relay between the proxy and the client
        learns from the first probe that the client is gone, and the proxy from the second.
        HTTP/1.0 has no interim responses: there a FIN counts as a client that is gone.
        """
        assert self.pending is not None
        assert self.request is not None
        self._probe_at = inf
        if self.request.http_version == "1.0":
            self.on_lost()
            return
        if self.outbox:
            return  # the kept bytes serve as a probe
        self.send(self.pending.probe())
        self._probes += 1
        if self._probes < _PROBES:
            self._probe_at = monotonic() + _PROBE_AGAIN
        self.heed()

    def on_kept(self) -> None:
        if self.pending is not None:
            self.pending.on_kept()
        self.deadline = self.reactor.after(self._context.limits.write_timeout)

    # Reading

    def _read(self) -> None:
        if not self._reading:
            self._reading = True
            self._read_some()
            self._reading = False

    def _read_some(self) -> None:
        buffer = self.reactor.buffer
        data: bytes | memoryview
        for _ in range(_TURNS):
            phase = self.phase
            if phase is _BUSY or phase is _LEAVING or self.closed:
                return
            most = READ_SIZE if phase is _BODY else _READ_AT_ONCE
            try:
                data = buffer[: self.sock.recv_into(buffer)] if phase is _BODY else self.sock.recv(most)
            except BlockingIOError:
                self._unread = False
                return
            except OSError:
                self.on_lost()
                return
            self._take_read(data, most)
            if not self._unread:
                return
        self.reactor.again(self._read)

    def _take_read(self, data: bytes | memoryview, most: int) -> None:
        """Handle what a read has brought that asked for `most` bytes; no request is being answered."""
        if not data:
            self._unread = False
            self.close()  # one that is half sent never will be answered
            return
        if len(data) < most and not self._ended:
            self._unread = False  # a short read has emptied the socket: an edge comes with more bytes
        if self.phase is not _LINGERING:
            self._feed(data)

    def _feed(self, data: bytes | memoryview) -> None:
        try:
            requests = self._parser.feed(data)
        except MuxdError as error:
            self._refuse(Refusal.of(error))
            return
        parser, context = self._parser, self._context
        held, heads = (parser.buffered, parser.head_bytes) if parser.mid_message else (0, 0)
        for request in requests:
            self._backlog.append(request)
            held += len(request.body)
            heads += request.head_size
        context.held += held - self._held
        self._held = held
        if heads or self._held_heads:
            self._set_held_heads(heads)
        if (held and context.held > context.limits.buffer_memory) or (
            heads and context.heads > context.limits.head_memory
        ):
            self._refuse(_no_memory())
            return
        self._advance()

    def _set_held_heads(self, size: int) -> None:
        self._context.heads += size - self._held_heads
        self._held_heads = size

    def _set_held(self, size: int) -> None:
        self._context.held += size - self._held
        self._held = size

    def lighten(self, size: int) -> None:
        self._held -= size
        self._context.held -= size

    def grown(self, size: int, more: int) -> None:
        limits = self._context.limits
        self._set_held(self._held + more)
        if size > limits.max_body:
            raise Refusal.of(BodyTooLarge(f"the request's body, decompressed, exceeds {limits.max_body} bytes"))
        if self._context.held > limits.buffer_memory:
            raise _no_memory()

    def again(self, callback: Callable[[], None]) -> None:
        self.reactor.again(callback)

    def resume(self, answer: Callable[[], CompleteResponse | PendingResponse]) -> None:
        request, self.pending = self.request, None
        assert request is not None
        self._take(answer(), request)

    # Answering, one request after the other

    def _advance(self) -> None:
        """Answer the next request of the backlog, else go on to read or to close.

        The call within a call does nothing: a response that comes at once is followed by the outer call's loop.
        """
        if self._advancing or self.phase is _LINGERING:
            return
        self._advancing = True
        while self._backlog and self.pending is None and self.phase is not _LEAVING:
            if self.unwritten or self.outbox:  # the kernel has not all bytes yet
                break
            self._begin(self._backlog.popleft())
        self._advancing = False
        if self.pending is None and not (self.unwritten or self.outbox or self.closed):
            self._go_on()

    def _begin(self, request: Request) -> None:
        self.phase = _BUSY
        self._context.places.work(self)
        self.deadline = inf
        self.request = request
        self._probes, self._probe_at = 0, inf
        self._take(self._context.answerer.answer(self, request), request)

    def _take(self, answer: CompleteResponse | PendingResponse, request: Request) -> None:
        if isinstance(answer, CompleteResponse):
            self.send(answer.data)
            self.answered(answer.receipt)
        elif self.request is request:  # else the request was answered already
            self.pending = answer
            if answer.deadline != inf:
                self.deadline = self.reactor.at(answer.deadline)
            if self._ended:
                self._probe()

    def finish(self, data: bytes, receipt: DeliveryReport) -> None:
        """Send a whole response, of less than LARGE bytes: as `send` and `answered`, with less work for a plain one."""
        request, reactor = self.request, self.reactor
        if self.unwritten or self.outbox or request is None or not (request.is_plain and request.keep_alive):
            self.send(data)
            self.answered(receipt)
            return
        self.request = self.pending = None
        self._receipt = receipt
        self.deadline = inf
        if held := len(request.body):
            request.body = b""
            self._held -= held
            self._context.held -= held
        self.unwritten = data
        reactor.unsent.append(self)
        if not reactor.turning:
            reactor.rouse()

    def answered(self, receipt: DeliveryReport, keep_alive: bool = True) -> None:
        request, self.request, self.pending = self.request, None, None
        assert request is not None
        self._receipt = receipt
        if held := len(request.body):
            request.body = b""  # whoever has the request still, such as a cycle that waits for the collector
            self._held -= held
            self._context.held -= held
        if not self.outbox:
            self.deadline = inf
        if self._held_heads:
            self._set_held_heads(0)
        # The connection of an HTTP/1.0 client is closed: to keep it open takes a header, which is not sent.
        if not keep_alive or not request.keep_alive or request.http_version == "1.0":
            self._leave()
        if not (self.unwritten or self.outbox):
            self._report_delivery(0)
            self._advance()

    def _await_rest(self) -> None:
        """Wait for the rest of a request of which a part is here; refuse bytes that are none; or end an idle client.

        An empty line extends no deadline.
        """
        parser, limits = self._parser, self._context.limits
        if parser.broken is not None:
            self._refuse(Refusal.of(parser.broken))
            return
        if parser.head_seen:
            if self.phase is not _BODY and (answer := self._context.answerer.precheck(self.address, parser.head())):
                self._end_with(answer)
                return
            now = monotonic()
            if self.phase is not _BODY:
                self.phase = _BODY
                self._body_since = now
            earned = parser.buffered / limits.body_rate
            self.deadline = self.reactor.at(min(now, self._body_since + earned) + limits.body_timeout)
            if parser.expects_continue:
                parser.expects_continue = False
                self.send(CONTINUE)
        elif parser.mid_message:
            if self.phase is not _HEAD:
                self.phase = _HEAD
                self.deadline = self.reactor.after(limits.head_timeout)
        elif self._context.closing:
            self._linger()
            return
        self._context.places.rest(self, self.reactor.now)
        if self._unread and not self._reading:
            self.reactor.again(self._read)

    # The end

    def _refuse(self, refusal: Refusal) -> None:
        """Send the refusal of bytes that are no usable request, or of one that is whole, as the last response."""
        head = self._backlog[0] if self._backlog else self._parser.head()
        head.keep_alive = False
        self._end_with(self._context.answerer.reject(self.address, head, refusal))

    def _end_with(self, answer: CompleteResponse) -> None:
        """Send a whole response, the last one: no further request is read."""
        self._receipt = answer.receipt
        self.send(answer.data)
        self._leave()

    def cut(self, receipt: DeliveryReport, last: bytes = b"", *, reset: bool = False) -> None:
        self.request = self.pending = None
        self._receipt = receipt
        if reset:
            # The connection's end would be the response's end: only a reset tells the client that it is not whole.
            super().write()
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close()
            return
        if last:
            self.send(last)
        self._leave()
        if not (self.unwritten or self.outbox):
            self._report_delivery(0)
            self._advance()

    def _leave(self) -> None:
        self._backlog.clear()
        # A client in the midst of sending, or of sending behind bytes that are no request, is likely to send more.
        self._unread = self._unread or self._parser.mid_message or self._parser.broken is not None
        self._parser.release()
        self._set_held(0)
        self._set_held_heads(0)
        self.phase = _LEAVING
        if not self.outbox:
            self.deadline = inf

    def _linger(self) -> None:
        """Close the connection, after reading what the client may still send.

        A close with unread data makes the kernel send a reset, which may overtake the response.
        """
        if not self._unread:
            self.close()
            return
        self.phase = _LINGERING
        self._context.places.rest(self, self.reactor.now)
        self.deadline = self.reactor.after(self._context.limits.linger_timeout)
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self.reactor.again(self._read)

    def make_room(self) -> None:
        """Close the connection, whose slot another needs, after refusing a request that has arrived in part."""
        if self.phase in (_HEAD, _BODY) and self._parser.mid_message:
            message = "the proxy has no place left for a request that is so long in coming: send it again"
            self._refuse(Refusal(UNAVAILABLE, "too_many_connections", message, retry_after=1))
            super().write()
            self._report_delivery(self.unsent())
        self.close()

    def retire(self) -> None:
        """Close the connection, as the proxy ends: now if no request is being answered, else after the response.

        A new connection gets `_LAST_CHANCE` seconds, as its first request may just be coming.
        """
        if self.phase is _IDLE:
            self._read()  # a request that has arrived is answered
            if self.phase is _IDLE:
                self.close()
        elif self.phase is _HEAD and not self._parser.mid_message:
            self.deadline = self.reactor.at(min(self.deadline, monotonic() + _LAST_CHANCE))

    def expel(self, refusal: Refusal) -> None:
        """End the pending response with `refusal`, or close the connection, as the proxy ends now."""
        if self.pending is not None:
            self.pending.cut(refusal)
        else:
            self.close()

    def close(self) -> None:
        if not self.closed:
            self._context.client_left(self)
            self._parser.release()
            self._backlog.clear()
            self._set_held(0)
            self._set_held_heads(0)
            if self._receipt is not None:
                self._report_delivery(self._undelivered())
        super().close()


def _no_memory() -> Refusal:
    message = "the proxy holds as much of requests as it may (buffer_memory): try again"
    return Refusal(UNAVAILABLE, "buffer_memory_exhausted", message, retry_after=1)
