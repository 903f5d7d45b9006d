"""Streams of JSON lines, Ollama's: held, replayed and broken off like events, in words that its clients read."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from .fake_muxd import FakeLease
from .http_client import HttpClient, chat, post
from .proxy_env import QUIET, ProxyEnv, open_proxy_env
from .record import PATIENCE
from .test_replay import END, revoked
from .worker import OK, SSE_HEAD, Call, chunk

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
ASKED = post(chat(), path=b"/api/chat")


def line(text: bytes) -> bytes:
    return chunk(b'{"response":"%b","done":false}\n' % text)


class DiesBehind:
    """A worker that sends this, and dies when `heard` is set."""

    def __init__(self, sent: bytes) -> None:
        self._sent = sent
        self.heard = trio.Event()

    async def __call__(self, call: Call) -> bool:
        await call.send(self._sent)
        await self.heard.wait()
        return False


async def broken_off(proxy_env: ProxyEnv, sent: bytes) -> bytes:
    """What a client gets of a stream that ends so, behind its head."""
    proxy_env.alpha.answer = dies = DiesBehind(HEAD + sent)
    http_client = await proxy_env.connect()
    await http_client.send(ASKED)
    await http_client.until(sent)
    dies.heard.set()
    return (await http_client.rest()).removeprefix(HEAD)


async def test_one_that_breaks_ends_with_a_line_that_says_so_and_no_last_chunk(proxy_env: ProxyEnv) -> None:
    last = (await broken_off(proxy_env, line(b"1"))).removeprefix(line(b"1"))
    size, _, data = last.partition(b"\r\n")
    assert int(size, 16) == len(data) - 2
    assert data.startswith(b'{"error":"model alpha: its worker broke off')
    assert data.endswith(b'"}\n\r\n')


async def test_one_that_breaks_within_a_line_is_just_cut(proxy_env: ProxyEnv) -> None:
    part = chunk(b'{"response":')
    assert await broken_off(proxy_env, part) == part


async def held(proxy_env: ProxyEnv, head: bytes = HEAD, asked: bytes = ASKED) -> tuple[HttpClient, FakeLease]:
    """A client that has the head of its dead worker, and the lease that is to give it the next one."""
    proxy_env.alpha.answer = dies = DiesBehind(head)
    http_client = await proxy_env.connect()
    await http_client.send(asked)
    await http_client.until(head)
    dies.heard.set()
    await proxy_env.alpha.ended.nth(0)
    return http_client, await revoked(proxy_env)


async def replayed(proxy_env: ProxyEnv, answer: bytes) -> bytes:
    """What a client gets behind the head of its dead worker, when the next one answers so."""

    async def next_one(call: Call) -> None:
        await call.send(answer)

    http_client, lease = await held(proxy_env)
    proxy_env.beta.answer = next_one
    lease.grant(proxy_env.beta.url, generation=2)
    reply = await http_client.reply()
    assert reply.head + b"\r\n\r\n" == HEAD
    return reply.body


async def test_one_that_had_a_head_and_no_line_goes_on_with_those_of_the_next_worker(proxy_env: ProxyEnv) -> None:
    body = await replayed(proxy_env, HEAD + line(b"1") + line(b"2") + END)
    assert re.findall(rb"\{.*\}\n", body) == [b'{"response":"1","done":false}\n', b'{"response":"2","done":false}\n']
    assert body.endswith(END)


async def test_an_error_of_the_next_worker_becomes_a_line(proxy_env: ProxyEnv) -> None:
    body = b'{"error":{"message":"too long","type":"invalid_request_error","code":400}}'
    error = b"HTTP/1.1 400 Bad Request\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    assert await replayed(proxy_env, error) == chunk(b'{"error":"too long"}\n') + END


async def test_a_stop_meanwhile_becomes_a_line(proxy_env: ProxyEnv) -> None:
    http_client, lease = await held(proxy_env)
    lease.fail("model_stopped", "model alpha was stopped")
    last = (await http_client.rest()).removeprefix(HEAD)
    assert b'{"error":"' in last
    assert b"event:" not in last


async def test_a_client_that_shuts_its_side_gets_no_comment_between_lines(proxy_env: ProxyEnv) -> None:
    async def slowly(call: Call) -> None:
        await call.send(HEAD + line(b"1"))
        await trio.sleep(0.2)
        await call.send(line(b"2") + END)

    proxy_env.alpha.answer = slowly
    http_client = await proxy_env.connect()
    await http_client.send(ASKED)
    await http_client.until(line(b"1"))
    http_client.finish_sending()
    assert (await http_client.rest()).endswith(line(b"1") + line(b"2") + END)


async def test_one_that_is_held_gets_no_comment_which_is_no_line(tmp_path: Path) -> None:
    """A route that streams events, and a worker that answers with lines."""
    async with open_proxy_env(tmp_path, proxy=replace(QUIET, comment_interval=0.1)) as proxy_env:
        http_client, lease = await held(proxy_env, asked=post(chat(stream=True)))
        with trio.move_on_after(0.3):
            await http_client.rest()
        assert bytes(http_client.buffer) == HEAD
        proxy_env.beta.answer = DiesBehind(HEAD + line(b"1") + END)
        lease.grant(proxy_env.beta.url, generation=2)
        assert (await http_client.until(END)).endswith(line(b"1") + END)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"error":{"code":400}}', "the model answered with status 400"),
        (b'{"error":{}}', "the model answered with status 400"),
        (b'{"error":"model not found"}', "model not found"),
        (b'{"error":{"message":{"a":1}}}', "{'a': 1}"),
        (b"no JSON", "no JSON"),
    ],
)
async def test_whatever_error_the_next_worker_has_becomes_a_line_with_a_text(
    proxy_env: ProxyEnv, body: bytes, told: str
) -> None:
    error = b"HTTP/1.1 400 Bad Request\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    said = (await replayed(proxy_env, error)).removesuffix(END).partition(b"\r\n")[2]
    assert json.loads(said) == {"error": told}


@pytest.mark.parametrize(("head", "asked"), [(HEAD, ASKED), (SSE_HEAD, post(chat(stream=True)))], ids=["lines", "SSE"])
async def test_a_client_that_leaves_while_it_is_held_behind_a_head_is_noticed(
    proxy_env: ProxyEnv, head: bytes, asked: bytes
) -> None:
    http_client, lease = await held(proxy_env, head, asked)
    http_client.close()
    with trio.fail_after(PATIENCE):
        while proxy_env.proxy.front.clients:
            await trio.sleep(0.01)
    lease.grant(proxy_env.beta.url, generation=2)
    assert (await proxy_env.ask(post(chat()))).raw == OK
    assert len(proxy_env.beta.calls) == 1


async def test_a_client_that_shuts_its_side_while_it_is_held_gets_lines_that_can_be_read(proxy_env: ProxyEnv) -> None:
    async def next_one(call: Call) -> None:
        await call.send(HEAD + line(b"1") + line(b"2") + END)

    proxy_env.beta.answer = next_one
    http_client, lease = await held(proxy_env)
    http_client.finish_sending()
    await http_client.until(chunk(b" "))
    lease.grant(proxy_env.beta.url, generation=2)
    lines = re.sub(rb"(^|\r\n)[0-9a-f]+\r\n", b"", (await http_client.rest()).removeprefix(HEAD)).splitlines()
    assert [json.loads(line)["response"] for line in lines if line.strip()] == ["1", "2"]


@pytest.mark.parametrize("encoding", [b"", b"content-encoding: gzip\r\n"])
async def test_an_old_client_of_one_that_breaks_is_reset(proxy_env: ProxyEnv, encoding: bytes) -> None:
    heard = trio.Event()

    async def answer(call: Call) -> bool:
        head, _, rest = HEAD.partition(b"\r\n")
        await call.send(head + b"\r\n" + encoding + rest + line(b"1") + chunk(b'{"response":"ha'))
        await heard.wait()
        return False

    proxy_env.alpha.answer = answer
    http_client = await proxy_env.connect()
    await http_client.send(post(chat(), path=b"/api/chat", version=b"1.0"))
    await http_client.until(b'"ha')
    heard.set()
    with pytest.raises(trio.BrokenResourceError):
        await http_client.rest()


async def test_a_client_that_leaves_before_the_first_line_ends_its_request(proxy_env: ProxyEnv) -> None:
    async def only_a_head(call: Call) -> bool:
        await call.send(HEAD)
        await call.gone.wait()
        return False

    proxy_env.alpha.answer = only_a_head
    http_client = await proxy_env.connect()
    await http_client.send(ASKED)
    await http_client.until(HEAD)
    http_client.close()
    await proxy_env.alpha.calls[0].aborted()
