"""A request whose worker is lost before the first byte of an answer is held, and told to the next one."""

import json
import logging
import re
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from time import monotonic

import pytest
import trio

from muxd.proxy.proxied_request import REPLAY_MOST
from muxd.proxy.sockets.router_errors import NOBODY_HAD_IT, REFUSED_WITHIN

from .fake_muxd import FakeLease
from .http_client import chat, post
from .proxy_env import QUIET, ProxyEnv, open_proxy_env
from .worker import OK, SSE_HEAD, Call, Worker, answer_ok, answer_when_released, event

END = b"0\r\n\r\n"


async def die(call: Call) -> bool:
    return False


async def revoked(proxy_env: ProxyEnv, reason: str = "worker_exited") -> FakeLease:
    """The lease that is asked for when muxd has taken the first one back; nobody has granted it yet."""
    lease = await proxy_env.lease()
    proxy_env.muxd.grants.clear()
    lease.revoke(reason, 0.0, "its worker was killed by SIGKILL")
    return await proxy_env.lease(1)


async def test_a_request_that_was_with_a_dead_worker_is_answered_by_the_next(proxy_env: ProxyEnv) -> None:
    proxy_env.alpha.answer = die
    http_client = await proxy_env.connect()
    body = chat(seed=7)
    await http_client.send(post(body))
    await proxy_env.alpha.ended.nth(0)
    proxy_env.alpha.answer = answer_ok
    (await revoked(proxy_env)).grant(proxy_env.alpha.url, generation=2)
    assert (await http_client.reply()).raw == OK
    assert [call.body for call in proxy_env.alpha.calls] == [body, body]


async def test_a_revocation_that_is_faster_than_the_broken_connection_replays_too(proxy_env: ProxyEnv) -> None:
    proxy_env.alpha.answer = answer_when_released
    http_client = await proxy_env.connect()
    await http_client.send(post(chat()))
    await proxy_env.alpha.calls.nth(0)
    second = await revoked(proxy_env, "worker_unresponsive")
    await proxy_env.alpha.calls[0].aborted()
    second.grant(proxy_env.beta.url, generation=2)
    assert (await http_client.reply()).raw == OK


async def test_a_connection_that_only_broke_is_tried_again_without_muxd(proxy_env: ProxyEnv) -> None:
    calls = 0

    async def die_once(call: Call) -> bool:
        nonlocal calls
        calls += 1
        if calls == 1:
            return False
        await call.send(OK)
        return True

    proxy_env.alpha.answer = die_once
    assert (await proxy_env.ask(post(chat()))).raw == OK
    assert len(proxy_env.muxd.leases) == 1


def of_router(status: bytes, code: bytes) -> bytes:
    """An error of sglang-router 0.3.2, as it sends one."""
    body = b'{"error":{"type":"Internal Server Error","code":"%b","message":"error sending request"}}' % code
    head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\nX-Smg-Error-Code: %b\r\n" % (status, code)
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (b"500 Internal Server Error", b"call_upstream_request_error"),
        (b"503 Service Unavailable", b"no_available_workers"),
    ],
)
async def test_an_error_of_the_groups_router_is_a_lost_worker(proxy_env: ProxyEnv, status: bytes, code: bytes) -> None:
    answers = [of_router(status, code), OK]

    async def answer(call: Call) -> bool:
        await call.send(answers.pop(0))
        return True

    proxy_env.alpha.answer = answer
    assert (await proxy_env.ask(post(chat()))).raw == OK
    assert len(proxy_env.alpha.calls) == 2


def late_error(status: bytes, code: bytes) -> Callable[[Call], Awaitable[bool]]:
    """An answer of the router's that comes too late for a refused connection."""

    async def answer(call: Call) -> bool:
        await trio.sleep(1.2 * REFUSED_WITHIN)
        await call.send(of_router(status, code))
        return True

    return answer


async def test_a_router_without_a_worker_is_no_death_and_is_asked_again_ever_more_seldom(tmp_path: Path) -> None:
    """With pauses of 0.25, 0.25, 0.5 and 1 s in 2 s, where it was 0.25 s each time, and nine times in all."""
    async with open_proxy_env(tmp_path, model={"switch_timeout": 2.0}) as proxy_env:

        async def answer(call: Call) -> bool:
            await call.send(of_router(b"503 Service Unavailable", b"no_available_workers"))
            return True

        proxy_env.alpha.answer = answer
        reply = await proxy_env.ask(post(chat()))
        assert (reply.status, reply.code) == (502, "worker_unreachable")
        assert reply.message.endswith("its worker cannot be reached: its router says no_available_workers")
        assert 2 < len(proxy_env.alpha.calls) < 7


