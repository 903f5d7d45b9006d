"""The counts of all processes of a proxy, added up: whoever is asked for metrics asks the others for theirs.

A count must never be less than a scrape has seen before, or Prometheus takes that for a restart and counts everything
again.  So a process writes its counts to a file before it tells them: the file stands for it while it does not answer,
and its successor goes on from there.
"""

import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec
import trio

from muxd.client import ControlClient
from muxd.errors import MuxdError, RouteNotFound
from muxd.http.request import Request
from muxd.http.response_writer import ResponseWriter
from muxd.http.server import serve_http
from muxd.http.server_limits import ServerLimits
from muxd.missing_folders import make_missing
from muxd.pool_share import PoolShare
from muxd.threads import in_thread

from .metrics import Gauges, Histogram, ProxyMetrics

log = logging.getLogger(__name__)

_PATIENCE = 1.0  # seconds to wait for another process, which answers at once unless its core is busy
_LIMITS = ServerLimits(max_connections=64, max_body=0)
_SOCKET_INTERVAL = 2.0  # seconds between two looks whether the socket is there; muxd asks three times in 15


class HistogramCounts(msgspec.Struct, array_like=True):
    """A histogram's counts, bucket by bucket, and the sum of its values."""

    counts: list[int]
    total: float

    @classmethod
    def of(cls, histogram: Histogram) -> "HistogramCounts":
        return cls(histogram.counts, histogram.total)

    def add_to(self, histogram: Histogram) -> None:
        histogram.counts[:] = map(int.__add__, histogram.counts, self.counts)
        histogram.total += self.total


class ModelCounts(msgspec.Struct, array_like=True):
    """The counts of one model, see `metrics.ModelMetrics`."""

    finished: list[tuple[str, int, int]]  # route, status, count
    requests: HistogramCounts
    first_bytes: HistogramCounts
    gaps: HistogramCounts
    waits: HistogramCounts
    tokens: tuple[int, int, int]  # of prompts, of these cached, of completions
    replays: int


class ProcessCounts(msgspec.Struct, array_like=True):
    """All that one process has counted, and its figures of this moment."""

    models: dict[str, ModelCounts]
    rejections: dict[str, int]
    access_log_dropped: int
    clients: int
    buffered_bytes: int
    in_line: dict[str, tuple[int, int]]  # by model: waiting, in flight
    batch: dict[str, tuple[int, int]] = {}  # likewise, of these the batch ones

    @classmethod
    def of(cls, meters: ProxyMetrics) -> "ProcessCounts":
        gauges = meters.gauges()  # first, as this counts what has just ended
        models = {
            name: ModelCounts(
                [(route, status, count) for (route, status), count in each.finished_by.items()],
                HistogramCounts.of(each.requests),
                HistogramCounts.of(each.first_bytes),
                HistogramCounts.of(each.gaps.flush()),
                HistogramCounts.of(each.waits),
                (each.prompt_tokens, each.cached_tokens, each.completion_tokens),
                each.replays,
            )
            for name, each in meters.models.items()
        }
        dropped, clients, buffered = gauges.access_log_dropped, gauges.clients, gauges.buffered_bytes
        return cls(models, meters.rejections, dropped, clients, buffered, dict(gauges.models), dict(gauges.batch))

    def add_to(self, meters: ProxyMetrics) -> None:
        """Add the counts to those of `meters`; the figures of the moment are left out."""
        for name, counts in self.models.items():
            model = meters.of(name)
            for route, status, count in counts.finished:
                model.finished_by[route, status] = model.finished_by.get((route, status), 0) + count
            counts.requests.add_to(model.requests)
            counts.first_bytes.add_to(model.first_bytes)
            counts.gaps.add_to(model.gaps)
            counts.waits.add_to(model.waits)
            model.tokens(*counts.tokens)
            model.replays += counts.replays
        for code, count in self.rejections.items():
            meters.rejections[code] = meters.rejections.get(code, 0) + count


