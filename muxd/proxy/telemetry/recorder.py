"""How the records of requests that have ended get into metrics, access log and activity."""

from collections.abc import Callable
from time import monotonic, time

from muxd.http.request import Request

from .access_log import LONGEST_PATH, AccessLog
from .activity import Activity
from .metrics import ModelMetrics, ProxyMetrics
from .request_ids import RequestIds
from .request_record import RequestRecord
from .usage import USAGE_READERS, Tokens


class Recorder:
    """Writes the records of ended requests to the metrics, the activity, and the access log unless that is off."""

    __slots__ = ("_activity", "ended", "ids", "later", "log", "meters")

    def __init__(
        self,
        meters: ProxyMetrics,
        log: AccessLog | None,
        activity: Activity,
        ids: RequestIds,
        later: Callable[[], None],
    ) -> None:
        """Take the places to write to.  `later` is called to have `flush` called in a moment."""
        self.meters = meters
        self._activity = activity
        self.log = log
        self.ids = ids
        self.ended: list[RequestRecord] = []  # to be written together, as soon as there are `TOGETHER` or in a moment
        self.later = later

    def begin(self, request: Request, address: str) -> RequestRecord:
        """Return the record of a request that has arrived from `address`."""
        if request.is_plain and request.known is not None and request.known.id_index < 0:
            id, target = next(self.ids.made), request.target  # no header or target has to be looked at
        else:
            id, target = self.ids.of(request), _logged_target(request)
        return RequestRecord(self, monotonic(), id, address, request.method, target, len(request.body))

    def flush(self) -> None:
        """Write the records of all requests that have ended; those that are alike are counted together."""
        ended, self.ended = self.ended, []
        wall = time() - monotonic()
        groups: dict[tuple[ModelMetrics | None, str, str, str, int, str], list[RequestRecord]] = {}
        for record in ended:
            record.ended_at = record.arrived + record.seconds + wall
            alike = (record.meter, record.model, record.key, record.route, record.status, record.how)
            group = groups.get(alike)
            if group is None:
                groups[alike] = [record]
            else:
                group.append(record)
        for (meter, model, key, route, status, how), group in groups.items():
            _read_tokens(route, group)
            tokens = _sum([record.tokens for record in group])
            if meter is not None:
                meter.finished(route, status, [record.seconds for record in group])
                meter.tokens(*tokens)
                for waited in [record.waited for record in group if record.waited]:
                    meter.waited(waited)
            if model:
                self._activity.end(model, key, group, tokens, refused=how == "refused")
        self._activity.keep(ended)
        if self.log is not None:
            self.log.record(ended)


def _read_tokens(route: str, records: list[RequestRecord]) -> None:
    """Read the tokens of the whole responses of one route, and drop these."""
    if (usage := USAGE_READERS.get(route)) is not None:
        of_whole = usage.of_whole
        for record in records:
            if record.whole:
                record.tokens = of_whole(record.whole)
                record.whole = b""


def _sum(tokens: list[Tokens]) -> Tokens:
    prompt, cached, completion = map(sum, zip(*tokens, strict=True))
    return prompt, cached, completion


def _logged_target(request: Request) -> bytes:
    """Return as much of the target as is logged, without the "USER:PASSWORD@" of the absolute or the authority form."""
    target = request.target
    if target[:1] != b"/":
        path = request.raw_path.encode("latin-1")
        target = path if path[:1] == b"/" else path.rpartition(b"@")[2]
    return target[: LONGEST_PATH + 1]  # the activity keeps some records for a while, and a target may be long
