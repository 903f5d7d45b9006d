"""muxd is away or dies: held leases go on, who waits waits for its successor, and what is told where none comes."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from math import inf
from pathlib import Path
from typing import Any

import pytest
import trio

from .http_client import chat, get, post
from .proxy_env import ProxyEnv, open_proxy_env
from .record import PATIENCE
from .worker import OK, answer_when_released


@asynccontextmanager
async def mortal_muxd(tmp_path: Path, **options: Any) -> AsyncIterator[tuple[ProxyEnv, AsyncExitStack]]:
    """A proxy that is connected to a muxd, and the stack whose end is that muxd's."""
    async with open_proxy_env(tmp_path, muxd_up=False, **options) as proxy_env, AsyncExitStack() as life:
        await life.enter_async_context(proxy_env.muxd.running())
        await _health(proxy_env, "connected")
        yield proxy_env, life


async def test_who_asks_a_proxy_that_was_started_before_muxd_waits_for_muxd(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, muxd_up=False) as proxy_env:
        waiting = await proxy_env.connect()
        await waiting.send(post(chat()))
        await _health(proxy_env, "unreachable")
        async with proxy_env.muxd.running():
            assert (await waiting.reply()).raw == OK


async def test_without_muxd_requests_are_told_to_try_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muxd.proxy.lease._RESTART", 0.3)
    async with open_proxy_env(tmp_path, muxd_up=False) as proxy_env:
        reply = await proxy_env.ask(post(chat()))
        assert (reply.status, reply.code, reply.header(b"retry-after")) == (503, "muxd_unreachable", b"1")
        assert reply.message.endswith("; it is being restarted, or takes a `muxd start`")


async def test_the_next_muxd_is_told_too_how_long_a_client_wants_its_model_awake(tmp_path: Path) -> None:
    asked = post(chat(keep_alive=-1))
    async with mortal_muxd(tmp_path) as (proxy_env, life):
        await proxy_env.ask(asked)
        assert await proxy_env.muxd.kept.nth(0) == ("alpha", None)
        await life.aclose()
        async with proxy_env.muxd.running():
            await _health(proxy_env, "connected")
            with trio.fail_after(PATIENCE):
                assert await proxy_env.muxd.kept.nth(1) == ("alpha", None)
            assert proxy_env.muxd.kept_ages[1] > proxy_env.muxd.kept_ages[0], "it was said before the first muxd ended"
            assert (await proxy_env.ask(asked)).raw == OK
    assert len(proxy_env.muxd.kept) == 2


async def test_when_muxd_dies_held_leases_go_on_and_who_waits_is_told_where_none_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muxd.proxy.lease._RESTART", 0.3)
    async with mortal_muxd(tmp_path) as (proxy_env, life):
        await proxy_env.ask(post(chat()))
        waiting = await proxy_env.connect()
        await waiting.send(post(chat("beta")))
        await proxy_env.lease(1)
        await life.aclose()
        assert (await waiting.reply()).code == "muxd_unreachable"
        await _health(proxy_env, "unreachable")
        assert (await proxy_env.ask(post(chat()))).raw == OK
        assert (await proxy_env.ask(post(chat("beta")))).status == 503
        async with proxy_env.muxd.running():
            await _health(proxy_env, "connected")
            with trio.fail_after(PATIENCE):  # a request that is at the worker when the old lease ends is cut
                while (await proxy_env.ask(get(b"/health"))).json["active_model"] is not None:
                    await trio.sleep(0.01)
            assert (await proxy_env.ask(post(chat()))).raw == OK
            assert proxy_env.muxd.leases[2].model == "alpha", "the new muxd knew nothing of the old lease"


async def test_when_muxd_dies_who_waits_for_a_place_at_a_worker_that_lives_gets_it(tmp_path: Path) -> None:
    async with mortal_muxd(tmp_path, model={"concurrency_limit": 1}) as (proxy_env, life):
        proxy_env.alpha.answer = answer_when_released
        first, second = await proxy_env.connect(), await proxy_env.connect()
        for http_client in (first, second):
            await http_client.send(post(chat()))
        await (await proxy_env.lease()).reports.until((2, 0))
        await life.aclose()
        await _health(proxy_env, "unreachable")
        for index, http_client in enumerate((first, second)):
            (await proxy_env.alpha.calls.nth(index)).released.set()
            assert (await http_client.reply()).raw == OK


async def test_when_muxd_dies_while_a_lease_drains_the_drain_goes_on(tmp_path: Path) -> None:
    async with mortal_muxd(tmp_path) as (proxy_env, life):
        proxy_env.alpha.answer = answer_when_released
        http_client = await proxy_env.connect()
        await http_client.send(post(chat()))
        call = await proxy_env.alpha.calls.nth(0)
        proxy_env.muxd.leases[0].revoke(deadline=inf)
        await proxy_env.muxd.leases[0].reports.until((1, 0))
        await life.aclose()
        await _health(proxy_env, "unreachable")
        call.released.set()
        assert (await http_client.reply()).raw == OK


async def test_a_lease_goes_on_at_the_next_muxd_where_that_has_taken_its_worker_over(tmp_path: Path) -> None:
    async with mortal_muxd(tmp_path) as (proxy_env, life):
        proxy_env.alpha.answer = answer_when_released
        first, second = await proxy_env.connect(), await proxy_env.connect()
        await first.send(post(chat()))
        call = await proxy_env.alpha.calls.nth(0)
        await (await proxy_env.lease()).reports.until((1, 0))
        await life.aclose()
        await second.send(post(chat()))
        other = await proxy_env.alpha.calls.nth(1)
        proxy_env.muxd.adopted.add(proxy_env.alpha.url)
        async with proxy_env.muxd.running():
            again = await proxy_env.lease(1)
            assert again.reports[0] == (2, 0), "what is in flight is told with the claim"
            for each, http_client in ((call, first), (other, second)):
                each.released.set()
                assert (await http_client.reply()).raw == OK
            await again.reports.until((0, 0))
            again.revoke()
            await again.ended()


async def test_what_was_revoked_under_a_muxd_that_died_is_admitted_again_under_the_next(tmp_path: Path) -> None:
    async with mortal_muxd(tmp_path) as (proxy_env, life):
        proxy_env.alpha.answer = answer_when_released
        first, second = await proxy_env.connect(), await proxy_env.connect()
        await first.send(post(chat()))
        call = await proxy_env.alpha.calls.nth(0)
        lease = await proxy_env.lease()
        lease.revoke(deadline=1.0)
        await lease.reports.until((1, 0))
        await life.aclose()
        await second.send(post(chat()))
        other = await proxy_env.alpha.calls.nth(1)
        await trio.sleep(1.1)  # beyond the deadline that holds no more
        for each, http_client in ((call, first), (other, second)):
            each.released.set()
            assert (await http_client.reply()).raw == OK


async def test_who_waited_when_muxd_died_goes_on_waiting_for_its_successor(tmp_path: Path) -> None:
    async with mortal_muxd(tmp_path) as (proxy_env, life):
        waiting = await proxy_env.connect()
        await waiting.send(post(chat("beta")))
        await proxy_env.lease()
        await life.aclose()
        async with proxy_env.muxd.running():
            anew = await proxy_env.lease(1)
            assert (anew.model, anew.asked[0].count) == ("beta", 1)
            anew.grant(proxy_env.beta.url)
            assert (await waiting.reply()).raw == OK


async def _health(proxy_env: ProxyEnv, muxd: str) -> None:
    with trio.fail_after(5):
        while (await proxy_env.ask(get(b"/health"))).json["muxd"] != muxd:
            await trio.sleep(0.01)
