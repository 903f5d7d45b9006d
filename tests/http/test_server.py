"""The server against real sockets: answers, limits in time and number, and clients that misbehave."""

import random
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio
from msgspec.structs import replace

from muxd.errors import MethodNotAllowed, ModelNotFound
from muxd.http.request import Request
from muxd.http.response_writer import ResponseWriter
from muxd.http.server import Handler, serve_http
from muxd.http.server_limits import ServerLimits, Standing

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
Connect = Callable[[], Awaitable[trio.SocketStream]]


async def echo(request: Request, exchange: ResponseWriter) -> None:
    await exchange.send_json(200, {"method": request.method, "path": request.path, "body": request.body.decode()})


@asynccontextmanager
async def serving(
    tmp_path: Path, handler: Handler = echo, limits: ServerLimits | None = None, rank: int = 0
) -> AsyncIterator[Connect]:
    """A server on a Unix socket, and how to connect to it; all its connections end with it."""
    where = str(tmp_path / "s")
    listening = trio.socket.socket(trio.socket.AF_UNIX)
    await listening.bind(where)
    listening.listen(2000)
    opened: list[trio.SocketStream] = []

    async def connect() -> trio.SocketStream:
        client = trio.socket.socket(trio.socket.AF_UNIX)
        await client.connect(where)
        opened.append(trio.SocketStream(client))
        return opened[-1]

    listeners = [trio.SocketListener(listening)]
    serve = partial(serve_http, handler, listeners, limits, judge=lambda _: Standing(rank=rank))
    try:
        with trio.fail_after(15):
            async with trio.open_nursery() as nursery:
                await nursery.start(serve)
                yield connect
                nursery.cancel_scope.cancel()
    finally:
        for stream in opened:
            stream.socket.close()


async def until_closed(stream: trio.SocketStream) -> bytes:
    received = b""
    try:
        while data := await stream.receive_some():
            received += data
    except trio.BrokenResourceError:
        pass
    return received


async def until(stream: trio.SocketStream, end: bytes) -> bytes:
    received = b""
    while not received.endswith(end):
        data = await stream.receive_some()
        assert data, received
        received += data
    return received


async def talk(connect: Connect, data: bytes) -> bytes:
    stream = await connect()
    await stream.send_all(data)
    await stream.send_eof()
    return await until_closed(stream)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def statuses(answers: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", answers)]


async def test_one_connection_carries_many_requests(tmp_path: Path) -> None:
    async with serving(tmp_path) as connect:
        stream = await connect()
        for _ in range(3):
            await stream.send_all(GET)
            assert b'"path":"/"' in await until(stream, b"}\n")


async def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    async with serving(tmp_path) as connect:
        answers = await talk(connect, GET + GET.replace(b"/ ", b"/second ") + GET.replace(b"GET", b"HEAD"))
    assert statuses(answers) == [200, 200, 200]
    assert answers.index(b'"/"') < answers.index(b'"/second"')
    assert answers.endswith(b"\r\n\r\n")  # HEAD has no body


async def test_connection_close_is_kept_and_said(tmp_path: Path) -> None:
    async with serving(tmp_path) as connect:
        stream = await connect()
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + GET)
        answer = await until_closed(stream)
    assert statuses(answer) == [200]
    assert b"connection: close\r\n" in answer


async def test_a_close_with_unread_data_does_not_reset_the_answer(tmp_path: Path) -> None:
    async with serving(tmp_path) as connect:
        stream = await connect()
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + b"x" * 100_000)
        answer = b""
        while data := await stream.receive_some():
            answer += data
    assert statuses(answer) == [200]


