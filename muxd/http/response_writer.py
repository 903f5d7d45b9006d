"""The response to one request, as a handler sends it, and the end of a connection that has had its last one."""

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import trio

from muxd.errors import MuxdError

from .request import Headers, Request
from .response import LAST_CHUNK, chunk, head, json_response, spliced
from .server_limits import ServerLimits

READ = 64 << 10  # bytes that are read at once


class ClientGone(Exception):
    """The client closed, or did not read for too long.  A handler need not catch it."""


class ResponseWriter:
    """Sender of the response to one request: either `send_json` or `send_body`, or `start_stream` and `write`."""

    def __init__(self, stream: trio.SocketStream, request: Request, limits: ServerLimits) -> None:
        self._stream = stream
        self._request = request
        self._limits = limits
        self._chunked = False
        self.lines = b""  # further header lines of the response, whichever it is, each with its CRLF
        self.early = b""  # bytes that the client sent while its stream ran
        self.started = False  # part of a response was sent
        self.keep_alive = request.keep_alive

    @property
    def peer(self) -> trio.socket.SocketType:
        """Return the connection's socket, to look up who is at its other end."""
        return self._stream.socket

    @property
    def head_only(self) -> bool:
        """Return whether the request was HEAD, so that nothing written after the head is sent."""
        return self._request.method == "HEAD"

    async def send_json(self, status: int, value: Any, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Send a whole response in JSON; raise ClientGone."""
        self.started = True
        lines = [*headers, *self._keep_alive_headers()]
        answer = json_response(status, value, *lines, keep_alive=self.keep_alive, method=self._request.method)
        await self._send(spliced(answer, self.lines))

    async def send_body(self, content_type: str, body: bytes) -> None:
        """Send a whole response with status 200; raise ClientGone."""
        self.started = True
        lines: Headers = [(b"content-type", content_type.encode()), (b"content-length", b"%d" % len(body))]
        lines += self._keep_alive_headers() if self.keep_alive else [(b"connection", b"close")]
        await self._send(spliced(head(200, lines), self.lines) + (b"" if self.head_only else body))

    async def send_error(self, error: MuxdError) -> None:
        """Send the error as a whole response, with its allowed methods, if any, in a header too; raise ClientGone."""
        allowed = error.details.get("allowed", ())
        headers = [(b"allow", ", ".join(allowed).encode())] if allowed else []
        await self.send_json(error.status, error.as_json(), headers)

    async def start_stream(
        self, content_type: str, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        """Send the head of a response that ends when the handler returns; raise ClientGone."""
        self.started = True
        lines: Headers = [(b"content-type", content_type.encode()), *headers]
        if self._request.http_version == "1.0":
            self.keep_alive = False  # the close of the connection ends the response
        else:
            self._chunked = True
            lines.append((b"transfer-encoding", b"chunked"))
        if not self.keep_alive:
            lines.append((b"connection", b"close"))
        await self._send(spliced(head(status, lines), self.lines))

    async def switch_protocol(self, protocol: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Accept the protocol that the client asked for: `write` and `receive` then pass bytes as they are.

        The protocol is one of ServerLimits.upgrades.  Raise ClientGone.
        """
        self.started = True
        self.keep_alive = False
        lines: Headers = [(b"connection", b"upgrade"), (b"upgrade", protocol), *headers]
        await self._send(head(101, lines))

    async def receive(self) -> bytes:
        """Return the next bytes of the protocol that was switched to; b"" where the client has ended its side."""
        if self.early:
            early, self.early = self.early, b""
            return early
        connection = self._stream.socket.fileno()
        while True:  # the stream itself tries to read first, which nearly always fails here, and costs as much again
            await trio.lowlevel.wait_readable(connection)
            try:
                return os.read(connection, READ)
            except BlockingIOError:
                continue
            except OSError:
                return b""

    async def write(self, data: bytes) -> None:
        """Send a part of the stream; raise ClientGone."""
        if data and not self.head_only:
            await self._send(chunk(data) if self._chunked else data)

    async def finish(self) -> None:
        """End the stream cleanly; only the server calls this."""
        if self._chunked and not self.head_only:
            await self._send(LAST_CHUNK)

    async def disconnected(self) -> None:
        """Wait until the client has closed the connection, or its sending side, or floods it."""
        try:
            while data := await self._stream.receive_some(READ):
                self.early += data
                if len(self.early) > self._limits.max_head:
                    return  # the client floods the connection while its response is sent
        except trio.BrokenResourceError:
            return

    def _keep_alive_headers(self) -> Headers:
        """Return the header that tells an HTTP/1.0 client that its connection stays open, as it asked for."""
        is_old = self.keep_alive and self._request.http_version == "1.0"
        return [(b"connection", b"keep-alive")] if is_old else []

    async def _send(self, data: bytes) -> None:
        await send(self._stream, data, self._limits.write_timeout)


async def send(stream: trio.SocketStream, data: bytes, patience: float) -> None:
    """Send all of `data`; raise ClientGone where the client closed, or takes longer than `patience` seconds."""
    try:
        with trio.fail_after(patience):
            await stream.send_all(data)
    except (trio.BrokenResourceError, trio.TooSlowError) as error:
        raise ClientGone(str(error)) from None


async def refuse(stream: trio.SocketStream, error: MuxdError, limits: ServerLimits) -> None:
    """Send the error as the last response of the connection; raise ClientGone."""
    await send(stream, json_response(error.status, error.as_json(), keep_alive=False), limits.write_timeout)
    await linger(stream, limits)


async def linger(stream: trio.SocketStream, limits: ServerLimits) -> None:
    """Read and discard what the client still sends: a close with unread data would destroy the response on its way."""
    with suppress(trio.BrokenResourceError), trio.move_on_after(limits.linger_timeout):
        await stream.send_eof()
        while await stream.receive_some(READ):
            pass
