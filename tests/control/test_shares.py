"""What one user does at the control socket does not keep others out."""

import errno
import os
import socket
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio

from muxd.control import ControlSocket, Rights, routes, serve_control
from muxd.control.rights import Peer
from muxd.http import accepting, connection_limiter, server
from muxd.http.server_limits import ServerLimits, Share

from .conftest import Desk, open_desk, until, until_closed
from .office import FakeOffice

ROOT, ADMIN, PROXY, NOBODY, SOMEBODY = range(5)
VERSION = b"GET /v1/version HTTP/1.1\r\nHost: m\r\n\r\n"


class Users:
    """Who connects next is `now`; a connection keeps its user."""

    def __init__(self) -> None:
        self.now = ROOT
        self._known: dict[int, int] = {}
        self._kept: list[object] = []  # so that no other has its id

    def peer_of(self, connection: trio.socket.SocketType) -> Peer:
        self._kept.append(connection)
        uid = self._known.setdefault(id(connection), self.now)
        return Peer(1, uid, frozenset({uid}))


@pytest.fixture
def users(monkeypatch: pytest.MonkeyPatch) -> Users:
    users = Users()
    monkeypatch.setattr(routes, "peer_of", users.peer_of)
    return users


@pytest.fixture
async def desk(tmp_path: Path, users: Users, nursery: trio.Nursery) -> AsyncIterator[Desk]:
    shares = Share(connections=3, pace=1e6, burst=10.0), Share(connections=4, pace=1e6, burst=10.0)
    limits = ServerLimits(max_connections=6, reserved=(4, 4), shares=shares, max_lingering=2, linger_timeout=0.1)
    rights = Rights(own_uid=ROOT, admin_gid=ADMIN, proxy_uid=PROXY)
    async with open_desk(tmp_path, rights, limits, nursery) as desk:
        yield desk


async def held(desk: Desk, users: Users, user: int) -> bytes:
    """What a connection of the user that stays open is answered first."""
    users.now = user
    stream = await desk.connect()
    await stream.send_all(VERSION)
    return (await until(stream, b"\r\n"))[9:12]


async def test_a_user_has_a_share_and_others_theirs(desk: Desk, users: Users) -> None:
    assert [await held(desk, users, NOBODY) for _ in range(4)] == [b"200"] * 3 + [b"503"]
    assert [await held(desk, users, SOMEBODY) for _ in range(3)] == [b"200"] * 3


@pytest.mark.parametrize("user", [ROOT, ADMIN, PROXY])
async def test_who_may_do_more_than_read_is_served_whatever_others_hold(desk: Desk, users: Users, user: int) -> None:
    for other in (NOBODY, NOBODY, NOBODY, SOMEBODY, SOMEBODY, SOMEBODY):
        assert await held(desk, users, other) == b"200"
    assert [await held(desk, users, user) for _ in range(4)] == [b"200"] * 4


async def test_operators_are_served_whatever_the_proxy_holds(desk: Desk, users: Users) -> None:
    for other in (NOBODY, NOBODY, NOBODY, SOMEBODY, SOMEBODY, SOMEBODY, PROXY, PROXY, PROXY, PROXY):
        assert await held(desk, users, other) == b"200"
    assert await held(desk, users, PROXY) == b"503"
    assert [await held(desk, users, user) for user in (ROOT, ADMIN, ROOT, ADMIN)] == [b"200"] * 4


