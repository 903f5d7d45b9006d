"""Streams of JSON lines, Ollama's: held, replayed and broken off like events, in words that its clients read."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from .browser import Browser, chat, post
from .fake_muxd import FakeLease
from .house import QUIET, House, open_house
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


async def broken_off(house: House, sent: bytes) -> bytes:
    """What a client gets of a stream that ends so, behind its head."""
    house.alpha.answer = dies = DiesBehind(HEAD + sent)
    browser = await house.connect()
    await browser.send(ASKED)
    await browser.until(sent)
    dies.heard.set()
    return (await browser.rest()).removeprefix(HEAD)


async def test_one_that_breaks_ends_with_a_line_that_says_so_and_no_last_chunk(house: House) -> None:
    last = (await broken_off(house, line(b"1"))).removeprefix(line(b"1"))
    size, _, data = last.partition(b"\r\n")
    assert int(size, 16) == len(data) - 2
    assert data.startswith(b'{"error":"model alpha: its worker broke off')
    assert data.endswith(b'"}\n\r\n')


async def test_one_that_breaks_within_a_line_is_just_cut(house: House) -> None:
    part = chunk(b'{"response":')
    assert await broken_off(house, part) == part


async def held(house: House, head: bytes = HEAD, asked: bytes = ASKED) -> tuple[Browser, FakeLease]:
    """A client that has the head of its dead worker, and the lease that is to give it the next one."""
    house.alpha.answer = dies = DiesBehind(head)
    browser = await house.connect()
    await browser.send(asked)
    await browser.until(head)
    dies.heard.set()
    await house.alpha.ended.nth(0)
    return browser, await revoked(house)


async def replayed(house: House, answer: bytes) -> bytes:
    """What a client gets behind the head of its dead worker, when the next one answers so."""

    async def next_one(call: Call) -> None:
        await call.send(answer)

    browser, lease = await held(house)
    house.beta.answer = next_one
    lease.grant(house.beta.url, generation=2)
    reply = await browser.reply()
    assert reply.head + b"\r\n\r\n" == HEAD
    return reply.body


async def test_one_that_had_a_head_and_no_line_goes_on_with_those_of_the_next_worker(house: House) -> None:
    body = await replayed(house, HEAD + line(b"1") + line(b"2") + END)
    assert re.findall(rb"\{.*\}\n", body) == [b'{"response":"1","done":false}\n', b'{"response":"2","done":false}\n']
    assert body.endswith(END)


async def test_an_error_of_the_next_worker_becomes_a_line(house: House) -> None:
    body = b'{"error":{"message":"too long","type":"invalid_request_error","code":400}}'
    error = b"HTTP/1.1 400 Bad Request\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    assert await replayed(house, error) == chunk(b'{"error":"too long"}\n') + END


async def test_a_stop_meanwhile_becomes_a_line(house: House) -> None:
    browser, lease = await held(house)
    lease.fail("model_stopped", "model alpha was stopped")
    last = (await browser.rest()).removeprefix(HEAD)
    assert b'{"error":"' in last
    assert b"event:" not in last


async def test_a_client_that_shuts_its_side_gets_no_comment_between_lines(house: House) -> None:
    async def slowly(call: Call) -> None:
        await call.send(HEAD + line(b"1"))
        await trio.sleep(0.2)
        await call.send(line(b"2") + END)

    house.alpha.answer = slowly
    browser = await house.connect()
    await browser.send(ASKED)
    await browser.until(line(b"1"))
    browser.finish_sending()
    assert (await browser.rest()).endswith(line(b"1") + line(b"2") + END)


async def test_one_that_is_held_gets_no_comment_which_is_no_line(tmp_path: Path) -> None:
    """A route that streams events, and a worker that answers with lines."""
    async with open_house(tmp_path, proxy=replace(QUIET, comment_interval=0.1)) as house:
        browser, lease = await held(house, asked=post(chat(stream=True)))
        with trio.move_on_after(0.3):
            await browser.rest()
        assert bytes(browser.buffer) == HEAD
        house.beta.answer = DiesBehind(HEAD + line(b"1") + END)
        lease.grant(house.beta.url, generation=2)
        assert (await browser.until(END)).endswith(line(b"1") + END)


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
    house: House, body: bytes, told: str
) -> None:
    error = b"HTTP/1.1 400 Bad Request\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    said = (await replayed(house, error)).removesuffix(END).partition(b"\r\n")[2]
    assert json.loads(said) == {"error": told}


@pytest.mark.parametrize(("head", "asked"), [(HEAD, ASKED), (SSE_HEAD, post(chat(stream=True)))], ids=["lines", "SSE"])
async def test_a_client_that_leaves_while_it_is_held_behind_a_head_is_noticed(
    house: House, head: bytes, asked: bytes
) -> None:
    browser, lease = await held(house, head, asked)
    browser.close()
    with trio.fail_after(PATIENCE):
        while house.proxy.front.clients:
            await trio.sleep(0.01)
    lease.grant(house.beta.url, generation=2)
    assert (await house.ask(post(chat()))).raw == OK
    assert len(house.beta.calls) == 1


async def test_a_client_that_shuts_its_side_while_it_is_held_gets_lines_that_can_be_read(house: House) -> None:
    async def next_one(call: Call) -> None:
        await call.send(HEAD + line(b"1") + line(b"2") + END)

    house.beta.answer = next_one
    browser, lease = await held(house)
    browser.finish_sending()
    await browser.until(chunk(b" "))
    lease.grant(house.beta.url, generation=2)
    lines = re.sub(rb"(^|\r\n)[0-9a-f]+\r\n", b"", (await browser.rest()).removeprefix(HEAD)).splitlines()
    assert [json.loads(line)["response"] for line in lines if line.strip()] == ["1", "2"]


@pytest.mark.parametrize("encoding", [b"", b"content-encoding: gzip\r\n"])
async def test_an_old_client_of_one_that_breaks_is_reset(house: House, encoding: bytes) -> None:
    heard = trio.Event()

    async def answer(call: Call) -> bool:
        head, _, rest = HEAD.partition(b"\r\n")
        await call.send(head + b"\r\n" + encoding + rest + line(b"1") + chunk(b'{"response":"ha'))
        await heard.wait()
        return False

    house.alpha.answer = answer
    browser = await house.connect()
    await browser.send(post(chat(), path=b"/api/chat", version=b"1.0"))
    await browser.until(b'"ha')
    heard.set()
    with pytest.raises(trio.BrokenResourceError):
        await browser.rest()


async def test_a_client_that_leaves_before_the_first_line_ends_its_request(house: House) -> None:
    async def only_a_head(call: Call) -> bool:
        await call.send(HEAD)
        await call.gone.wait()
        return False

    house.alpha.answer = only_a_head
    browser = await house.connect()
    await browser.send(ASKED)
    await browser.until(HEAD)
    browser.close()
    await house.alpha.calls[0].aborted()
