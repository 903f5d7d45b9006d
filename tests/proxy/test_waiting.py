"""What a client sees while it waits: comments in its stream, a bounded queue, an honest Retry-After."""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import trio

from muxd.config.schema import Key
from muxd.protocol import LeaseComing, LeasePlaces, LeaseQueued
from muxd.proxy.refusals import progress_text

from .http_client import CHAT, HttpClient, chat, post
from .proxy_env import QUIET, ProxyEnv, open_proxy_env
from .record import PATIENCE
from .worker import OK, OK_BODY, SSE_HEAD, Call, answer_ok, answer_when_released, chunk, event

TALKATIVE = replace(QUIET, comment_interval=0.1)
END = b"0\r\n\r\n"


async def stream(call: Call) -> None:
    await call.send(SSE_HEAD + event("1"))
    await call.released.wait()
    await call.send(event("2") + END)


async def waiting(proxy_env: ProxyEnv, **more: object) -> HttpClient:
    """A client that has been told by comments how it goes with beta."""
    http_client = await proxy_env.connect()
    await http_client.send(post(chat("beta", stream=True, **more)))
    (await proxy_env.lease()).queue(2, 40.0)
    await http_client.until(b"about 40 s to go\n\n")
    return http_client


def test_what_is_left_is_never_said_to_be_nothing() -> None:
    assert progress_text(LeaseComing(1, "waking"), 0.3) == "waking, about 1 s to go"
    assert progress_text(LeaseComing(1, "waking"), 1.2) == "waking, about 2 s to go"
    assert progress_text(LeaseQueued(1, 1), None) == "number 1 in the queue"


async def test_a_streaming_client_is_told_how_it_goes_and_then_gets_its_stream(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, proxy=TALKATIVE) as proxy_env:
        http_client = await waiting(proxy_env)
        head, _, comments = bytes(http_client.buffer).partition(b"\r\n\r\n")
        assert b"content-type: text/event-stream" in head
        assert b": muxd: model beta: number 2 in the queue, about 40 s to go\n\n" in comments
        proxy_env.beta.answer = stream
        lease = await proxy_env.lease()
        lease.switching("waking", 1.0)
        await http_client.until(b": muxd: model beta: waking, about 1 s to go\n\n")
        lease.grant(proxy_env.beta.url)
        await http_client.until(event("1"))
        proxy_env.beta.calls[0].released.set()
        assert (await http_client.until(END)).endswith(event("2") + END)
        assert http_client.buffer.count(b"HTTP/1.1") == 1
        http_client.buffer.clear()
        proxy_env.beta.answer = answer_ok
        assert (await http_client.ask(post(chat("beta")))).raw == OK  # the connection is as good as ever


async def test_the_worker_is_not_asked_to_compress_what_has_begun_plainly(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, proxy=TALKATIVE) as proxy_env:
        http_client = await proxy_env.connect()
        await http_client.send(post(chat("beta", stream=True), b"Accept-Encoding: gzip\r\n"))
        await http_client.until(b": muxd: ")
        (await proxy_env.lease()).grant(proxy_env.beta.url)
        assert b"ncoding" not in (await proxy_env.beta.calls.nth(0)).head


async def test_a_worker_that_refuses_after_comments_tells_why_in_an_event(tmp_path: Path) -> None:
    refusal = b'{"error":{"message":"too long","type":"BadRequestError","param":null,"code":400}}'

    async def refuse(call: Call) -> None:
        await call.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: %d\r\n\r\n" % len(refusal) + refusal)

    async with open_proxy_env(tmp_path, proxy=TALKATIVE) as proxy_env:
        http_client = await waiting(proxy_env)
        proxy_env.beta.answer = refuse
        (await proxy_env.lease()).grant(proxy_env.beta.url)
        told = b'event: error\ndata: {"type":"error",' + refusal[1:] + b"\n\n"
        assert (await http_client.until(END)).endswith(chunk(told) + END)


