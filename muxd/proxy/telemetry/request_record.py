"""The record of one request, from its arrival to its end."""

from collections.abc import Callable
from time import monotonic
from typing import Protocol

import msgspec

from muxd.plain_stores import plain_stores

from .metrics import ModelMetrics, ProxyMetrics
from .request_ids import RequestId
from .usage import Tokens

CLIENT_GONE = 499  # nginx's status for a client that left before its response; it is logged, never sent

NO_TOKENS: Tokens = (0, 0, 0)

# Records that are written together.  One by one between system calls the same work takes 1.7 times as long, since the
# processor's caches are cold each time.
TOGETHER = 64


class RecordBook(Protocol):
    """Where records go as their requests end: see `recorder`."""

    meters: ProxyMetrics
    ended: "list[RequestRecord]"  # to be written together, as soon as there are `TOGETHER` or in a moment
    later: Callable[[], None]  # has `flush` called in a moment

    def flush(self) -> None: ...


@plain_stores
class RequestRecord(msgspec.Struct, eq=False, gc=False):
    """What metrics and the access log need to know of one request.

    `arrived` is on the monotonic clock, `ended_at` in seconds since the epoch; sizes are in bytes, all other times in
    seconds.  `route` is of a bounded set, "" where no route was found.

    `end` sets `status`, `how` (ok, client_gone, cut or refused), `code` (the proxy's own error code, or "") and
    `tokens` (of the prompt, how many of these were cached, of the completion); `delivered` sets `seconds`, and `flush`
    `ended_at`, and `tokens` of a `whole` response.
    """

    records: RecordBook
    arrived: float
    id: RequestId
    address: str
    method: str
    target: bytes
    received: int
    cors: bytes = b""  # CORS lines for the head of the proxy's own response, each with its CRLF
    key: str = ""
    route: str = ""
    model: str = ""
    meter: ModelMetrics | None = None  # the model's, once the model is known
    waited: float = 0.0
    first_byte: float | None = None  # seconds from the arrival to a stream's first byte
    sent: int = 0  # bytes of the response that were given to the client's connection
    events: int = 0  # of a stream
    told: int = 0  # tokens that were counted as given by the model
    first_told: bool = False  # the time to the first byte was counted, too
    replays: int = 0
    status: int = 0
    how: str = ""
    code: str = ""
    tokens: Tokens = NO_TOKENS
    whole: bytes = b""  # the whole response, where `flush` is to read its tokens
    seconds: float = 0.0
    ended_at: float = 0.0

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

    def end(self, status: int, how: str, code: str = "", tokens: Tokens = NO_TOKENS) -> None:
        """Note how the request ended; `delivered` passes it on once the client's connection has sent the response."""
        self.status, self.how, self.code, self.tokens = status, how, code, tokens

    def delivered(self, lost: int) -> None:
        """Finish the record: the whole response has left, but for `lost` bytes that the client did not take."""
        if lost:
            self.sent = max(0, self.sent - lost)
            if self.how == "ok":
                self.how = "client_gone"
        self.seconds = monotonic() - self.arrived
        records = self.records
        ended = records.ended
        ended.append(self)
        waiting = len(ended)
        if waiting >= TOGETHER:
            records.flush()
        elif waiting == 1:
            records.later()
