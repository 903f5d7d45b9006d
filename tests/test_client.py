"""The client against the real control server."""

import os
import socket
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from muxd.client import ControlClient
from muxd.control import Rights
from muxd.errors import (
    BadRequest,
    ModelNotFound,
    MuxdError,
    PermissionDenied,
    ProtocolMismatch,
    RouteNotFound,
    Unreachable,
)
from muxd.protocol import (
    VERSION,
    DemandReport,
    LeaseDemand,
    LeaseGranted,
    LeaseQueued,
    LeaseRelease,
    LeaseWish,
    WaitingRequests,
)
from tests.control.conftest import Desk, NoRights, desk, rights  # noqa: F401
from tests.control.office import METRICS


async def test_questions_are_answered(desk: Desk) -> None:  # noqa: F811
    client = ControlClient([desk.path])
    assert (await client.version())["api"] == 1
    assert await client.status() == {"models": []}
    assert await client.model("Qwen/Qwen3-14B") == {"name": "qwen"}


async def test_metrics_are_told_as_text(desk: Desk) -> None:  # noqa: F811
    assert await ControlClient([desk.path]).metrics() == METRICS


async def test_a_session_lasts_for_its_scope(desk: Desk) -> None:  # noqa: F811
    client = ControlClient([desk.path.with_name("none"), desk.path])
    async with client.session() as session:
        wish, demand = LeaseWish(1, "qwen", (WaitingRequests("k", 1, 2, 1.5),)), DemandReport((LeaseDemand(1, 3),))
        await session.send([wish, demand])
        assert await session.receive() == [LeaseQueued(1, 1)]
        desk.office.sessions[0].say(LeaseGranted(1, "\u2028 é", 1))
        assert await session.receive() == [LeaseGranted(1, "\u2028 é", 1)]
    await desk.office.closed.wait()
    assert desk.office.asked == [wish, demand, "closed"]


async def test_a_session_that_muxd_ends_is_unreachable(desk: Desk) -> None:  # noqa: F811
    async with ControlClient([desk.path]).session() as session:
        await desk.office.opened.wait()
        desk.office.sessions[0].end()
        with pytest.raises(Unreachable, match="closed the connection"):
            await session.receive()


async def test_a_session_that_muxd_refuses_says_why(desk: Desk) -> None:  # noqa: F811
    async with ControlClient([desk.path]).session() as session:
        await session.send([LeaseRelease(13)])
        with pytest.raises(BadRequest, match="13 brings no luck"):
            await session.receive()


async def test_events_come_from_an_id_on(desk: Desk) -> None:  # noqa: F811
    async with ControlClient([desk.path]).events(after=1) as events:
        assert [(await anext(events))["id"] for _ in range(2)] == [2, 3]


async def test_an_error_of_muxd_is_raised_as_its_class(desk: Desk) -> None:  # noqa: F811
    client = ControlClient([desk.path])
    with pytest.raises(ModelNotFound, match="the nearest is qwen") as caught:
        await client.model("nope")
    assert caught.value.details == {"nearest": "qwen"}


class TestAStranger:
    @pytest.fixture
    def rights(self) -> Rights:
        return NoRights(own_uid=-1, others_read=False)

    async def test_is_told_so(self, desk: Desk) -> None:  # noqa: F811
        with pytest.raises(PermissionDenied):
            await ControlClient([desk.path]).status()
        with pytest.raises(PermissionDenied):
            await ControlClient([desk.path]).metrics()
        with pytest.raises(PermissionDenied):
            await begin_session(desk.path)


async def begin_session(path: Path) -> None:
    async with ControlClient([path]).session():
        pytest.fail("it has begun")


