"""Whole responses whose head is known pass without being parsed, and nothing that would be read otherwise."""

import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httptools
import pytest
import trio.testing

from muxd.proxy.sockets import pool, upstream
from muxd.proxy.sockets.known_answers import known_answer, known_stream
from muxd.proxy.sockets.single_events import is_last

from .http_client import chat, post
from .proxy_env import QUIET, ProxyEnv, open_proxy_env
from .record import Record
from .test_lost_workers import metric
from .worker import SSE_HEAD, Call, chunk, event

HEAD = (
    b"HTTP/1.1 %d OK\r\ndate: Mon, 30 Nov 2026 01:16:47 GMT\r\ncontent-length: %d\r\nserver: uvicorn\r\n"
    b"x-request-id: chatcmpl-1\r\ncontent-type: application/json\r\n\r\n"
)


def answer(body: bytes = b'{"id": "c"}', status: int = 200) -> bytes:
    return HEAD % (status, len(body)) + body


def with_usage(prompt: int, completion: int) -> bytes:
    return answer(b'{"usage":{"prompt_tokens":%d,"completion_tokens":%d}}' % (prompt, completion))


HALF = answer(b"x" * 100)[:-50]


class Llhttp:
    """What llhttp makes of bytes that come behind a request."""

    def __init__(self, data: bytes) -> None:
        self.begun = self.bodies = 0
        self.whole = self.keeps_alive = False
        self.headers: list[tuple[bytes, bytes]] = []
        parser = httptools.HttpResponseParser(self)
        self._parser = parser
        parser.feed_data(data)
        self.status = parser.get_status_code()

    def on_message_begin(self) -> None:
        self.begun += 1

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_body(self, data: bytes) -> None:
        self.bodies += len(data)

    def on_message_complete(self) -> None:
        self.whole = True
        self.keeps_alive = self._parser.should_keep_alive()


SPLICED = (b"\r\n", b"\n", b"\r", b"\r\n ", b"a", b"0", b"1", b",", b"\0", b"\xff", b" ", b":", b"HTTP/1.1 200 OK\r\n")


def changed(data: bytes, dice: random.Random) -> bytes:
    """Return the bytes with a few of them removed, replaced, added, or sent twice."""
    for _ in range(dice.randrange(1, 3)):
        at = dice.randrange(len(data) or 1)
        size = dice.choice((0, 1, 1, 2, 5))
        data = data[:at] + dice.choice((b"", *SPLICED)) + data[at + size :]
    return data + data if dice.random() < 0.02 else data


@pytest.mark.parametrize("seed", range(4))
def test_what_passes_unparsed_is_one_whole_answer_to_llhttp_too(seed: int) -> None:
    dice = random.Random(seed)
    known = known_answer(answer(b"x" * 30))
    assert known is not None
    taken = refused = 0
    for _ in range(5000):
        data = changed(answer(b"x" * dice.choice((0, 9, 10, 30, 100))), dice)
        fresh = known_answer(answer(b"x" * 30))
        assert fresh is not None
        assert known.begins(data) is known.begins(data) is fresh.begins(data)  # whatever was the last one
        if not fresh.begins(data):
            refused += 1
            continue
        taken += 1
        seen = Llhttp(data)
        assert (seen.begun, seen.whole, seen.keeps_alive, seen.status) == (1, True, True, 200)
        assert [name for name, _ in seen.headers] == [name for name, _ in Llhttp(answer()).headers]
        assert data[len(data) - seen.bodies - 4 : len(data) - seen.bodies] == b"\r\n\r\n"
        assert data[: known.line_size].endswith(b"\r\n")
    assert taken > 100
    assert refused > 1000


STREAM = (
    b"HTTP/1.1 200 OK\r\ndate: Mon, 30 Nov 2026 01:16:47 GMT\r\nserver: uvicorn\r\nx-request-id: chatcmpl-1\r\n"
    b"content-type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
)
EVENTS = [b"", *(chunk(b"data: ".ljust(size, b"x") + b"\n\n") for size in (0, 7, 8, 13, 14, 300, 4094))]


