"""A worker that records what it gets, byte for byte, and answers as the test says."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from .record import PATIENCE, Record

OK_BODY = b'{"id": "c", "choices": [], "x_extra": {"keep": "me"}}'
OK = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nX-Up: 1\r\ncontent-length: %d\r\n\r\n" % len(OK_BODY)
    + OK_BODY
)
SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(text: str) -> bytes:
    return chunk(b'data: {"text": "%b"}\n\n' % text.encode())


@dataclass
class Call:
    """One request; `gone` is set when the proxy closes its connection."""

    head: bytes
    body: bytes
    connection: int
    stream: trio.SocketStream
    gone: trio.Event = field(default_factory=trio.Event)
    released: trio.Event = field(default_factory=trio.Event)

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def aborted(self) -> None:
        with trio.fail_after(PATIENCE):
            await self.gone.wait()

    def reset(self) -> None:
        self.stream.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.stream.socket.close()


Answer = Callable[[Call], Awaitable[bool | None]]  # False: close the connection


async def answer_ok(call: Call) -> None:
    await call.send(OK)


async def answer_when_released(call: Call) -> None:
    """Nothing, until the test sets `released`."""
    await call.released.wait()
    await call.send(OK)


class Worker:
    def __init__(self) -> None:
        self.answer: Answer = answer_ok
        self.calls: Record[Call] = Record()
        self.connections = 0
        self.ended: Record[int] = Record()  # the numbers of connections that are over
        self._listener: trio.SocketListener | None = None
        self._streams: list[trio.SocketStream] = []
        self._life = trio.CancelScope()

    @property
    def port(self) -> int:
        assert self._listener is not None
        return int(self._listener.socket.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        (self._listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._live, self._listener)
            yield
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def running_as(self, answer: Answer) -> AsyncIterator["Worker"]:
        self.answer = answer
        async with self.running():
            yield self

    def die(self) -> None:
        """Refuse new connections, break the others."""
        assert self._listener is not None
        self._life.cancel()
        self._listener.socket.close()
        self.close_idle()

    def close_idle(self) -> None:
        """As a server does whose keep-alive time is over; synchronous, so that a request may cross it."""
        for stream in self._streams:
            stream.socket.close()
        self._streams.clear()

    async def _live(self, listener: trio.SocketListener) -> None:
        with self._life:
            await trio.serve_listeners(self._serve, [listener])

    async def _serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        self._streams.append(stream)
        number = self.connections
        try:
            await self._conversation(_Line(stream), number)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self.ended.append(number)

    async def _conversation(self, line: "_Line", number: int) -> None:
        while await line.until(lambda: b"\r\n\r\n" in line.buffer):
            head, _, line.buffer = line.buffer.partition(b"\r\n\r\n")
            stated = re.search(rb"(?i)content-length: (\d+)", head)
            length = int(stated[1]) if stated else 0
            if not await line.until(lambda length=length: len(line.buffer) >= length):  # type: ignore[misc]
                return
            call = Call(head, line.buffer[:length], number, line.stream)
            line.buffer = line.buffer[length:]
            self.calls.append(call)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(line.watch, call)
                try:
                    if await self.answer(call) is False:
                        await line.stream.aclose()
                except trio.BrokenResourceError:
                    call.gone.set()
                    raise
                nursery.cancel_scope.cancel()


class _Line:
    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.buffer = b""

    async def until(self, enough: Callable[[], bool]) -> bool:
        """Receive until there is enough; False where it ends before."""
        while not enough():
            data = await self.stream.receive_some()
            if not data:
                return False
            self.buffer += data
        return True

    async def watch(self, call: Call) -> None:
        """Note when the proxy closes while an answer is under way."""
        try:
            while data := await self.stream.receive_some():
                self.buffer += data
        except trio.BrokenResourceError:
            pass
        call.gone.set()
