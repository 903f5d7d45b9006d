"""The client of the control API for other processes of muxd: the proxy holds its leases with it.

Every request has a connection of its own: a lease lasts as long as its connection, and
other requests are rare.  muxctl has another client, which needs only the standard library.

Every failure to get an answer raises Unreachable, which names each socket that was tried
and what was wrong there.  An error that muxd answers is raised as the class that muxd raised.
"""

import os
import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import msgspec
import trio

from muxd.errors import MuxdError, Unavailable, Unreachable, error_of, in_words
from muxd.http.answer import AnswerParser
from muxd.http.response import request_head
from muxd.lease_protocol import WaitingBody

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
        self._sockets = tuple(sockets)

    async def version(self) -> Message:
        return await self._ask("GET", "/v1/version")

    async def status(self) -> Message:
        return await self._ask("GET", "/v1/status")

    async def proxy_settings(self) -> Message:
        """Return the part of the configuration that a proxy needs, for `muxd.config.load.config_from_supervisor`."""
        return await self._ask("GET", "/v1/proxy")

    async def model(self, name: str) -> Message:
        """Return one model's status, by name or served name; raises ModelNotFound."""
        return await self._ask("GET", f"/v1/models/{quote(name, safe='')}")

    async def unload(self, name: str) -> Message:
        """Say that a client has no more use of a model: `sleeps` tells whether it is put to sleep, `reason` why not."""
        return await self._ask("POST", f"/v1/models/{quote(name, safe='')}/unload")

    async def metrics(self) -> str:
        """Return the metrics of muxd and of the awake engines in Prometheus' text format; takes up to 2.5 seconds."""
        async with self._open("GET", "/metrics") as answer:
            return await answer.read_text()

    async def report_demand(self, lease: str, in_flight: int, waiting: Iterable[WaitingBody]) -> None:
        """Replace the demand that was last reported for a lease; raises LeaseNotFound when the lease is over."""
        body = {"in_flight": in_flight, "waiting": tuple(waiting)}
        await self._ask("PUT", f"/v1/leases/{quote(lease, safe='')}", body)

    @asynccontextmanager
    async def lease(self, model: str, waiting: Iterable[WaitingBody]) -> AsyncIterator["MessageStream"]:
        """Ask for a lease, and hold it until the scope is left; raises ModelNotFound.

        The messages end when the lease is over.  `lease` is in every one of them.
        """
        async with self._open("POST", "/v1/leases", {"model": model, "waiting": tuple(waiting)}) as stream:
            yield stream

    @asynccontextmanager
    async def events(self, after: int | None = None) -> AsyncIterator["MessageStream"]:
        """Stream the events from now on, or those after the event with id `after`."""
        async with self._open("GET", "/v1/events" + ("" if after is None else f"?after={after}")) as stream:
            yield stream

    async def _ask(self, method: str, target: str, body: Message | None = None) -> Message:
        async with self._open(method, target, body) as answer:
            return await answer.read_json()

    @asynccontextmanager
    async def _open(self, method: str, target: str, body: Message | None = None) -> AsyncIterator["MessageStream"]:
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
        for path in self._sockets:
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
        return Unreachable(f"muxd at {self._path} {what}", tried=[str(self._path)])


def _as_error(content: bytes) -> MuxdError:
    """Return the error that muxd answered, as an object of its class.

    The error of a newer muxd, whose code is unknown here, becomes Unavailable where it is retryable, else MuxdError.
    """
    try:
        told = msgspec.json.decode(content)["error"]
        code, message, retryable, details = told["code"], told["message"], told["retryable"], dict(told["details"])
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        return Unreachable("what answers at the control socket is not muxd")
    error = error_of(code, message, Unavailable if retryable else MuxdError)
    error.details = details
    return error
