"""What several processes have counted, added up by whoever is asked; those that do not answer stay in the sum."""

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from muxd.pool_share import PoolShare
from muxd.proxy.telemetry import pool_counts
from muxd.proxy.telemetry.metrics import Gauges, ProxyMetrics
from muxd.proxy.telemetry.pool_counts import PoolCounts, serve_pool


def counted(requests: int) -> ProxyMetrics:
    """So many requests of each kind that there is."""
    meters = ProxyMetrics(lambda: Gauges(requests, 10 * requests, requests, {"a": (1, requests)}))
    model = meters.of("a")
    for _ in range(requests):
        model.finished("/v1/chat/completions", 200, [0.3])
        model.first_byte(0.02)
        model.gaps.noted.append(0.004)
        model.waited(2.0)
        model.tokens(7, 2, 5)
        model.replayed()
        meters.rejected("queue_full")
    return meters


def figures(meters: ProxyMetrics) -> list[float]:
    """All counts of `counted`, each of which is the number of requests, and those of the moment."""
    model = meters.models["a"]
    each = [sum(histogram.counts) for histogram in (model.requests, model.first_bytes, model.gaps.flush(), model.waits)]
    rest = [model.finished_by["/v1/chat/completions", 200], model.prompt_tokens / 7, model.completion_tokens / 5]
    return [*each, *rest, model.cached_tokens / 2, model.replays, meters.rejections["queue_full"]]


@pytest.fixture
def share(tmp_path: Path) -> Callable[[int], PoolShare]:
    return lambda number: PoolShare(number, 3, tmp_path)


@asynccontextmanager
async def living(share: PoolShare, meters: ProxyMetrics) -> AsyncIterator[PoolCounts]:
    counts = PoolCounts(share, meters)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_pool, share, counts.told)
        yield counts
        nursery.cancel_scope.cancel()


async def test_whoever_is_asked_tells_the_sum_of_all(share):
    async with (
        living(share(1), counted(2)) as first,
        living(share(2), counted(3)),
        living(share(3), counted(5)) as last,
    ):
        for asked in (first, last):
            total = await asked.of_all()
            assert figures(total) == [10] * 10
            assert total.gauges() == Gauges(10, 100, 10, {"a": (3, 10)}, 3)


async def test_one_that_is_gone_stays_in_the_sum_with_what_it_has_told_and_its_successor_goes_on(share):
    async with living(share(1), counted(2)) as first:
        async with living(share(2), counted(3)):
            await first.of_all()
        total = await first.of_all()
        assert figures(total) == [5] * 10
        assert total.gauges() == Gauges(2, 20, 5, {"a": (1, 2)}, 1), "of the moment only those that live"
        async with living(share(2), counted(4)) as second:
            assert second.dropped_before == 3
            assert figures(await first.of_all()) == [9] * 10


async def test_what_cannot_be_read_is_left_out(share):
    share(2).counts().write_text('[{"a": 1}')
    share(3).socket().touch()
    async with living(share(1), counted(2)) as first:
        assert figures(await first.of_all()) == [2] * 10


async def test_where_their_folder_is_removed_each_makes_its_socket_again(share, tmp_path, monkeypatch):
    monkeypatch.setattr(pool_counts, "_SOCKET_INTERVAL", 0.01)
    async with living(share(1), counted(2)), living(share(2), counted(3)):
        for _ in range(2):
            shutil.rmtree(tmp_path)
            with trio.fail_after(20):
                while not (share(1).socket().exists() and share(2).socket().exists()):
                    await trio.sleep(0.01)
        assert {path.name for path in tmp_path.iterdir()} == {"1.sock", "2.sock"}
        assert figures(await PoolCounts(share(3), counted(5)).of_all()) == [10] * 10