@pytest.mark.parametrize("seed", range(4))
def test_what_begins_a_stream_unparsed_is_a_head_and_an_event_to_llhttp_too(seed: int) -> None:
    dice = random.Random(seed)
    known = known_stream(STREAM)
    assert known is not None
    taken = refused = 0
    for _ in range(5000):
        data = STREAM + dice.choice(EVENTS)
        if dice.random() < 0.9:
            data = changed(data, dice)
        size = known.head_size(data)
        if not size:
            refused += 1
            continue
        taken += 1
        seen, head = Llhttp(data), Llhttp(STREAM)
        assert (seen.begun, seen.whole, seen.status) == (1, False, 200)
        assert [name for name, _ in seen.headers] == [name for name, _ in head.headers]
        assert data[:size].endswith(b"\r\n\r\n")
        assert Llhttp(data[:size]).headers == seen.headers
        assert seen.bodies == (len(data[size:].partition(b"\r\n")[2]) - 2 if len(data) > size else 0)
        assert data[: known.line_size].endswith(b"\r\n")
        ended = Llhttp(data + b"0\r\n\r\n")
        assert (ended.begun, ended.whole, ended.keeps_alive) == (1, True, True)
    assert taken > 500
    assert refused > 1000


@pytest.mark.parametrize("seed", range(4))
def test_what_ends_a_stream_unparsed_is_its_end_to_llhttp_too(seed: int) -> None:
    dice = random.Random(seed)
    taken = refused = 0
    for _ in range(5000):
        data = dice.choice(EVENTS) + b"0\r\n\r\n"
        if dice.random() < 0.9:
            data = changed(data, dice)
        if not is_last(data):
            refused += 1
            continue
        taken += 1
        seen = Llhttp(STREAM + data)
        assert (seen.begun, seen.whole, seen.keeps_alive) == (1, True, True)
    assert taken > 400
    assert refused > 1000


NO_STREAMS = {
    "a whole answer": answer(),
    "lines": STREAM.replace(b"text/event-stream", b"application/x-ndjson"),
    "an error": STREAM.replace(b"200", b"400"),
    "no chunks": STREAM.replace(b"Transfer-Encoding: chunked", b"x-a: b"),
    "a coding": STREAM.replace(b"chunked", b"gzip, chunked"),
    "chunks twice": STREAM.replace(b"server: uvicorn", b"transfer-encoding: chunked"),
    "a length": STREAM.replace(b"server: uvicorn", b"content-length: 5"),
    "compressed": STREAM.replace(b"server: uvicorn", b"content-encoding: gzip"),
    "an upgrade": STREAM.replace(b"server: uvicorn", b"upgrade: h2c"),
    "trailers": STREAM.replace(b"server: uvicorn", b"trailer: x"),
    "a folded line": STREAM.replace(b"GMT\r\n", b"GMT\r\n ,\r\n"),
    "an id with a quote": STREAM.replace(b"chatcmpl-1", b'"1"'),
    "a long head": STREAM.replace(b"uvicorn", b"u" * 3000),
    "half a head": STREAM[:-2],
    "no head": b"",
    "HTTP/1.0": STREAM.replace(b"HTTP/1.1", b"HTTP/1.0"),
}


@pytest.mark.parametrize("head", NO_STREAMS.values(), ids=NO_STREAMS.keys())
def test_an_unusual_head_of_a_stream_is_not_kept(head: bytes) -> None:
    assert known_stream(head) is None


@pytest.mark.parametrize("date", [b"Tue, 01 Dec 2026 23:59:59 GMT", b"x"])
def test_length_date_and_id_make_no_head_another(date: bytes) -> None:
    known = known_answer(answer())
    assert known is not None
    for body in (b"", b"{}", b"x" * 12345):
        again = answer(body).replace(b"Mon, 30 Nov 2026 01:16:47 GMT", date).replace(b"chatcmpl-1", b"b2ea7cf5-77_x")
        assert known.begins(again)
        assert not known.begins(again + b"x")
        assert not known.begins(again[:-1])


UNUSUAL = {
    "a stream": SSE_HEAD,
    "a stream with a length": answer().replace(b"application/json", b"text/event-stream"),
    "lines with a length": answer().replace(b"application/json", b"application/x-ndjson"),
    "an error of the server": answer(status=500),
    "no body by its status": HEAD % (304, 5),
    "no content": HEAD % (204, 0),
    "two lengths": answer().replace(b"server: uvicorn", b"content-length: 11"),
    "chunks": answer().replace(b"server: uvicorn", b"transfer-encoding: chunked"),
    "a folded line": answer().replace(b"GMT\r\n", b"GMT\r\n ,\r\n"),
    "no space": answer().replace(b"content-length: ", b"content-length:"),
    "an id with a quote": answer().replace(b"chatcmpl-1", b'"1"'),
    "a long head": answer().replace(b"uvicorn", b"u" * 3000),
    "no head": b"",
    "HTTP/1.0": answer().replace(b"HTTP/1.1", b"HTTP/1.0"),
}