async def test_who_waits_in_vain_after_comments_gets_an_error_event_and_an_unclean_end(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, proxy=TALKATIVE, model={"switch_timeout": 0.5}) as proxy_env:
        http_client = await waiting(proxy_env)
        rest = await http_client.rest()
        assert b'event: error\ndata: {"type":"error"' in rest
        assert b'"code":"switch_timeout"' in rest
        assert not rest.endswith(END)


async def test_a_worker_that_dies_after_comments_is_told_between_two_events(tmp_path: Path) -> None:
    async def die(call: Call) -> bool:
        await call.send(SSE_HEAD + event("1"))
        await call.released.wait()
        return False

    async with open_proxy_env(tmp_path, proxy=TALKATIVE) as proxy_env:
        http_client = await waiting(proxy_env)
        proxy_env.beta.answer = die
        (await proxy_env.lease()).grant(proxy_env.beta.url)
        await http_client.until(event("1"))
        proxy_env.beta.calls[0].released.set()
        rest = await http_client.rest()
        assert b'"code":"worker_died"' in rest
        assert not rest.endswith(END)


async def test_half_an_answer_that_is_no_stream_is_not_asked_for_again_after_comments(tmp_path: Path) -> None:
    async def die(call: Call) -> bool:
        await call.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
        await call.send(chunk(b'{"half": '))
        return False

    async with open_proxy_env(tmp_path, proxy=TALKATIVE) as proxy_env:
        http_client = await waiting(proxy_env)
        proxy_env.beta.answer = die
        (await proxy_env.lease()).grant(proxy_env.beta.url)
        assert b'"code":"worker_died"' in await http_client.rest()
        assert len(proxy_env.beta.calls) == 1


@pytest.mark.parametrize(
    "request_",
    [
        post(chat("beta")),
        post(chat("beta", stream=True), version=b"1.0"),
        post(chat("beta", stream=True), path=b"/api/chat"),
    ],
    ids=["not streamed", "HTTP/1.0", "Ollama"],
)
async def test_who_does_not_read_events_gets_no_comments(tmp_path: Path, request_: bytes) -> None:
    async with open_proxy_env(tmp_path, proxy=TALKATIVE) as proxy_env:
        talkative, silent = await proxy_env.connect(), await proxy_env.connect()
        await silent.send(request_)
        await talkative.send(post(chat("beta", stream=True)))
        await talkative.until(b": muxd: ")
        await talkative.until(b": muxd: ")
        (await proxy_env.lease()).grant(proxy_env.beta.url)
        answer = await silent.rest() if b"HTTP/1.0" in request_ else (await silent.reply()).raw
        assert answer.endswith(OK_BODY)
        assert b"muxd:" not in answer


async def silent_at_first(call: Call) -> None:
    """As SGLang, whose head comes with the first token."""
    await call.released.wait()
    await call.send(SSE_HEAD + event("1") + END)


async def test_who_streams_is_told_that_its_worker_has_given_nothing_yet(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, proxy=TALKATIVE) as proxy_env:
        proxy_env.alpha.answer = silent_at_first
        http_client = await proxy_env.connect()
        await http_client.send(post(chat(stream=True), b"Accept-Encoding: gzip\r\n"))
        await http_client.until(b": muxd: model alpha: its worker has the request and gave nothing yet")
        call = await proxy_env.alpha.calls.nth(0)
        assert b"ncoding" not in call.head
        call.released.set()
        answer = bytes(await http_client.until(END))
        assert answer.endswith(event("1") + END)
        assert answer.count(b"HTTP/1.1") == 1
        assert b"content-type: text/event-stream" in answer
        http_client.buffer.clear()
        proxy_env.alpha.answer = answer_ok
        assert (await http_client.ask(post(chat()))).raw == OK