async def test_http_1_0_is_kept_alive_only_when_it_asks(tmp_path: Path) -> None:
    async with serving(tmp_path) as connect:
        stream = await connect()
        await stream.send_all(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert b"connection: keep-alive\r\n" in await until(stream, b"}\n")
        await stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
        assert b"connection: close\r\n" in await until_closed(stream)


async def test_a_body_is_asked_for_with_100_continue(tmp_path: Path) -> None:
    async with serving(tmp_path) as connect:
        stream = await connect()
        await stream.send_all(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        await until(stream, b"HTTP/1.1 100 Continue\r\n\r\n")
        await stream.send_all(b"ok")
        assert b'"body":"ok"' in await until(stream, b"}\n")


async def test_a_body_too_large_is_refused_instead_of_continued(tmp_path: Path) -> None:
    async with serving(tmp_path) as connect:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n"
        assert statuses(await talk(connect, head)) == [413]


async def test_a_client_that_only_writes_still_reads_the_refusal(tmp_path: Path) -> None:
    async with serving(tmp_path) as connect:
        stream = await connect()
        await stream.send_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(40):
            await stream.send_all(b"2000\r\n" + b"x" * 0x2000 + b"\r\n")
        assert statuses(await until(stream, b"}}\n")) == [413]


async def plain(request: Request, exchange: ResponseWriter) -> None:
    await exchange.send_body("text/plain", b"one\n")


async def test_a_plain_body_is_sent_as_it_is(tmp_path: Path) -> None:
    async with serving(tmp_path, plain) as connect:
        answers = await talk(connect, GET + GET.replace(b"GET", b"HEAD") + GET)
        old = await talk(connect, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\n\r\n")
    whole = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 4\r\n"
    assert answers == (whole + b"\r\none\n") + (whole + b"\r\n") + (whole + b"\r\none\n")
    assert old == whole + b"connection: keep-alive\r\n\r\none\n" + whole + b"connection: close\r\n\r\none\n"


async def stream_three(request: Request, exchange: ResponseWriter) -> None:
    await exchange.start_stream("text/plain", headers=[(b"x-extra", b"1")])
    for line in (b"one\n", b"", b"three\n"):
        await exchange.write(line)


async def test_a_stream_is_chunked_and_ends_with_its_handler(tmp_path: Path) -> None:
    async with serving(tmp_path, stream_three) as connect:
        answers = await talk(connect, GET + GET)
    assert statuses(answers) == [200, 200]
    assert answers.count(b"\r\n\r\n4\r\none\n\r\n6\r\nthree\n\r\n0\r\n\r\n") == 2


async def test_a_stream_to_http_1_0_ends_with_the_connection(tmp_path: Path) -> None:
    async with serving(tmp_path, stream_three) as connect:
        answer = await talk(connect, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert answer.endswith(b"x-extra: 1\r\nconnection: close\r\n\r\none\nthree\n")


async def test_a_stream_to_head_is_its_head(tmp_path: Path) -> None:
    async with serving(tmp_path, stream_three) as connect:
        answers = await talk(connect, GET.replace(b"GET", b"HEAD") + GET)
    assert statuses(answers) == [200, 200]
    assert answers.count(b"one\n") == 1


async def test_an_error_before_the_answer_is_the_answer(tmp_path: Path) -> None:
    async def failing(request: Request, exchange: ResponseWriter) -> None:
        if request.method == "GET":
            raise ModelNotFound("there is no model x", nearest="y")
        raise MethodNotAllowed("no", allowed=["GET", "HEAD"])

    async with serving(tmp_path, failing) as connect:
        answers = await talk(connect, GET + GET.replace(b"GET", b"PUT"))
    assert statuses(answers) == [404, 405]
    assert b'"code":"model_not_found","message":"there is no model x"' in answers
    assert b"allow: GET, HEAD\r\n" in answers


async def test_an_error_after_the_answer_began_ends_it_uncleanly(tmp_path: Path) -> None:
    async def failing(request: Request, exchange: ResponseWriter) -> None:
        await exchange.start_stream("text/plain")
        await exchange.write(b"one\n")
        raise ModelNotFound("gone")

    async with serving(tmp_path, failing) as connect:
        answer = await talk(connect, GET + GET)
    assert answer.endswith(b"4\r\none\n\r\n")


@pytest.mark.parametrize("streams", [False, True])
async def test_a_bug_in_a_handler_comes_out_and_is_not_told(tmp_path: Path, streams: bool) -> None:
    async def buggy(request: Request, exchange: ResponseWriter) -> None:
        if streams:
            await exchange.start_stream("text/plain")
        raise KeyError("secret")

    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012
        async with serving(tmp_path, buggy) as connect:
            stream = await connect()
            await stream.send_all(GET)
            assert b"secret" not in await until_closed(stream)
            await trio.sleep_forever()
    assert caught.group_contains(KeyError)


async def test_a_stream_learns_that_its_client_left(tmp_path: Path) -> None:
    left = trio.Event()

    async def wait(request: Request, exchange: ResponseWriter) -> None:
        await exchange.start_stream("text/plain")
        await exchange.disconnected()
        left.set()

    async with serving(tmp_path, wait) as connect:
        stream = await connect()
        await stream.send_all(GET)
        await until(stream, b"\r\n\r\n")
        await stream.aclose()
        await left.wait()


async def test_a_request_sent_during_a_stream_is_answered_after_it(tmp_path: Path) -> None:
    async def wait(request: Request, exchange: ResponseWriter) -> None:
        await exchange.start_stream("text/plain")
        with trio.move_on_after(0.2):
            await exchange.disconnected()
        await exchange.write(request.path.encode())

    async with serving(tmp_path, wait) as connect:
        stream = await connect()
        await stream.send_all(GET)
        await until(stream, b"\r\n\r\n")
        await stream.send_all(GET.replace(b"/ ", b"/second "))
        await until(stream, b"/second\r\n0\r\n\r\n")


async def test_a_client_that_floods_its_stream_counts_as_gone(tmp_path: Path) -> None:
    left = trio.Event()

    async def wait(request: Request, exchange: ResponseWriter) -> None:
        await exchange.start_stream("text/plain")
        await exchange.disconnected()
        left.set()

    async with serving(tmp_path, wait, ServerLimits(linger_timeout=0.1)) as connect:
        stream = await connect()
        await stream.send_all(GET)
        await until(stream, b"\r\n\r\n")
        await stream.send_all(b"x" * 20_000)
        await left.wait()


async def test_a_client_that_does_not_read_blocks_only_itself(tmp_path: Path) -> None:
    gone = trio.Event()

    async def endless(request: Request, exchange: ResponseWriter) -> None:
        if request.path != "/endless":
            return await echo(request, exchange)
        await exchange.start_stream("text/plain")
        try:
            while True:
                await exchange.write(b"x" * 65536)
        finally:
            gone.set()

    async with serving(tmp_path, endless, ServerLimits(write_timeout=0.5)) as connect:
        stuck = await connect()
        await stuck.send_all(GET.replace(b"/ ", b"/endless "))
        assert statuses(await talk(connect, GET)) == [200]
        await gone.wait()
        assert not (await until_closed(stuck)).endswith(b"0\r\n\r\n")


QUICK = ServerLimits(head_timeout=0.2, body_timeout=0.2, idle_timeout=0.2)


async def test_half_a_request_is_waited_for_only_so_long(tmp_path: Path) -> None:
    for half in (b"G", GET[:-2], b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na"):
        (tmp_path / str(len(half))).mkdir()
        async with serving(tmp_path / str(len(half)), limits=QUICK) as connect:
            stream = await connect()
            await stream.send_all(half)
            assert statuses(await until_closed(stream)) == [408]


async def test_a_drip_of_bytes_does_not_prolong_the_head(tmp_path: Path) -> None:
    async with serving(tmp_path, limits=QUICK) as connect:
        stream = await connect()

        async def drip() -> None:
            for byte in GET:
                await stream.send_all(bytes([byte]))
                await trio.sleep(0.05)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            assert statuses(await until_closed(stream)) == [408]
            nursery.cancel_scope.cancel()


async def test_silent_connections_are_closed_without_a_word(tmp_path: Path) -> None:
    async with serving(tmp_path, limits=QUICK) as connect:
        fresh, used = await connect(), await connect()
        await used.send_all(GET)
        assert await until_closed(fresh) == b""
        assert statuses(await until_closed(used)) == [200]


async def test_a_body_may_take_longer_than_a_head(tmp_path: Path) -> None:
    async with serving(tmp_path, limits=replace(QUICK, body_timeout=10)) as connect:
        stream = await connect()
        await stream.send_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\no")
        await trio.sleep(0.4)
        await stream.send_all(b"k")
        assert b'"body":"ok"' in await until(stream, b"}\n")


@pytest.mark.parametrize("rank", [0, 1])
async def test_beyond_the_limit_only_a_higher_rank_gets_in(tmp_path: Path, rank: int) -> None:
    async with serving(tmp_path, limits=ServerLimits(max_connections=3, reserved=(1,)), rank=rank) as connect:
        inside = [await connect() for _ in range(3)]
        for stream in inside:
            await stream.send_all(GET)
            await until(stream, b"}\n")
        assert statuses(await talk(connect, GET)) == [200 if rank else 503]
        await inside[0].aclose()
        while statuses(await talk(connect, GET)) != [200]:
            await trio.lowlevel.checkpoint()


async def test_a_connection_that_switches_its_protocol_passes_bytes_both_ways(tmp_path: Path) -> None:
    async def shout(request: Request, exchange: ResponseWriter) -> None:
        await exchange.switch_protocol(b"shouts", [(b"x-loud", b"yes")])
        while data := await exchange.receive():
            await exchange.write(data.upper())

    async with serving(tmp_path, shout, ServerLimits(upgrades=(b"shouts",))) as connect:
        client = await connect()
        await client.send_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: shouts\r\n\r\nearly ")
        received = b""
        while not received.endswith(b"EARLY "):
            received += await client.receive_some()
        await client.send_all(b"late")
        await client.send_eof()
        received += await until_closed(client)
    head = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: shouts\r\nx-loud: yes\r\n\r\n"
    assert received == head + b"EARLY LATE"


async def test_the_reserve_has_an_end_too(tmp_path: Path) -> None:
    async with serving(tmp_path, limits=ServerLimits(max_connections=1, reserved=(1,)), rank=1) as connect:
        for _ in range(2):
            stream = await connect()
            await stream.send_all(GET)
            await until(stream, b"}\n")
        answer = await talk(connect, GET)
    assert b'"code":"too_many_connections"' in answer


async def test_a_thousand_idle_and_half_open_clients_pass(tmp_path: Path) -> None:
    """They fill the server, are told so or timed out, and leave no descriptor behind."""
    limits = ServerLimits(head_timeout=0.5, linger_timeout=0.2)
    async with serving(tmp_path, limits=limits) as connect:
        before = open_files()
        streams = [await connect() for _ in range(1000)]
        for stream in streams[::2]:
            with suppress(trio.BrokenResourceError):
                await stream.send_all(GET[:-2])
        ended = [statuses(await until_closed(stream)) for stream in streams]
        assert [503] in ended
        assert [408] in ended
        assert all(status in ([], [503], [408]) for status in ended)
        for stream in streams:
            await stream.aclose()
        while open_files() > before:
            await trio.lowlevel.checkpoint()
        assert statuses(await talk(connect, GET)) == [200]


async def test_rubbish_is_refused_and_the_server_lives(tmp_path: Path) -> None:
    chance = random.Random(41)
    async with serving(tmp_path, limits=replace(QUICK, linger_timeout=0.05)) as connect:
        for _ in range(1500):
            data = bytearray(GET * chance.randint(1, 3))
            for _ in range(chance.randint(0, 4)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            answers = await talk(connect, bytes(data[: chance.randint(1, len(data))]))
            assert set(statuses(answers)) <= {200, 400, 408}
            assert b"Traceback" not in answers
        assert statuses(await talk(connect, GET)) == [200]


async def test_clients_that_reset_at_once_are_survived(tmp_path: Path) -> None:
    async with serving(tmp_path) as connect:
        for data in (b"", b"G", GET, GET * 500, b"rubbish"):
            for _ in range(20):
                stream = await connect()
                await stream.send_all(data)
                stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                stream.socket.close()
        assert statuses(await talk(connect, GET)) == [200]


async def test_httpx_agrees(tmp_path: Path) -> None:
    async with serving(tmp_path) as _:
        transport = httpx.AsyncHTTPTransport(uds=str(tmp_path / "s"))
        async with httpx.AsyncClient(transport=transport, base_url="http://muxd") as client:
            answer = await client.post("/a%2Fb?c=d", content=iter_body())
            assert answer.json() == {"method": "POST", "path": "/a/b", "body": "onetwo"}
            assert (await client.head("/")).content == b""


async def iter_body() -> AsyncIterator[bytes]:
    yield b"one"
    yield b"two"