async def test_who_connects_too_often_costs_no_task_and_others_none(
    tmp_path: Path, users: Users, nursery: trio.Nursery, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[object] = []
    monkeypatch.setattr(server, "_Connection", lambda *args: began.append(args) or Served())
    control = ControlSocket(tmp_path / "muxd.sock")
    shares = (Share(connections=100, pace=0.1, burst=5.0),)
    limits = ServerLimits(shares=shares, strangers=Share(connections=100, pace=0.1, burst=8.0), reserved=(1, 1))
    rights = Rights(own_uid=ROOT, admin_gid=ADMIN, proxy_uid=PROXY)
    await nursery.start(partial(serve_control, FakeOffice(tmp_path), control.listener, rights, limits))

    async def ask(user: int, times: int) -> int:
        """How many came in, of so many one after the other."""
        users.now, before = user, len(began)
        for _ in range(times):
            async with await trio.open_unix_socket(control.path) as stream:
                await until_closed(stream)
        return len(began) - before

    assert await ask(NOBODY, 20) == 5
    assert await ask(SOMEBODY, 20) == 3, "all strangers together have had enough"
    assert await ask(ROOT, 20) == 20
    assert await ask(ADMIN, 20) == 20
    await trio.sleep(60)
    assert await ask(NOBODY, 20) == 5
    before = trio.current_time()
    assert await ask(ROOT, 20) == 20
    assert trio.current_time() - before <= accepting._LONGEST_REST, "who may do more waits for one rest at most"
    assert await ask(NOBODY, 20) == 0
    assert trio.current_time() - before > 18 * accepting._SHORTEST_REST, "refusals cost time, and little of a core"
    control.close()


class Served:
    async def serve(self) -> None:
        """At once."""


async def test_a_user_who_asks_all_the_time_waits_and_others_do_not(tmp_path: Path, autojump_clock: object) -> None:
    pace = connection_limiter._Pace(Share(connections=1, pace=10.0, burst=5.0))
    waits = [pace.count() for _ in range(8)]
    assert waits[:5] == [0.0] * 5
    assert waits[5:] == pytest.approx([0.1, 0.2, 0.3])
    assert not pace.is_due()
    await trio.sleep(10)
    assert pace.is_due()
    assert [pace.count() for _ in range(5)] == [0.0] * 5


async def test_without_a_descriptor_root_is_served_and_others_are_let_go(
    desk: Desk, users: Users, monkeypatch: pytest.MonkeyPatch
) -> None:
    """accept(2) succeeds only where a spare descriptor was given up first."""
    given_up: list[int] = []
    accept, close = socket.socket.accept, os.close

    def short(listening: socket.socket) -> tuple[socket.socket, object]:
        if not given_up:
            raise OSError(errno.EMFILE, "too many open files")
        given_up.clear()
        return accept(listening)

    monkeypatch.setattr(socket.socket, "accept", short)
    monkeypatch.setattr(accepting.os, "close", lambda fd: (given_up.append(fd), close(fd))[1])
    users.now = NOBODY
    assert await until_closed(await desk.connect()) == b""
    for _ in range(3):
        assert await held(desk, users, ROOT) == b"200"


@pytest.mark.parametrize("path", ["/" + "x/1modelsNAMElogsv" * 880, "/v1/models/" + "a%20" * 4000, "/" + "/" * 16000])
async def test_a_long_path_is_neither_compared_nor_told_in_full(desk: Desk, path: str, monkeypatch) -> None:
    compared: list[str] = []
    monkeypatch.setattr(routes, "get_close_matches", lambda path, *_, **__: compared.append(path) or ["/metrics"])
    status, _, body = await desk.ask("GET", path)
    assert status == 404
    assert len(body) < 2000
    assert all(len(path) <= 64 for path in compared)


async def test_a_query_of_thousands_of_parameters_is_not_read(desk: Desk) -> None:
    status, _, body = await desk.ask("GET", "/v1/events?" + "a=1&" * 3000)
    assert status == 400
    assert b"the query has more than 32 parameters" in body


async def test_a_socket_that_was_removed_is_made_again_and_clients_stay(desk: Desk, tmp_path: Path) -> None:
    control = ControlSocket(tmp_path / "other.sock", others=True)
    serve = partial(serve_control, desk.office, rights=Rights(own_uid=os.geteuid()))
    await desk.nursery.start(partial(serve, control.listener))
    old = await trio.open_unix_socket(control.path)
    await old.send_all(VERSION)
    await until(old, b"}")
    assert not control.make_again()
    control.path.unlink()
    assert control.make_again()
    assert control.path.stat().st_mode & 0o777 == 0o666
    await desk.nursery.start(partial(serve, control.listener))
    for stream in (old, await trio.open_unix_socket(control.path)):
        await stream.send_all(VERSION)
        assert (await until(stream, b"\r\n"))[9:12] == b"200"
        stream.socket.close()
    control.close()