async def test_a_worker_that_sends_its_head_at_once_has_comments_put_behind_it(tmp_path: Path) -> None:
    async def head_first(call: Call) -> None:
        await call.send(SSE_HEAD)
        await call.released.wait()
        await call.send(event("1"))
        await call.gone.wait()

    async with open_proxy_env(tmp_path, proxy=TALKATIVE) as proxy_env:
        proxy_env.alpha.answer = head_first
        http_client = await proxy_env.connect()
        await http_client.send(post(chat(stream=True)))
        await http_client.until(b"gave nothing yet")
        proxy_env.alpha.calls[0].released.set()
        answer = bytes(await http_client.until(event("1")))
        assert answer.startswith(SSE_HEAD)
        http_client.buffer.clear()
        with trio.move_on_after(0.3):
            await http_client.rest()
        assert not http_client.buffer  # none once it has begun


async def test_a_worker_that_refuses_after_its_own_silence_tells_why_in_an_event(tmp_path: Path) -> None:
    refusal = b'{"error":{"message":"too long","type":"BadRequestError","param":null,"code":400}}'

    async def refuse(call: Call) -> None:
        await call.released.wait()
        await call.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: %d\r\n\r\n" % len(refusal) + refusal)

    async with open_proxy_env(tmp_path, proxy=TALKATIVE) as proxy_env:
        proxy_env.alpha.answer = refuse
        http_client = await proxy_env.connect()
        await http_client.send(post(chat(stream=True)))
        await http_client.until(b"gave nothing yet")
        proxy_env.alpha.calls[0].released.set()
        told = b'event: error\ndata: {"type":"error",' + refusal[1:] + b"\n\n"
        assert (await http_client.until(END)).endswith(chunk(told) + END)


SILENT_KEY = Key("plain", sha256(b"secret").hexdigest(), comments=False)


@pytest.mark.parametrize("model", ["alpha", "beta"], ids=["at its worker", "while it waits"])
@pytest.mark.parametrize(
    ("keys", "headers"),
    [
        ((), b"X-Muxd-Comments: off\r\n"),
        ((), b"x-muxd-comments:  FALSE \r\n"),
        ((), b"x-muxd-comments: none\r\n"),
        ((SILENT_KEY,), b"Authorization: Bearer secret\r\n"),
    ],
    ids=["header", "header, spelled otherwise", "none", "key"],
)
async def test_who_cannot_bear_comments_gets_none_and_the_workers_own_head(
    tmp_path: Path, keys: tuple[Key, ...], headers: bytes, model: str
) -> None:
    talkative_key = Key("talk", sha256(b"other").hexdigest())
    async with open_proxy_env(tmp_path, proxy=TALKATIVE, keys=(*keys, talkative_key) if keys else ()) as proxy_env:
        proxy_env.alpha.answer = proxy_env.beta.answer = silent_at_first
        silent, talkative = await proxy_env.connect(), await proxy_env.connect()
        await silent.send(post(chat(model, stream=True), headers))
        await talkative.send(post(chat(model, stream=True), b"Authorization: Bearer other\r\n"))
        for _ in range(2):
            await talkative.until(b": muxd: ")
        assert not silent.buffer
        if model == "beta":
            (await proxy_env.lease()).grant(proxy_env.beta.url)
        worker = proxy_env.beta if model == "beta" else proxy_env.alpha
        for index in range(2):
            (await worker.calls.nth(index)).released.set()
        assert (await silent.reply()).raw == SSE_HEAD + event("1") + END


async def test_who_cannot_bear_comments_and_has_finished_sending_is_asked_nothing_within_its_stream(
    tmp_path: Path,
) -> None:
    async with open_proxy_env(tmp_path) as proxy_env:
        proxy_env.alpha.answer = stream
        http_client = await proxy_env.connect()
        await http_client.send(post(chat(stream=True), b"x-muxd-comments: off\r\n"))
        await http_client.until(event("1"))
        http_client.finish_sending()
        proxy_env.alpha.calls[0].released.set()
        assert await http_client.rest() == SSE_HEAD + event("1") + event("2") + END


async def test_comments_stop_when_the_client_leaves(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, proxy=TALKATIVE) as proxy_env:
        http_client = await waiting(proxy_env)
        http_client.close()
        await (await proxy_env.lease()).reports.until((0, 0))


