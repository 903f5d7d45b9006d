"""A connection to a worker.

The answer is relayed as raw bytes; llhttp only follows along, to know where it ends.  It
gets no callback for headers or body, which is what makes it cheap (1700 -> 54 us a request).
"""

import select
import socket
from enum import Enum, auto
from math import inf
from typing import TYPE_CHECKING, Protocol

from httptools import HttpParserError, HttpResponseParser

from .connection import Connection
from .reactor import BROKEN, ENDED, READ_SIZE, READABLE, WRITABLE
from .stream_formats import StreamFormat

if TYPE_CHECKING:
    from .pool import Pool

CONNECT_TIMEOUT = 10.0  # seconds
MAX_HEAD = 256 * 1024
_TURNS = 4  # reads in a row until others get their turn
_JOIN_BELOW = 64 * 1024  # a body this small goes out in one call with its head
_STATUS_LINE = b"HTTP/1."
_CHUNKED = b"\r\ntransfer-encoding:"
_DATA = select.EPOLLIN | select.EPOLLOUT  # and nothing else
_EVENT_END = b"\n\n\r\n"
_READ_EVENT = 4103  # bytes: one more than the longest chunk whose size has three digits


def _size_lines() -> list[bytes]:
    """By the length of a whole chunk: the line that it must begin with."""
    lines = [b"\0"] * _READ_EVENT
    for digits in (1, 2, 3):
        for size in range(16 ** (digits - 1), 16**digits):
            lines[digits + size + 4] = b"%x\r\n" % size
    return lines


_SIZE_LINES = _size_lines()


class UpstreamLoss(Enum):
    """Why a worker's connection gave no whole answer."""

    UNREACHABLE = auto()  # never connected
    DIED = auto()  # closed or reset
    GARBAGE = auto()  # not HTTP
    SILENT = auto()  # not a byte within upstream_timeout


class ResponseReceiver(Protocol):
    """Who a worker's answer is for.  After any call but `on_bytes` it has let go of the connection."""

    def on_answer(self, status: int, head: bytes) -> None:
        """The whole head is here, in lower case; its bytes follow."""

    def on_bytes(self, data: bytes) -> bool:
        """Some of the answer, head included; False: pause until `resume`."""

    def on_event(self, data: bytes, now: float) -> None:
        """As `on_bytes`, of a chunk that is one event of a stream; it comes alone, and behind an event's end.

        Who can take no more calls `pause`.
        """

    def on_complete(self, keep_alive: bool) -> None:
        """All bytes were told; `keep_alive` is what the answer's head says."""

    def on_stale(self) -> None:
        """An idle connection was closed before the request reached anybody: ask once more."""

    def on_loss(self, loss: UpstreamLoss, why: str) -> None: ...


