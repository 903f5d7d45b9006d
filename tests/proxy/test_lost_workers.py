"""A worker is lost: whom it takes along, who is kept from it, and what is told of it."""

import os
import re
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from .fake_muxd import FakeLease
from .http_client import HttpClient, chat, get, post
from .proxy_env import ProxyEnv, open_proxy_env
from .record import PATIENCE
from .worker import OK, SSE_HEAD, Call, answer_ok, answer_when_released, chunk, event

END = b"0\r\n\r\n"
GZIP_HEAD = SSE_HEAD.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n")


async def die_when_released(call: Call) -> bool:
    await call.released.wait()
    return False


def asks(name: str) -> bytes:
    return post(chat(), b"X-Who: %b\r\n" % name.encode())


def who(call: Call) -> str:
    return str(re.findall(rb"X-Who: (\w+)", call.head)[0].decode())


async def revoked(proxy_env: ProxyEnv) -> FakeLease:
    """The lease that is asked for when muxd has taken the first one back, as it does when a worker has ended."""
    lease = await proxy_env.lease()
    proxy_env.muxd.grants.clear()
    lease.revoke("worker_exited", 0.0, "killed by SIGKILL")
    lease.end()
    return await proxy_env.lease(1)


async def metric(proxy_env: ProxyEnv, name: str) -> str:
    """What the page says of it, all labels in one; empty where it says nothing."""
    page = (await proxy_env.ask(get(b"/metrics"))).body.decode()
    return " ".join(re.findall(rf"(?m)^{name}(?:\{{.*)? (\S+)$", page))


# Those who wait


@pytest.fixture
async def narrow(tmp_path: Path) -> AsyncIterator[ProxyEnv]:
    """One request at a worker, the others wait."""
    async with open_proxy_env(tmp_path, model={"concurrency_limit": 1}) as proxy_env:
        yield proxy_env


async def poisoned(proxy_env: ProxyEnv) -> tuple[HttpClient, HttpClient]:
    """Alpha was lost to the first one's request, while the second one's waited for its place."""
    proxy_env.alpha.answer = die_when_released
    poison, innocent = await proxy_env.connect(), await proxy_env.connect()
    await poison.send(asks("poison"))
    call = await proxy_env.alpha.calls.nth(0)
    await innocent.send(asks("innocent"))
    await (await proxy_env.lease()).reports.until((2, 0))
    call.released.set()
    await proxy_env.alpha.ended.nth(0)
    return poison, innocent


async def test_who_waits_for_a_place_is_not_sent_to_a_worker_that_was_just_lost(narrow: ProxyEnv) -> None:
    poison, innocent = await poisoned(narrow)
    (await revoked(narrow)).grant(narrow.beta.url, generation=2)
    assert (await poison.reply()).raw == (await innocent.reply()).raw == OK
    assert [who(call) for call in narrow.alpha.calls] == ["poison"]
    assert sorted(who(call) for call in narrow.beta.calls) == ["innocent", "poison"]


async def test_who_only_waited_beside_a_poisonous_request_is_not_blamed(narrow: ProxyEnv) -> None:
    poisonous = False

    async def die_of_poison(call: Call) -> bool:
        nonlocal poisonous
        poisonous = poisonous or who(call) == "poison"  # from then on it answers nobody
        if not poisonous:
            await call.send(OK)
        return not poisonous

    poison, innocent = await poisoned(narrow)
    narrow.beta.answer = die_of_poison
    (await revoked(narrow)).grant(narrow.beta.url, generation=2)
    blamed = await poison.reply()
    assert (blamed.status, blamed.code) == (502, "worker_died")
    assert "at 2 deaths" in blamed.message
    assert (await innocent.reply()).raw == OK


async def test_who_waits_goes_to_a_worker_that_lives_although_a_connection_broke(narrow: ProxyEnv) -> None:
    poison, innocent = await poisoned(narrow)
    narrow.alpha.answer = answer_ok
    assert (await poison.reply()).raw == (await innocent.reply()).raw == OK
    assert len(narrow.muxd.leases) == 1


# Connections that cannot be made


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (1 + max(map(int, os.listdir("/proc/self/fd"))), limits[1]))
    try:
        while True:
            try:
                taken.append(os.dup(0))
            except OSError:
                break
        yield
    finally:
        for number in taken:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def crowd(proxy_env: ProxyEnv, body: bytes) -> tuple[list[HttpClient], FakeLease]:
    """More than calls can be nested."""
    http_clients = [await proxy_env.connect() for _ in range(250)]
    for http_client in http_clients:
        await http_client.send(post(body))
    lease = await proxy_env.lease()
    await lease.reports.until((0, len(http_clients)))
    return http_clients, lease


async def test_a_crowd_that_finds_no_descriptor_waits_until_there_is_one(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, granted=False) as proxy_env:
        http_clients, lease = await crowd(proxy_env, chat())
        with no_descriptor_left():
            lease.grant(proxy_env.alpha.url)
            with trio.fail_after(PATIENCE):
                while proxy_env.proxy.leases.of("alpha").progress_text() != "its worker was lost":
                    await trio.sleep(0.001)
        assert [(await http_client.reply()).raw for http_client in http_clients] == [OK] * len(http_clients)