async def test_no_more_are_at_a_worker_than_concurrency_limit_says(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, model={"concurrency_limit": 2}) as proxy_env:
        proxy_env.alpha.answer = answer_when_released
        http_clients = [await proxy_env.connect() for _ in range(4)]
        for http_client in http_clients:
            await http_client.send(post(chat()))
        await proxy_env.alpha.calls.nth(1)
        await (await proxy_env.lease()).reports.until((4, 0))  # to muxd all of it is the worker's work
        assert len(proxy_env.alpha.calls) == 2
        proxy_env.alpha.calls[0].released.set()
        await proxy_env.alpha.calls.nth(2)
        for index in (1, 2):
            proxy_env.alpha.calls[index].released.set()
        (await proxy_env.alpha.calls.nth(3)).released.set()
        assert [(await http_client.reply()).raw for http_client in http_clients] == [OK] * 4


async def test_more_than_queue_limit_are_refused(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, model={"queue_limit": 1}) as proxy_env:
        first = await proxy_env.connect()
        await first.send(post(chat("beta")))
        lease = await proxy_env.lease()
        lease.queue(1, 7.5)
        with trio.fail_after(PATIENCE):
            while proxy_env.proxy.leases.of("beta").eta() is None:
                await trio.sleep(0.01)
        reply = await proxy_env.ask(post(chat("beta")))
        assert (reply.status, reply.code, reply.header(b"retry-after")) == (429, "queue_full", b"8")
        assert "1 request waits for it already (queue_limit): number 1 in the queue, about" in reply.message
        lease.grant(proxy_env.beta.url)
        assert (await first.reply()).raw == OK


async def test_who_waits_for_a_place_is_told_so_at_the_end(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, model={"concurrency_limit": 1, "switch_timeout": 0.3}) as proxy_env:
        proxy_env.alpha.answer = answer_when_released
        first = await proxy_env.connect()
        await first.send(post(chat()))
        await proxy_env.alpha.calls.nth(0)
        reply = await proxy_env.ask(post(chat()))
        assert (reply.status, reply.code) == (503, "switch_timeout")
        assert "no free place" in reply.message
        proxy_env.alpha.calls[0].released.set()
        assert (await first.reply()).raw == OK


async def test_a_limit_that_muxd_lifts_lets_them_in(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, model={"concurrency_limit": 1}) as proxy_env:
        proxy_env.alpha.answer = answer_when_released
        http_clients = [await proxy_env.connect() for _ in range(3)]
        for http_client in http_clients:
            await http_client.send(post(chat()))
        lease = await proxy_env.lease()
        await lease.reports.until((3, 0))
        lease.say(LeasePlaces(lease.number, None, 2))
        await proxy_env.alpha.calls.nth(2)
        for call in proxy_env.alpha.calls:
            call.released.set()
        assert [(await http_client.reply()).raw for http_client in http_clients] == [OK] * 3


async def test_no_comment_is_said_by_default_before_five_seconds(proxy_env: ProxyEnv) -> None:
    http_client = await proxy_env.connect()
    await http_client.send(post(chat("beta", stream=True)))
    lease = await proxy_env.lease()
    with trio.move_on_after(0.3):
        await http_client.rest()
    assert not http_client.buffer
    lease.grant(proxy_env.beta.url)
    assert (await http_client.reply()).raw == OK
    assert CHAT in proxy_env.beta.calls[0].head


async def test_what_was_said_of_an_earlier_wait_is_not_said_of_the_next(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, proxy=TALKATIVE) as proxy_env:
        proxy_env.beta.answer = answer_when_released
        first = await waiting(proxy_env)
        lease = await proxy_env.lease()
        lease.grant(proxy_env.beta.url)
        call = await proxy_env.beta.calls.nth(0)
        lease.revoke()
        with trio.fail_after(PATIENCE):
            while proxy_env.proxy.leases.of("beta").grant is not None:
                await trio.sleep(0.001)
        second = await proxy_env.connect()
        await second.send(post(chat("beta", stream=True)))
        assert b": muxd: model beta: queued\n\n" in await second.until(b": muxd: ")
        call.released.set()
        await first.until(END)
