"""The way of a stream's events to the client, once its first one is there: the most frequent work of all."""

from .sockets.context import Downstream
from .sockets.reframing import ChunkDecoder
from .telemetry.metrics import BufferedHistogram
from .telemetry.recorder import RequestRecord
from .telemetry.usage import Usage

_MOST_NOTED = BufferedHistogram.MOST_NOTED


class EventFlow:
    """Passes on whole events, and notes when bytes of the stream came last.

    An object of its own, of few fields: a request has so many that each look-up in it costs twice as much.
    """

    __slots__ = ("_client", "_gaps", "_key", "_last", "_noted", "_record", "_reframer", "_see")

    def __init__(
        self,
        client: Downstream,
        record: RequestRecord,
        gaps: BufferedHistogram,
        usage: Usage | None,
        reframer: ChunkDecoder | None,
        now: float,
    ) -> None:
        """Take the first bytes for noted; `now` is on the monotonic clock."""
        self._client = client
        self._record = record
        self._gaps = gaps
        self._noted = gaps.noted
        self._key = b"" if usage is None else usage.key
        self._see = None if usage is None else usage.see
        self._reframer = reframer
        self._last = now

    def note(self, now: float) -> None:
        """Note that bytes have come, and how long after the last."""
        self._noted.append(now - self._last)
        if len(self._noted) > _MOST_NOTED:
            self._gaps.flush()
        self._last = now

    def pass_on(self, data: bytes, now: float) -> None:
        """Relay a chunk that is one whole event: what `ProxiedRequest.on_bytes` does, with less work."""
        self.note(now)
        if self._see is not None and data.rfind(self._key) >= 0:
            self._see(data)
        if self._reframer is not None:
            data = self._reframer.feed(data)
        record = self._record
        record.sent += len(data)
        record.events += 1
        self._client.relay(data)
