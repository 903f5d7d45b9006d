"""Request bodies in every framing: what arrives at the worker is what was sent, whole or not at all."""

import random

import pytest
import trio

from tests.proxy.http_client import CHAT, get, post
from tests.proxy.worker import OK, chunk

from .recorder import Recorder
from .wire_env import WireModel

HEAD = b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" % CHAT
MiB = 1 << 20


def in_chunks(body: bytes, size: int) -> bytes:
    return b"".join(chunk(body[at : at + size]) for at in range(0, len(body), size)) + b"0\r\n\r\n"


@pytest.mark.parametrize("size", [1, 7, 4096, 65_536, 131_072, 10_000_000])
async def test_a_chunked_body_arrives_whole_and_with_its_length(
    wire_model: WireModel, recorder: Recorder, size: int
) -> None:
    body = wire_model.chat(pad="0123456789" * (500 if size < 100 else 100_000))
    http_client = await wire_model.connect()
    for _ in range(2):
        assert (await http_client.ask(HEAD + in_chunks(body, size))).raw == OK
    assert [request.body for request in recorder.requests] == [body, body]


async def test_a_chunked_body_of_50_mb_arrives_whole(wire_model: WireModel, recorder: Recorder) -> None:
    body = wire_model.chat(pad="0123456789" * 5_000_000)
    assert (await wire_model.ask(HEAD + in_chunks(body, 99_991))).raw == OK
    assert recorder.requests[0].body == body


async def test_chunks_of_random_sizes_in_writes_of_random_sizes_arrive_whole(
    wire_model: WireModel, recorder: Recorder
) -> None:
    rng = random.Random(4)
    bodies = [wire_model.chat(pad="x" * rng.randrange(20_000)) for _ in range(20)]
    data = b""
    for body in bodies:
        data += HEAD
        while body:
            size = rng.choice((1, 2, 3, 10, 1000, 5000))
            data, body = data + chunk(body[:size]), body[size:]
        data += b"0\r\n\r\n"
    http_client = await wire_model.connect()
    while data:
        size = rng.choice((1, 5, 100, 10_000))
        await http_client.send(data[:size])
        data = data[size:]
    for _ in bodies:
        assert (await http_client.reply()).raw == OK
    assert [request.body for request in recorder.requests] == bodies


@pytest.mark.parametrize("size_line", [b"%X", b"%x;name=value", b'%x;a="b c";d', b"0000%x"])
async def test_every_spelling_of_a_chunk_size_is_understood(
    wire_model: WireModel, recorder: Recorder, size_line: bytes
) -> None:
    body = wire_model.chat(pad="x" * 200)
    data = HEAD + size_line % len(body) + b"\r\n" + body + b"\r\n0\r\n\r\n"
    assert (await wire_model.ask(data)).raw == OK
    assert recorder.requests[0].body == body
    assert b"name" not in recorder.bytes


async def test_large_bodies_of_many_clients_do_not_mix(wire_model: WireModel, recorder: Recorder) -> None:
    bodies = [wire_model.chat(number=number, pad=chr(97 + number) * 3_000_000) for number in range(8)]
    http_clients = [await wire_model.connect() for _ in bodies]
    for begin in range(0, len(bodies[0]) + 200, 200_000):  # in turns
        for http_client, body in zip(http_clients, bodies, strict=True):
            await http_client.send(post(body)[begin : begin + 200_000])
    for http_client in http_clients:
        assert (await http_client.reply()).raw == OK
    assert sorted(request.body for request in recorder.requests) == sorted(bodies)


async def test_the_memory_of_large_bodies_is_given_back(wire_model: WireModel, recorder: Recorder) -> None:
    body = wire_model.chat(pad="0123456789" * 4_000_000)
    assert (await wire_model.ask(post(body))).raw == OK
    before = await wire_model.memory()
    for _ in range(2):
        assert (await wire_model.ask(post(body))).raw == OK
    assert await wire_model.memory() < before + 20 * MiB  # of 80


async def test_the_memory_of_several_at_once_too(wire_model: WireModel, recorder: Recorder) -> None:
    """What is left of one lies between what is held of another."""
    before = await wire_model.memory()
    body = post(wire_model.chat(pad="0123456789" * 3_000_000))
    http_clients = [await wire_model.connect() for _ in range(6)]
    async with trio.open_nursery() as nursery:
        for http_client in http_clients:
            nursery.start_soon(http_client.ask, body)
    assert await wire_model.memory() < before + 20 * MiB  # of 180


@pytest.mark.parametrize("data", [HEAD + b"4000001\r\n", post(b"")[:-5] + b"67108865\r\n\r\n"], ids=["chunk", "length"])
async def test_a_body_over_64_mib_is_refused_before_it_is_sent(
    wire_model: WireModel, recorder: Recorder, data: bytes
) -> None:
    http_client = await wire_model.connect()
    await http_client.send(data)
    if data.startswith(HEAD):  # a chunk's size is no promise: it is counted as it comes
        await http_client.send(b"x" * (64 * MiB + 1))
    reply = await http_client.reply()
    assert (reply.status, reply.code, reply.header(b"connection")) == (413, "body_too_large", b"close")
    await http_client.closed()
    assert not recorder.bytes


@pytest.mark.parametrize(
    "data",
    [post(b""), HEAD + b"0\r\n\r\n", b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n\r\n" % CHAT],
)
async def test_a_post_without_a_body_is_refused_and_the_connection_kept(wire_model: WireModel, data: bytes) -> None:
    http_client = await wire_model.connect()
    for _ in range(2):
        reply = await http_client.ask(data)
        assert (reply.status, reply.code) == (400, "invalid_json")


async def test_a_get_with_a_body_is_answered_and_the_body_is_not_the_next_request(wire_model: WireModel) -> None:
    inner = get(b"/nowhere")
    http_client = await wire_model.connect()
    await http_client.send(
        get(b"/health")[:-2] + b"Content-Length: %d\r\n\r\n" % len(inner) + inner + get(b"/v1/models")
    )
    assert (await http_client.reply()).json["status"] == "ok"
    assert (await http_client.reply()).json["object"] == "list"


async def test_what_follows_a_body_is_the_next_request_to_the_byte(wire_model: WireModel, recorder: Recorder) -> None:
    body = wire_model.chat()
    http_client = await wire_model.connect()
    await http_client.send(post(body) + HEAD + in_chunks(body, 5) + post(body) + b"x")
    assert [(await http_client.reply()).status for _ in range(3)] == [200, 200, 200]
    assert (await http_client.reply()).status == 400
    assert [request.body for request in recorder.requests] == [body] * 3
