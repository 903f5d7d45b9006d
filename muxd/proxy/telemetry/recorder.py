"""The record of one request, from its arrival to its end, and how it gets into metrics, access log and activity."""

from collections.abc import Callable
from time import monotonic, time
from typing import TYPE_CHECKING

from muxd.http.request import Request

from .access_log import AccessLog
from .metrics import ModelMetrics, ProxyMetrics
from .request_ids import RequestIds

if TYPE_CHECKING:
    from .activity import Activity

CLIENT_GONE = 499  # nginx's status for a client that left before its response; it is logged, never sent

NO_TOKENS = (0, 0, 0)

# Records that are written together.  One by one between system calls the same work takes 1.7 times as long, since the
# processor's caches are cold each time.
_TOGETHER = 64


class Recorder:
    """Writes the records of ended requests to the metrics, the activity, and the access log unless that is off."""

    __slots__ = ("_activity", "_ended", "_later", "ids", "log", "meters")

    def __init__(
        self,
        meters: ProxyMetrics,
        log: AccessLog | None,
        activity: "Activity",
        ids: RequestIds,
        later: Callable[[], None],
    ) -> None:
        """Take the places to write to.  `later` is called to have `flush` called in a moment."""
        self.meters = meters
        self._activity = activity
        self.log = log
        self.ids = ids
        self._ended: list[RequestRecord] = []
        self._later = later

    def end(self, record: "RequestRecord") -> None:
        """Take the record of a request that has ended, to be written together with others that end about now."""
        self._ended.append(record)
        waiting = len(self._ended)
        if waiting >= _TOGETHER:
            self.flush()
        elif waiting == 1:
            self._later()

    def flush(self) -> None:
        """Write the records of all requests that have ended."""
        ended, self._ended = self._ended, []
        wall = time() - monotonic()
        for record in ended:
            record.ended_at = record.arrived + record.seconds + wall
            meter = record.meter
            if meter is not None:
                meter.finished(record.route, record.status, record.seconds)
                if record.tokens is not NO_TOKENS:
                    meter.tokens(*record.tokens)
                if record.waited:
                    meter.waited(record.waited)
        self._activity.end(ended)
        if self.log is not None:
            self.log.record(ended)
        for record in ended:
            record.target = b""  # the activity keeps some records for a while, and a target may be long


class RequestRecord:
    """What metrics and the access log need to know of one request.

    `arrived` is on the monotonic clock, `ended_at` in seconds since the epoch; sizes are in bytes, all other times in
    seconds.  `route` is of a bounded set, "" where no route was found.

    `end` sets `status`, `how` (ok, client_gone, cut or refused), `code` (the proxy's own error code, or "") and
    `tokens` (of the prompt, how many of these were cached, of the completion); `delivered` sets `seconds`, and `flush`
    `ended_at`.
    """

    __slots__ = (
        "address",
        "arrived",
        "code",
        "cors",
        "ended_at",
        "events",
        "first_byte",
        "first_told",
        "how",
        "id",
        "key",
        "meter",
        "method",
        "model",
        "received",
        "records",
        "replays",
        "route",
        "seconds",
        "sent",
        "status",
        "target",
        "tokens",
        "told",
        "waited",
    )

    ended_at: float

    def __init__(self, records: Recorder, request: Request, address: str) -> None:
        self.records = records
        self.arrived = monotonic()
        self.id = records.ids.of(request)
        self.cors = b""  # CORS lines for the head of the proxy's own response, each with its CRLF
        self.address = address
        self.method = request.method
        target = request.target
        self.target = target if target[:1] == b"/" else _without_password(request)
        self.received = len(request.body)
        self.key = self.route = self.model = ""
        self.meter: ModelMetrics | None = None  # the model's, once the model is known
        self.waited = 0.0
        self.first_byte: float | None = None  # seconds from the arrival to a stream's first byte
        self.sent = 0  # bytes of the response that were given to the client's connection
        self.events = 0  # of a stream
        self.told = 0  # tokens that were counted as given by the model
        self.first_told = False  # the time to the first byte was counted, too
        self.replays = 0

    @property
    def lines(self) -> bytes:
        """Return the lines of id and CORS for the head of the proxy's own response, each with its CRLF."""
        return self.id.line + self.cors

    def refused(self, status: int, code: str) -> None:
        """Note that the request got an error of the proxy's own instead of a response."""
        self.records.meters.rejected(code)
        self.end(status, "refused", code)

    def cut(self, status: int, code: str) -> None:
        """Note that the response was broken off for the error with this code."""
        self.records.meters.rejected(code)
        self.end(status, "cut", code)

    def end(self, status: int, how: str, code: str = "", tokens: tuple[int, int, int] = NO_TOKENS) -> None:
        """Note how the request ended; `delivered` passes it on once the client's connection has sent the response."""
        self.status, self.how, self.code, self.tokens = status, how, code, tokens

    def delivered(self, lost: int) -> None:
        """Finish the record: the whole response has left, but for `lost` bytes that the client did not take."""
        if lost:
            self.sent = max(0, self.sent - lost)
            if self.how == "ok":
                self.how = "client_gone"
        self.seconds = monotonic() - self.arrived
        self.records.end(self)


def _without_password(request: Request) -> bytes:
    """Return a target of the absolute or the authority form without its "USER:PASSWORD@"."""
    path = request.raw_path.encode("latin-1")
    return path if path[:1] == b"/" else path.rpartition(b"@")[2]
