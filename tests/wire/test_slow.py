"""Clients that read slowly or not at all, and clients that send slowly: nobody else has to wait for them."""

import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from tests.proxy import proxy_env as near
from tests.proxy.http_client import CHAT, HttpClient, chat, get, post
from tests.proxy.worker import OK, SSE_HEAD, Call, answer_ok, chunk, event

from .wire_env import WireModel

MiB = 1 << 20
PATTERN = bytes(range(256)) * 256  # 64 KiB


def kernel_holds() -> int:
    """How much the kernel's buffers can hold between a worker that sends little at a time and a client."""
    most = [Path(f"/proc/sys/net/ipv4/tcp_{which}mem").read_text().split()[2] for which in "rw"]
    return sum(map(int, most))


class Flood:
    """Answers of `size` bytes; `sent` has how much of each the proxy has taken."""

    def __init__(self) -> None:
        self.size = (2 * kernel_holds() // len(PATTERN) + 1) * len(PATTERN)
        self.head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % self.size
        self.sent: dict[int, int] = {}

    async def answer(self, call: Call) -> None:
        call.stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        self.sent[call.connection] = 0
        await call.send(self.head)
        for _ in range(self.size // len(PATTERN)):
            await call.send(PATTERN)
            self.sent[call.connection] += len(PATTERN)


async def stuck_reader(wire_model: WireModel, request: bytes, begin: bytes = b"\r\n\r\n") -> HttpClient:
    """It has read the beginning of an answer, and reads no further."""
    http_client = await wire_model.connect()
    http_client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    await http_client.send(request)
    await http_client.until(begin)
    return http_client


async def read_flood(http_client: HttpClient, flood: Flood) -> None:
    """All of it, compared piece by piece: it is more than a test should hold."""
    await http_client.at_least(len(flood.head))
    assert http_client.buffer.startswith(flood.head)
    del http_client.buffer[: len(flood.head)]
    for _ in range(flood.size // len(PATTERN)):
        await http_client.at_least(len(PATTERN))
        assert http_client.buffer[: len(PATTERN)] == PATTERN
        del http_client.buffer[: len(PATTERN)]
    assert not http_client.buffer


async def test_workers_of_clients_that_do_not_read_are_paused_and_nothing_is_heaped_up(wire_model: WireModel) -> None:
    flood = Flood()
    wire_model.worker.answer = flood.answer
    before = await wire_model.memory()
    stuck = [await stuck_reader(wire_model, wire_model.post()) for _ in range(4)]
    brisk = await wire_model.connect()
    await brisk.send(wire_model.post())
    await read_flood(brisk, flood)  # as much has passed for it as could for each of the others
    paused = sorted(flood.sent.values())[:4]
    assert len(flood.sent) == 5
    assert max(paused) <= kernel_holds()
    assert await wire_model.memory() < before + 8 * MiB
    await read_flood(stuck.pop(), flood)
    for http_client in stuck:
        http_client.close()


async def test_a_client_that_does_not_read_delays_no_stream(wire_model: WireModel) -> None:
    streaming, call = await wire_model.begin(stream=True)
    await call.send(SSE_HEAD)
    flood = Flood()
    wire_model.worker.answer = flood.answer
    await stuck_reader(wire_model, wire_model.post())
    for number in range(300):
        await call.send(event(f"number {number}"))
        await streaming.until(event(f"number {number}"))
    assert next(iter(flood.sent.values())) <= kernel_holds()


async def test_a_stream_that_is_read_in_drops_arrives_whole(wire_model: WireModel) -> None:
    async def tell(call: Call) -> None:
        await call.send(SSE_HEAD)
        for number in range(20_000):
            await call.send(event(f"number {number}"))
        await call.send(b"0\r\n\r\n")

    wire_model.worker.answer = tell
    http_client = await stuck_reader(wire_model, wire_model.post(stream=True), begin=b"number 3")
    received = bytearray(http_client.buffer)
    while not received.endswith(b"\r\n0\r\n\r\n"):
        received += await http_client.stream.receive_some(1000)
    assert received == SSE_HEAD + b"".join(event(f"number {number}") for number in range(20_000)) + b"0\r\n\r\n"


async def test_a_client_that_leaves_while_its_worker_is_paused_aborts_it(wire_model: WireModel) -> None:
    flood = Flood()
    wire_model.worker.answer = flood.answer
    http_client = await stuck_reader(wire_model, wire_model.post())
    http_client.close()  # with much unread, which makes it a reset
    await wire_model.worker.ended.nth(0)


async def test_a_client_that_asks_and_asks_and_reads_nothing_is_not_read_from(wire_model: WireModel) -> None:
    """Its answers are 80 times as large as its questions."""
    asked = 0

    async def ask() -> None:
        nonlocal asked
        questions = get(b"/v1/models") * 100
        while True:
            await http_client.send(questions)
            asked += len(questions)

    before = await wire_model.memory()
    async with trio.open_nursery() as nursery:
        http_client = await stuck_reader(wire_model, get(b"/v1/models"))
        nursery.start_soon(ask)
        for _ in range(1000):
            await wire_model.caught_up()
        assert asked <= kernel_holds()
        assert await wire_model.memory() < before + 8 * MiB
        nursery.cancel_scope.cancel()


async def test_clients_that_send_in_drops_delay_nobody_and_hold_no_more_than_they_sent(wire_model: WireModel) -> None:
    before = await wire_model.memory()
    slow = [await wire_model.connect() for _ in range(200)]
    head, body = wire_model.post()[:-20], wire_model.post()[-20:]
    for http_client in slow:
        await http_client.send(head[:30])
    assert (await wire_model.ask(wire_model.post())).raw == OK
    for at in range(30, len(head), 40):
        for http_client in slow:
            await http_client.send(head[at : at + 40])
        assert (await wire_model.ask(wire_model.post())).raw == OK
    assert await wire_model.memory() < before + 8 * MiB
    for http_client in slow:
        await http_client.send(body)
    for http_client in slow:
        assert (await http_client.reply()).raw == OK


async def test_a_worker_that_reads_slowly_gets_all_of_a_body(wire_model: WireModel) -> None:
    body = wire_model.chat(pad="0123456789" * 1_000_000)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    wire_model.wire_env.muxd.grants[wire_model.model] = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
    async with listener:
        http_client = await wire_model.connect()
        await http_client.send(post(body))
        async with await listener.accept() as worker:
            worker.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
            received = bytearray()
            while not received.endswith(body[-100:]):
                received += await worker.receive_some(8000)
            await worker.send_all(OK)
            assert (await http_client.reply()).raw == OK
        assert received.partition(b"\r\n\r\n")[2] == body


# What takes too long: with limits that a test can wait for, in this process


@pytest.fixture
async def strict(tmp_path: Path) -> AsyncIterator[near.ProxyEnv]:
    async with near.open_proxy_env(tmp_path, head_timeout=0.2, body_timeout=0.2, linger_timeout=0.2) as proxy_env:
        yield proxy_env


CHUNKED = b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" % CHAT
STOPS = {
    "after the head": CHUNKED,
    "within a chunk's size": CHUNKED + b"1",
    "within a chunk": CHUNKED + b"ff\r\n{",
    "after a chunk": CHUNKED + chunk(chat()),
    "within the last chunk": CHUNKED + chunk(chat()) + b"0\r\n",
    "within the trailers": CHUNKED + chunk(chat()) + b"0\r\nX: y",
}


@pytest.mark.parametrize("part", STOPS.values(), ids=STOPS)
async def test_a_chunked_request_that_stops_halfway_times_out(strict: near.ProxyEnv, part: bytes) -> None:
    http_client = await strict.connect()
    reply = await http_client.ask(part)
    assert (reply.status, reply.code, reply.header(b"connection")) == (408, "request_timeout", b"close")
    await http_client.closed()
    assert not strict.alpha.calls


@pytest.mark.parametrize("part", [b"POST", post(chat())[:-1]], ids=["head", "body"])
async def test_a_pipelined_request_that_stops_halfway_times_out_after_the_answer_before_it(
    strict: near.ProxyEnv, part: bytes
) -> None:
    strict.alpha.answer = answer_ok
    http_client = await strict.connect()
    await http_client.send(post(chat()) + part)
    assert (await http_client.reply()).raw == OK
    assert (await http_client.reply()).status == 408
    await http_client.closed()


async def test_a_client_that_never_sends_the_body_it_asked_leave_for_times_out(strict: near.ProxyEnv) -> None:
    http_client = await strict.connect()
    await http_client.send(post(chat(), b"Expect: 100-continue\r\n").removesuffix(chat()))
    assert (await http_client.reply()).status == 100
    assert (await http_client.reply()).status == 408
    await http_client.closed()


@pytest.mark.parametrize("first", [b"", get(b"/health")], ids=["before a request", "after one"])
async def test_empty_lines_are_no_sign_of_a_request(tmp_path: Path, first: bytes) -> None:
    async def drip() -> None:
        with suppress(trio.BrokenResourceError):
            while True:
                await http_client.send(b"\r\n")
                await trio.sleep(0.02)

    async with near.open_proxy_env(tmp_path, head_timeout=0.2, idle_timeout=0.2, linger_timeout=0.2) as proxy_env:
        http_client = await proxy_env.connect()
        if first:
            assert (await http_client.ask(first)).status == 200
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            with suppress(trio.BrokenResourceError):
                await http_client.closed()
            nursery.cancel_scope.cancel()
