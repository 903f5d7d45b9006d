"""What the proxy tells muxd of its requests: those under way when it is asked, those that end by itself."""

from collections.abc import AsyncIterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from muxd.config.schema import Key
from muxd.protocol import (
    ActivityReport,
    CancelWish,
    LeaseWish,
    RequestsCancelled,
    RequestsTold,
    RequestsWanted,
    ToldRequest,
)
from muxd.proxy import lease_session

from .http_client import HttpClient, chat, post
from .proxy_env import QUIET, ProxyEnv, open_proxy_env
from .record import PATIENCE
from .worker import SSE_HEAD, Call, chunk, event

T = TypeVar("T")

#: What an engine says at the end of a stream that was asked for usage.
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12}}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_session, "_PACE", 0.01)


IDS = replace(QUIET, request_id_headers=("x-request-id",))


@pytest.fixture
async def proxy_env(tmp_path: Path) -> AsyncIterator[ProxyEnv]:
    async with open_proxy_env(tmp_path, proxy=IDS) as proxy_env:
        yield proxy_env


class Streams:
    """A worker that sends the events that it is told to, each in a chunk of its own."""

    def __init__(self, *events: bytes) -> None:
        self.events = events
        self.more = trio.Event()
        self.rest: tuple[bytes, ...] = ()

    async def __call__(self, call: Call) -> bool:
        await call.send(SSE_HEAD)
        for each in self.events:
            await call.send(chunk(each))
        await self.more.wait()
        for each in self.rest:
            await call.send(chunk(each))
        await call.send(b"0\r\n\r\n")
        return True


async def said(proxy_env: ProxyEnv, kind: type[T], number: int = 0) -> T:
    """The proxy's message of this type, the one with this place among them."""
    with trio.fail_after(PATIENCE):
        while len(found := [line for line in proxy_env.muxd.lines if isinstance(line, kind)]) <= number:
            await trio.sleep(0.005)
    return found[number]


async def under_way(proxy_env: ProxyEnv, number: int) -> tuple[ToldRequest, ...]:
    session = await proxy_env.muxd.sessions.nth(0)
    session.outbox.send_nowait(RequestsWanted(number))
    told = await said(proxy_env, RequestsTold, number)
    assert told.number == number
    return told.requests


async def begun(proxy_env: ProxyEnv, headers: bytes = b"") -> HttpClient:
    client = await proxy_env.connect()
    await client.send(post(chat(stream=True), headers))
    await client.until(b"b\n\n")
    return client


def ended(proxy_env: ProxyEnv) -> list[ToldRequest]:
    return [told for line in proxy_env.muxd.lines if isinstance(line, ActivityReport) for told in line.ended]


async def until_ended(proxy_env: ProxyEnv, count: int = 1) -> list[ToldRequest]:
    with trio.fail_after(PATIENCE):
        while len(ended(proxy_env)) < count:
            await trio.sleep(0.005)
    return ended(proxy_env)


def tokens(proxy_env: ProxyEnv, model: str = "alpha") -> int:
    reports = [line for line in proxy_env.muxd.lines if isinstance(line, ActivityReport)]
    return sum(each.tokens for report in reports for each in report.models if each.model == model)


async def test_what_runs_and_what_waits_is_told_when_it_is_asked_for_and_never_what_was_said(
    proxy_env: ProxyEnv,
) -> None:
    proxy_env.alpha.answer = Streams(b"data: a\n\n", b"data: b\n\n")
    await begun(proxy_env, b"x-request-id: mine\r\nuser-agent: curl/8\r\n")
    await (await proxy_env.connect()).send(post(chat("beta", messages=[{"role": "user", "content": "SECRET"}])))
    await proxy_env.lease(1)
    running, waiting = await under_way(proxy_env, 0)
    assert (running.id, running.state, running.model, running.agent) == ("mine", "running", "alpha", "curl/8")
    assert (running.completion_tokens, running.by_events, running.client) == (2, True, "127.0.0.1")
    assert running.first_token_s is not None
    assert running.first_token_s <= running.duration_s
    assert (waiting.state, waiting.model, waiting.route) == ("waiting", "beta", "/v1/chat/completions")
    assert waiting.waited_s == waiting.duration_s
    assert "SECRET" not in repr(proxy_env.muxd.lines)


async def test_a_lease_is_asked_for_in_the_name_of_the_request_that_waits(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, granted=False, proxy=IDS, keys=(a_key("alice"),)) as proxy_env:
        client = await proxy_env.connect()
        await client.send(post(chat(), b"x-request-id: first\r\nauthorization: Bearer alice-secret\r\n"))
        wish = await said(proxy_env, LeaseWish)
        assert (wish.request, wish.key) == ("first", "alice")


def a_key(name: str) -> Key:
    return Key(name, sha256(f"{name}-secret".encode()).hexdigest())


async def test_tokens_are_counted_as_they_come_and_set_right_by_the_usage(proxy_env: ProxyEnv) -> None:
    worker = proxy_env.alpha.answer = Streams(b"data: a\n\n", b"data: b\n\n")
    worker.rest = (event("c"), USAGE, DONE)
    client = await begun(proxy_env)
    report = await said(proxy_env, ActivityReport)
    assert report.models[0].tokens > 0, "while it still runs"
    worker.more.set()
    await client.reply()
    (request,) = await until_ended(proxy_env)
    assert (request.completion_tokens, request.prompt_tokens, request.by_events) == (5, 7, False)
    assert tokens(proxy_env) == 5, "whatever its events made of it"
    first = [
        t
        for line in proxy_env.muxd.lines
        if isinstance(line, ActivityReport)
        for m in line.models
        for t in m.first_tokens_s
    ]
    assert first == [request.first_token_s], "once"