@pytest.mark.parametrize("data", UNUSUAL.values(), ids=UNUSUAL.keys())
def test_an_unusual_head_is_not_kept(data: bytes) -> None:
    assert known_answer(data) is None


# Through the proxy


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Record[bytes]:
    """The pieces of responses that were parsed."""
    pieces: Record[bytes] = Record()
    receive = upstream.Upstream._receive

    def noted(self: upstream.Upstream, data: bytes) -> None:
        pieces.append(data)
        receive(self, data)

    monkeypatch.setattr(upstream.Upstream, "_receive", noted)
    return pieces


def answers_of(proxy_env: ProxyEnv, *answers: bytes) -> None:
    """Have the worker give these answers, the last one again and again; it closes the connection after half of one."""
    left: Iterator[bytes] = iter(answers)

    async def answer_next(call: Call) -> bool:
        data = next(left, answers[-1])
        await call.send(data)
        return data != HALF

    proxy_env.alpha.answer = answer_next


async def test_only_the_first_of_equal_answers_is_parsed(proxy_env: ProxyEnv, parsed: Record[bytes]) -> None:
    answers = [with_usage(3, 4), with_usage(50, 60), answer(b"not JSON"), answer(b"", 200)]
    answers_of(proxy_env, *answers)
    client = await proxy_env.connect()
    assert [(await client.ask(post(chat()))).raw for _ in answers] == answers
    assert parsed == answers[:1]
    assert proxy_env.alpha.connections == 1
    assert await metric(proxy_env, "muxd_tokens_total") == "53.0 0.0 64.0"
    assert await metric(proxy_env, "muxd_requests_total") == "4.0"
    assert await metric(proxy_env, "muxd_in_flight") == "0.0"


async def test_what_is_not_like_the_first_is_parsed(proxy_env: ProxyEnv, parsed: Record[bytes]) -> None:
    stream = SSE_HEAD + event("a") + b"0\r\n\r\n"
    unlike = [answer(b"no such", 404), stream, answer(b"x" * 100_000), answer().replace(b"uvicorn", b"other"), stream]
    answers_of(proxy_env, answer(), answer(), *unlike)
    client = await proxy_env.connect()
    for sent in [answer(), answer(), *unlike]:
        assert (await client.ask(post(chat(stream=sent == stream)))).raw == sent
    assert b"".join(parsed) == answer() + b"".join(unlike)


async def test_a_new_connection_knows_what_another_one_has_learned(proxy_env: ProxyEnv, parsed: Record[bytes]) -> None:
    answers_of(proxy_env, answer())
    clients = [await proxy_env.connect() for _ in range(3)]
    assert (await clients[0].ask(post(chat()))).raw == answer()
    for client in clients:  # all at once, so that the idle connection is not enough
        await client.send(post(chat()))
    for client in clients:
        assert (await client.reply()).raw == answer()
    assert parsed == [answer()]