async def test_a_router_whose_worker_dies_twice_of_a_request_names_it(proxy_env: ProxyEnv) -> None:
    proxy_env.alpha.answer = late_error(b"500 Internal Server Error", b"call_upstream_request_error")
    reply = await proxy_env.ask(post(chat()))
    assert (reply.status, reply.code) == (502, "worker_died")
    assert "at 2 deaths" in reply.message
    assert len(proxy_env.alpha.calls) == 2


@pytest.mark.parametrize("code", NOBODY_HAD_IT)
async def test_what_the_router_says_that_no_worker_had_is_no_death_however_late(tmp_path: Path, code: str) -> None:
    async with open_proxy_env(tmp_path, model={"switch_timeout": 0.5}) as proxy_env:
        proxy_env.alpha.answer = late_error(b"500 Internal Server Error", code.encode())
        reply = await proxy_env.ask(post(chat()))
        assert (reply.status, reply.code) == (502, "worker_unreachable")


async def test_a_workers_own_error_of_500_is_passed_on(proxy_env: ProxyEnv) -> None:
    error = b"HTTP/1.1 500 Internal Server Error\r\nx-error-code: mine\r\ncontent-length: 2\r\n\r\nno"

    async def answer(call: Call) -> bool:
        await call.send(error)
        return True

    proxy_env.alpha.answer = answer
    assert (await proxy_env.ask(post(chat()))).raw == error
    assert len(proxy_env.alpha.calls) == 1


async def test_nothing_is_admitted_to_a_worker_that_was_just_lost(proxy_env: ProxyEnv) -> None:
    proxy_env.alpha.answer = die
    first, second = await proxy_env.connect(), await proxy_env.connect()
    await first.send(post(chat()))
    await proxy_env.alpha.ended.nth(0)
    proxy_env.alpha.answer = answer_ok
    await second.send(post(chat()))
    (await revoked(proxy_env)).grant(proxy_env.beta.url, generation=2)
    assert (await first.reply()).raw == (await second.reply()).raw == OK
    assert len(proxy_env.alpha.calls) == 1


async def test_a_worker_that_refuses_is_waited_for(proxy_env: ProxyEnv) -> None:
    proxy_env.alpha.die()
    http_client = await proxy_env.connect()
    await http_client.send(post(chat()))
    (await revoked(proxy_env)).grant(proxy_env.beta.url, generation=2)
    assert (await http_client.reply()).raw == OK


async def test_a_worker_that_refuses_for_too_long_is_named(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, model={"switch_timeout": 0.6}) as proxy_env:
        proxy_env.alpha.die()
        reply = await proxy_env.ask(post(chat()))
        assert (reply.status, reply.code) == (502, "worker_unreachable")
        assert "refused" in reply.message


async def test_after_two_deaths_a_request_is_named_and_given_up(
    proxy_env: ProxyEnv, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    proxy_env.alpha.answer = proxy_env.beta.answer = die
    http_client = await proxy_env.connect()
    await http_client.send(post(chat(), b"X-Request-Id: the-poisonous-one\r\n"))
    await proxy_env.alpha.ended.nth(0)
    (await revoked(proxy_env)).grant(proxy_env.beta.url, generation=2)
    reply = await http_client.reply()
    assert (reply.status, reply.code) == (502, "worker_died")
    assert reply.message.endswith("was with its worker at 2 deaths: it is not tried again")
    assert "2 deaths" in caplog.text
    assert len(proxy_env.alpha.calls) + len(proxy_env.beta.calls) == 2


async def test_the_named_request_has_the_clients_own_id(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, proxy=replace(QUIET, request_id_headers=("x-request-id",))) as proxy_env:
        proxy_env.alpha.answer = die
        http_client = await proxy_env.connect()
        await http_client.send(post(chat(), b"X-Request-Id: the-poisonous-one\r\n"))
        reply = await http_client.reply()
        assert "request the-poisonous-one was with its worker at 2 deaths" in reply.message
        assert reply.header(b"x-request-id") == b"the-poisonous-one"


async def test_a_large_body_is_not_kept_for_another_worker(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, max_body=2 * REPLAY_MOST) as proxy_env:
        proxy_env.alpha.answer = die
        reply = await proxy_env.ask(post(chat(padding="x" * REPLAY_MOST)))
        assert (reply.status, reply.code) == (502, "worker_died")
        assert len(proxy_env.alpha.calls) == 1


async def test_a_stream_that_had_a_head_and_no_event_is_replayed_behind_the_same_head(proxy_env: ProxyEnv) -> None:
    async def die_after_the_head(call: Call) -> bool:
        await call.send(SSE_HEAD)
        await heard.wait()
        return False

    async def stream(call: Call) -> None:
        await call.send(SSE_HEAD + event("1"))
        await call.send(event("2") + END)

    heard = trio.Event()
    proxy_env.alpha.answer = die_after_the_head
    http_client = await proxy_env.connect()
    await http_client.send(post(chat(stream=True)))
    await http_client.until(SSE_HEAD)
    heard.set()
    await proxy_env.alpha.ended.nth(0)
    proxy_env.beta.answer = stream
    (await revoked(proxy_env)).grant(proxy_env.beta.url, generation=2)
    reply = await http_client.reply()
    assert reply.head + b"\r\n\r\n" == SSE_HEAD
    assert b"".join(re.findall(rb"data: .*\n\n", reply.body)) == b'data: {"text": "1"}\n\ndata: {"text": "2"}\n\n'
    assert reply.body.endswith(END)


async def test_a_stream_that_had_an_event_is_not_replayed(proxy_env: ProxyEnv) -> None:
    async def die_after_an_event(call: Call) -> bool:
        await call.send(SSE_HEAD + event("1"))
        return False

    proxy_env.alpha.answer = die_after_an_event
    http_client = await proxy_env.connect()
    await http_client.send(post(chat(stream=True)))
    assert b'"code":"worker_died"' in await http_client.rest()
    assert len(proxy_env.alpha.calls) == 1


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 400 No\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
    ],
    ids=["with a length", "in chunks", "an error"],
)
async def test_an_answer_that_had_its_head_and_is_no_good_stream_is_not_replayed(
    proxy_env: ProxyEnv, head: bytes
) -> None:
    async def die_after_the_head(call: Call) -> bool:
        await call.send(head)
        return False

    proxy_env.alpha.answer = die_after_the_head
    http_client = await proxy_env.connect()
    await http_client.send(post(chat()))
    assert (await http_client.rest()).startswith(head)
    assert len(proxy_env.alpha.calls) == 1