async def test_a_proxy_that_stops_tells_what_it_has_done_since_its_last_report(
    proxy_env: ProxyEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the requests that its end cuts."""
    monkeypatch.setattr("muxd.proxy.lease_session._PACE", 3600.0)
    assert (await proxy_env.ask(post(chat()))).status == 200
    proxy_env.alpha.answer = Streams(b"data: a\n\n", b"data: b\n\n")
    await begun(proxy_env)
    await proxy_env.proxy.drain(0.0)
    assert [request.end for request in await until_ended(proxy_env, 2)] == ["ok", "cut"]


async def test_a_stream_without_usage_has_as_many_tokens_as_events_with_text(proxy_env: ProxyEnv) -> None:
    worker = proxy_env.alpha.answer = Streams(b"data: role\n\n", *[b"data: b\n\n"] * 20)
    worker.rest = (b"data: finish\n\n", DONE)
    worker.more.set()
    await (await proxy_env.connect()).ask(post(chat(stream=True)))
    (request,) = await until_ended(proxy_env)
    assert (request.completion_tokens, request.by_events, request.end) == (20, True, "ok")
    assert tokens(proxy_env) == 20
    (usage,) = [key for line in proxy_env.muxd.lines if isinstance(line, ActivityReport) for key in line.keys]
    assert (usage.requests, usage.completion_tokens, usage.event_tokens) == (1, 0, 20)


async def test_each_key_and_model_has_its_usage_and_what_names_no_model_is_not_told(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, keys=(a_key("alice"), a_key("bob"))) as proxy_env:
        for name, model in (("alice", "alpha"), ("alice", "alpha"), ("bob", "alpha"), ("bob", "none")):
            client = await proxy_env.connect()
            await client.ask(post(chat(model), b"authorization: Bearer %b-secret\r\n" % name.encode()))
        await until_ended(proxy_env, 3)
        found: dict[tuple[str, str], int] = {}
        for line in proxy_env.muxd.lines:
            for key in line.keys if isinstance(line, ActivityReport) else ():
                found[key.key, key.model] = found.get((key.key, key.model), 0) + key.requests
        assert found == {("alice", "alpha"): 2, ("bob", "alpha"): 1}


async def test_a_waiting_request_is_cancelled_with_an_answer_that_no_client_repeats(proxy_env: ProxyEnv) -> None:
    client = await proxy_env.connect()
    await client.send(post(chat("beta"), b"x-request-id: odd/one\r\n"))
    await proxy_env.lease()
    session = await proxy_env.muxd.sessions.nth(0)
    session.outbox.send_nowait(CancelWish(5, "odd/one"))
    reply = await client.reply()
    assert (reply.status, reply.code) == (403, "request_cancelled")
    assert await said(proxy_env, RequestsCancelled) == RequestsCancelled(5, 1)
    (request,) = await until_ended(proxy_env)
    assert (request.end, request.code, request.status) == ("refused", "request_cancelled", 403)


async def test_who_asks_is_told_first_of_those_that_have_just_ended(
    proxy_env: ProxyEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_session, "_PACE", 1000.0)  # of itself the proxy tells nothing
    proxy_env.alpha.answer = Streams(b"data: a\n\n", b"data: b\n\n")
    client = await begun(proxy_env, b"x-request-id: mine\r\n")
    (await proxy_env.muxd.sessions.nth(0)).outbox.send_nowait(CancelWish(0, "mine"))
    assert b"request_cancelled" in await client.rest()
    assert await under_way(proxy_env, 0) == ()
    assert [each.id for each in ended(proxy_env)] == ["mine"]


async def test_a_running_stream_is_cut_with_an_error_event_and_its_worker_is_let_go(proxy_env: ProxyEnv) -> None:
    proxy_env.alpha.answer = Streams(b"data: a\n\n", b"data: b\n\n")
    client = await begun(proxy_env, b"x-request-id: mine\r\n")
    (await proxy_env.muxd.sessions.nth(0)).outbox.send_nowait(CancelWish(0, "mine"))
    assert b"request_cancelled" in await client.rest()
    assert await under_way(proxy_env, 0) == ()
    session = proxy_env.muxd.sessions[0]
    session.outbox.send_nowait(CancelWish(1, "nobody"))
    assert await said(proxy_env, RequestsCancelled, 1) == RequestsCancelled(1, 0)


async def test_what_ends_while_muxd_is_away_is_told_later_and_the_oldest_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muxd.proxy.telemetry.activity._MOST_ENDED", 3)
    monkeypatch.setattr(lease_session, "_PACE", 1000.0)
    async with open_proxy_env(tmp_path, proxy=IDS) as proxy_env:
        for number, path in enumerate([b"chat/completions", b"completions"] * 2 + [b"chat/completions"]):
            await proxy_env.ask(post(chat(), b"x-request-id: r%d\r\n" % number, path=b"/v1/" + path))
        proxy_env.proxy.flush()
        report = proxy_env.proxy.leases._session._activity.take()
        assert report is not None
        assert ([told.id for told in report.ended], report.left_out) == (["r2", "r3", "r4"], 2)
        assert report.keys[0].requests == 5
        assert proxy_env.proxy.leases._session._activity.take() is None, "it was told"