async def test_of_equal_streams_only_the_first_and_what_is_no_event_is_parsed(
    proxy_env: ProxyEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: list[bytes] = []
    parse = upstream.Upstream._parse

    def noted(self: upstream.Upstream, data: bytes) -> bool:
        fed.append(data)
        return parse(self, data)

    monkeypatch.setattr(upstream.Upstream, "_parse", noted)
    one, odd, last = event("a"), event("b") + event("c"), b"0\r\n\r\n"
    streams = [
        [SSE_HEAD, one, one, last],
        [SSE_HEAD, one, one, last],
        [SSE_HEAD + one, one, one + last],
        [SSE_HEAD, one, odd, one, last],
        [SSE_HEAD, last],
        [SSE_HEAD + one, last],
    ]
    left = iter(streams)

    async def answer_next(call: Call) -> None:
        for piece in next(left):
            await call.send(piece)
            await trio.testing.wait_all_tasks_blocked()

    proxy_env.alpha.answer = answer_next
    client = await proxy_env.connect()
    for stream in streams:
        assert (await client.ask(post(chat(stream=True)))).raw == b"".join(stream)
    assert fed == [SSE_HEAD, one, last, odd, last]
    assert proxy_env.alpha.connections == 1


async def test_heads_that_differ_each_time_are_not_learned_for_ever(
    proxy_env: ProxyEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[bytes] = []
    monkeypatch.setattr(pool, "known_answer", learned.append)
    answers_of(proxy_env, *(answer().replace(b"uvicorn", b"u%d" % number) for number in range(70)))
    client = await proxy_env.connect()
    for number in range(70):
        assert b"server: u%d" % number in (await client.ask(post(chat()))).head
    assert len(learned) == 64


async def test_half_of_a_known_answer_breaks_off(proxy_env: ProxyEnv) -> None:
    answers_of(proxy_env, answer(), answer(), HALF)
    client = await proxy_env.connect()
    for _ in range(2):
        assert (await client.ask(post(chat()))).raw == answer()
    await client.send(post(chat()))
    assert await client.rest() == HALF
    assert 'end="cut"' not in await metric(proxy_env, "muxd_requests_total")


async def test_ids_of_both_are_told_as_with_the_first(tmp_path: Path, parsed: Record[bytes]) -> None:
    async with open_proxy_env(tmp_path, proxy=replace(QUIET, request_id_headers=("x-own-id",))) as proxy_env:
        answers_of(proxy_env, answer())
        client = await proxy_env.connect()
        first, second = [await client.ask(post(chat())) for _ in range(2)]
        assert len(parsed) == 1
        ids = []
        for reply in (first, second):
            ids.append(reply.header(b"x-own-id") or b"")
            assert reply.raw == answer().replace(b"date", b"x-own-id: %b\r\ndate" % ids[-1])
        assert ids[0] != ids[1]


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_old_clients_get_it_as_ever(proxy_env: ProxyEnv, version: bytes) -> None:
    answers_of(proxy_env, answer())
    replies = []
    for _ in range(3):
        client = await proxy_env.connect()
        await client.send(post(chat(), b"Connection: close\r\n", version=version))
        replies.append(await client.rest())
    assert replies[0].endswith(answer().partition(b"\r\n\r\n")[2])
    assert replies == replies[:1] * 3
    assert proxy_env.alpha.connections == 1


async def test_the_next_of_pipelined_requests_takes_the_same_connection(proxy_env: ProxyEnv) -> None:
    answers_of(proxy_env, answer())
    client = await proxy_env.connect()
    await client.send(post(chat()) * 5)
    for _ in range(5):
        assert (await client.reply()).raw == answer()
    assert proxy_env.alpha.connections == 1


async def test_a_second_answer_behind_one_that_fills_a_read_is_nobodys(proxy_env: ProxyEnv) -> None:
    filling = answer(b"x" * (16 * 1024 - len(HEAD % (200, 10_000))))
    assert len(filling) == 16 * 1024
    answers_of(proxy_env, answer(), filling + answer(b"smuggled"), answer(b"its own"))
    client = await proxy_env.connect()
    assert (await client.ask(post(chat()))).raw == answer()
    assert (await client.ask(post(chat()))).raw == filling
    assert (await client.ask(post(chat()))).raw == answer(b"its own")
    assert proxy_env.alpha.connections == 2


async def test_an_answer_from_before_its_request_is_nobodys(proxy_env: ProxyEnv) -> None:
    answers_of(proxy_env, answer(), answer(b"its own"))
    client = await proxy_env.connect()
    assert (await client.ask(post(chat()))).raw == answer()
    worker = (await proxy_env.alpha.calls.nth(0)).stream
    for stream, data in ((client.stream, post(chat())), (worker, answer(b"smuggled"))):  # in one turn of the reactor
        os.write(stream.socket.fileno(), data)
    assert (await client.reply()).raw == answer(b"its own")
    assert len(proxy_env.alpha.calls) == 2
    assert proxy_env.alpha.connections == 2


async def test_interim_answers_count_for_their_request_alone(
    proxy_env: ProxyEnv, parsed: Record[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "MAX_HEAD", 1000)
    hints = b"HTTP/1.1 103 Early Hints\r\nlink: %b\r\n\r\n" % (b"x" * 300)

    async def answer_after_hints(call: Call) -> None:
        seen = len(parsed)
        await call.send(hints)
        await parsed.nth(seen)
        await call.send(answer())

    proxy_env.alpha.answer = answer_after_hints
    client = await proxy_env.connect()
    for _ in range(6):
        assert (await client.ask(post(chat()))).raw == answer()


async def test_a_whole_answer_of_the_next_worker_goes_on_the_stream_that_has_begun(
    proxy_env: ProxyEnv, parsed: Record[bytes]
) -> None:
    said = iter((answer(b"{}"), SSE_HEAD, answer(b'{"error": "no"}')))

    async def answer_next(call: Call) -> bool:
        data = next(said)
        await call.send(data)
        return data != SSE_HEAD

    proxy_env.alpha.answer = answer_next
    client = await proxy_env.connect()
    assert (await client.ask(post(chat()))).raw == answer(b"{}")
    reply = await client.ask(post(chat(stream=True)))
    assert reply.head + b"\r\n\r\n" == SSE_HEAD
    assert b"HTTP/1.1" not in reply.body
    assert b'data: {"error": "no"}' in reply.body
