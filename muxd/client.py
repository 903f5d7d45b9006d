"""The client of the control API for other processes of muxd: the proxy holds its session with it.

Every request has a connection of its own, as requests are rare; leases and demand go over the session's connection, see
`muxd/protocol.py`.  muxctl has another client, which needs only the standard library.

Every failure to get an answer raises Unreachable, which names each socket that was tried
and what was wrong there.  An error that muxd answers is raised as the class that muxd raised.
"""

import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import msgspec
import trio

from muxd.errors import MuxdError, ProtocolMismatch, RouteNotFound, Unavailable, Unreachable, error_of, in_words
from muxd.http.answer import AnswerParser
from muxd.http.response import request_head
from muxd.protocol import UPGRADE, VERSION, VERSION_HEADER, MuxdMessage, ProxyMessage, SessionRefused, ToldError

Message = dict[str, Any]  # one JSON object

_PATIENCE = 10.0  # seconds until a whole answer, or a stream's head; muxd always answers sooner
_TURN_POLL = 0.005  # seconds between two tries to connect while muxd's accept queue is full
_READ = 64 << 10
_MAX_ANSWER = 64 << 20
_REASONS: dict[type[OSError], str] = {
    FileNotFoundError: "muxd is not running (no such socket)",
    NotADirectoryError: "muxd is not running (no such directory)",
    ConnectionRefusedError: "the socket is stale: muxd has died",
    BlockingIOError: "more connect to it than it has accepted in all this time",
    PermissionError: "permission denied: be a member of muxd's admin_group",
}


class ControlClient:
    """A client of the muxd that listens at the first of `sockets` where any process does."""

    def __init__(self, sockets: Sequence[Path]) -> None:
        self.sockets = tuple(sockets)

    async def version(self) -> Message:
        return await self.ask("GET", "/v1/version")

    async def status(self) -> Message:
        return await self.ask("GET", "/v1/status")

    async def proxy_settings(self) -> Message:
        """Return the part of the configuration that a proxy needs, for `muxd.config.load.config_from_supervisor`."""
        return await self.ask("GET", "/v1/proxy")

    async def model(self, name: str) -> Message:
        """Return one model's status, by name or served name; raises ModelNotFound."""
        return await self.ask("GET", f"/v1/models/{quote(name, safe='')}")

    async def metrics(self) -> str:
        """Return the metrics of muxd and of the awake engines in Prometheus' text format; takes up to 2.5 seconds."""
        return await self.read("/metrics")

    async def read(self, target: str) -> str:
        """Return the body of the answer to a GET as text."""
        async with self.open("GET", target) as answer:
            return await answer.read_text()

    @asynccontextmanager
    async def session(self) -> AsyncIterator["SessionConnection"]:
        """Open a session, which ends with the scope and all its leases with it; raises ProtocolMismatch."""
        path, connection = await self._connect()
        async with connection:
            session = SessionConnection(path, connection)
            await session.begin()
            yield session

    @asynccontextmanager
    async def events(self, after: int | None = None) -> AsyncIterator["MessageStream"]:
        """Stream the events from now on, or those after the event with id `after`."""
        async with self.open("GET", "/v1/events" + ("" if after is None else f"?after={after}")) as stream:
            yield stream

    async def ask(self, method: str, target: str, body: Message | None = None) -> Message:
        """Send a request, and return its whole answer."""
        async with self.open(method, target, body) as answer:
            return await answer.read_json()

    @asynccontextmanager
    async def open(self, method: str, target: str, body: Message | None = None) -> AsyncIterator["MessageStream"]:
        """Send a request and yield its answer's stream, the head read and the body not; raises muxd's error.

        The connection is closed at the end of the scope.
        """
        path, connection = await self._connect()
        async with connection:
            stream = MessageStream(path, connection)
            await stream.ask(method, target, body)
            yield stream

    async def _connect(self) -> tuple[Path, trio.SocketStream]:
        tried: list[str] = []
        for path in self.sockets:
            try:
                return path, await _connect_when_accepted(path)
            except OSError as error:
                tried.append(f"{path}: {_REASONS.get(type(error)) or in_words(error)}")
        raise Unreachable(f"muxd cannot be reached: {'; '.join(tried)}", tried=tried)