async def test_a_crowd_with_bodies_too_large_to_be_kept_is_refused_where_there_is_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muxd.proxy.proxied_request.REPLAY_MOST", 1000)
    async with open_proxy_env(tmp_path, granted=False) as proxy_env:
        http_clients, lease = await crowd(proxy_env, chat(padding="x" * 1000))
        with no_descriptor_left():
            lease.grant(proxy_env.alpha.url)
            with trio.fail_after(PATIENCE):
                while proxy_env.proxy.leases.of("alpha").figures()[1]:
                    await trio.sleep(0.001)
        refused = [reply for http_client in http_clients if (reply := await http_client.reply()).status != 200]
        assert len(refused) > 200  # a connection that ends just then leaves its descriptor to one of them
        assert {(reply.status, reply.code) for reply in refused} == {(502, "worker_unreachable")}
        assert "too many open files" in refused[0].message
        assert (await http_clients[0].ask(post(chat()))).raw == OK


# Revocations


async def test_a_worker_that_is_lost_while_it_drains_makes_its_requests_wait_for_the_next(proxy_env: ProxyEnv) -> None:
    proxy_env.alpha.answer = answer_when_released
    http_client = await proxy_env.connect()
    await http_client.send(post(chat()))
    await proxy_env.alpha.calls.nth(0)
    proxy_env.muxd.grants.clear()
    lease = await proxy_env.lease()
    lease.revoke("switch", 300.0)
    lease.revoke("worker_unresponsive", 0.0, "no answer to 3 probes")
    lease.end()
    (await proxy_env.lease(1)).grant(proxy_env.beta.url, generation=2)
    assert (await http_client.reply()).raw == OK


async def test_what_a_dead_worker_had_sent_already_is_passed_on_before_its_stream_is_cut(
    proxy_env: ProxyEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stream(call: Call) -> None:
        await call.send(SSE_HEAD + event("1"))
        await call.released.wait()
        await call.send(event("2") + END)

    monkeypatch.setattr("muxd.proxy.lease._CUT_GRACE", PATIENCE)
    proxy_env.alpha.answer = stream
    http_client = await proxy_env.connect()
    await http_client.send(post(chat(stream=True)))
    await http_client.until(event("1"))
    lease = await proxy_env.lease()
    lease.revoke("worker_exited", 0.0, "killed by SIGKILL")
    lease.end()
    with trio.fail_after(PATIENCE):
        while proxy_env.proxy.leases.of("alpha").grant is not None:
            await trio.sleep(0.001)
    proxy_env.alpha.calls[0].released.set()
    assert (await http_client.reply()).body == event("1") + event("2") + END


# What is told of it


async def test_attempts_to_reach_a_worker_that_refuses_are_no_replays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muxd.proxy.lease._SUSPICION", 0.01)
    async with open_proxy_env(tmp_path, model={"switch_timeout": 0.3}) as proxy_env:
        proxy_env.alpha.die()
        assert (await proxy_env.ask(post(chat()))).code == "worker_unreachable"
        assert await metric(proxy_env, "muxd_replays_total") in ("", "0.0")


async def test_a_replay_is_counted_when_a_second_worker_has_it(proxy_env: ProxyEnv) -> None:
    proxy_env.alpha.answer = die_when_released
    http_client = await proxy_env.connect()
    await http_client.send(post(chat()))
    (await proxy_env.alpha.calls.nth(0)).released.set()
    await proxy_env.alpha.ended.nth(0)
    second = await revoked(proxy_env)
    assert await metric(proxy_env, "muxd_replays_total") in ("", "0.0")
    second.grant(proxy_env.beta.url, generation=2)
    assert (await http_client.reply()).raw == OK
    assert await metric(proxy_env, "muxd_replays_total") == "1.0"


async def test_a_stream_whose_head_says_gzip_is_not_replayed_behind_it(proxy_env: ProxyEnv) -> None:
    async def die_after_the_head(call: Call) -> bool:
        await call.send(GZIP_HEAD)
        await call.released.wait()
        return False

    proxy_env.alpha.answer = die_after_the_head
    http_client = await proxy_env.connect()
    await http_client.send(post(chat(stream=True)))
    await http_client.until(GZIP_HEAD)
    proxy_env.alpha.calls[0].released.set()
    assert await http_client.rest() == GZIP_HEAD
    assert len(proxy_env.alpha.calls) == 1


async def test_nothing_plain_is_said_at_the_end_of_a_compressed_stream(proxy_env: ProxyEnv) -> None:
    compressed = chunk(b"\x1f\x8b it could look like the end of an event \n\n")

    async def die_after_some(call: Call) -> bool:
        await call.send(GZIP_HEAD + compressed)
        return False

    proxy_env.alpha.answer = die_after_some
    http_client = await proxy_env.connect()
    await http_client.send(post(chat(stream=True)))
    assert await http_client.rest() == GZIP_HEAD + compressed


# Connections that are kept


async def test_only_so_many_idle_connections_to_a_worker_are_kept(tmp_path: Path) -> None:
    limits: dict[str, Any] = {"most_idle": 2}
    async with open_proxy_env(tmp_path, **limits) as proxy_env:
        proxy_env.alpha.answer = answer_when_released
        http_clients = [await proxy_env.connect() for _ in range(5)]
        for http_client in http_clients:
            await http_client.send(post(chat()))
        await proxy_env.alpha.calls.nth(4)
        for call in proxy_env.alpha.calls:
            call.released.set()
        assert [(await http_client.reply()).raw for http_client in http_clients] == [OK] * 5
        await proxy_env.alpha.ended.nth(2)
        proxy_env.alpha.answer = answer_ok
        for http_client in http_clients:
            assert (await http_client.ask(post(chat()))).raw == OK
        assert (proxy_env.alpha.connections, len(proxy_env.alpha.ended)) == (5, 3)
