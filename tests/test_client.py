"""The client against the real control server."""

import os
import socket
from pathlib import Path

import pytest
import trio
import trio.testing

from muxd.client import ControlClient
from muxd.control import Rights
from muxd.core.events import Waiting
from muxd.errors import LeaseNotFound, ModelNotFound, PermissionDenied, Unreachable
from muxd.lease_protocol import WaitingBody
from tests.control.conftest import Desk, desk, rights  # noqa: F401
from tests.control.office import METRICS
from tests.control.test_routes import NoRights


async def test_questions_are_answered(desk: Desk) -> None:  # noqa: F811
    client = ControlClient([desk.path])
    assert (await client.version())["api"] == 1
    assert await client.status() == {"models": []}
    assert await client.model("Qwen/Qwen3-14B") == {"name": "qwen"}


async def test_a_model_is_let_go(desk: Desk) -> None:  # noqa: F811
    told = await ControlClient([desk.path]).unload("Qwen/Qwen3-14B")
    assert told == {"model": "qwen", "sleeps": False, "reason": "it is in use"}


async def test_metrics_are_told_as_text(desk: Desk) -> None:  # noqa: F811
    assert await ControlClient([desk.path]).metrics() == METRICS


async def test_a_lease_is_held_for_its_scope(desk: Desk) -> None:  # noqa: F811
    client = ControlClient([desk.path.with_name("none"), desk.path])
    async with client.lease("Qwen/Qwen3-14B", [WaitingBody("k", 1, 2, 1.5)]) as lease:
        first = await anext(lease)
        assert (first["type"], first["lease"]) == ("queued", "17")
        await client.report_demand(first["lease"], 3, [WaitingBody()])
        await desk.office.open[17].send({"type": "granted", "text": "\u2028 é"})
        assert await anext(lease) == {"type": "granted", "text": "\u2028 é"}
    await desk.office.closed.wait()
    assert desk.office.asked == [
        ("lease", "qwen", (Waiting(2, 1.5, "k", 1),)),
        ("demand", 17, 3, (Waiting(),)),
        ("close", 17),
    ]


async def test_messages_end_when_muxd_ends_the_lease(desk: Desk) -> None:  # noqa: F811
    async with ControlClient([desk.path]).lease("qwen", []) as lease:
        await desk.office.opened.wait()
        desk.office.open[17].close()
        assert [message["type"] async for message in lease] == ["queued"]


async def test_events_come_from_an_id_on(desk: Desk) -> None:  # noqa: F811
    async with ControlClient([desk.path]).events(after=1) as events:
        assert [(await anext(events))["id"] for _ in range(2)] == [2, 3]


async def test_an_error_of_muxd_is_raised_as_its_class(desk: Desk) -> None:  # noqa: F811
    client = ControlClient([desk.path])
    with pytest.raises(ModelNotFound, match="the nearest is qwen") as caught:
        await client.model("nope")
    assert caught.value.details == {"nearest": "qwen"}
    with pytest.raises(ModelNotFound):
        await enter_lease(client, "nope")
    with pytest.raises(LeaseNotFound):
        await client.report_demand("99", 0, [])


class TestAStranger:
    @pytest.fixture
    def rights(self) -> Rights:
        return NoRights(own_uid=-1, others_read=False)

    async def test_is_told_so(self, desk: Desk) -> None:  # noqa: F811
        with pytest.raises(PermissionDenied):
            await ControlClient([desk.path]).status()
        with pytest.raises(PermissionDenied):
            await ControlClient([desk.path]).metrics()


async def enter_lease(client: ControlClient, model: str) -> None:
    async with client.lease(model, []):
        pytest.fail("it was granted")


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
