"""A connection to a worker.

The response is relayed as raw bytes; llhttp parses them only to find the response's end.  llhttp
makes no callbacks for headers or body: with these a request takes 1700 us of CPU, without 54 us.
What is known to be a whole response, or a stream's head, event or end, passes without llhttp: a
stream of a known head is read by it only from the first piece on that is nothing of these.
"""

import socket
from enum import Enum, auto
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from httptools import HttpParserError, HttpResponseParser

from muxd.http.figures import LISTED

from .connection import LARGE, Connection
from .known_answers import KnownAnswer, KnownStream
from .reactor import BROKEN, DATA, ENDED, READ_SIZE, READABLE, WRITABLE
from .router_errors import NOBODY_HAD_IT, REFUSED_WITHIN, router_error
from .single_events import EVENT_END, is_event, is_last
from .stream_formats import StreamFormat

if TYPE_CHECKING:
    from .pool import Pool

CONNECT_TIMEOUT = 10.0  # seconds
MAX_HEAD = 256 * 1024
_TURNS = 4  # reads in a row until other connections get their turn
_STATUS_LINE = b"HTTP/1."
_FINAL = b"HTTP/1.1 2"  # what most responses begin with
_HEAD_END = b"\r\n\r\n"
_CHUNKED = b"\r\ntransfer-encoding:"
_READ_AT_ONCE = LISTED  # bytes of a response that may be passed on without being parsed


class UpstreamLoss(Enum):
    """Why a worker's connection brought no whole response."""

    UNREACHABLE = auto()  # no connection came about
    DIED = auto()  # the connection was closed or reset
    GARBAGE = auto()  # the bytes are not valid HTTP
    SILENT = auto()  # no byte came within upstream_timeout


class EventOutlet(Protocol):
    """What reads from the connection while nothing but single events is likely to come."""

    def on_event(self, mask: int) -> None:
        """Handle an event of the socket: pass on a chunk that is exactly one event of a stream.

        All else is given to the connection's `on_event`, `on_data` or `on_end`.  Where the client can take no more,
        `pause` is called.
        """


class ResponseReceiver(Protocol):
    """The receiver of a worker's response.

    The connection is released before `on_whole`, `on_complete`, `on_stale` and `on_loss`: the receiver may not use it
    any more.
    """

    takes_whole: bool  # the receiver has use for `on_whole` and, where `takes_stream` says so, for `on_stream`

    @property
    def flow(self) -> "EventOutlet | None":
        """Return what reads single events from now on; None where all bytes go through `on_bytes`."""

    def on_whole(self, data: bytes, known: KnownAnswer) -> None:
        """Handle a whole response of known head, which came at once, in place of all other calls."""

    def takes_stream(self, data: bytes) -> bool:
        """Return whether `on_stream` can have the beginning of a stream."""

    def on_stream(self, data: bytes, head_size: int, known: KnownStream) -> bool:
        """Handle a stream's known head, with its first event or nothing behind, in place of `on_answer` and `on_bytes`.

        Return what `on_bytes` does.
        """

    def on_answer(self, status: int, head: bytes) -> None:
        """Handle the head, in lower case; its bytes as sent follow in `on_bytes`."""

    def on_bytes(self, data: bytes) -> bool:
        """Handle bytes of the response, head included; return False to have no more until `resume`."""

    def on_complete(self, keep_alive: bool) -> None:
        """Handle the response's end; `keep_alive` is what its head says."""

    def on_stale(self) -> None:
        """Handle that the connection, idle before, was of no use before the request reached the worker: ask anew."""

    def on_loss(self, loss: UpstreamLoss, why: str) -> None:
        """Handle that no whole response comes; `why` is a phrase for error messages."""