class Upstream(Connection):
    """One connection; `asker` is who waits for an answer on it, None while it is idle."""

    __slots__ = (
        "_bare",
        "_begun",
        "_between_chunks",
        "_chunked",
        "_complete",
        "_ending",
        "_first_byte_timeout",
        "_flows",
        "_interim",
        "_keep_alive",
        "_parser",
        "_paused",
        "_size",
        "_tail",
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
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        self._ending = False  # the worker has closed its side; what it sent before may be unread
        self._forget()
        self.reactor.add(sock, self)

    def _forget(self) -> None:
        """Ready for an answer."""
        self.head = b""  # as far as received
        self.answering = False  # the head is complete
        self._begun = self._interim = 0
        self._complete = False
        self._keep_alive = False
        self._whole_chunks = True
        self._between_chunks = True  # so is the client, who has not got what is refused
        self._bare = False  # nothing was passed on but the head
        self._tail = b""
        self._chunked = False
        self._flows = False
        self._paused = False
        self._first_byte_timeout = inf

    def ask(self, asker: ResponseReceiver, head: bytes, body: bytes, first_byte_timeout: float = inf) -> None:
        self.asker = asker
        self._size = len(head) + len(body)
        self._first_byte_timeout = first_byte_timeout
        if self.connecting:
            self.deadline = self.reactor.after(CONNECT_TIMEOUT)
        elif first_byte_timeout != inf:
            self.deadline = self.reactor.after(first_byte_timeout)
        if len(body) < _JOIN_BELOW:
            self.send(head + body)
        else:
            self.send(head)
            self.send(body)

    def pause(self) -> None:
        """The asker can take no more for now."""
        self._paused = True

    def resume(self) -> None:
        """The asker can take more."""
        if self._paused:
            self._paused = False
            self._read()

    def between_parts(self, stream: StreamFormat) -> bool:
        """Whether a part of one's own can be put into this stream, as a chunk."""
        return self._chunked and self._between_chunks and (self._bare or self._tail.endswith(stream.chunk_ends))

    def is_chunked(self) -> bool:
        return self._chunked

    def has_length(self) -> bool:
        return b"\r\ncontent-length:" in self.head.lower()

    # What the reactor calls

    def on_event(self, mask: int) -> None:
        """Most of what comes of a stream is one chunk that is one event: nobody needs to parse it."""
        if mask != _DATA or not self._flows or self._paused or self.outbox:
            self._on_any_event(mask)
            return
        try:
            data = self.sock.recv(_READ_EVENT)
        except BlockingIOError:
            return
        except OSError as error:
            self._ended(error)
            return
        size = len(data)
        if size < _READ_EVENT and data.endswith(_EVENT_END) and data.startswith(_SIZE_LINES[size]):
            self.asker.on_event(data, self.reactor.now)  # type: ignore[union-attr]  # it flows to somebody
            return
        if size:
            self._receive(data)
        if not size or size == _READ_EVENT:
            self._read()

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
        self._read()  # what it sent before it went is still there, and then the reason

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
                self._ended(error)
                return
            if not size:
                self._ended(None)
                return
            self._receive(bytes(buffer[:size]))
            # A short read has emptied the socket, so the next edge will come; but the edge
            # that tells of the end came already if this one did.
            if size < READ_SIZE and not self._ending:
                return
        self.reactor.again(self._read)

    # The answer

    def _receive(self, data: bytes) -> None:
        asker = self.asker
        if asker is None:
            self._retire()  # nobody asked
            return
        if not self.answering:
            whole = self._take_head(data)
            if whole is None:
                return
            data = whole
        assert self._parser is not None
        try:
            self._parser.feed_data(data)
        except HttpParserError:
            self._begun = 0
        if self._begun != 1:  # it is not the one answer that was asked for
            self._fail(UpstreamLoss.GARBAGE, "its answer is not valid HTTP")
            return
        if self.answering:
            self._bare = False
        else:
            self._answer(asker, data)
        if not asker.on_bytes(data):
            self._paused = True
        self._tail = data[-6:] if len(data) > 5 else (self._tail + data)[-6:]
        self._between_chunks = self._whole_chunks
        self._flows = self._whole_chunks and self._chunked and data.endswith(_EVENT_END)
        if self._complete:
            self._finish()

    def _answer(self, asker: ResponseReceiver, data: bytes) -> None:
        """The head is here."""
        assert self._parser is not None
        self.answering = True
        self.deadline = inf
        lowered = self.head.lower()
        self._chunked = lowered.find(_CHUNKED) >= 0  # `in` first makes an exception, and throws it away
        asker.on_answer(self._parser.get_status_code(), lowered)
        self._bare = len(data) == len(self.head)  # before the first part is between parts, too

    def _take_head(self, data: bytes) -> bytes | None:
        """Everything received, once it has a whole final head; None before that."""
        received = self.head + data if self.head else data
        while True:
            if not received.startswith(_STATUS_LINE[: len(received)]) or received[9:12] == b"101":
                self._fail(UpstreamLoss.GARBAGE, "its answer is not HTTP/1.1")
                return None
            end = received.find(b"\r\n\r\n") + 4
            if end >= 4 and received[9:10] == b"1":
                received = received[end:]  # an interim answer; the proxy asked for none
                self._interim += end
                if self._interim <= MAX_HEAD:
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
        self._begun += 1

    def on_chunk_header(self) -> None:
        self._whole_chunks = False

    def on_chunk_complete(self) -> None:
        self._whole_chunks = True

    def on_message_complete(self) -> None:
        assert self._parser is not None
        self._complete = True
        self._keep_alive = self._parser.should_keep_alive()  # after this callback it says False

    def _finish(self) -> None:
        asker, keep_alive = self._release(), self._keep_alive
        if keep_alive and not self._ending and not self.outbox:
            self._forget()
            self.reused = True
            self.pool.put(self)
        else:
            self.close()
        asker.on_complete(keep_alive)

    # Its end

    def _ended(self, error: OSError | None) -> None:
        if self.asker is None:
            self._retire()
        elif self.answering and error is None and not self.is_chunked() and not self.has_length():
            self._keep_alive = False
            self._ending = True
            self._finish()  # this answer's end is the connection's end
        elif self.reused and not self.head and not self._reached_worker():
            asker = self._release()
            self.close()
            asker.on_stale()
        else:
            loss = UpstreamLoss.UNREACHABLE if self.connecting else UpstreamLoss.DIED
            error = error or self.error
            why = (error.strerror or str(error)).lower() if error else "it closed the connection"
            self._fail(loss, why)

    def _reached_worker(self) -> bool:
        """Whether any byte of the request was acknowledged by the other end.

        A worker that had closed the idle connection answers our bytes with a reset: none is
        acknowledged, and asking again cannot make it do anything twice.
        """
        sent = self._size - self.unsent()
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
        self._parser = None  # it holds this object
        super().close()