class PoolCounts:
    """The counts of this process and of the others in its pool."""

    def __init__(self, share: PoolShare, meters: ProxyMetrics) -> None:
        """Go on from what the process before this one has told; `meters` are this process's."""
        self._share = share
        self._meters = meters
        self.dropped_before = 0  # lines that the access logs of the processes before this one lack
        if (before := _read(share.counts())) is not None:
            before.add_to(meters)
            self.dropped_before = before.access_log_dropped

    async def told(self) -> bytes:
        """Return this process's counts, once they are kept for its successor."""
        counts = msgspec.json.encode(ProcessCounts.of(self._meters))
        with suppress(OSError):  # of a full disk: the successor then begins with less
            await in_thread(lambda: _write(self._share.counts(), counts))
        return counts

    async def of_all(self) -> ProxyMetrics:
        """Return the sum over all processes; one that does not answer counts with what it has told before."""
        found: dict[int, ProcessCounts] = {}

        async def ask(number: int) -> None:
            with suppress(MuxdError, msgspec.DecodeError), trio.move_on_after(_PATIENCE):
                client = ControlClient([self._share.socket(number)])
                found[number] = msgspec.json.decode(await client.read("/counts"), type=ProcessCounts)

        async with trio.open_nursery() as nursery:
            for number in self._share.others:
                nursery.start_soon(ask, number)
        own = msgspec.json.decode(await self.told(), type=ProcessCounts)
        living = [own, *found.values()]
        silent = [number for number in self._share.others if number not in found]
        left = [counts for number in silent if (counts := _read(self._share.counts(number))) is not None]
        total = ProxyMetrics(lambda: _gauges(living, left))
        for counts in (*living, *left):
            counts.add_to(total)
        return total


def _gauges(living: list[ProcessCounts], left: list[ProcessCounts]) -> Gauges:
    """Return the figures of this moment, of the processes that live."""
    models, batch = _sum(each.in_line for each in living), _sum(each.batch for each in living)
    clients = sum(each.clients for each in living)
    buffered = sum(each.buffered_bytes for each in living)
    dropped = sum(each.access_log_dropped for each in (*living, *left))
    return Gauges(clients, buffered, dropped, models, len(living), batch)


def _sum(figures: Iterable[Mapping[str, tuple[int, int]]]) -> dict[str, tuple[int, int]]:
    """Return the sum of what several processes have, by model."""
    total: dict[str, tuple[int, int]] = {}
    for of_one in figures:
        for name, (waiting, in_flight) in of_one.items():
            before = total.get(name, (0, 0))
            total[name] = before[0] + waiting, before[1] + in_flight
    return total


def _read(path: Path) -> ProcessCounts | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=ProcessCounts)
    except (OSError, msgspec.DecodeError):
        return None


def _write(path: Path, data: bytes) -> None:
    written = path.with_suffix(".new")
    written.write_bytes(data)
    os.replace(written, path)


async def serve_pool(
    share: PoolShare,
    counts: Callable[[], Awaitable[bytes]],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer muxd, which asks whether this process lives, and the other processes, until cancelled; raises OSError.

    The socket is made again where it was removed: muxd would end a process that it cannot ask.
    """

    async def answer(request: Request, writer: ResponseWriter) -> None:
        if request.path == "/health":
            await writer.send_json(200, {"process": share.number})
        elif request.path == "/counts":
            await writer.send_body("application/json", await counts())
        else:
            raise RouteNotFound(f"there is no {request.path} here")

    path, listener = share.socket(), _listener_at(share.socket())
    task_status.started()
    while True:
        async with trio.open_nursery() as serving:
            serving.start_soon(serve_http, answer, [listener], _LIMITS)
            listener = await _listener_once_removed(path)
            serving.cancel_scope.cancel()


async def _listener_once_removed(path: Path) -> trio.SocketListener:
    """Wait until the socket at this path is removed, and return one that takes its place."""
    while True:
        await trio.sleep(_SOCKET_INTERVAL)
        with suppress(OSError):  # such as of a full disk: then later
            if not os.access(path, os.F_OK):
                return _listener_at(path)


def _listener_at(path: Path) -> trio.SocketListener:
    """Listen at this path, in the place of any process that did before, and make its folder where it is missing."""
    make_missing(path.parent)
    fresh = path.with_suffix(".tmp")
    fresh.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.fspath(fresh))
    listener.listen(64)
    os.replace(fresh, path)
    return trio.SocketListener(trio.socket.from_stdlib_socket(listener))
