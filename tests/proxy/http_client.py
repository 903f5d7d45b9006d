"""A client at the level of bytes."""

import re
from dataclasses import dataclass
from typing import Any

import msgspec
import trio

from .record import PATIENCE

CHAT = b"/v1/chat/completions"


def chat(model: str = "org/alpha", **more: Any) -> bytes:
    return msgspec.json.encode({"model": model, "messages": [{"role": "user", "content": "hi"}], **more})


def post(body: bytes, headers: bytes = b"", path: bytes = CHAT, version: bytes = b"1.1") -> bytes:
    """As JSON, unless `headers` say otherwise."""
    line = b"POST %b HTTP/%b\r\nHost: muxd.test\r\n" % (path, version)
    if b"content-type:" not in headers.lower():
        line += b"Content-Type: application/json\r\n"
    return line + headers + b"Content-Length: %d\r\n\r\n" % len(body) + body


def get(path: bytes, method: bytes = b"GET", version: bytes = b"1.1") -> bytes:
    return b"%b %b HTTP/%b\r\nHost: muxd.test\r\n\r\n" % (method, path, version)


@dataclass
class Reply:
    """One answer; `raw` is all of it as received."""

    head: bytes
    body: bytes  # framing included where it is chunked

    @property
    def raw(self) -> bytes:
        return self.head + b"\r\n\r\n" + self.body

    @property
    def status(self) -> int:
        return int(self.head[9:12])

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def code(self) -> str:
        """Of an OpenAI-shaped error, which it must be."""
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return str(error["code"])

    @property
    def message(self) -> str:
        return str(self.json["error"]["message"])

    def header(self, name: bytes) -> bytes | None:
        found = re.search(rb"(?im)^" + name + rb": *(.*?)\r?$", self.head)
        return found[1] if found else None


class HttpClient:
    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.buffer = bytearray()

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def ask(self, data: bytes) -> Reply:
        await self.send(data)
        return await self.reply()

    async def reply(self, to_head: bool = False) -> Reply:
        """The next whole answer; `to_head`: to a HEAD request."""
        await self.until(b"\r\n\r\n")
        head = await self._take(self.buffer.index(b"\r\n\r\n") + 4)
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        if to_head or head[9:10] == b"1":
            body = b""
        elif length:
            body = await self._take(int(length[1]))
        elif b"chunked" in head:
            await self.until(b"0\r\n\r\n")
            body = await self._take(self.buffer.index(b"0\r\n\r\n") + 5)
        else:
            body = await self.rest()
        return Reply(head[:-4], body)

    async def _take(self, size: int) -> bytes:
        await self.at_least(size)
        taken = bytes(self.buffer[:size])
        del self.buffer[:size]
        return taken

    async def until(self, mark: bytes) -> bytearray:
        """Everything so far, once `mark` is in it."""
        while mark not in self.buffer:
            await self._receive()
        return self.buffer

    async def at_least(self, size: int) -> None:
        while len(self.buffer) < size:
            await self._receive()

    async def _receive(self) -> None:
        with trio.fail_after(PATIENCE):
            data = await self.stream.receive_some()
        assert data, f"the proxy closed the connection after {self.buffer!r}"
        self.buffer += data

    async def rest(self) -> bytes:
        """Everything until the proxy closes."""
        with trio.fail_after(PATIENCE):
            while data := await self.stream.receive_some():
                self.buffer += data
        rest, self.buffer = bytes(self.buffer), bytearray()
        return rest

    async def closed(self) -> None:
        assert await self.rest() == b""

    def close(self) -> None:
        """Gone, at once."""
        self.stream.socket.close()

    def reset(self) -> None:
        self.stream.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.stream.socket.close()

    def finish_sending(self) -> None:
        self.stream.socket.shutdown(trio.socket.SHUT_WR)
