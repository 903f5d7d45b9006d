"""A control socket with a fake office behind it."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import trio

from muxd.control import ControlSocket, Rights, serve_control
from muxd.http.server_limits import ServerLimits
from muxd.protocol import VERSION

from .office import FakeOffice


@dataclass
class Desk:
    """Everything a test needs to ask."""

    path: Path
    office: FakeOffice
    nursery: trio.Nursery
    opened: list[trio.SocketStream] = field(default_factory=list)

    async def connect(self) -> trio.SocketStream:
        self.opened.append(await trio.open_unix_socket(self.path))
        return self.opened[-1]

    async def send(self, method: str, target: str, body: str = "") -> trio.SocketStream:
        stream = await self.connect()
        head = f"{method} {target} HTTP/1.1\r\nHost: muxd\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        await stream.send_all((head + body).encode())
        return stream

    async def begin_session(self, version: bytes = b"%d" % VERSION, lines: bytes = b"") -> trio.SocketStream:
        """Ask for a session in this version of the protocol; `lines` are sent together with the head."""
        stream = await self.connect()
        head = b"GET /v1/session HTTP/1.1\r\nHost: muxd\r\nConnection: upgrade\r\nUpgrade: muxd-session\r\n"
        await stream.send_all(head + b"Muxd-Protocol: " + version + b"\r\n\r\n" + lines)
        return stream

    async def ask(self, method: str, target: str, body: str = "") -> tuple[int, bytes, bytes]:
        """Status, head and the rest of one whole answer."""
        return split(await until_closed(await self.send(method, target, body)))


def split(answer: bytes) -> tuple[int, bytes, bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head[9:12]), head, body


async def until_closed(stream: trio.SocketStream) -> bytes:
    received = b""
    while data := await stream.receive_some():
        received += data
    return received


async def until(stream: trio.SocketStream, end: bytes) -> bytes:
    received = b""
    while end not in received:
        data = await stream.receive_some()
        assert data, received
        received += data
    return received


class NoRights(Rights):
    """Takes nobody for the owner, so that root can be a stranger in a test."""

    def owns(self, peer: object) -> bool:
        return False


@pytest.fixture
def rights() -> Rights:
    """What the desk grants; a test that wants others overrides it."""
    return Rights(own_uid=os.geteuid())


@pytest.fixture
async def desk(tmp_path: Path, rights: Rights, nursery: trio.Nursery) -> AsyncIterator[Desk]:
    async with open_desk(tmp_path, rights, ServerLimits(linger_timeout=0.1, write_timeout=1.0), nursery) as desk:
        yield desk


@asynccontextmanager
async def open_desk(folder: Path, rights: Rights, limits: ServerLimits, nursery: trio.Nursery) -> AsyncIterator[Desk]:
    control = ControlSocket(folder / "muxd.sock")
    desk = Desk(control.path, FakeOffice(folder), nursery)
    await nursery.start(partial(serve_control, desk.office, control.listener, rights, limits))
    try:
        with trio.fail_after(15):
            yield desk
    finally:
        for stream in desk.opened:
            stream.socket.close()
        control.close()
