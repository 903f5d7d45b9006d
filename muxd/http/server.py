"""A small HTTP/1.1 server on trio, for the control socket and the simulator.

One task per connection; requests of a connection are answered in order.  Every wait on a
client has a limit, and a client that does not read blocks only its own task.  The proxy
does not use this: it relays at another scale.
"""

import errno
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import Any

import trio

from muxd.errors import HeadTimeout, MuxdError, TooManyConnections
from muxd.http.request import Headers, Request, RequestParser
from muxd.http.response import CONTINUE, LAST_CHUNK, chunk, head, json_response

KiB = 1 << 10
_READ = 64 * KiB


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server allows its clients; sizes in bytes, times in seconds."""

    max_head: int = 16 * KiB
    max_body: int = 64 * KiB
    head_timeout: float = 5.0  # from a connection, or a request's first byte, to the end of its head
    body_timeout: float = 30.0
    idle_timeout: float = 60.0  # between two requests
    write_timeout: float = 30.0  # a client that takes nothing for this long is dropped
    linger_timeout: float = 1.0  # after a refusal, so that the client reads it before it is told of the close
    max_connections: int = 256
    reserved: int = 8  # connections beyond these for those who are `privileged`
    max_lingering: int = 64  # refused connections that may linger; further ones are closed at once
    share: int = 32  # connections of one peer, where it is known and not privileged
    pace: float = 50.0  # its requests a second; further ones wait
    burst: float = 100.0


class ClientGone(Exception):
    """The client closed, or did not read for too long.  A handler may let it pass."""


class Exchange:
    """The answer to one request: either `send_json` or `send_body`, or `start_stream` and `write`."""

    def __init__(self, stream: trio.SocketStream, request: Request, limits: Limits) -> None:
        self._stream = stream
        self._request = request
        self._limits = limits
        self._chunked = False
        self.early = b""  # what the client sent while its stream ran
        self.started = False  # some of an answer was sent
        self.keep_alive = request.keep_alive

    @property
    def peer(self) -> trio.socket.SocketType:
        """The connection's socket, to ask who is there."""
        return self._stream.socket

    @property
    def head_only(self) -> bool:
        """The request was HEAD: nothing written after the head is sent."""
        return self._request.method == "HEAD"

    async def send_json(self, status: int, value: Any, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """The whole answer."""
        self.started = True
        lines = [*headers, *self._kept_alive()]
        answer = json_response(status, value, *lines, keep_alive=self.keep_alive, method=self._request.method)
        await self._send(answer)

    async def send_body(self, content_type: str, body: bytes) -> None:
        """The whole answer, 200."""
        self.started = True
        lines: Headers = [(b"content-type", content_type.encode()), (b"content-length", b"%d" % len(body))]
        lines += self._kept_alive() if self.keep_alive else [(b"connection", b"close")]
        await self._send(head(200, lines) + (b"" if self.head_only else body))

    async def send_error(self, error: MuxdError) -> None:
        """The whole answer; where the error tells the allowed methods, they are in its header too."""
        allowed = error.details.get("allowed", ())
        headers = [(b"allow", ", ".join(allowed).encode())] if allowed else []
        await self.send_json(error.status, error.as_json(), headers)

    async def start_stream(
        self, content_type: str, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        """Send the head of an answer that ends when the handler returns."""
        self.started = True
        lines: Headers = [(b"content-type", content_type.encode()), *headers]
        if self._request.http_version == "1.0":
            self.keep_alive = False  # the close is the end
        else:
            self._chunked = True
            lines.append((b"transfer-encoding", b"chunked"))
        if not self.keep_alive:
            lines.append((b"connection", b"close"))
        await self._send(head(status, lines))

    async def write(self, data: bytes) -> None:
        """Send a part of the stream; raises ClientGone."""
        if data and not self.head_only:
            await self._send(chunk(data) if self._chunked else data)

    async def finish(self) -> None:
        """The server's: end the stream cleanly."""
        if self._chunked and not self.head_only:
            await self._send(LAST_CHUNK)

    async def disconnected(self) -> None:
        """Return when the client is gone: it closed, or only its sending side."""
        try:
            while data := await self._stream.receive_some(_READ):
                self.early += data
                if len(self.early) > self._limits.max_head:
                    return  # it floods a connection that is busy answering
        except trio.BrokenResourceError:
            return

    def _kept_alive(self) -> Headers:
        """An HTTP/1.0 client must be told that its wish is granted."""
        old = self.keep_alive and self._request.http_version == "1.0"
        return [(b"connection", b"keep-alive")] if old else []

    async def _send(self, data: bytes) -> None:
        await send(self._stream, data, self._limits.write_timeout)


Handler = Callable[[Request, Exchange], Awaitable[None]]
Privileged = Callable[[trio.socket.SocketType], bool]
Owner = Callable[[trio.socket.SocketType], int]


async def send(stream: trio.SocketStream, data: bytes, patience: float) -> None:
    """Send all of `data`; raises ClientGone when the client is, or takes longer than `patience` seconds."""
    try:
        with trio.fail_after(patience):
            await stream.send_all(data)
    except (trio.BrokenResourceError, trio.TooSlowError) as error:
        raise ClientGone(str(error)) from None


class _Connection:
    """One client's connection, from its first byte to its close."""

    def __init__(self, stream: trio.SocketStream, handler: Handler, limits: Limits, peer: "_Peer | None") -> None:
        self._stream = stream
        self._handler = handler
        self._limits = limits
        self._peer = peer
        self._parser = RequestParser(limits.max_head, limits.max_body)
        self._requests: deque[Request] = deque()

    async def serve(self) -> None:
        """Answer requests until one of the two sides has had enough."""
        patience = self._limits.head_timeout
        try:
            while request := await self._next_request(patience):
                if self._peer is not None:
                    await trio.sleep(self._peer.must_wait())
                if not await self._answer(request):
                    return
                patience = self._limits.idle_timeout
        except MuxdError as error:  # what arrived cannot be read as a request
            await refuse(self._stream, error, self._limits)
        finally:
            self._parser.release()

    async def _next_request(self, patience: float) -> Request | None:
        """The next request; None when the client closes, or stays silent for `patience` seconds."""
        parser, phase = self._parser, 0
        with trio.move_on_after(patience) as scope:
            while not self._requests:
                if parser.broken is not None:
                    raise parser.broken
                if parser.mid_message + parser.head_seen > phase:
                    phase = parser.mid_message + parser.head_seen
                    scope.deadline = trio.current_time() + self._patience(phase)
                if parser.expects_continue:
                    parser.expects_continue = False
                    await send(self._stream, CONTINUE, self._limits.write_timeout)
                if not await self._receive():
                    return None
            return self._requests.popleft()
        if parser.mid_message:
            raise HeadTimeout(f"the request was not complete within {self._patience(phase):g} seconds")
        return None

    def _patience(self, phase: int) -> float:
        return self._limits.body_timeout if phase == 2 else self._limits.head_timeout

    async def _receive(self) -> bool:
        """Take in what arrives; False when the client is gone."""
        try:
            data = await self._stream.receive_some(_READ)
        except trio.BrokenResourceError:
            return False
        self._requests.extend(self._parser.feed(data))
        return bool(data)

    async def _answer(self, request: Request) -> bool:
        """True when another request may follow."""
        exchange = Exchange(self._stream, request, self._limits)
        try:
            await self._handler(request, exchange)
            await exchange.finish()
        except MuxdError as error:
            if exchange.started:
                return False  # an unclean end is all that can tell the client
            await exchange.send_error(error)
        if not exchange.keep_alive:
            await linger(self._stream, self._limits)
            return False
        self._requests.extend(self._parser.feed(exchange.early))
        return True


async def refuse(stream: trio.SocketStream, error: MuxdError, limits: Limits) -> None:
    """Tell the client why nothing more is read from it; raises ClientGone."""
    await send(stream, json_response(error.status, error.as_json(), keep_alive=False), limits.write_timeout)
    await linger(stream, limits)


async def linger(stream: trio.SocketStream, limits: Limits) -> None:
    """Discard what the client still sends: closing with unread data would destroy the answer on its way."""
    with suppress(trio.BrokenResourceError), trio.move_on_after(limits.linger_timeout):
        await stream.send_eof()
        while await stream.receive_some(_READ):
            pass


class _Peer:
    """One unprivileged peer: its share of connections, and of time."""

    def __init__(self, limits: Limits) -> None:
        self.inside = 0
        self._limits = limits
        self._paid_until = -inf  # on trio's clock: when all of its requests so far are paid for

    def must_wait(self) -> float:
        """Seconds until its next request is due, which is counted."""
        now, limits = trio.current_time(), self._limits
        self._paid_until = max(self._paid_until, now - limits.burst / limits.pace) + 1 / limits.pace
        return max(0.0, self._paid_until - now)


class _Door:
    """Counts who is inside, and turns away whom there is no room for."""

    def __init__(self, handler: Handler, limits: Limits, privileged: Privileged | None, owner: Owner | None) -> None:
        self._handler = handler
        self._limits = limits
        self._privileged = privileged
        self._owner = owner
        self._peers: dict[int, _Peer] = {}
        self._inside = 0
        self._turned_away = 0  # and still lingering

    def is_privileged(self, connection: trio.socket.SocketType) -> bool:
        return self._privileged is not None and self._privileged(connection)

    def admit(self, stream: trio.SocketStream, nursery: trio.Nursery) -> None:
        """Start its whole life; whom there is not even room to refuse is let go of at once, and costs no task."""
        peer = self._peer_of(stream)
        if self._has_room(stream, peer):
            self._inside += 1
            if peer is not None:
                peer.inside += 1
            nursery.start_soon(self._live, stream, self._serve, peer)
        elif self._turned_away < self._limits.max_lingering:
            self._turned_away += 1
            nursery.start_soon(self._live, stream, self._turn_away, peer)
        else:
            stream.socket.close()

    def _peer_of(self, stream: trio.SocketStream) -> _Peer | None:
        """None for those who are privileged, or not told apart."""
        if self._owner is None or self.is_privileged(stream.socket):
            return None
        owner = self._owner(stream.socket)
        if owner not in self._peers:
            if len(self._peers) >= self._limits.max_connections:
                self._peers = {uid: peer for uid, peer in self._peers.items() if peer.inside}
            self._peers[owner] = _Peer(self._limits)
        return self._peers[owner]

    async def _live(
        self,
        stream: trio.SocketStream,
        life: Callable[[trio.SocketStream, _Peer | None], Awaitable[None]],
        peer: _Peer | None,
    ) -> None:
        try:
            await life(stream, peer)
        except* ClientGone:
            pass
        finally:
            await trio.aclose_forcefully(stream)

    def _has_room(self, stream: trio.SocketStream, peer: _Peer | None) -> bool:
        if peer is not None and peer.inside >= self._limits.share:
            return False
        if self._inside < self._limits.max_connections:
            return True
        if self._inside >= self._limits.max_connections + self._limits.reserved:
            return False
        return self.is_privileged(stream.socket)

    async def _serve(self, stream: trio.SocketStream, peer: _Peer | None) -> None:
        try:
            await _Connection(stream, self._handler, self._limits, peer).serve()
        finally:
            self._inside -= 1
            if peer is not None:
                peer.inside -= 1

    async def _turn_away(self, stream: trio.SocketStream, peer: _Peer | None) -> None:
        try:
            error = TooManyConnections(f"{self._inside} connections are open: try again later")
            await refuse(stream, error, self._limits)
        finally:
            self._turned_away -= 1


async def serve_http(
    handler: Handler,
    listeners: Sequence[trio.SocketListener],
    limits: Limits | None = None,
    *,
    privileged: Privileged | None = None,
    owner: Owner | None = None,
    task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled, and close the listeners; or until they were closed and the last client has gone.

    A MuxdError that `handler` raises before it has sent anything becomes its answer; later,
    the connection ends uncleanly.  Any other exception is a bug and comes out of here.
    `privileged` says who may use the reserved connections once the others are taken, and is accepted while no
    descriptor is left for others; `owner` tells all others apart, who have a share each.
    """
    door = _Door(handler, limits or Limits(), privileged, owner)
    async with trio.open_nursery() as nursery:
        for listener in listeners:
            nursery.start_soon(_accept, listener, door, nursery, _Spare())
        task_status.started(listeners)


#: Connections that are taken in a row before others have their turn.
_AT_ONCE = 256

#: Seconds to the next try where there is no descriptor at all.
_BLIND = 0.1


async def _accept(listener: trio.SocketListener, door: _Door, nursery: trio.Nursery, spare: "_Spare") -> None:
    """Take in whoever connects, as fast as they come: until then they stand in the way of those who are privileged."""
    listening = socket.socket(fileno=listener.socket.fileno())
    try:
        while listener.socket.fileno() >= 0:
            await trio.lowlevel.wait_readable(listener.socket)
            for _ in range(_AT_ONCE):
                try:
                    connection, is_last = spare.accept(listening)
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno in _SHORT:
                        await trio.sleep(_BLIND)
                    break
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection))
                if is_last and not door.is_privileged(stream.socket):
                    stream.socket.close()
                else:
                    door.admit(stream, nursery)
    except trio.ClosedResourceError:
        return
    finally:
        listening.detach()
        spare.close()
        listener.socket.close()


#: What accept(2) says where descriptors or memory are short.
_SHORT = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class _Spare:
    """Descriptors kept for those who are privileged, who are to see why there is no other left."""

    COUNT = 4

    def __init__(self) -> None:
        self._fds: list[int] = []
        self._fill()

    def accept(self, listening: socket.socket) -> tuple[socket.socket, bool]:
        """A connection, and whether it cost one of these; raises OSError."""
        try:
            connection, _ = listening.accept()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._fds:
                raise
            os.close(self._fds.pop())
            try:
                return listening.accept()[0], True
            finally:
                self._fill()
        self._fill()
        return connection, False

    def _fill(self) -> None:
        with suppress(OSError):
            while len(self._fds) < self.COUNT:
                self._fds.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.pop())