class Upstream(Connection):
    """A connection to a worker; `asker` receives the response that is awaited on it, and is None while it is idle."""

    __slots__ = (
        "_asked_at",
        "_between_chunks",
        "_chunked",
        "_complete",
        "_ending",
        "_first_byte_timeout",
        "_flow",
        "_interim_size",
        "_is_known",
        "_keep_alive",
        "_messages_begun",
        "_only_head",
        "_parser",
        "_paused",
        "_request_size",
        "_tail",
        "_unparsed",
        "_whole_chunks",
        "answering",
        "asker",
        "connecting",
        "head",
        "pool",
        "reused",
    )

    def __init__(self, pool: "Pool", sock: socket.socket) -> None:
        super().__init__(pool.reactor, sock)
        self.pool = pool
        self.asker: ResponseReceiver | None = None
        self.connecting = True
        self.reused = False
        self._parser: HttpResponseParser | None = None  # made when something is not known
        self._ending = False  # the worker has closed its side; bytes that it sent before may be unread
        self._flow: EventOutlet | None = None  # it gets the socket's events in place of this object
        self._reset_response()
        self.reactor.add(sock, self)

    def _reset_response(self) -> None:
        """Reset what is kept of one response, for the next one."""
        self.head = b""  # the response's head, as far as received
        self.answering = False  # the response's head is complete
        self._messages_begun = self._interim_size = 0
        self._complete = False
        self._keep_alive = False
        self._whole_chunks = True  # the bytes parsed so far end with a chunk's end
        self._between_chunks = True  # the bytes passed on so far do: bytes that are refused are not among them
        self._only_head = False  # nothing but the head was passed on
        self._is_known = False  # the head is that of a known stream
        self._unparsed = False  # and what came behind it was events: the parser has none of it
        self._tail = b""
        self._chunked = False
        self._set_flow(None)
        self._paused = False
        self._first_byte_timeout = inf

    def ask(self, asker: ResponseReceiver, message: bytes, rest: bytes = b"", first_byte_timeout: float = inf) -> None:
        """Send a request whose response `asker` receives; nothing is under way on this connection.

        The request is `message` and, where its body is long, `rest`.
        """
        reactor = self.reactor
        self.asker = asker
        self._asked_at = reactor.now
        if self.connecting or first_byte_timeout != inf:
            self._first_byte_timeout = first_byte_timeout
            self.deadline = reactor.after(CONNECT_TIMEOUT if self.connecting else first_byte_timeout)
        self._request_size = size = len(message)
        if rest or size >= LARGE:
            self._request_size += len(rest)
            self.send(message)
            if rest:
                self.send(rest)
            return
        self.unwritten = message  # as `send` does
        reactor.unsent.append(self)
        if not reactor.turning:
            reactor.rouse()

    def pause(self) -> None:
        """Read no more until `resume`, as the receiver can take no more for now."""
        self._paused = True
        self._set_flow(None)

    def resume(self) -> None:
        """Read on, as the receiver can take more."""
        if self._paused:
            self._paused = False
            self._read()

    def between_parts(self, stream: StreamFormat) -> bool:
        """Return whether the proxy can insert a part of its own into this stream now, as a chunk."""
        return self._chunked and self._between_chunks and (self._only_head or self._tail.endswith(stream.chunk_ends))

    def is_chunked(self) -> bool:
        return self._chunked

    def has_length(self) -> bool:
        return b"\r\ncontent-length:" in self.head.lower()

    # Called by the reactor

    def on_event(self, mask: int) -> None:
        """Handle an event of the socket; pass on a whole response whose head is known without parsing it."""
        if mask != DATA or self._paused or self.outbox or self.connecting:
            self._on_any_event(mask)
            return
        try:
            data = self.sock.recv(_READ_AT_ONCE)
        except BlockingIOError:
            return
        except OSError as error:
            self.on_end(error)
            return
        if (
            (asker := self.asker) is not None
            and asker.takes_whole
            and len(data) < _READ_AT_ONCE  # else more bytes may be behind it
            and not (self.head or self.unwritten)  # it begins here, and the request was sent before
        ):
            pool = self.pool
            if (known := pool.known_answer) is not None and known.begins(data):
                self.asker = None
                self.deadline = inf
                self.reused = True
                self._interim_size = 0
                pool.put(self)
                asker.on_whole(data, known)
                return
            if (
                (stream := pool.known_stream) is not None
                and (head_size := stream.head_size(data))
                and asker.takes_stream(data)
            ):
                self._begin_stream(asker, data, head_size, stream)
                return
        self.on_data(data, _READ_AT_ONCE)

    def _begin_stream(self, asker: ResponseReceiver, data: bytes, head_size: int, known: KnownStream) -> None:
        """Begin a stream of known head, with one event or nothing behind it, as `_receive` does with less work."""
        self.head = data[:head_size]
        self.answering = self._chunked = self._is_known = self._unparsed = True
        self._only_head = len(data) == head_size
        self._tail = data[-6:]
        self.deadline = inf
        if not asker.on_stream(data, head_size, known):
            self._paused = True
        elif not (self._only_head or self._paused or self.outbox or self.closed):
            self._set_flow(asker.flow)

    def on_data(self, data: bytes, most: int) -> None:
        """Handle what was read in the place of this object, where `most` bytes were asked for."""
        if data:
            self._receive(data)
        if not data or len(data) == most:
            self._read()

    def _set_flow(self, flow: EventOutlet | None) -> None:
        if flow is not self._flow:
            self._flow = flow
            self.reactor.divert(self.sock, self if flow is None else flow)

    def _on_any_event(self, mask: int) -> None:
        if mask & WRITABLE and not mask & BROKEN:
            if self.connecting:
                self.connecting = False
                self.deadline = inf if self._first_byte_timeout == inf else self.reactor.after(self._first_byte_timeout)
            if self.outbox:
                self.flush()
        if mask & READABLE:
            self._ending = self._ending or mask & ENDED != 0
            self._read()

    def on_deadline(self) -> None:
        if self.connecting:
            self._fail(UpstreamLoss.UNREACHABLE, f"no connection within {CONNECT_TIMEOUT:g} s")
        else:
            self._fail(UpstreamLoss.SILENT, f"no answer within {self._first_byte_timeout:g} s")

    def on_lost(self) -> None:
        self._ending = True
        self._read()  # the kernel still has what the worker sent before it went, and then the reason

    def _read(self) -> None:
        buffer = self.reactor.buffer
        for _ in range(_TURNS):
            if self._paused or self.closed:
                return
            try:
                size = self.sock.recv_into(buffer)
            except BlockingIOError:
                return
            except OSError as error:
                self.on_end(error)
                return
            if not size:
                self.on_end(None)
                return
            self._receive(bytes(buffer[:size]))
            # A short read has emptied the socket, so more bytes bring an edge.  Where the worker has
            # closed its side, that edge came already, and the end must be read now.
            if size < READ_SIZE and not self._ending:
                return
        self.reactor.again(self._read)

    # The response

    def _receive(self, data: bytes) -> None:
        asker = self.asker
        if asker is None:
            self._retire()  # the worker sent bytes that no request asked for
            return
        is_first = not self.answering
        if is_first:
            if self.unwritten:  # no byte of the request was sent: the worker sent these to no request
                self._ask_anew()
                return
            end = data.find(_HEAD_END) + 4
            if end >= 4 and not self.head and data.startswith(_FINAL):
                self.head = data[:end]
            else:
                received = self._take_head(data)
                if received is None:
                    return
                data = received
        if self._unparsed and is_last(data):
            self._complete = self._keep_alive = True
        elif not (self._unparsed and is_event(data)) and not self._parse(data):
            self._fail(UpstreamLoss.GARBAGE, "its answer is not valid HTTP")
            return
        if self.answering:
            self._only_head = False
        elif not self._begin_response(asker, data):
            return
        if not asker.on_bytes(data):
            self._paused = True
        if self.closed:  # the receiver wants no more of it
            return
        self._tail = data[-6:] if len(data) > 5 else (self._tail + data)[-6:]
        self._between_chunks = self._whole_chunks
        flows = self._whole_chunks and self._chunked and data.endswith(EVENT_END)
        self._set_flow(asker.flow if flows and not (self._paused or self.outbox) else None)
        if self._complete:
            if self._keep_alive and not self._is_known:
                if self._chunked:
                    self.pool.learn_stream(self.head)
                elif is_first:
                    self.pool.learn(data)
            self._finish()

    def _parse(self, data: bytes) -> bool:
        """Have llhttp read the next bytes, a known head before them; return whether they are of one response."""
        if self._parser is None:
            self._parser = HttpResponseParser(self)
        try:
            if self._unparsed:
                self._unparsed = False
                self._parser.feed_data(self.head)
            self._parser.feed_data(data)
        except HttpParserError:
            self._messages_begun = 0
        return self._messages_begun == 1  # the one that was asked for

    def _begin_response(self, asker: ResponseReceiver, data: bytes) -> bool:
        """Tell the receiver of the whole head; return False where it says that a router lost its worker."""
        assert self._parser is not None
        self.answering = True
        self.deadline = inf
        lowered = self.head.lower()
        status = self._parser.get_status_code()
        if status >= 500 and (code := router_error(lowered)):
            nobody_had_it = code in NOBODY_HAD_IT or monotonic() - self._asked_at < REFUSED_WITHIN
            self._fail(UpstreamLoss.UNREACHABLE if nobody_had_it else UpstreamLoss.DIED, f"its router says {code}")
            return False
        self._chunked = lowered.find(_CHUNKED) >= 0  # faster than `in` (see stream_formats)
        asker.on_answer(status, lowered)
        self._only_head = len(data) == len(self.head)  # a part can be inserted before the first part, too
        return True

    def _take_head(self, data: bytes) -> bytes | None:
        """Return all bytes received of the response, interim ones dropped, once its head is complete; else None."""
        received = self.head + data if self.head else data
        while True:
            if not received.startswith(_STATUS_LINE[: len(received)]) or received[9:12] == b"101":
                self._fail(UpstreamLoss.GARBAGE, "its answer is not HTTP/1.1")
                return None
            end = received.find(_HEAD_END) + 4
            if end >= 4 and received[9:10] == b"1":
                received = received[end:]  # drop an interim response; the proxy asked for none
                self._interim_size += end
                if self._interim_size <= MAX_HEAD:
                    continue
                self._fail(UpstreamLoss.GARBAGE, f"the interim answers before it exceed {MAX_HEAD} bytes")
                return None
            break
        self.head = received if end < 4 else received[:end]
        if end >= 4:
            return received
        if len(received) > MAX_HEAD:
            self._fail(UpstreamLoss.GARBAGE, f"the head of its answer exceeds {MAX_HEAD} bytes")
        return None

    def on_message_begin(self) -> None:
        self._messages_begun += 1

    def on_chunk_header(self) -> None:
        self._whole_chunks = False

    def on_chunk_complete(self) -> None:
        self._whole_chunks = True

    def on_message_complete(self) -> None:
        assert self._parser is not None
        self._complete = True
        self._keep_alive = self._parser.should_keep_alive()  # llhttp returns False after this callback

    def _finish(self) -> None:
        asker, keep_alive = self._release(), self._keep_alive
        if keep_alive and not self._ending and not self.outbox:
            self._reset_response()
            self.reused = True
            self.pool.put(self)
        else:
            self.close()
        asker.on_complete(keep_alive)

    # The connection's end

    def on_end(self, error: OSError | None) -> None:
        """Handle that no more bytes come from the worker, for this error or, for None, after an orderly end."""
        if self.asker is None:
            self._retire()
        elif self.answering and error is None and not self.is_chunked() and not self.has_length():
            self._keep_alive = False
            self._ending = True
            self._finish()  # the end of a response without length and chunks is the connection's end
        elif self.reused and not self.head and not self._reached_worker():
            self._ask_anew()
        else:
            loss = UpstreamLoss.UNREACHABLE if self.connecting else UpstreamLoss.DIED
            error = error or self.error
            why = (error.strerror or str(error)).lower() if error else "it closed the connection"
            self._fail(loss, why)

    def _ask_anew(self) -> None:
        asker = self._release()
        self.close()
        asker.on_stale()

    def _reached_worker(self) -> bool:
        """Return whether the worker's kernel acknowledged any byte of the request.

        A worker that had closed the idle connection responds to the bytes with a reset: none is
        acknowledged, and the request can be sent again without being executed twice.
        """
        sent = self._request_size - self.unsent()
        return self.unacknowledged() < sent

    def _fail(self, loss: UpstreamLoss, why: str) -> None:
        asker = self._release()
        self._ending = True
        asker.on_loss(loss, why)
        self.close()

    def _release(self) -> ResponseReceiver:
        assert self.asker is not None
        asker, self.asker = self.asker, None
        self.deadline = inf
        return asker

    def _retire(self) -> None:
        self.pool.discard(self)
        self.close()

    def close(self) -> None:
        self.asker = None
        self._parser = self._flow = None  # both hold this object: cycles
        super().close()
