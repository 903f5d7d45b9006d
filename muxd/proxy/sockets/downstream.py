"""A client's connection: requests in, answers out, one at a time and in order.

While a request is on its way nothing is read: what a client pipelines meanwhile stays in the
kernel, and the end of its sending shows in the event's mask.

The deadline is that of the present state alone: whoever ends a state clears or replaces it.

    bytes that the kernel does not take     write_timeout, from the last that it took
    a request is on its way                 its journey's, or the next probe
    an answer whose bytes wait for the      none: they are written before any deadline is looked at
    turn's end
    IDLE, HEAD, BODY, LINGERING             that phase's
"""

import socket
import struct
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from math import inf
from time import monotonic

from muxd.errors import BodyTooLarge, MuxdError
from muxd.http.request import Request, RequestParser
from muxd.http.response import CONTINUE
from muxd.proxy.answers import UNAVAILABLE, Refusal

from .connection import Connection
from .context import CompleteResponse, ConnectionContext, DeliveryReport, PendingResponse
from .reactor import BROKEN, ENDED, READ_SIZE, READABLE, WRITABLE

_TURNS = 8  # reads in a row until others get their turn
_PROBES = 2
_PROBE_AGAIN = 1.0  # seconds
_LAST_CHANCE = 1.0  # seconds for a new connection to ask, when the proxy ends


class Phase(Enum):
    IDLE = auto()  # between two requests
    HEAD = auto()
    BODY = auto()
    BUSY = auto()  # a request is on its way, or its answer is being sent
    LEAVING = auto()  # the last answer is being sent
    LINGERING = auto()  # it is sent; what the client still sends is thrown away


