"""A server whose engine has died answers with an error until it ends: that counts as no answer."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from trio.testing import wait_all_tasks_blocked

from muxd.engines.vllm.kind import ENGINE_DEAD

from .http_client import HttpClient, chat, post
from .proxy_env import ProxyEnv, open_proxy_env
from .worker import OK, SSE_HEAD, Answer, Call, answer_ok, chunk, event

END = b"0\r\n\r\n"


def error(message: str) -> bytes:
    """Return an error as vLLM answers it."""
    return b'{"error":{"message":"%b","type":"InternalServerError","param":null,"code":500}}' % message.encode()


DEAD = error(f"{ENGINE_DEAD}. See stack trace (above) for the root cause.")
DEAD_EVENT = chunk(b"data: %b\n\n" % DEAD) + chunk(b"data: [DONE]\n\n") + END


def response(body: bytes, status: bytes = b"500 Internal Server Error") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-length: %d\r\ncontent-type: application/json\r\n\r\n%b" % (status, len(body), body)


async def answer_in_pieces(pieces: list[bytes], call: Call) -> None:
    """Send each piece once the proxy's side has read the one before."""
    for piece in pieces:
        await call.send(piece)
        await wait_all_tasks_blocked()


def first_dead(then: Answer, *pieces: bytes) -> Answer:
    """Answer the first call with these pieces, and the others as `then` does."""
    calls = 0

    async def answer(call: Call) -> bool | None:
        nonlocal calls
        calls += 1
        return await (answer_in_pieces(list(pieces), call) if calls == 1 else then(call))

    return answer


@pytest.fixture
async def vllm(tmp_path: Path) -> AsyncIterator[ProxyEnv]:
    async with open_proxy_env(tmp_path, model={"engine": "vllm"}) as proxy_env:
        yield proxy_env


async def lost(proxy_env: ProxyEnv, client: HttpClient) -> None:
    """Let muxd report the worker's end, and grant the next one."""
    lease = await proxy_env.lease()
    proxy_env.muxd.grants.clear()
    lease.revoke("worker_exited", 0.0, "its engine core was killed")
    lease.end()
    (await proxy_env.lease(1)).grant(proxy_env.beta.url, generation=2)


HEAD, BODY = response(DEAD)[: -len(DEAD)], DEAD


@pytest.mark.parametrize("pieces", [(HEAD + BODY,), (HEAD, BODY), (HEAD + BODY[:40], BODY[40:])])
async def test_an_error_of_a_server_whose_engine_has_died_is_replayed_on_the_next_worker(vllm, pieces):
    vllm.alpha.answer = partial(answer_in_pieces, list(pieces))
    client = await vllm.connect()
    await client.send(post(chat()))
    await vllm.alpha.ended.nth(0)
    await lost(vllm, client)
    assert (await client.reply()).raw == OK


@pytest.mark.parametrize("pieces", [(SSE_HEAD + DEAD_EVENT,), (SSE_HEAD, DEAD_EVENT)])
async def test_a_stream_that_begins_with_the_engines_death_is_replayed(vllm, pieces):
    vllm.alpha.answer = partial(answer_in_pieces, list(pieces))
    client = await vllm.connect()
    await client.send(post(chat(stream=True)))
    await vllm.alpha.ended.nth(0)

    async def answer(call: Call) -> None:
        await call.send(SSE_HEAD + event("one") + END)

    vllm.beta.answer = answer
    await lost(vllm, client)
    reply = await client.reply()
    assert reply.status == 200
    assert reply.body == event("one") + END


@pytest.mark.parametrize("pieces", [(SSE_HEAD + chunk(b"data: %b\n\n" % DEAD),), (SSE_HEAD, DEAD_EVENT)])
async def test_the_engines_death_is_seen_behind_a_known_head_too(vllm, pieces):
    stream = SSE_HEAD + event("a") + END
    vllm.alpha.answer = vllm.beta.answer = partial(answer_in_pieces, [stream])
    client = await vllm.connect()
    assert (await client.ask(post(chat(stream=True)))).raw == stream
    vllm.alpha.answer = partial(answer_in_pieces, list(pieces))
    await client.send(post(chat(stream=True)))
    await vllm.alpha.ended.nth(1)
    await lost(vllm, client)
    assert (await client.reply()).raw == stream
    assert len(vllm.beta.calls) == 1


async def test_a_server_that_is_asked_again_until_it_ends_has_died_once(vllm):
    vllm.alpha.answer = partial(answer_in_pieces, [HEAD + BODY])
    client = await vllm.connect()
    await client.send(post(chat()))
    await vllm.alpha.calls.nth(2)  # the grant was suspected, and used again, for muxd had not seen the death
    await lost(vllm, client)
    assert (await client.reply()).raw == OK


async def test_who_was_with_two_engines_at_their_deaths_is_not_tried_again(vllm):
    vllm.alpha.answer = vllm.beta.answer = partial(answer_in_pieces, [HEAD + BODY])
    client = await vllm.connect()
    await client.send(post(chat()))
    await vllm.alpha.ended.nth(0)
    await lost(vllm, client)
    reply = await client.reply()
    assert (reply.status, reply.code) == (502, "worker_died")
    assert "its engine has ended" in reply.message
    assert "at 2 deaths" in reply.message


LONG = error("x" * (70 << 10))


@pytest.mark.parametrize(
    "pieces",
    [
        (response(error("list index out of range")),),
        (HEAD.replace(b"%d" % len(DEAD), b"5"), b"hello"),
        (response(LONG)[:1000], response(LONG)[1000:]),
        (response(DEAD, b"400 Bad Request"),),
        (response(DEAD, b"200 OK"),),
    ],
    ids=["an error", "in pieces", "long", "a client's mistake that quotes it", "an answer that quotes it"],
)
async def test_any_other_answer_is_passed_on_as_it_is(vllm, pieces):
    vllm.alpha.answer = first_dead(answer_ok, *pieces)
    assert (await vllm.ask(post(chat()))).raw == b"".join(pieces)
    assert len(vllm.alpha.calls) == 1


async def test_a_stream_whose_text_quotes_it_later_goes_on(vllm):
    quoted = SSE_HEAD + event("one") + DEAD_EVENT
    vllm.alpha.answer = first_dead(answer_ok, quoted)
    assert (await vllm.ask(post(chat(stream=True)))).raw == quoted


async def test_an_error_that_breaks_off_is_no_answer_either(vllm):
    async def break_off(call: Call) -> bool:
        await call.send(HEAD + BODY[:10])
        return False

    vllm.alpha.answer = break_off
    client = await vllm.connect()
    await client.send(post(chat()))
    await vllm.alpha.ended.nth(0)
    await lost(vllm, client)
    assert (await client.reply()).raw == OK


async def test_a_model_whose_engine_has_no_fatal_error_is_not_looked_at(proxy_env):
    proxy_env.alpha.answer = first_dead(answer_ok, response(DEAD))
    assert (await proxy_env.ask(post(chat()))).raw == response(DEAD)
