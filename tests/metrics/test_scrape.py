"""One page for everybody who asks at the same time, whatever the engines do."""

from collections.abc import Awaitable, Callable
from typing import cast

import pytest
import trio
import trio.testing

from muxd.core.states import WorkerState
from muxd.engines.engine_client import EngineCallFailed
from muxd.metrics import SupervisorMetrics
from muxd.metrics import scrape as page_module
from muxd.metrics.engines import PATIENCE
from muxd.metrics.facts import Facts, WorkerFacts
from muxd.workers import Runner

Answer = Callable[[], Awaitable[bytes | None]]


class Engine:
    """Where a runner is asked for its engine's metrics."""

    def __init__(self, answer: Answer) -> None:
        self.metrics = answer


async def good() -> bytes | None:
    await trio.lowlevel.checkpoint()
    return b"x 1\n"


async def silent() -> bytes | None:
    await trio.sleep_forever()
    return None


async def broken() -> bytes | None:
    raise EngineCallFailed("GET /metrics: the connection broke")


async def garbled() -> bytes | None:
    return b"x{\n"


async def without() -> bytes | None:
    return None


class MetricsHost:
    """A supervisor's metrics, with these engines awake."""

    def __init__(self, **engines: Answer) -> None:
        self.engines = engines
        self.metrics = SupervisorMetrics(
            lambda: {name: cast(Runner, Engine(answer)) for name, answer in self.engines.items()}, self.facts
        )

    def facts(self) -> Facts:
        workers = tuple(WorkerFacts(name, WorkerState.READY, 0, 0, {}) for name in self.engines)
        return Facts("1", 0.0, workers, (), {}, dict(self.metrics.scrape_failures))

    async def lines(self, about: str) -> list[str]:
        return [line for line in (await self.metrics.page()).decode().splitlines() if line.startswith(about)]


async def test_one_that_does_not_answer_is_left_out_and_counted(autojump_clock):
    metrics_host = MetricsHost(good=good, silent=silent, broken=broken, garbled=garbled, without=without)
    began = trio.current_time()
    assert await metrics_host.lines("x") == ['x{model="good"} 1.0']
    assert trio.current_time() - began == PATIENCE, "they are asked at the same time"
    metrics_host.engines["broken"] = good
    assert await metrics_host.lines("x") == ['x{model="good"} 1.0', 'x{model="broken"} 1.0']
    assert await metrics_host.lines("muxd_engine_scrape_failures_total") == [
        'muxd_engine_scrape_failures_total{model="good"} 0.0',
        'muxd_engine_scrape_failures_total{model="silent"} 3.0',
        'muxd_engine_scrape_failures_total{model="broken"} 1.0',
        'muxd_engine_scrape_failures_total{model="garbled"} 3.0',
        'muxd_engine_scrape_failures_total{model="without"} 0.0',
    ]


async def test_who_asks_while_a_page_is_made_gets_that_one(autojump_clock):
    asked, go = [], trio.Event()

    async def slow() -> bytes | None:
        asked.append(trio.current_time())
        await go.wait()
        return b"x 1\n"

    metrics_host, pages = MetricsHost(a=slow), []

    async def scrape() -> None:
        pages.append(await metrics_host.metrics.page())

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(scrape)
        await trio.testing.wait_all_tasks_blocked()
        go.set()
    assert (len(asked), len(pages), len(set(pages))) == (1, 20, 1)
    await metrics_host.metrics.page()  # not compared: this machine's free memory is on it
    assert len(asked) == 2


async def test_who_waited_for_one_that_was_given_up_makes_the_next(autojump_clock):
    metrics_host = MetricsHost(a=silent)
    pages = []

    async def scrape(scope: trio.CancelScope) -> None:
        with scope:
            pages.append(await metrics_host.metrics.page())

    first = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scrape, first)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(2):
            nursery.start_soon(scrape, trio.CancelScope())
        await trio.testing.wait_all_tasks_blocked()
        metrics_host.engines["a"] = good
        first.cancel()
    assert len(pages) == 2
    assert pages[0] is pages[1]


async def test_a_page_that_takes_too_long_to_read_is_left_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(page_module, "DEADLINE", -1.0)

    async def long() -> bytes | None:
        return b"y 1\n" * 10_000

    metrics_host = MetricsHost(long=long, short=good)
    assert await metrics_host.lines("x") == ['x{model="short"} 1.0']
    assert await metrics_host.lines("y") == []
    assert metrics_host.metrics.scrape_failures == {"long": 2}


async def test_the_loop_goes_on_while_a_page_is_read():
    """Where it stood still, it would not take a step before the page is there."""

    async def long() -> bytes | None:
        return b"".join(b'y{number="%d"} 1\n' % number for number in range(4_000))

    steps, metrics_host = 0, MetricsHost(long=long)
    async with trio.open_nursery() as nursery:

        async def scrape() -> None:
            assert len(await metrics_host.lines("y")) == 4_000
            nursery.cancel_scope.cancel()

        nursery.start_soon(scrape)
        while not nursery.cancel_scope.cancel_called:
            await trio.lowlevel.checkpoint()
            steps += 1
    assert steps > 50
