"""The way of a stream's events to the client, once its first one is there: the most frequent work of all."""

from .sockets.context import Downstream
from .sockets.reactor import DATA
from .sockets.reframing import ChunkDecoder
from .sockets.single_events import EVENT_END, READ_EVENT, SIZE_LINES
from .sockets.upstream import Upstream
from .telemetry.metrics import BufferedHistogram
from .telemetry.request_record import RequestRecord
from .telemetry.usage import Usage

_MOST_NOTED = BufferedHistogram.MOST_NOTED


class EventFlow:
    """Reads single events from the worker's connection and writes them to the client's, in one call of the reactor.

    Of hundreds of streams each has an event so seldom that what is its own is out of the processor's caches by then:
    an object that is looked at anew costs 0.1 to 0.3 us.  So this is an object of its own, of few fields, and an event
    looks at no other that is the stream's but the two sockets.  It calls their methods rather than bound ones that were
    kept, which would be two more objects.

    What it counts is in the request's record after `settle`.
    """

    __slots__ = (
        "_client",
        "_client_socket",
        "_events",
        "_gaps",
        "_key",
        "_last",
        "_noted",
        "_reactor",
        "_record",
        "_reframer",
        "_sent",
        "_upstream",
        "_usage",
        "_worker_socket",
    )

    def __init__(
        self,
        client: Downstream,
        upstream: Upstream,
        record: RequestRecord,
        gaps: BufferedHistogram,
        usage: Usage | None,
        reframer: ChunkDecoder | None,
        now: float,
    ) -> None:
        """Take the first bytes for noted; `now` is on the monotonic clock."""
        self._client = client
        self._client_socket = client.sock
        self._upstream = upstream
        self._worker_socket = upstream.sock
        self._reactor = upstream.reactor
        self._record = record
        self._sent = self._events = 0
        self._gaps = gaps
        self._noted = gaps.noted
        self._usage = usage
        self._key = b"" if usage is None else usage.key
        self._reframer = reframer
        self._last = now

    def note(self, now: float) -> None:
        """Note that bytes have come, and how long after the last."""
        self._noted.append(now - self._last)
        if len(self._noted) > _MOST_NOTED:
            self._gaps.flush()
        self._last = now

    def settle(self) -> None:
        """Add what has passed since the last call to the record."""
        self._record.sent += self._sent
        self._record.events += self._events
        self._sent = self._events = 0

    def on_event(self, mask: int) -> None:
        """Handle an event of the worker's connection, in its place: relay a chunk that is one whole event.

        All else is the connection's.  What ProxiedRequest.on_bytes does for the bytes, `note` and the client's `relay`
        among it, is written out: these three calls cost as much as all that they do.  Where the client's outbox has
        bytes, the stream is paused, and no event comes here.
        """
        if mask != DATA:
            self._upstream.on_event(mask)
            return
        try:
            data = self._worker_socket.recv(READ_EVENT)
        except BlockingIOError:
            return
        except OSError as error:
            self._upstream.on_end(error)
            return
        if not (data.endswith(EVENT_END) and data.startswith(SIZE_LINES[len(data)])):
            self._upstream.on_data(data, READ_EVENT)
            return
        reactor, noted = self._reactor, self._noted
        now = reactor.now
        noted.append(now - self._last)
        self._last = now
        if len(noted) > _MOST_NOTED:
            self._gaps.flush()
        if (key := self._key) and data.rfind(key) >= 0:
            assert self._usage is not None
            self._usage.see(data)
        if self._reframer is not None:
            data = self._reframer.feed(data)
        size = len(data)
        self._events += 1
        self._sent += size
        if reactor.unsent:  # perhaps for this client, whose connection knows
            self._client.relay(data)
            return
        try:
            sent = self._client_socket.send(data)
        except OSError as error:
            self._client.keep(data, error)
        else:
            if sent < size:
                self._client.keep(memoryview(data)[sent:])