async def test_a_request_that_lost_its_worker_is_told_when_no_other_comes(proxy_env: ProxyEnv) -> None:
    proxy_env.alpha.answer = die
    http_client = await proxy_env.connect()
    await http_client.send(post(chat()))
    await proxy_env.alpha.ended.nth(0)
    (await revoked(proxy_env)).fail("model_failed", "model alpha failed: it died", retry_after=30.0)
    reply = await http_client.reply()
    assert (reply.status, reply.code) == (503, "model_failed")


async def test_the_time_at_a_worker_is_no_wait_for_one(tmp_path: Path) -> None:
    """With a body too large to be sent again: the worker's death is the answer."""
    held = 0.0

    async def die_later(call: Call) -> bool:
        nonlocal held
        began = monotonic()
        await trio.sleep(0.05)
        held = monotonic() - began
        return False

    settings = replace(QUIET, access_log="json", access_log_dir=tmp_path / "access")
    async with open_proxy_env(tmp_path, max_body=2 * REPLAY_MOST, proxy=settings) as proxy_env:
        proxy_env.alpha.answer = die_later
        assert (await proxy_env.ask(post(chat(padding="x" * REPLAY_MOST)))).code == "worker_died"
    (line,) = [json.loads(line) for path in (tmp_path / "access").iterdir() for line in path.read_text().splitlines()]
    assert line["wait_s"] + held <= line["duration_s"] + 0.001, "to the millisecond that the log has"


async def test_a_client_that_leaves_while_it_is_held_is_forgotten(proxy_env: ProxyEnv) -> None:
    proxy_env.alpha.answer = die
    http_client = await proxy_env.connect()
    await http_client.send(post(chat()))
    await proxy_env.alpha.ended.nth(0)
    second = await revoked(proxy_env)
    http_client.close()
    await second.reports.until((0, 0))


async def test_muxd_that_goes_with_its_workers_and_comes_back_loses_nothing(tmp_path: Path) -> None:
    """As when systemd kills the whole unit and starts it again."""
    async with open_proxy_env(tmp_path, muxd_up=False) as proxy_env, AsyncExitStack() as life:
        await life.enter_async_context(proxy_env.muxd.running())
        proxy_env.alpha.answer = answer_when_released
        http_client = await proxy_env.connect()
        await http_client.send(post(chat()))
        await proxy_env.alpha.calls.nth(0)
        await life.aclose()
        proxy_env.alpha.die()
        assert (await proxy_env.ask(post(chat("beta")))).code == "muxd_unreachable"
        async with Worker().running_as(answer_ok) as fresh:
            proxy_env.muxd.grants["alpha"] = fresh.url
            async with proxy_env.muxd.running():
                assert (await http_client.reply()).raw == OK


async def test_an_old_client_is_replayed_too(proxy_env: ProxyEnv) -> None:
    proxy_env.alpha.answer = die
    http_client = await proxy_env.connect()
    await http_client.send(post(chat(), version=b"1.0"))
    await proxy_env.alpha.ended.nth(0)
    (await revoked(proxy_env)).grant(proxy_env.beta.url, generation=2)
    assert (await http_client.rest()).startswith(b"HTTP/1.1 200 OK\r\n")