class ClientConnection(Connection):
    __slots__ = (
        "_advancing",
        "_backlog",
        "_body_since",
        "_ended",
        "_front",
        "_head_weight",
        "_parser",
        "_probe_at",
        "_probes",
        "_reading",
        "_receipt",
        "_unread",
        "_weight",
        "address",
        "peer",
        "pending",
        "phase",
        "request",
    )

    def __init__(self, front: ConnectionContext, sock: socket.socket, address: str, peer: str) -> None:
        """`peer`: whom it counts for."""
        super().__init__(front.reactor, sock)
        self._front = front
        self.address = address
        self.peer = peer
        self._parser = RequestParser(front.limits.max_head, front.limits.max_body)
        self._backlog: deque[Request] = deque()  # complete, but not their turn yet
        self._advancing = False
        self._reading = False
        self._unread = False  # the kernel may have more for us, and will not say so again
        self._ended = False  # the client has shut down its sending side, or closed
        self._probes = 0
        self._probe_at = inf  # the next one
        self._weight = 0  # bytes of ours in front.held
        self._head_weight = 0  # and in front.heads
        self.request: Request | None = None  # the one being answered
        self.pending: PendingResponse | None = None
        self._receipt: DeliveryReport | None = None  # of the last answer, while the kernel has not all of it
        self.phase = Phase.HEAD  # the head timeout runs from the start: no one may just sit here
        self.deadline = self.reactor.after(front.limits.head_timeout)
        self._body_since = 0.0
        front.places.take(self, monotonic())
        self.reactor.add(sock, self)

    # What the reactor calls

    def on_event(self, mask: int) -> None:
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

    def on_sent(self) -> None:
        if self.pending is None:
            self._go_on()

    def _go_on(self) -> None:
        """Everything is sent, and nothing is on its way."""
        self._settle(0)
        if self.phase is Phase.LEAVING:
            self._linger()
        else:
            self._advance()

    def _on_writable(self) -> None:
        if self.flush():
            self.deadline = self.reactor.after(self._front.limits.write_timeout)
        if self.outbox:
            return
        self.deadline = inf
        if self.pending is not None:
            self.heed()
            self.pending.on_drained()
        else:
            self._go_on()

    def on_deadline(self) -> None:
        if self.outbox or self.phase in (Phase.IDLE, Phase.LINGERING):
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
        """The journey's deadline is another than it was.  While something is unsent, its own deadline counts."""
        if self.pending is not None and not self.outbox:
            self.deadline = self.reactor.at(min(self.pending.deadline, self._probe_at))

    def on_lost(self) -> None:
        """The client is gone: so is its request."""
        if self.pending is not None:
            pending, self.pending = self.pending, None
            pending.abandon(self._lost())
        self.close()

    def _lost(self) -> int:
        """Bytes that a client that is gone has not taken."""
        return self.unsent() + self.unacknowledged()

    def _settle(self, lost: int) -> None:
        """The last answer's bytes are no longer our concern."""
        receipt, self._receipt = self._receipt, None
        if receipt is not None:
            receipt.delivered(lost)

    # Is a client that has ended its sending still there?

    def _probe(self) -> None:
        """A FIN looks the same from a client that only ended its sending and from one that is gone.

        Something sent to the second comes back as a reset, which ends its request; the first
        gets its answer.  What is sent must mean nothing: before an answer an interim response
        (RFC 9110, 15.2), within an event stream a comment.  Sent twice: a relay between us and
        the client learns from the first that the client is gone, and we from the second.
        HTTP/1.0 has no interim responses: there the FIN counts as gone.
        """
        assert self.pending is not None
        assert self.request is not None
        self._probe_at = inf
        if self.request.http_version == "1.0":
            self.on_lost()
            return
        if self.outbox:
            return  # what waits there asks the same question
        self.send(self.pending.probe())
        self._probes += 1
        if self._probes < _PROBES:
            self._probe_at = monotonic() + _PROBE_AGAIN
        self.heed()

    def on_kept(self) -> None:
        if self.pending is not None:
            self.pending.on_kept()
        self.deadline = self.reactor.after(self._front.limits.write_timeout)

    # Reading

    def _read(self) -> None:
        if not self._reading:
            self._reading = True
            self._read_some()
            self._reading = False

    def _read_some(self) -> None:
        buffer = self.reactor.buffer
        for _ in range(_TURNS):
            if self.closed or self.phase in (Phase.BUSY, Phase.LEAVING):
                return
            try:
                size = self.sock.recv_into(buffer)
            except BlockingIOError:
                self._unread = False
                return
            except OSError:
                self.on_lost()
                return
            if not size:
                self.close()  # nothing is on its way: with a request half sent there is none
                return
            if size < READ_SIZE and not self._ended:
                self._unread = False  # emptied; an edge will tell of more
            if self.phase is not Phase.LINGERING:
                self._feed(buffer[:size])
            if not self._unread:
                return
        self.reactor.again(self._read)

    def _feed(self, data: memoryview) -> None:
        try:
            requests = self._parser.feed(data)
        except MuxdError as error:
            self._refuse(Refusal.of(error))
            return
        held, heads = self._parser.buffered, self._parser.head_bytes
        for request in requests:
            self._backlog.append(request)
            held += len(request.body)
            heads += request.head_size
        self._weigh(held)
        if heads or self._head_weight:
            self._weigh_heads(heads)
        if (held and self._front.held > self._front.limits.buffer_memory) or (
            heads and self._front.heads > self._front.limits.head_memory
        ):
            self._refuse(_no_memory())
            return
        self._advance()

    def _weigh_heads(self, weight: int) -> None:
        self._front.heads += weight - self._head_weight
        self._head_weight = weight

    def _weigh(self, weight: int) -> None:
        self._front.held += weight - self._weight
        self._weight = weight

    def lighten(self, size: int) -> None:
        self._weigh(self._weight - size)

    def grown(self, size: int, more: int) -> None:
        limits = self._front.limits
        self._weigh(self._weight + more)
        if size > limits.max_body:
            raise Refusal.of(BodyTooLarge(f"the request's body, decompressed, exceeds {limits.max_body} bytes"))
        if self._front.held > limits.buffer_memory:
            raise _no_memory()

    def again(self, callback: Callable[[], None]) -> None:
        self.reactor.again(callback)

    def resume(self, answer: Callable[[], CompleteResponse | PendingResponse]) -> None:
        request, self.pending = self.request, None
        assert request is not None
        self._take(answer(), request)

    # One request after the other

    def _advance(self) -> None:
        """Begin what can begin.  Never within itself: answers that come at once return to the loop here."""
        if self._advancing or self.phase is Phase.LINGERING:
            return
        self._advancing = True
        while self._backlog and self.pending is None and not self.sending() and self.phase is not Phase.LEAVING:
            self._begin(self._backlog.popleft())
        self._advancing = False
        if self.pending is None and not self.sending() and not self.closed:
            if self.phase is Phase.LEAVING:
                self._linger()
            else:
                self._await_request()

    def _begin(self, request: Request) -> None:
        self.phase = Phase.BUSY
        self._front.places.work(self)
        self.deadline = inf
        self.request = request
        self._probes, self._probe_at = 0, inf
        self._take(self._front.answerer.answer(self, request), request)

    def _take(self, answer: CompleteResponse | PendingResponse, request: Request) -> None:
        if isinstance(answer, CompleteResponse):
            self.lighten(len(request.body))
            self.send(answer.data)
            self.answered(answer.receipt, keep_alive=True)
        elif self.request is request:  # else it was answered already
            self.pending = answer
            if answer.deadline != inf:
                self.deadline = self.reactor.at(answer.deadline)
            if self._ended:
                self._probe()

    def answered(self, receipt: DeliveryReport, *, keep_alive: bool) -> None:
        request, self.request, self.pending = self.request, None, None
        assert request is not None
        self._receipt = receipt
        if not self.outbox:
            self.deadline = inf
        if self._head_weight:
            self._weigh_heads(0)
        # An HTTP/1.0 client would have to be told that the connection stays open.
        if not keep_alive or not request.keep_alive or request.http_version == "1.0":
            self._leave()
        if not self.sending():
            self._settle(0)
            self._advance()

    def _await_request(self) -> None:
        parser, limits = self._parser, self._front.limits
        if parser.broken is not None:
            self._refuse(Refusal.of(parser.broken))
            return
        if parser.head_seen:
            if self.phase is not Phase.BODY and (answer := self._front.answerer.precheck(self.address, parser.head())):
                self._end_with(answer)
                return
            now = monotonic()
            if self.phase is not Phase.BODY:
                self.phase = Phase.BODY
                self._body_since = now
            earned = parser.buffered / limits.body_rate
            self.deadline = self.reactor.at(min(now, self._body_since + earned) + limits.body_timeout)
            if parser.expects_continue:
                parser.expects_continue = False
                self.send(CONTINUE)
        elif parser.mid_message:
            if self.phase is not Phase.HEAD:
                self.phase = Phase.HEAD
                self.deadline = self.reactor.after(limits.head_timeout)
        elif self._front.closing:
            self._linger()
            return
        elif self.phase not in (Phase.IDLE, Phase.HEAD):  # in these an empty line came, which buys no time
            self.phase = Phase.IDLE
            self.deadline = self.reactor.after(limits.idle_timeout)
        self._front.places.rest(self, self.reactor.now)
        if self._unread and not self._reading:
            self.reactor.again(self._read)

    # The end

    def _refuse(self, refusal: Refusal) -> None:
        """Answer what is not a usable request."""
        self._end_with(self._front.answerer.reject(self.address, self._parser.head(), refusal))

    def _end_with(self, answer: CompleteResponse) -> None:
        """It is the last: no further request is read."""
        self._receipt = answer.receipt
        self.send(answer.data)
        self._leave()

    def cut(self, receipt: DeliveryReport, last: bytes = b"", *, reset: bool = False) -> None:
        self.request = self.pending = None
        self._receipt = receipt
        if reset:
            # The answer's end is the connection's end: only a reset tells that it was not reached.
            self._write()
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close()
            return
        if last:
            self.send(last)
        self._leave()
        if not self.sending():
            self._settle(0)
            self._advance()

    def _leave(self) -> None:
        self._backlog.clear()
        # What a client was in the midst of sending, or sent behind what cannot be read, is still to come.
        self._unread = self._unread or self._parser.mid_message or self._parser.broken is not None
        self._parser.release()
        self._weigh(0)
        self._weigh_heads(0)
        self.phase = Phase.LEAVING
        if not self.outbox:
            self.deadline = inf

    def _linger(self) -> None:
        """Closing with unread data makes the kernel send a reset, which may overtake the answer."""
        if not self._unread:
            self.close()
            return
        self.phase = Phase.LINGERING
        self._front.places.rest(self, self.reactor.now)
        self.deadline = self.reactor.after(self._front.limits.linger_timeout)
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self.reactor.again(self._read)

    def make_room(self) -> None:
        """Another needs the place; who is in the midst of a request is told, if that is possible at once."""
        if self.phase in (Phase.HEAD, Phase.BODY) and self._parser.mid_message:
            message = "the proxy has no place left for a request that is so long in coming: send it again"
            self._refuse(Refusal(UNAVAILABLE, "too_many_connections", message, retry_after=1))
            self._write()
            self._settle(self.unsent())
        self.close()

    def retire(self) -> None:
        """The proxy ends: close now if nothing is on its way, else after the answer.

        A connection that has not asked for anything yet may be about to: it gets a moment.
        """
        if self.phase is Phase.IDLE:
            self._read()  # what has arrived is not lost
            if self.phase is Phase.IDLE:
                self.close()
        elif self.phase is Phase.HEAD and not self._parser.mid_message:
            self.deadline = self.reactor.at(min(self.deadline, monotonic() + _LAST_CHANCE))

    def expel(self, refusal: Refusal) -> None:
        """The proxy ends now."""
        if self.pending is not None:
            self.pending.cut(refusal)
        else:
            self.close()

    def close(self) -> None:
        if not self.closed:
            self._front.client_left(self)
            self._parser.release()
            self._backlog.clear()
            self._weigh(0)
            self._weigh_heads(0)
            if self._receipt is not None:
                self._settle(self._lost())
        super().close()


def _no_memory() -> Refusal:
    message = "the proxy holds as much of requests as it may (buffer_memory): try again"
    return Refusal(UNAVAILABLE, "buffer_memory_exhausted", message, retry_after=1)