async def _connect_when_accepted(path: Path) -> trio.SocketStream:
    """Connect to a Unix socket, trying again for up to _PATIENCE seconds while its queue is full; raises OSError.

    trio.open_unix_socket cannot be used: it takes connect(2)'s EAGAIN, which says that the queue is full, for a
    connection in progress.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.setblocking(False)
    patient_until = trio.current_time() + _PATIENCE
    try:
        while True:
            try:
                connection.connect(os.fspath(path))
                break
            except BlockingIOError:
                if trio.current_time() > patient_until:
                    raise
            await trio.sleep(_TURN_POLL)
    except BaseException:
        connection.close()
        raise
    return trio.SocketStream(trio.socket.from_stdlib_socket(connection))


class MessageStream:
    """An answer's JSON lines as they come: `async for message in stream`.

    The iteration ends where muxd ended the answer, and raises Unreachable where muxd is gone before.  `ask`,
    `read_json` and `read_text` are for ControlClient only.
    """

    def __init__(self, path: Path, connection: trio.SocketStream) -> None:
        self._path = path
        self._connection = connection
        self._parser = AnswerParser()
        self._received = b""  # the part of the body that was not yet returned

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        while b"\n" not in self._received:
            if not await self._receive():
                raise StopAsyncIteration
        line, _, self._received = self._received.partition(b"\n")
        return self._decode(line)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the bytes of the body as they come; raises Unreachable where muxd is gone before its end."""
        going_on = True
        while going_on:
            content, self._received = self._received, b""
            if content:
                yield content
            going_on = await self._receive()

    async def ask(self, method: str, target: str, body: Message | None) -> None:
        """Send the request and wait for the answer's head; raises the error that muxd answers."""
        content = b"" if body is None else msgspec.json.encode(body)
        try:
            with trio.fail_after(_PATIENCE):
                await self._send(request_head(method, target, content) + content)
                while not self._parser.status:
                    await self._receive()
        except trio.TooSlowError:
            raise self._unreachable("does not answer") from None
        if self._parser.status >= 400:
            raise _as_error(await self._read_body())

    async def read_json(self) -> Message:
        """Wait for the whole answer and return it as one JSON object."""
        return self._decode(await self._read_body())

    async def read_text(self) -> str:
        """Wait for the whole answer and return it as text."""
        return (await self._read_body()).decode(errors="replace")

    async def _read_body(self) -> bytes:
        try:
            with trio.fail_after(_PATIENCE):
                while await self._receive():
                    if len(self._received) > _MAX_ANSWER:
                        raise self._unreachable("sends too much")
        except trio.TooSlowError:
            raise self._unreachable("does not answer") from None
        return self._received

    async def _send(self, data: bytes) -> None:
        with suppress(trio.BrokenResourceError):  # muxd refuses before it has read all: its answer says why
            await self._connection.send_all(data)

    async def _receive(self) -> bool:
        """Wait for the next bytes of the answer; return False at its end.  Raises Unreachable."""
        if self._parser.complete:
            return False
        try:
            data = await self._connection.receive_some(_READ)
        except trio.BrokenResourceError:
            data = b""
        if not data:
            raise self._unreachable("closed the connection")
        try:
            self._received += self._parser.feed(data)
        except ValueError as error:
            raise self._unreachable(f"does not speak HTTP: {error}") from None
        return True

    def _decode(self, data: bytes) -> Message:
        try:
            return msgspec.json.decode(data, type=Message)
        except ValueError as error:
            raise self._unreachable(f"does not speak JSON: {error}") from None

    def _unreachable(self, what: str) -> Unreachable:
        return _unreachable(self._path, what)


