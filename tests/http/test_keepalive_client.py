"""The client of engine calls: one request after the other on a connection, and none twice."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio

from muxd.http.keepalive_client import ConnectFailed, ExchangeFailed, HttpAnswer, KeepAliveClient, OverlongAnswer
from muxd.ports import free_port

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """Answers the requests of all its connections with these, in turn; b"" ends the connection."""

    def __init__(self, answers: list[bytes]) -> None:
        self.answers = answers
        self.asked: list[bytes] = []
        self.connections = 0
        self.ended = trio.Event()  # one connection has ended
        self.url = ""

    async def serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        async with stream:
            with suppress(trio.BrokenResourceError):
                while asked := await stream.receive_some():
                    self.asked.append(asked)
                    if not (answer := self.answers.pop(0)):
                        break
                    await stream.send_all(answer)
                    if answer.endswith(b"close") or b"HTTP/1.0" in answer:
                        break
        self.ended.set()


@asynccontextmanager
async def answering(*answers: bytes, keep: float = 60.0) -> AsyncIterator[tuple[KeepAliveClient, Server]]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = Server(list(answers))
    server.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
    with trio.fail_after(30):
        async with KeepAliveClient(keep) as client, trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, server.serve, listeners)
            yield client, server
            nursery.cancel_scope.cancel()


async def get(client: KeepAliveClient, server: Server, most: int = 1000) -> HttpAnswer:
    return await client.exchange("GET", f"{server.url}/x", {}, None, most)


async def test_requests_that_follow_each_other_share_a_connection():
    async with answering(OK, OK, OK) as (client, server):
        assert [(await get(client, server)).body for _ in range(3)] == [b"ok"] * 3
    assert server.connections == 1


async def test_requests_at_the_same_time_have_a_connection_each():
    async with answering(OK, OK) as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(get, client, server)
        nursery.start_soon(get, client, server)
    assert server.connections == 2


async def test_a_connection_that_was_idle_for_longer_is_not_used_again():
    async with answering(OK, OK, keep=0.0) as (client, server):
        await get(client, server)
        await trio.sleep(0.001)
        await get(client, server)
    assert server.connections == 2


@pytest.mark.parametrize(
    "ending",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nclose",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nclose",
        b"HTTP/1.1 200 OK\r\n\r\nclose",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nclose" + OK,  # what nobody has asked for
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nclose\0\0",
    ],
)
async def test_a_connection_on_which_no_request_may_follow_is_closed(ending):
    async with answering(ending, OK) as (client, server):
        assert (await get(client, server)).body == b"close"
        assert (await get(client, server)).body == b"ok"
    assert server.connections == 2


async def test_a_kept_connection_that_the_server_has_closed_is_left():
    unannounced = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nclose"
    async with answering(unannounced, OK) as (client, server):
        await get(client, server)
        await server.ended.wait()
        assert (await get(client, server)).body == b"ok"
    assert server.connections == 2


async def test_a_request_without_an_answer_is_sent_once():
    async with answering(OK, b"", OK) as (client, server):
        await get(client, server)
        with pytest.raises(ExchangeFailed, match="was closed"):
            await get(client, server)
    assert len(server.asked) == 2


async def test_a_cancelled_request_closes_its_connection():
    async with answering(OK[:-1], OK) as (client, server):
        with trio.move_on_after(0.05) as scope:
            await get(client, server)
        assert scope.cancelled_caught
        await server.ended.wait()
        assert (await get(client, server)).body == b"ok"
    assert server.connections == 2


async def test_an_interim_response_only_announces_the_one_that_counts():
    async with answering(b"HTTP/1.1 103 Early Hints\r\nContent-Length: 7\r\n\r\n" + OK, OK) as (client, server):
        assert await get(client, server) is not None
        assert (await get(client, server)).status == 200


@pytest.mark.parametrize(
    "odd",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"what?",
    ],
)
async def test_what_is_no_answer_fails_the_request_and_its_connection(odd):
    async with answering(odd, OK) as (client, server):
        with pytest.raises(ExchangeFailed, match="does not speak HTTP"):
            await get(client, server)
        assert (await get(client, server)).body == b"ok"
    assert server.connections == 2


async def test_an_answer_is_read_as_far_as_it_is_wanted():
    async with answering(OK, OK) as (client, server):
        with pytest.raises(OverlongAnswer):
            await get(client, server, most=1)
        assert (await get(client, server, most=2)).body == b"ok"


async def test_a_request_says_whom_it_is_for_and_how_long_it_is():
    async with answering(OK, OK) as (client, server):
        await client.exchange("POST", f"{server.url}/a b\n?c=ü", {b"x-key": b"y"}, b"{}", 1000)
        await client.exchange("DELETE", f"{server.url}/a", {b"content-length": b"7"}, None, 1000)
    host = server.url.removeprefix("http://").encode()
    posted, deleted = (asked.split(b"\r\n") for asked in server.asked)
    assert posted[0] == b"POST /a%20b%0A?c=%C3%BC HTTP/1.1"
    assert {b"host: " + host, b"x-key: y", b"content-type: application/json", b"content-length: 2"} <= set(posted)
    assert b"content-length: 0" in deleted
    assert b"content-length: 7" not in deleted


async def test_a_header_of_two_lines_is_sent_to_nobody():
    async with answering(OK) as (client, server):
        with pytest.raises(ExchangeFailed, match="more than one line"):
            await client.exchange("GET", server.url, {b"x": b"a\r\nb: c"}, None, 1000)
    assert server.connections == 0


async def test_where_nobody_listens_nothing_was_sent():
    async with KeepAliveClient(1.0) as client:
        with pytest.raises(ConnectFailed) as failed:
            await client.exchange("GET", f"http://127.0.0.1:{free_port()}", {}, None, 1000)
    assert failed.value.errno > 0


async def test_a_server_at_a_unix_socket_is_asked_there(tmp_path):
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(str(tmp_path / "s"))
    listener.listen()
    server = Server([OK])
    async with trio.open_nursery() as nursery, KeepAliveClient(1.0, tmp_path / "s") as client:
        nursery.start_soon(trio.serve_listeners, server.serve, [trio.SocketListener(listener)])
        assert (await client.exchange("GET", "http://anybody/", {}, None, 1000)).body == b"ok"
        nursery.cancel_scope.cancel()
