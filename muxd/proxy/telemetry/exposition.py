"""The page that Prometheus reads: the proxy's metrics, then muxd's.

prometheus-client is loaded for the first page, in a thread, so that a proxy without scrapes never pays for it.  A page
is written family by family, so that clients are served between two: with ten models the whole page takes 5 ms, the
longest family 1.2 ms.
"""

from collections.abc import Awaitable, Callable, Iterator
from math import inf
from typing import TYPE_CHECKING

import trio

from muxd.client import ControlClient
from muxd.errors import MuxdError
from muxd.threads import in_thread

from .metrics import Gauges, Histogram, ModelMetrics, ProxyMetrics

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: Seconds from one page's end to the beginning of the next.
PAUSE = 0.1

_PATIENCE = 5.0  # seconds to wait for muxd, which takes 2.5 at most; Prometheus waits for 10


async def whole_page(counted: Callable[[], Awaitable[ProxyMetrics]], control: ControlClient) -> bytes:
    """Return the page of what the proxy has counted, and of muxd's metrics where muxd answers in time."""
    supervisor_page: str | None = None
    try:
        with trio.move_on_after(_PATIENCE):
            supervisor_page = await control.metrics()
    except MuxdError:
        pass
    proxy_page = await own_page(await counted(), up=supervisor_page is not None)
    if supervisor_page is None:
        return proxy_page
    return proxy_page + _without_families_of(proxy_page, supervisor_page).encode()


async def own_page(meters: ProxyMetrics, *, up: bool) -> bytes:
    """Return the page of the proxy's own metrics; `up` says whether muxd answers."""
    await in_thread(_load)
    from prometheus_client import CollectorRegistry, generate_latest

    written: list[bytes] = []
    for family in _families(meters, up):
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_SingleFamily(family))
        written.append(generate_latest(registry))
        await trio.lowlevel.checkpoint()
    return b"".join(written)


def _load() -> None:
    import prometheus_client  # noqa: F401


class _SingleFamily:
    """A collector, as prometheus-client wants it, of one family."""

    def __init__(self, family: "Metric") -> None:
        self._family = family

    def collect(self) -> Iterator["Metric"]:
        yield self._family


def _families(meters: ProxyMetrics, up: bool) -> "Iterator[Metric]":
    gauges = meters.gauges()
    yield _requests(meters)
    yield _histogram(meters, "request_seconds", "Time from a request's arrival to its end.", lambda m: m.requests)
    first = "Time from a request's arrival to the first byte of its streamed answer."
    yield _histogram(meters, "ttft_seconds", first, lambda m: m.first_bytes)
    yield _histogram(
        meters, "event_gap_seconds", "Time between two reads of a streamed answer.", lambda m: m.gaps.flush()
    )
    yield _histogram(meters, "queue_wait_seconds", "Time that requests waited for their model.", lambda m: m.waits)
    yield _tokens(meters)
    yield _counter("replays", "Requests sent again because their worker died.", "model", _replays(meters))
    yield _counter("rejections", "Requests that the proxy refused, by the error's code.", "code", meters.rejections)
    depths = {model: depth for model, (depth, _) in gauges.models.items()}
    yield _gauge_by_model("queue_depth", "Requests that wait for their model now.", depths)
    in_flight = {model: flying for model, (_, flying) in gauges.models.items()}
    yield _gauge_by_model("in_flight", "Requests that are with the model's worker now.", in_flight)
    waiting = {model: depth for model, (depth, _) in gauges.batch.items()}
    yield _gauge_by_model("batch_queue_depth", "Requests that wait for their model now and are batch.", waiting)
    in_flight = {model: flying for model, (_, flying) in gauges.batch.items()}
    yield _gauge_by_model("batch_in_flight", "Requests that are with the worker now and are batch.", in_flight)
    yield from _gauges(gauges, up)


def _requests(meters: ProxyMetrics) -> "Metric":
    from prometheus_client.core import CounterMetricFamily

    labels = ("model", "route", "status")
    family = CounterMetricFamily("muxd_requests", "Requests for a model that have ended.", labels=labels)
    for model, meter in meters.models.items():
        for (route, status), count in meter.finished_by.items():
            family.add_metric((model, route, str(status)), count)
    return family


def _tokens(meters: ProxyMetrics) -> "Metric":
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily("muxd_tokens", "Tokens, as the engines tell them.", labels=("model", "kind"))
    for model, meter in meters.models.items():
        family.add_metric((model, "prompt"), meter.prompt_tokens)
        family.add_metric((model, "cached"), meter.cached_tokens)
        family.add_metric((model, "completion"), meter.completion_tokens)
    return family


def _histogram(meters: ProxyMetrics, name: str, says: str, pick: Callable[[ModelMetrics], Histogram]) -> "Metric":
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(f"muxd_{name}", says, labels=("model",))
    for model, meter in meters.models.items():
        histogram, below = pick(meter), 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip(histogram.bounds, histogram.counts, strict=True):
            below += count
            buckets.append(("+Inf" if bound == inf else str(float(bound)), below))
        family.add_metric((model,), buckets, histogram.total)
    return family


def _replays(meters: ProxyMetrics) -> dict[str, int]:
    return {model: meter.replays for model, meter in meters.models.items()}


def _counter(name: str, says: str, label: str, counts: dict[str, int]) -> "Metric":
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(f"muxd_{name}", says, labels=(label,))
    for value, count in counts.items():
        family.add_metric((value,), count)
    return family


def _gauge_by_model(name: str, says: str, values: dict[str, int]) -> "Metric":
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(f"muxd_{name}", says, labels=("model",))
    for model, value in values.items():
        family.add_metric((model,), value)
    return family


def _gauges(gauges: Gauges, up: bool) -> "Iterator[Metric]":
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    yield GaugeMetricFamily("muxd_clients", "Connections of clients.", gauges.clients)
    held = "Bytes of request bodies that the proxy holds."
    yield GaugeMetricFamily("muxd_buffered_bytes", held, gauges.buffered_bytes)
    dropped = "Lines that are not in the access log, because it could not be written in time."
    yield CounterMetricFamily("muxd_access_log_dropped", dropped, gauges.access_log_dropped)
    yield GaugeMetricFamily("muxd_up", "1: muxd answers the proxy.", int(up))
    yield GaugeMetricFamily("muxd_proxy_processes", "Processes of the proxy that answer.", gauges.processes)


def _without_families_of(proxy_page: bytes, supervisor_page: str) -> str:
    """Return muxd's page without the families of the proxy's page: Prometheus rejects a second HELP or TYPE."""
    names = (line.split()[2] for line in proxy_page.decode().splitlines() if line.startswith("# TYPE "))
    taken = {name for name in names if f"# TYPE {name} " in supervisor_page}
    if not taken:
        return supervisor_page
    kept: list[str] = []
    wanted = True
    for line in supervisor_page.splitlines(keepends=True):
        if line.startswith(("# HELP ", "# TYPE ")):
            wanted = line.split()[2] not in taken
        if wanted:
            kept.append(line)
    return "".join(kept)