class SessionConnection:
    """The proxy's end of a session's connection: messages in, messages out.

    `receive` and `send` raise Unreachable where muxd is gone, or speaks something else.  `begin` is for ControlClient.
    Who has no task for it reads the `socket`, and has what was read taken by `take`; `send_now` sends without waiting.
    """

    def __init__(self, path: Path, connection: trio.SocketStream) -> None:
        self._path = path
        self._connection = connection
        self._received = b""
        self._unsent = b""  # of what was to be sent at once

    @property
    def socket(self) -> trio.socket.SocketType:
        return self._connection.socket

    async def begin(self) -> None:
        """Ask for the session; raises the error with which muxd refuses it, and ProtocolMismatch."""
        lines = (
            b"GET /v1/session HTTP/1.1",
            b"host: muxd",
            b"connection: upgrade",
            b"upgrade: %b" % UPGRADE,
            b"%b: %d" % (VERSION_HEADER, VERSION),
        )
        try:
            with trio.fail_after(_PATIENCE):
                await self._send(b"\r\n".join(lines) + b"\r\n\r\n")
                while b"\r\n\r\n" not in self._received:
                    await self._read()
                    if len(self._received) > _READ:
                        raise _unreachable(self._path, "does not speak HTTP: its head has no end")
                if not self._received.startswith(b"HTTP/1.1 101 "):
                    raise await self._refusal()
        except trio.TooSlowError:
            raise _unreachable(self._path, "does not answer") from None
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        told = [line.partition(b": ")[2] for line in head.split(b"\r\n") if line.startswith(VERSION_HEADER + b":")]
        if told != [b"%d" % VERSION]:
            said = b", ".join(told).decode("ascii", "replace") or "none"
            raise ProtocolMismatch(_MISMATCH.format(self._path, f"speaks version {said} of the session's protocol"))

    async def _refusal(self) -> MuxdError:
        """Return the error that muxd answered in place of a session, once it is here."""
        parser, content = AnswerParser(), b""
        try:
            content += parser.feed(self._received)
            while not parser.complete and len(content) < _READ:
                self._received = b""
                await self._read()
                content += parser.feed(self._received)
        except ValueError as error:
            return _unreachable(self._path, f"does not speak HTTP: {error}")
        refusal = _as_error(content)
        if isinstance(refusal, RouteNotFound):  # of a muxd that knew leases without sessions
            return ProtocolMismatch(_MISMATCH.format(self._path, "knows no sessions"))
        return refusal

    async def send(self, messages: Sequence[ProxyMessage]) -> None:
        unsent, self._unsent = self._unsent, b""
        await self._send(unsent + _encoder.encode_lines(messages))

    def send_now(self, messages: Sequence[ProxyMessage]) -> bool:
        """Send messages without waiting, while no `send` is under way; return whether muxd's end took all of them.

        The next `send` sends the rest first.  Where muxd is gone, whoever receives hears of it.
        """
        data = self._unsent + _encoder.encode_lines(messages)
        try:
            self._unsent = data[os.write(self._connection.socket.fileno(), data) :]
        except BlockingIOError:
            self._unsent = data
        except OSError:
            self._unsent = b""
        return not self._unsent

    async def receive(self) -> list[MuxdMessage]:
        """Wait for the next messages; raises the error with which muxd ends a session that it refuses."""
        while b"\n" not in self._received:
            await self._read()
        return self.take(b"")

    def take(self, data: bytes) -> list[MuxdMessage]:
        """Return the messages that are whole with these bytes, raising as `receive` does; b"" is no end."""
        *lines, self._received = (self._received + data).split(b"\n")
        try:
            messages = [_decoder.decode(line) for line in lines]
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _unreachable(self._path, f"does not speak the session's protocol: {error}") from None
        for message in messages:
            if isinstance(message, SessionRefused):
                raise _error_told(message.error)
        return messages

    async def _send(self, data: bytes) -> None:
        try:
            await self._connection.send_all(data)
        except trio.BrokenResourceError:
            raise self.closed() from None

    async def _read(self) -> None:
        try:
            data = await self._connection.receive_some(_READ)
        except trio.BrokenResourceError:
            data = b""
        if not data:
            raise self.closed()
        self._received += data

    def closed(self) -> Unreachable:
        """Return the error that muxd has closed the connection."""
        return _unreachable(self._path, "closed the connection")


_MISMATCH = f"muxd at {{}} {{}}, and this proxy version {VERSION}: restart the older one of the two"
_decoder: "msgspec.json.Decoder[MuxdMessage]" = msgspec.json.Decoder(MuxdMessage)
_encoder = msgspec.json.Encoder()


def _unreachable(path: Path, what: str) -> Unreachable:
    return Unreachable(f"muxd at {path} {what}", tried=[str(path)])


def _as_error(content: bytes) -> MuxdError:
    """Return the error that muxd answered, as an object of its class.

    The error of a newer muxd, whose code is unknown here, becomes Unavailable where it is retryable, else MuxdError.
    """
    try:
        told = msgspec.json.decode(content, type=_Answered).error
    except (msgspec.DecodeError, ValueError):
        return Unreachable("what answers at the control socket is not muxd")
    return _error_told(told)


class _Answered(msgspec.Struct):
    error: ToldError


def _error_told(told: ToldError) -> MuxdError:
    error = error_of(told.code, told.message, Unavailable if told.retryable else MuxdError)
    error.details = told.details
    return error
