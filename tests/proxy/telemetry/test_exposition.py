"""What Prometheus reads: the names of the contract, numbers that agree with each other, and muxd's own page behind."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trio.testing
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from muxd.client import ControlClient
from muxd.http.request import Request
from muxd.http.response_writer import ResponseWriter
from muxd.http.server import serve_http
from muxd.http.shared_page import SharedPage
from muxd.proxy.telemetry.exposition import CONTENT_TYPE, PAUSE, own_page, whole_page
from muxd.proxy.telemetry.metrics import Gauges, ProxyMetrics

ROUTE = "/v1/chat/completions"
NAMES = {
    "muxd_requests": "counter",
    "muxd_request_seconds": "histogram",
    "muxd_ttft_seconds": "histogram",
    "muxd_event_gap_seconds": "histogram",
    "muxd_tokens": "counter",
    "muxd_queue_depth": "gauge",
    "muxd_queue_wait_seconds": "histogram",
    "muxd_in_flight": "gauge",
    "muxd_batch_queue_depth": "gauge",
    "muxd_batch_in_flight": "gauge",
    "muxd_replays": "counter",
    "muxd_rejections": "counter",
    "muxd_clients": "gauge",
    "muxd_buffered_bytes": "gauge",
    "muxd_access_log_dropped": "counter",
    "muxd_up": "gauge",
    "muxd_proxy_processes": "gauge",
}


async def told() -> ProxyMetrics:
    return counted()


def counted() -> ProxyMetrics:
    meters = ProxyMetrics(lambda: Gauges(3, 4096, 5, {"qwen": (2, 7), "llama": (0, 1)}, batch={"qwen": (1, 4)}))
    qwen = meters.of("qwen")
    for seconds in (0.002, 0.3, 0.3, 45.0, 90_000.0):
        qwen.finished(ROUTE, 200, [seconds])
        qwen.first_byte(seconds)
        qwen.gaps.noted.append(seconds)
        qwen.waited(seconds)
    qwen.finished(ROUTE, 503, [0.5])
    qwen.tokens(100, 40, 30)
    qwen.replayed()
    meters.of("llama")
    meters.rejected("model_not_found")
    return meters


def parsed(page: bytes) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(page.decode())}


def value(families: dict[str, Metric], sample: str, **labels: str) -> float:
    found = [
        one.value
        for family in families.values()
        for one in family.samples
        if (one.name, one.labels) == (sample, labels)
    ]
    assert len(found) == 1, f"{sample}{labels}: {found}"
    return found[0]


async def test_the_families_are_those_of_the_dashboard_each_once() -> None:
    page = await own_page(counted(), up=True)
    assert {name: family.type for name, family in parsed(page).items()} == NAMES
    assert page.count(b"# TYPE ") == page.count(b"# HELP ") == len(NAMES)
    assert page.endswith(b"\n")


async def test_counters_and_gauges_have_what_was_counted() -> None:
    families = parsed(await own_page(counted(), up=True))
    assert value(families, "muxd_requests_total", model="qwen", route=ROUTE, status="200") == 5
    assert value(families, "muxd_requests_total", model="qwen", route=ROUTE, status="503") == 1
    assert [value(families, "muxd_tokens_total", model="qwen", kind=k) for k in ("prompt", "cached", "completion")] == [
        100,
        40,
        30,
    ]
    assert value(families, "muxd_replays_total", model="qwen") == 1
    assert value(families, "muxd_rejections_total", code="model_not_found") == 1
    assert (value(families, "muxd_queue_depth", model="qwen"), value(families, "muxd_in_flight", model="qwen")) == (
        2,
        7,
    )
    assert value(families, "muxd_batch_queue_depth", model="qwen") == 1
    assert value(families, "muxd_batch_in_flight", model="qwen") == 4
    assert (value(families, "muxd_clients"), value(families, "muxd_buffered_bytes")) == (3, 4096)
    assert value(families, "muxd_access_log_dropped_total") == 5
    assert value(families, "muxd_up") == 1


HISTOGRAMS = ["muxd_request_seconds", "muxd_ttft_seconds", "muxd_event_gap_seconds", "muxd_queue_wait_seconds"]


@pytest.mark.parametrize("name", HISTOGRAMS)
@pytest.mark.parametrize("model", ["qwen", "llama"])
async def test_buckets_rise_to_the_count(name: str, model: str) -> None:
    families = parsed(await own_page(counted(), up=True))
    samples = [one for one in families[name].samples if one.labels["model"] == model]
    buckets = [(float(one.labels["le"]), one.value) for one in samples if one.name.endswith("_bucket")]
    assert buckets == sorted(buckets)
    assert [below for _, below in buckets] == sorted(below for _, below in buckets)
    assert buckets[-1] == (float("inf"), value(families, f"{name}_count", model=model))
    total = value(families, f"{name}_sum", model=model)
    assert (total > 0) == (model == "qwen")


async def test_a_value_is_in_the_bucket_of_its_bound() -> None:
    meters = ProxyMetrics()
    meters.of("qwen").first_byte(0.25)
    families = parsed(await own_page(meters, up=True))
    assert value(families, "muxd_ttft_seconds_bucket", model="qwen", le="0.1") == 0
    assert value(families, "muxd_ttft_seconds_bucket", model="qwen", le="0.25") == 1


async def test_names_with_quotes_and_line_ends_are_escaped() -> None:
    meters = ProxyMetrics()
    meters.rejected('a"b\\c\nmuxd_up 7')
    families = parsed(await own_page(meters, up=False))
    assert value(families, "muxd_rejections_total", code='a"b\\c\nmuxd_up 7') == 1
    assert value(families, "muxd_up") == 0


@dataclass
class Muxd:
    """A control socket that has one page, or none."""

    control: ControlClient
    page: bytes = b""


@pytest.fixture
async def muxd(tmp_path: Path) -> AsyncIterator[Muxd]:
    muxd = Muxd(ControlClient([tmp_path / "s"]))

    async def answer(request: Request, exchange: ResponseWriter) -> None:
        assert request.target == b"/metrics"
        await exchange.send_body(CONTENT_TYPE, muxd.page)

    listening = trio.socket.socket(trio.socket.AF_UNIX)
    await listening.bind(str(tmp_path / "s"))
    listening.listen()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_http, answer, [trio.SocketListener(listening)])
        yield muxd
        nursery.cancel_scope.cancel()


THEIRS = b"""# HELP muxd_info Of muxd.
# TYPE muxd_info gauge
muxd_info{version="1"} 1.0
# HELP sglang:num_running_reqs Of the engine.
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{model="qwen"} 2.0
"""


async def test_muxds_page_follows_the_proxys(muxd: Muxd) -> None:
    muxd.page = THEIRS
    page = await whole_page(told, muxd.control)
    families = parsed(page)
    assert page.endswith(THEIRS)
    assert value(families, "muxd_up") == 1
    assert value(families, "sglang:num_running_reqs", model="qwen") == 2
    assert value(families, "muxd_requests_total", model="qwen", route=ROUTE, status="503") == 1


async def test_a_family_that_both_have_is_told_once_by_the_proxy(muxd: Muxd) -> None:
    muxd.page = b"# HELP muxd_up x\n# TYPE muxd_up gauge\nmuxd_up 7\n" + THEIRS
    families = parsed(await whole_page(told, muxd.control))
    assert value(families, "muxd_up") == 1
    assert value(families, "muxd_info", version="1") == 1


async def test_without_muxd_the_proxys_metrics_still_come(tmp_path: Path) -> None:
    families = parsed(await whole_page(told, ControlClient([tmp_path / "nobody"])))
    assert set(families) == set(NAMES)
    assert value(families, "muxd_up") == 0


async def test_a_muxd_that_does_not_answer_is_not_waited_for(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    listening = trio.socket.socket(trio.socket.AF_UNIX)
    await listening.bind(str(tmp_path / "s"))
    listening.listen()
    with listening:
        began = trio.current_time()
        families = parsed(await whole_page(told, ControlClient([tmp_path / "s"])))
        assert value(families, "muxd_up") == 0
        assert trio.current_time() - began < 10  # Prometheus' own patience


async def test_everybody_who_asks_meanwhile_shares_one_page(autojump_clock):
    """However many they are, muxd is asked once, and rests between two."""
    began, pages = [], []

    async def make() -> bytes:
        began.append(trio.current_time())
        await trio.sleep(0.01)
        return b"page"

    shared = SharedPage(make, PAUSE)

    async def ask() -> None:
        pages.append(await shared())

    for _ in range(2):
        async with trio.open_nursery() as nursery:
            for _ in range(600):
                nursery.start_soon(ask)
    assert pages == [b"page"] * 1200
    assert len(began) == 2
    assert began[1] - began[0] >= PAUSE


async def test_when_the_one_who_makes_the_page_leaves_the_next_makes_it(autojump_clock):
    asked = []

    async def make() -> bytes:
        asked.append(1)
        await trio.sleep(1)
        return b"page"

    shared = SharedPage(make, PAUSE)
    async with trio.open_nursery() as nursery:
        first = trio.CancelScope()

        async def leave() -> None:
            with first:
                await shared()

        nursery.start_soon(leave)
        await trio.testing.wait_all_tasks_blocked()
        first.cancel()
        assert await shared() == b"page"
    assert len(asked) == 2
