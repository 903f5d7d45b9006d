"""HTTP as clients speak it: well, badly, slowly, or not at all."""

import socket
from collections.abc import AsyncIterator
from math import inf
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel

from .http_client import CHAT, HttpClient, chat, get, post
from .proxy_env import ProxyEnv, open_proxy_env
from .worker import OK, OK_BODY, SSE_HEAD, Call, answer_ok, answer_when_released, chunk, event

BAD = {
    "no http": b"hello\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "length and chunks": post(chat(), b"Transfer-Encoding: chunked\r\n"),
    "two lengths": post(chat(), b"Content-Length: 1\r\n"),
    "folded": get(b"/health")[:-2] + b"A: b\r\n c\r\n\r\n",
    "bare lf": b"GET /health HTTP/1.1\nHost: x\n\n",
    "connect": b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
async def test_bad_http_is_refused_and_the_connection_closed(proxy_env: ProxyEnv, data: bytes) -> None:
    http_client = await proxy_env.connect()
    reply = await http_client.ask(data)
    code = "tls_not_supported" if data[:1] == b"\x16" else "bad_request"
    assert (reply.status, reply.code, reply.header(b"connection")) == (400, code, b"close")
    await http_client.closed()
    assert not proxy_env.alpha.calls


async def test_clients_that_speak_tls_are_told_in_the_log_once_a_minute(
    proxy_env: ProxyEnv, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        await (await proxy_env.connect()).ask(BAD["tls"])
    (told,) = [record for record in caplog.records if "TLS" in record.message]
    assert told.levelname == "WARNING"
    assert told.message == "127.0.0.1 speaks TLS to the port of plain HTTP: it has to use http://, not https://"


async def test_many_requests_share_a_connection(proxy_env: ProxyEnv) -> None:
    http_client = await proxy_env.connect()
    for _ in range(20):
        assert (await http_client.ask(post(chat()))).raw == OK
        assert (await http_client.ask(get(b"/health"))).status == 200


async def test_pipelined_requests_are_answered_in_order(proxy_env: ProxyEnv) -> None:
    async def echo(call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(call.body) + call.body)

    proxy_env.alpha.answer = echo
    http_client = await proxy_env.connect()
    bodies = [chat(n=n) for n in range(20)]
    await http_client.send(b"".join(post(body) + get(b"/v1/models/beta") for body in bodies))
    for body in bodies:
        assert (await http_client.reply()).body == body
        assert (await http_client.reply()).json["id"] == "beta"


async def test_thousands_of_pipelined_requests_are_answered(proxy_env: ProxyEnv) -> None:
    http_client = await proxy_env.connect()
    count = 3000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(http_client.send, get(b"/health") * count + post(b"{}") * count)
        for _ in range(count):
            assert (await http_client.reply()).status == 200
        for _ in range(count):
            assert (await http_client.reply()).status == 400


async def test_pipelined_requests_before_a_bad_one_are_answered(proxy_env: ProxyEnv) -> None:
    http_client = await proxy_env.connect()
    await http_client.send(post(chat()) + get(b"/health") + b"garbage\r\n\r\n")
    assert [(await http_client.reply()).status for _ in range(3)] == [200, 200, 400]
    await http_client.closed()


async def test_pipelined_requests_of_a_client_that_finished_sending_are_answered(proxy_env: ProxyEnv) -> None:
    http_client = await proxy_env.connect()
    await http_client.send(get(b"/health") + get(b"/models") + get(b"/nothing"))
    http_client.finish_sending()
    assert [(await http_client.reply()).status for _ in range(3)] == [200, 200, 404]
    await http_client.closed()


async def test_a_request_in_small_pieces_is_understood(proxy_env: ProxyEnv) -> None:
    http_client = await proxy_env.connect()
    for byte in post(chat()):
        await http_client.send(bytes((byte,)))
    assert (await http_client.reply()).raw == OK


async def test_connection_close_is_honoured(proxy_env: ProxyEnv) -> None:
    http_client = await proxy_env.connect()
    await http_client.send(post(chat(), b"Connection: close\r\n"))
    assert await http_client.rest() == OK
    http_client = await proxy_env.connect()
    await http_client.send(get(b"/health")[:-2] + b"Connection: close\r\n\r\n")
    reply = await http_client.reply()
    assert reply.header(b"connection") == b"close"
    await http_client.closed()


async def test_a_client_that_expects_100_continue_gets_it_before_it_sends(proxy_env: ProxyEnv) -> None:
    http_client = await proxy_env.connect()
    body = chat()
    await http_client.send(post(body, b"Expect: 100-continue\r\n").removesuffix(body))
    assert (await http_client.reply()).raw == b"HTTP/1.1 100 Continue\r\n\r\n"
    await http_client.send(body)
    assert (await http_client.reply()).raw == OK
    assert b"xpect" not in proxy_env.alpha.calls[0].head


async def test_a_pipelined_100_continue_comes_after_the_answer_before_it(proxy_env: ProxyEnv) -> None:
    gate = trio.Event()

    async def slow(call: Call) -> None:
        await gate.wait()
        await call.send(OK)

    proxy_env.alpha.answer = slow
    http_client = await proxy_env.connect()
    body = chat()
    await http_client.send(post(body) + post(body, b"Expect: 100-continue\r\n").removesuffix(body))
    await proxy_env.alpha.calls.nth(0)
    gate.set()
    assert (await http_client.reply()).raw == OK
    assert (await http_client.reply()).raw == b"HTTP/1.1 100 Continue\r\n\r\n"
    await http_client.send(body)
    assert (await http_client.reply()).raw == OK


async def test_an_http_1_0_client_gets_a_chunked_answer_without_chunks(proxy_env: ProxyEnv) -> None:
    async def answer(call: Call) -> None:
        await call.send(SSE_HEAD + event("1")[:9])
        await trio.testing.wait_all_tasks_blocked()
        await call.send(event("1")[9:] + event("2") + b"0\r\n\r\n")

    proxy_env.alpha.answer = answer
    http_client = await proxy_env.connect()
    await http_client.send(post(chat(), version=b"1.0"))
    assert await http_client.rest() == (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nConnection: close\r\n\r\n"
        b'data: {"text": "1"}\n\ndata: {"text": "2"}\n\n'
    )


async def test_an_http_1_0_client_without_a_host_is_served_and_its_connection_closed(proxy_env: ProxyEnv) -> None:
    http_client = await proxy_env.connect()
    body = chat()
    await http_client.send(
        b"POST %b HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (CHAT, len(body)) + body
    )
    assert (await http_client.rest()).endswith(OK_BODY)
    assert proxy_env.alpha.calls[0].head.endswith(b"Host: 127.0.0.1:%d" % proxy_env.alpha.port)


async def test_an_http_1_0_stream_that_breaks_ends_with_an_error_event(proxy_env: ProxyEnv) -> None:
    async def die(call: Call) -> bool:
        await call.send(SSE_HEAD + event("1"))
        return False

    proxy_env.alpha.answer = die
    http_client = await proxy_env.connect()
    await http_client.send(post(chat(), version=b"1.0"))
    assert b'\n\nevent: error\ndata: {"type":"error"' in await http_client.rest()


async def test_a_slow_reader_pauses_its_worker_and_loses_nothing(proxy_env: ProxyEnv) -> None:
    sent = 0
    body = bytes(range(256)) * 400  # 100 KiB

    async def flood(call: Call) -> None:
        nonlocal sent
        await call.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (len(body) * 400))
        for _ in range(400):
            await call.send(body)
            sent += len(body)

    proxy_env.alpha.answer = flood
    http_client = await proxy_env.connect()
    http_client.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    await http_client.send(post(chat()))
    await http_client.until(b"\r\n\r\n")
    seen = -1
    while seen != sent:  # until nothing more goes through
        seen = sent
        await trio.sleep(0.1)
    assert sent < 30_000_000  # what the kernel's buffers hold, of 40 MB
    reply = await http_client.reply()
    assert reply.body == body * 400


async def test_a_slow_worker_pauses_nobody_else(proxy_env: ProxyEnv) -> None:
    proxy_env.alpha.answer = answer_when_released
    stuck = await proxy_env.connect()
    await stuck.send(post(chat()))
    await proxy_env.alpha.calls.nth(0)
    assert (await proxy_env.ask(get(b"/health"))).status == 200


@pytest.fixture
async def strict(tmp_path: Path) -> AsyncIterator[ProxyEnv]:
    times: dict[str, Any] = {
        "head_timeout": 0.2,
        "body_timeout": 0.2,
        "body_rate": 50,
        "idle_timeout": 0.2,
        "write_timeout": 0.3,
        "linger_timeout": 0.2,
    }
    async with open_proxy_env(tmp_path, **times) as proxy_env:
        yield proxy_env


async def test_a_connection_that_asks_nothing_is_closed(strict: ProxyEnv) -> None:
    await (await strict.connect()).closed()


@pytest.mark.parametrize("part", [b"POST /v1/", post(chat())[:-1]], ids=["head", "body"])
async def test_a_request_that_stops_halfway_times_out(strict: ProxyEnv, part: bytes) -> None:
    http_client = await strict.connect()
    reply = await http_client.ask(part)
    assert (reply.status, reply.code) == (408, "request_timeout")
    await http_client.closed()


async def test_a_head_in_drops_times_out_as_a_whole(strict: ProxyEnv) -> None:
    http_client = await strict.connect()

    async def drip() -> None:
        while True:
            await http_client.send(b"X: y\r\n")
            await trio.sleep(0.02)

    async with trio.open_nursery() as nursery:
        await http_client.send(b"GET /health HTTP/1.1\r\n")
        nursery.start_soon(drip)
        assert (await http_client.reply()).status == 408
        nursery.cancel_scope.cancel()


async def test_a_body_in_drops_may_take_its_time(strict: ProxyEnv) -> None:
    http_client = await strict.connect()
    body = chat(pad="x" * 10)
    await http_client.send(post(body).removesuffix(body))
    for byte in body[:20]:
        await http_client.send(bytes((byte,)))
        await trio.sleep(0.02)
    await http_client.send(body[20:])
    assert (await http_client.reply()).raw == OK


@pytest.mark.parametrize("framed", [b"Content-Length: 100000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"])
async def test_a_body_that_never_ends_is_cut_however_often_a_drop_comes(tmp_path: Path, framed: bytes) -> None:
    async with open_proxy_env(tmp_path, body_timeout=0.2, body_rate=1000) as proxy_env:
        http_client = await proxy_env.connect()
        await http_client.send(b"POST %b HTTP/1.1\r\nHost: muxd.test\r\n%b" % (CHAT, framed))

        async def drip() -> None:
            while True:
                await http_client.send(b"1\r\nx\r\n" if b"chunked" in framed else b"x")
                await trio.sleep(0.02)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            reply = await http_client.reply()
            nursery.cancel_scope.cancel()
        assert (reply.status, reply.code) == (408, "request_timeout")


async def test_an_idle_connection_is_closed(strict: ProxyEnv) -> None:
    http_client = await strict.connect()
    assert (await http_client.ask(post(chat()))).raw == OK
    await http_client.closed()


async def test_a_request_under_way_has_no_timeout(strict: ProxyEnv) -> None:
    strict.alpha.answer = answer_when_released
    http_client = await strict.connect()
    await http_client.send(post(chat()))
    call = await strict.alpha.calls.nth(0)
    with trio.move_on_after(0.6):
        await call.gone.wait()
    call.released.set()
    assert (await http_client.reply()).raw == OK


async def test_a_client_that_reads_nothing_is_given_up(strict: ProxyEnv) -> None:
    async def flood(call: Call) -> None:
        await call.send(SSE_HEAD)
        while not call.gone.is_set():
            await call.send(chunk(b"x" * 100_000))

    strict.alpha.answer = flood
    http_client = await strict.connect()
    await http_client.send(post(chat()))
    call = await strict.alpha.calls.nth(0)
    await call.aborted()


async def test_a_body_over_max_body_is_refused_by_its_length(proxy_env: ProxyEnv) -> None:
    http_client = await proxy_env.connect()
    reply = await http_client.ask(
        b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        % (CHAT, (1 << 20) + 1)
    )
    assert (reply.status, reply.code, reply.header(b"connection")) == (413, "body_too_large", b"close")


async def test_a_chunked_body_over_max_body_is_refused_while_it_is_sent(proxy_env: ProxyEnv) -> None:
    http_client = await proxy_env.connect()
    await http_client.send(
        b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" % CHAT
    )
    await http_client.send(chunk(b"x" * 100_000) * 200)  # all of it is taken, else a reset would destroy the answer
    assert (await http_client.reply()).status == 413
    await http_client.closed()


async def test_a_body_of_exactly_max_body_is_passed_on(proxy_env: ProxyEnv) -> None:
    body = chat(pad="")
    body = chat(pad="x" * ((1 << 20) - len(body)))
    assert (await proxy_env.ask(post(body))).raw == OK


async def test_a_head_over_its_limit_is_refused(proxy_env: ProxyEnv) -> None:
    reply = await proxy_env.ask(get(b"/health")[:-2] + b"X: " + b"y" * 200_000 + b"\r\n\r\n")
    assert (reply.status, reply.code) == (431, "head_too_large")


async def test_a_head_of_60_kb_is_passed_on(proxy_env: ProxyEnv) -> None:
    assert (await proxy_env.ask(post(chat(), b"X: " + b"y" * 60_000 + b"\r\n"))).raw == OK


async def test_bodies_over_buffer_memory_are_refused_and_memory_is_given_back(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, buffer_memory=250_000) as proxy_env:
        proxy_env.alpha.answer = answer_when_released
        body = chat(pad="x" * 100_000)
        holders: list[HttpClient] = []
        for _ in range(2):
            holders.append(await proxy_env.connect())
            await holders[-1].send(post(body))
        await proxy_env.alpha.calls.nth(1)
        third = await proxy_env.connect()
        await third.send(post(body)[:-1])
        reply = await third.reply()
        assert (reply.status, reply.code, reply.header(b"retry-after")) == (503, "buffer_memory_exhausted", b"1")
        await third.closed()
        proxy_env.alpha.answer = answer_ok
        proxy_env.alpha.calls[0].released.set()  # an answer that has begun needs the body no longer
        assert (await holders[0].reply()).raw == OK
        assert (await proxy_env.ask(post(body))).raw == OK
        holders[1].close()
        await proxy_env.alpha.calls[1].aborted()
        assert proxy_env.proxy.front.held == 0


async def test_over_max_clients_a_connection_is_refused(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, max_clients=2, fresh_for=inf) as proxy_env:
        first, _ = await proxy_env.connect(), await proxy_env.connect()
        refused = await (await proxy_env.connect()).reply()
        assert (refused.status, refused.code) == (503, "too_many_connections")
        await first.ask(get(b"/health"))
        first.close()
        with trio.fail_after(5):
            while proxy_env.proxy.front.clients > 1:
                await trio.lowlevel.checkpoint()
        assert (await proxy_env.ask(get(b"/health"))).status == 200


async def test_where_no_place_is_left_a_body_that_does_not_come_makes_room(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, max_clients=3, fresh_for=0.0) as proxy_env:
        proxy_env.alpha.answer = answer_when_released
        served = await proxy_env.connect()
        await served.send(post(chat()))
        call = await proxy_env.alpha.calls.nth(0)
        slow = await proxy_env.connect()
        await slow.send(post(chat())[:-1])
        with trio.fail_after(5):
            while not proxy_env.proxy.front.held:
                await trio.sleep(0.001)
        await proxy_env.connect()  # says nothing
        assert (await proxy_env.ask(get(b"/health"))).status == 200
        assert (await slow.reply()).code == "too_many_connections"
        call.released.set()
        assert (await served.reply()).raw == OK  # who is being served never makes room


async def test_places_are_refused_to_nobody_who_has_a_request_where_others_have_none(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, max_clients=20, fresh_for=0.0) as proxy_env:
        for _ in range(100):
            await (await proxy_env.connect()).send(post(chat())[:-1])
            assert (await proxy_env.ask(get(b"/health"))).status == 200