async def test_unreachable_tells_every_path_and_why(tmp_path: Path) -> None:
    stale, missing = tmp_path / "stale", tmp_path / "missing"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(stale))
    with pytest.raises(Unreachable) as caught:
        await ControlClient([missing, stale]).status()
    assert f"{missing}: muxd is not running" in caught.value.message
    assert f"{stale}: the socket is stale" in caught.value.message


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"", "closed the connection"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", "closed the connection"),
        (b"SSH-2.0-OpenSSH\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno", "does not speak JSON"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]", "does not speak JSON"),
        (b"HTTP/1.1 502 Bad\r\ncontent-length: 2\r\n\r\nno", "not muxd"),
        (b"HTTP/1.1 502 Bad\r\ncontent-length: 2\r\n\r\n{}", "not muxd"),
    ],
)
async def test_whatever_else_answers_is_unreachable(tmp_path: Path, answer: bytes, complaint: str) -> None:
    where = tmp_path / "s"
    listening = trio.socket.socket(trio.socket.AF_UNIX)
    await listening.bind(os.fspath(where))
    listening.listen()

    async def reply() -> None:
        connection, _ = await listening.accept()
        with connection:
            await connection.recv(65536)
            await connection.send(answer)

    with listening:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reply)
            with pytest.raises(Unreachable, match=complaint):
                await ControlClient([where]).status()


@pytest.mark.parametrize(
    ("answer", "error", "complaint"),
    [
        (b"", Unreachable, "closed the connection"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", Unreachable, "does not speak HTTP"),
        (b"x" * (65 << 10), Unreachable, "its head has no end"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", Unreachable, "not muxd"),
        (b"HTTP/1.1 101 OK\r\n\r\n", ProtocolMismatch, "speaks version none of the session's protocol"),
        (b"HTTP/1.1 101 OK\r\nmuxd-protocol: 1\r\n\r\n", ProtocolMismatch, "speaks version 1 of the session's"),
    ],
    ids=range(6),
)
async def test_whatever_begins_no_session_is_told(
    tmp_path: Path, answer: bytes, error: type[MuxdError], complaint: str
) -> None:
    await assert_no_session(tmp_path / "s", answer, error, complaint)


async def test_an_older_muxd_without_sessions_is_called_so(tmp_path: Path) -> None:
    body = msgspec.json.encode(RouteNotFound("there is no /v1/session").as_json())
    answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    await assert_no_session(tmp_path / "s", answer, ProtocolMismatch, "knows no sessions, and this proxy version")


async def test_a_line_that_is_no_message_ends_the_session(tmp_path: Path) -> None:
    begun = b"HTTP/1.1 101 Switching Protocols\r\nmuxd-protocol: %d\r\n\r\n" % VERSION
    answer = begun + b'{"type": "granted"}\n'
    await assert_no_session(tmp_path / "s", answer, Unreachable, "does not speak the session's protocol")


async def assert_no_session(where: Path, answer: bytes, error: type[MuxdError], complaint: str) -> None:
    """Begin a session with something that answers so to whatever it gets, and wait for a message in vain."""
    listening = trio.socket.socket(trio.socket.AF_UNIX)
    await listening.bind(os.fspath(where))
    listening.listen()

    async def reply() -> None:
        connection, _ = await listening.accept()
        with connection:
            await connection.recv(65536)
            await trio.SocketStream(connection).send_all(answer)

    async def begin() -> None:
        async with ControlClient([where]).session() as session:
            await session.receive()

    with listening:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reply)
            with pytest.raises(error, match=complaint):
                await begin()


async def test_where_others_connect_faster_than_muxd_accepts_it_waits_its_turn(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    path = tmp_path / "full.sock"
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as first:
        listening.bind(os.fspath(path))
        listening.listen(0)
        first.connect(os.fspath(path))
        with pytest.raises(Unreachable, match="more connect to it than it has accepted"):
            await ControlClient([path]).version()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_answer_both, listening)
            assert await ControlClient([path]).version() == {"a": 1}


async def _answer_both(listening: socket.socket) -> None:
    await trio.sleep(1)
    listening.accept()[0].close()
    accepted = trio.socket.from_stdlib_socket(listening)
    connection, _ = await accepted.accept()
    await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n" + b'{"a": 1}')
    connection.close()
