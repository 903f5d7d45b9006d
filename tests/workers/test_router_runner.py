"""A router is told again and again which workers serve, and muxd is told whom it passes requests to."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from muxd.core.events import RouterSynced
from muxd.engines.engine_client import EngineCallFailed
from muxd.workers import RouterRunner
from tests.fakes import a_model, fake_host

ONE, TWO = "http://1", "http://2"


class FakeRouter:
    """A router that gets to know its workers at these times."""

    def __init__(self) -> None:
        self.knows_at: dict[str, float] = {ONE: 0.0, TWO: 0.0}
        self.fails_until = 0.0
        self.told: list[tuple[float, tuple[str, ...]]] = []

    async def sync(self, link: Any, urls: Sequence[str]) -> tuple[str, ...]:
        now = round(trio.current_time() - self.began, 3)
        self.told.append((now, tuple(urls)))
        if now < self.fails_until:
            raise EngineCallFailed("GET /workers: no answer in 5 s")
        return tuple(url for url in urls if now >= self.knows_at[url])


class OneRouter(RouterRunner):
    """The runner of a router that lives until a test ends its life."""

    def _make_engine(self) -> Any:
        return FakeRouter()

    def begin(self) -> None:
        self._life = SimpleNamespace(link=object())  # type: ignore[assignment]
        self._engine.began = trio.current_time()

    def end(self) -> None:
        self._life = None


@asynccontextmanager
async def one_router(folder: Path) -> AsyncIterator[tuple[OneRouter, FakeRouter, trio.Nursery, Any]]:
    async with fake_host(folder, a_model("a")) as host, trio.open_nursery() as nursery:
        runner = OneRouter(a_model("a/router"), host.context)
        runner.begin()
        router: Any = runner._engine
        yield runner, router, nursery, host.mailbox
        nursery.cancel_scope.cancel()


async def synced(mailbox: Any) -> tuple[str, ...]:
    event = await mailbox.receive()
    assert isinstance(event, RouterSynced)
    assert event.group == "a"
    return event.urls


@pytest.fixture
def told(tmp_path):
    return lambda: one_router(tmp_path)


async def test_each_change_of_whom_it_passes_requests_to_is_told_once(told, autojump_clock):
    async with told() as (runner, router, nursery, mailbox):
        router.knows_at[TWO] = 1.0
        nursery.start_soon(runner.keep_synced, "a", (ONE, TWO))
        assert await synced(mailbox) == (ONE,)
        assert await synced(mailbox) == (ONE, TWO)
        router.knows_at[ONE] = 100.0
        assert await synced(mailbox) == (TWO,)
        await trio.sleep(50)
        assert mailbox.statistics().current_buffer_used == 0


async def test_a_router_that_does_not_answer_is_told_again(told, autojump_clock):
    async with told() as (runner, router, nursery, mailbox):
        router.fails_until = 3.0
        nursery.start_soon(runner.keep_synced, "a", (ONE,))
        assert await synced(mailbox) == (ONE,)
        assert len(router.told) > 5


async def test_what_is_said_last_holds(told, autojump_clock):
    async with told() as (runner, router, nursery, mailbox):
        nursery.start_soon(runner.keep_synced, "a", (ONE,))
        assert await synced(mailbox) == (ONE,)
        nursery.start_soon(runner.keep_synced, "a", (ONE, TWO))
        assert await synced(mailbox) == (ONE, TWO)
        said = len(router.told)
        await trio.sleep(20)
        assert {urls for _, urls in router.told[said:]} == {(ONE, TWO)}


async def test_of_a_router_that_has_ended_nothing_is_told(told, autojump_clock):
    async with told() as (runner, router, nursery, mailbox):
        nursery.start_soon(runner.keep_synced, "a", (ONE,))
        assert await synced(mailbox) == (ONE,)
        runner.end()
        await trio.sleep(5)
        said = len(router.told)
        await trio.sleep(20)
        assert len(router.told) == said
        assert mailbox.statistics().current_buffer_used == 0
