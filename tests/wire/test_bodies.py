"""Request bodies in every framing: what arrives at the worker is what was sent, whole or not at all."""

import random

import pytest
import trio

from tests.proxy.http_client import CHAT, get, post
from tests.proxy.worker import OK, chunk

from .recorder import Recorder
from .wire_env import WireUpstream

HEAD = b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" % CHAT
MiB = 1 << 20


def in_chunks(body: bytes, size: int) -> bytes:
    return b"".join(chunk(body[at : at + size]) for at in range(0, len(body), size)) + b"0\r\n\r\n"


@pytest.mark.parametrize("size", [1, 7, 4096, 65_536, 131_072, 10_000_000])
async def test_a_chunked_body_arrives_whole_and_with_its_length(
    house: WireUpstream, recorder: Recorder, size: int
) -> None:
    body = house.chat(pad="0123456789" * (500 if size < 100 else 100_000))
    browser = await house.connect()
    for _ in range(2):
        assert (await browser.ask(HEAD + in_chunks(body, size))).raw == OK
    assert [request.body for request in recorder.requests] == [body, body]


async def test_a_chunked_body_of_50_mb_arrives_whole(house: WireUpstream, recorder: Recorder) -> None:
    body = house.chat(pad="0123456789" * 5_000_000)
    assert (await house.ask(HEAD + in_chunks(body, 99_991))).raw == OK
    assert recorder.requests[0].body == body


async def test_chunks_of_random_sizes_in_writes_of_random_sizes_arrive_whole(
    house: WireUpstream, recorder: Recorder
) -> None:
    rng = random.Random(4)
    bodies = [house.chat(pad="x" * rng.randrange(20_000)) for _ in range(20)]
    data = b""
    for body in bodies:
        data += HEAD
        while body:
            size = rng.choice((1, 2, 3, 10, 1000, 5000))
            data, body = data + chunk(body[:size]), body[size:]
        data += b"0\r\n\r\n"
    browser = await house.connect()
    while data:
        size = rng.choice((1, 5, 100, 10_000))
        await browser.send(data[:size])
        data = data[size:]
    for _ in bodies:
        assert (await browser.reply()).raw == OK
    assert [request.body for request in recorder.requests] == bodies


@pytest.mark.parametrize("size_line", [b"%X", b"%x;name=value", b'%x;a="b c";d', b"0000%x"])
async def test_every_spelling_of_a_chunk_size_is_understood(
    house: WireUpstream, recorder: Recorder, size_line: bytes
) -> None:
    body = house.chat(pad="x" * 200)
    data = HEAD + size_line % len(body) + b"\r\n" + body + b"\r\n0\r\n\r\n"
    assert (await house.ask(data)).raw == OK
    assert recorder.requests[0].body == body
    assert b"name" not in recorder.bytes


async def test_large_bodies_of_many_clients_do_not_mix(house: WireUpstream, recorder: Recorder) -> None:
    bodies = [house.chat(number=number, pad=chr(97 + number) * 3_000_000) for number in range(8)]
    browsers = [await house.connect() for _ in bodies]
    for begin in range(0, len(bodies[0]) + 200, 200_000):  # in turns
        for browser, body in zip(browsers, bodies, strict=True):
            await browser.send(post(body)[begin : begin + 200_000])
    for browser in browsers:
        assert (await browser.reply()).raw == OK
    assert sorted(request.body for request in recorder.requests) == sorted(bodies)


async def test_the_memory_of_large_bodies_is_given_back(house: WireUpstream, recorder: Recorder) -> None:
    body = house.chat(pad="0123456789" * 4_000_000)
    assert (await house.ask(post(body))).raw == OK
    before = await house.memory()
    for _ in range(2):
        assert (await house.ask(post(body))).raw == OK
    assert await house.memory() < before + 20 * MiB  # of 80


async def test_the_memory_of_several_at_once_too(house: WireUpstream, recorder: Recorder) -> None:
    """What is left of one lies between what is held of another."""
    before = await house.memory()
    body = post(house.chat(pad="0123456789" * 3_000_000))
    browsers = [await house.connect() for _ in range(6)]
    async with trio.open_nursery() as nursery:
        for browser in browsers:
            nursery.start_soon(browser.ask, body)
    assert await house.memory() < before + 20 * MiB  # of 180


@pytest.mark.parametrize("data", [HEAD + b"4000001\r\n", post(b"")[:-5] + b"67108865\r\n\r\n"], ids=["chunk", "length"])
async def test_a_body_over_64_mib_is_refused_before_it_is_sent(
    house: WireUpstream, recorder: Recorder, data: bytes
) -> None:
    browser = await house.connect()
    await browser.send(data)
    if data.startswith(HEAD):  # a chunk's size is no promise: it is counted as it comes
        await browser.send(b"x" * (64 * MiB + 1))
    reply = await browser.reply()
    assert (reply.status, reply.code, reply.header(b"connection")) == (413, "body_too_large", b"close")
    await browser.closed()
    assert not recorder.bytes


@pytest.mark.parametrize(
    "data",
    [post(b""), HEAD + b"0\r\n\r\n", b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n\r\n" % CHAT],
)
async def test_a_post_without_a_body_is_refused_and_the_connection_kept(house: WireUpstream, data: bytes) -> None:
    browser = await house.connect()
    for _ in range(2):
        reply = await browser.ask(data)
        assert (reply.status, reply.code) == (400, "invalid_json")


async def test_a_get_with_a_body_is_answered_and_the_body_is_not_the_next_request(house: WireUpstream) -> None:
    inner = get(b"/nowhere")
    browser = await house.connect()
    await browser.send(get(b"/health")[:-2] + b"Content-Length: %d\r\n\r\n" % len(inner) + inner + get(b"/v1/models"))
    assert (await browser.reply()).json["status"] == "ok"
    assert (await browser.reply()).json["object"] == "list"


async def test_what_follows_a_body_is_the_next_request_to_the_byte(house: WireUpstream, recorder: Recorder) -> None:
    body = house.chat()
    browser = await house.connect()
    await browser.send(post(body) + HEAD + in_chunks(body, 5) + post(body) + b"x")
    assert [(await browser.reply()).status for _ in range(3)] == [200, 200, 200]
    assert (await browser.reply()).status == 400
    assert [request.body for request in recorder.requests] == [body] * 3
