"""Every way a worker can fail a request, and what the client is told."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from .http_client import chat, post
from .proxy_env import QUIET, ProxyEnv, open_proxy_env
from .record import PATIENCE
from .worker import OK, SSE_HEAD, Call, answer_ok, answer_when_released, chunk, event

BODY_TO_THE_END = b"HTTP/1.1 200 OK\r\nx: y\r\n\r\n"


@pytest.mark.parametrize("half_a_head", [b"", b"HTTP/1.1 200 OK\r\nx:"])
@pytest.mark.parametrize("reset", [False, True])
async def test_a_worker_that_dies_before_its_answer(proxy_env: ProxyEnv, half_a_head: bytes, reset: bool) -> None:
    async def die(call: Call) -> bool:
        await call.send(half_a_head)
        if reset:
            call.reset()
        return False

    proxy_env.alpha.answer = die
    http_client = await proxy_env.connect()
    reply = await http_client.ask(post(chat()))
    assert (reply.status, reply.code) == (502, "worker_died")
    assert "model alpha" in reply.message
    proxy_env.alpha.answer = answer_ok
    assert (await http_client.ask(post(chat()))).raw == OK


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
        OK + OK,
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 50_000,
    ],
    ids=["ssh", "tls", "status", "upgrade", "two lengths", "two answers", "endless head"],
)
async def test_a_worker_that_sends_garbage(proxy_env: ProxyEnv, garbage: bytes) -> None:
    async def answer(call: Call) -> None:
        await call.send(garbage)
        await call.gone.wait()

    proxy_env.alpha.answer = answer
    reply = await proxy_env.ask(post(chat()))
    assert (reply.status, reply.code) == (502, "worker_garbled")


async def test_a_worker_that_sends_unasked_for_data_is_not_used_again(proxy_env: ProxyEnv) -> None:
    await proxy_env.ask(post(chat()))
    await proxy_env.alpha.calls[0].send(OK)
    await proxy_env.alpha.ended.nth(0)
    assert (await proxy_env.ask(post(chat()))).raw == OK
    assert proxy_env.alpha.calls[1].connection == 2


async def test_a_worker_that_does_not_answer_in_time(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, proxy=replace(QUIET, upstream_timeout=0.1)) as proxy_env:
        proxy_env.alpha.answer = answer_when_released
        reply = await proxy_env.ask(post(chat()))
        assert (reply.status, reply.code) == (504, "upstream_timeout")
        await proxy_env.alpha.calls[0].aborted()


async def test_the_upstream_timeout_ends_with_the_first_byte(tmp_path: Path) -> None:
    async def slow(call: Call) -> None:
        await call.send(SSE_HEAD)
        with trio.move_on_after(0.4):
            await call.gone.wait()
        await call.send(event("1") + b"0\r\n\r\n")

    async with open_proxy_env(tmp_path, proxy=replace(QUIET, upstream_timeout=0.1)) as proxy_env:
        proxy_env.alpha.answer = slow
        assert (await proxy_env.ask(post(chat()))).body == event("1") + b"0\r\n\r\n"


@pytest.mark.parametrize("reset", [False, True])
async def test_a_stream_that_breaks_ends_with_an_error_event_and_no_last_chunk(
    proxy_env: ProxyEnv, reset: bool
) -> None:
    async def die(call: Call) -> bool:
        await call.send(SSE_HEAD + event("1"))
        await heard.wait()
        if reset:
            call.reset()
        return False

    heard = trio.Event()
    proxy_env.alpha.answer = die
    http_client = await proxy_env.connect()
    await http_client.send(post(chat(stream=True)))
    await http_client.until(event("1"))
    heard.set()
    last = (await http_client.rest()).removeprefix(SSE_HEAD + event("1"))
    size, _, data = last.partition(b"\r\n")
    assert int(size, 16) == len(data) - 2  # one well-formed chunk, and nothing after it
    assert data.startswith(b'event: error\ndata: {"type":"error","error":{"message":"model alpha: ')
    assert b'"code":"worker_died"' in data
    assert data.endswith(b"}\n\n\r\n")


@pytest.mark.parametrize("part", [b"data: {", chunk(b"data: {"), event("1") + b"ff\r\ndata: {"])
async def test_a_stream_that_breaks_within_an_event_is_just_cut(proxy_env: ProxyEnv, part: bytes) -> None:
    part = b"99\r\n" + part if part == b"data: {" else part

    async def die(call: Call) -> bool:
        await call.send(SSE_HEAD + part)
        return False

    proxy_env.alpha.answer = die
    http_client = await proxy_env.connect()
    await http_client.send(post(chat(stream=True)))
    assert await http_client.rest() == SSE_HEAD + part


@pytest.mark.parametrize("head", [b"content-length: 10\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n5\r\n"])
async def test_a_plain_answer_that_breaks_is_cut(proxy_env: ProxyEnv, head: bytes) -> None:
    async def die(call: Call) -> bool:
        await call.send(b"HTTP/1.1 200 OK\r\n" + head + b"abc")
        return False

    proxy_env.alpha.answer = die
    http_client = await proxy_env.connect()
    await http_client.send(post(chat()))
    assert await http_client.rest() == b"HTTP/1.1 200 OK\r\n" + head + b"abc"


async def test_an_answer_to_the_connections_end_that_breaks_is_reset(proxy_env: ProxyEnv) -> None:
    async def die(call: Call) -> bool:
        await call.send(BODY_TO_THE_END + b"abc")
        await heard.wait()
        call.reset()
        return False

    heard = trio.Event()
    proxy_env.alpha.answer = die
    http_client = await proxy_env.connect()
    await http_client.send(post(chat()))
    await http_client.until(b"abc")
    heard.set()
    with pytest.raises(trio.BrokenResourceError):
        await http_client.rest()


async def test_garbage_within_a_stream_is_not_passed_on(proxy_env: ProxyEnv) -> None:
    async def answer(call: Call) -> None:
        await call.send(SSE_HEAD + event("1"))
        await heard.wait()
        await call.send(b"not a chunk\r\n")
        await call.gone.wait()

    heard = trio.Event()
    proxy_env.alpha.answer = answer
    http_client = await proxy_env.connect()
    await http_client.send(post(chat()))
    await http_client.until(event("1"))
    heard.set()
    rest = await http_client.rest()
    assert b"not a chunk" not in rest
    assert b"worker_garbled" in rest


async def test_an_idle_connection_that_the_worker_closed_is_not_used_again(proxy_env: ProxyEnv) -> None:
    await proxy_env.ask(post(chat()))
    proxy_env.alpha.close_idle()
    assert (await proxy_env.ask(post(chat()))).raw == OK
    assert proxy_env.alpha.calls[1].connection == 2


async def test_a_request_that_crosses_the_close_of_an_idle_connection_is_sent_once_more(proxy_env: ProxyEnv) -> None:
    http_client = await proxy_env.connect()
    await http_client.ask(post(chat()))
    http_client.stream.socket._sock.send(post(chat("alpha-mini")))  # type: ignore[attr-defined]  # no await: the proxy
    proxy_env.alpha.close_idle()  # learns of both at once, of the request first
    assert (await http_client.reply()).raw == OK
    assert [call.connection for call in proxy_env.alpha.calls] == [1, 2]


async def test_a_worker_that_dies_of_a_request_on_a_used_connection_counts_as_dead(proxy_env: ProxyEnv) -> None:
    async def die(call: Call) -> bool:
        return False

    http_client = await proxy_env.connect()
    await http_client.ask(post(chat()))
    proxy_env.alpha.answer = die
    reply = await http_client.ask(post(chat()))
    assert (reply.status, reply.code) == (502, "worker_died")
    assert len(proxy_env.alpha.calls) == 3  # one that was answered, and two deaths


async def test_an_answer_before_the_whole_request_was_sent_is_passed_on(tmp_path: Path) -> None:
    """A worker may refuse a large body without reading it."""
    refusal = b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nno\n"
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(socket.create_server(("127.0.0.1", 0))))
    async with open_proxy_env(tmp_path, max_body=1 << 26, buffer_memory=1 << 27) as proxy_env, listener:
        proxy_env.muxd.grants["beta"] = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        http_client = await proxy_env.connect()
        await http_client.send(post(chat("beta", pad="x" * 30_000_000)))  # more than the kernel's buffers hold
        with trio.fail_after(PATIENCE):
            stream = await listener.accept()
            await stream.receive_some(100)
            await stream.send_all(refusal)
            assert (await http_client.reply()).raw == refusal
            await http_client.send(post(chat("beta")))
            fresh = await listener.accept()  # the first connection would take it for the rest of the body
            await fresh.receive_some()
            await fresh.send_all(OK)
            assert (await http_client.reply()).raw == OK
        await stream.aclose()
        await fresh.aclose()


async def test_a_worker_on_a_listening_socket_that_never_accepts_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muxd.proxy.sockets.upstream.CONNECT_TIMEOUT", 0.1)
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    fillers = [socket.socket() for _ in range(3)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(full.getsockname())
    async with open_proxy_env(tmp_path, model={"switch_timeout": 0.5}) as proxy_env:
        proxy_env.muxd.grants["beta"] = f"http://127.0.0.1:{full.getsockname()[1]}"
        reply = await proxy_env.ask(post(chat("beta")))
        assert (reply.status, reply.code) == (502, "worker_unreachable")
    for sock in (full, *fillers):
        sock.close()


async def test_the_connect_timeout_ends_with_the_connection(
    proxy_env: ProxyEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muxd.proxy.sockets.upstream.CONNECT_TIMEOUT", 0.1)
    proxy_env.alpha.answer = answer_when_released
    http_client = await proxy_env.connect()
    await http_client.send(post(chat()))
    call = await proxy_env.alpha.calls.nth(0)
    with trio.move_on_after(0.3):
        await call.gone.wait()
    call.released.set()
    assert (await http_client.reply()).raw == OK


async def test_slow_heads_are_put_together(proxy_env: ProxyEnv) -> None:
    async def answer(call: Call) -> None:
        for byte in OK:
            await call.send(bytes((byte,)))
            await trio.testing.wait_all_tasks_blocked()

    proxy_env.alpha.answer = answer
    assert (await proxy_env.ask(post(chat()))).raw == OK
