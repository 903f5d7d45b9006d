"""What is known of one request, from its arrival to its end; and what is told of it then."""

from time import monotonic

from muxd.http.request import Request

from .access_log import AccessLog
from .meters import Meters, ModelMeter
from .request_ids import RequestIds

CLIENT_GONE = 499  # nginx's status for a client that left before it had an answer; nobody is sent it

NO_TOKENS = (0, 0, 0)


class Records:
    """Where it is told: metrics, and the access log unless that is off."""

    __slots__ = ("ids", "log", "meters")

    def __init__(self, meters: Meters, log: AccessLog | None, ids: RequestIds) -> None:
        self.meters = meters
        self.log = log
        self.ids = ids


class Visit:
    """One request.  Times are monotonic or in seconds; `route` is of a bounded set, "" where none fits."""

    __slots__ = (
        "address",
        "arrived",
        "first_byte",
        "id",
        "key",
        "meter",
        "method",
        "model",
        "received",
        "records",
        "replays",
        "route",
        "sent",
        "target",
        "waited",
    )

    def __init__(self, records: Records, request: Request, address: str) -> None:
        self.records = records
        self.arrived = monotonic()
        self.id = records.ids.of(request)
        self.address = address
        self.method = request.method
        self.target = request.target
        self.received = len(request.body)
        self.key = self.route = self.model = ""
        self.meter: ModelMeter | None = None  # of its model, once that is known
        self.waited = 0.0
        self.first_byte: float | None = None  # of a streamed answer, from the arrival
        self.sent = 0
        self.replays = 0

    def refused(self, status: int, code: str) -> None:
        """It got an error of the proxy's own."""
        self.records.meters.rejected(code)
        self.end(status, "refused", code)

    def end(self, status: int, how: str, code: str = "", tokens: tuple[int, int, int] = NO_TOKENS) -> None:
        """`how`: ok, client_gone, cut or refused; `tokens`: prompt, cached, completion."""
        seconds = monotonic() - self.arrived
        meter, log = self.meter, self.records.log
        if meter is not None:
            meter.finished(self.route, status, seconds)
            if tokens is not NO_TOKENS:
                meter.tokens(*tokens)
        if log is not None:
            log.record(
                self.address,
                self.key,
                self.id.text,
                self.method,
                self.target,
                self.route,
                self.model,
                status,
                self.received,
                self.sent,
                self.waited,
                self.first_byte,
                seconds,
                tokens[0],
                tokens[2],
                self.replays,
                code,
                how,
            )
