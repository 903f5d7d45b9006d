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
from functools import partial
from math import inf
from typing import Any, NamedTuple

import trio

from muxd.errors import HeadTimeout, MuxdError, TooManyConnections
from muxd.http.request import Headers, Request, RequestParser
from muxd.http.response import CONTINUE, LAST_CHUNK, chunk, head, json_response, spliced

KiB = 1 << 10
_READ = 64 * KiB


@dataclass(frozen=True, slots=True)
class Share:
    """What a peer may have at most, whatever it asks for."""

    connections: int
    pace: float  # a second: of requests, further ones of which wait, and of new connections, which are refused
    burst: float  # in a row


class Standing(NamedTuple):
    """Who connects: what one owner does at one rank is one peer's."""

    owner: int = 0
    rank: int = 0  # see Limits


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What one server allows its clients; sizes in bytes, times in seconds."""

    max_head: int = 16 * KiB
    max_body: int = 64 * KiB
    head_timeout: float = 5.0  # from a connection, or a request's first byte, to the end of its head
    body_timeout: float = 30.0
    idle_timeout: float = 60.0  # between two requests
    write_timeout: float = 30.0  # a client that takes nothing for this long is dropped
    linger_timeout: float = 1.0  # after a refusal, so that the client reads it before it is told of the close
    max_connections: int = 256
    reserved: tuple[int, ...] = ()  # connections beyond these, for each higher rank
    max_lingering: int = 64  # refused connections that may linger; further ones are closed at once
    shares: tuple[Share, ...] = ()  # of one peer, by its rank; a higher one has what it wants
    strangers: Share | None = None  # of all peers of rank 0 together


class ClientGone(Exception):
    """The client closed, or did not read for too long.  A handler may let it pass."""


class ResponseWriter:
    """The answer to one request: either `send_json` or `send_body`, or `start_stream` and `write`."""

    def __init__(self, stream: trio.SocketStream, request: Request, limits: ServerLimits) -> None:
        self._stream = stream
        self._request = request
        self._limits = limits
        self._chunked = False
        self.lines = b""  # for the head of the answer, whatever it is, each with its CRLF
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
        await self._send(spliced(answer, self.lines))

    async def send_body(self, content_type: str, body: bytes) -> None:
        """The whole answer, 200."""
        self.started = True
        lines: Headers = [(b"content-type", content_type.encode()), (b"content-length", b"%d" % len(body))]
        lines += self._kept_alive() if self.keep_alive else [(b"connection", b"close")]
        await self._send(spliced(head(200, lines), self.lines) + (b"" if self.head_only else body))

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
        await self._send(spliced(head(status, lines), self.lines))

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


Handler = Callable[[Request, ResponseWriter], Awaitable[None]]
Judge = Callable[[socket.socket], Standing]


async def send(stream: trio.SocketStream, data: bytes, patience: float) -> None:
    """Send all of `data`; raises ClientGone when the client is, or takes longer than `patience` seconds."""
    try:
        with trio.fail_after(patience):
            await stream.send_all(data)
    except (trio.BrokenResourceError, trio.TooSlowError) as error:
        raise ClientGone(str(error)) from None


class _Connection:
    """One client's connection, from its first byte to its close."""

    def __init__(self, stream: trio.SocketStream, handler: Handler, limits: ServerLimits, peers: "_Peers") -> None:
        self._stream = stream
        self._handler = handler
        self._limits = limits
        self._peers = peers
        self._parser = RequestParser(limits.max_head, limits.max_body)
        self._requests: deque[Request] = deque()

    async def serve(self) -> None:
        """Answer requests until one of the two sides has had enough."""
        patience = self._limits.head_timeout
        try:
            while request := await self._next_request(patience):
                if delay := max((peer.requests.count() for peer in self._peers), default=0.0):
                    await trio.sleep(delay)
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
        exchange = ResponseWriter(self._stream, request, self._limits)
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


async def refuse(stream: trio.SocketStream, error: MuxdError, limits: ServerLimits) -> None:
    """Tell the client why nothing more is read from it; raises ClientGone."""
    await send(stream, json_response(error.status, error.as_json(), keep_alive=False), limits.write_timeout)
    await linger(stream, limits)


async def linger(stream: trio.SocketStream, limits: ServerLimits) -> None:
    """Discard what the client still sends: closing with unread data would destroy the answer on its way."""
    with suppress(trio.BrokenResourceError), trio.move_on_after(limits.linger_timeout):
        await stream.send_eof()
        while await stream.receive_some(_READ):
            pass


class _Pace:
    """So many in a row, then so many a second."""

    def __init__(self, share: Share) -> None:
        self._share = share
        self._paid_until = -inf  # on trio's clock: when all that were counted are paid for

    def is_due(self) -> bool:
        """Whether one more would be in time."""
        return self._with_one_more() <= trio.current_time()

    def count(self) -> float:
        """Count one; in how many seconds it is due."""
        self._paid_until = self._with_one_more()
        return max(0.0, self._paid_until - trio.current_time())

    def _with_one_more(self) -> float:
        share = self._share
        return max(self._paid_until, trio.current_time() - share.burst / share.pace) + 1 / share.pace


class _Peer:
    """What somebody has of a share."""

    def __init__(self, share: Share) -> None:
        self.inside = 0
        self.requests = _Pace(share)
        self.connections = _Pace(share)
        self._share = share

    def has_room(self) -> bool:
        return self.inside < self._share.connections


#: Whose shares a connection counts against; nobody's, where it is not limited.
_Peers = tuple[_Peer, ...]


class _ConnectionLimiter:
    """Counts who is inside, and turns away whom there is no room for."""

    def __init__(self, handler: Handler, limits: ServerLimits, judge: Judge | None) -> None:
        self._handler = handler
        self._limits = limits
        self._judge = judge
        self._known: dict[Standing, _Peer] = {}
        self._strangers = (_Peer(limits.strangers),) if limits.strangers is not None else ()
        self._inside = 0
        self._turned_away = 0  # and still lingering

    def is_above_all(self, connection: socket.socket) -> bool:
        return self._standing(connection).rank >= len(self._limits.reserved) > 0

    def admit(self, connection: socket.socket, nursery: trio.Nursery) -> None:
        """Start its whole life.

        Who comes too often, or cannot even be refused in peace, is let go of at once: that costs no task and little
        time, and nobody who may come waits for it.
        """
        standing = self._standing(connection)
        peers = self._peers_of(standing)
        if not all(peer.connections.is_due() for peer in peers):
            _let_go(connection)
            return
        for peer in peers:
            peer.connections.count()
        if self._has_room(standing.rank) and all(peer.has_room() for peer in peers):
            self._inside += 1
            for peer in peers:
                peer.inside += 1
            nursery.start_soon(self._live, connection, partial(self._serve, peers))
        elif self._turned_away < self._limits.max_lingering:
            self._turned_away += 1
            nursery.start_soon(self._live, connection, self._turn_away)
        else:
            _let_go(connection)

    def _standing(self, connection: socket.socket) -> Standing:
        return self._judge(connection) if self._judge is not None else Standing()

    def _peers_of(self, standing: Standing) -> _Peers:
        shares = self._limits.shares
        if standing.rank >= len(shares):
            return ()
        if standing not in self._known:
            if len(self._known) >= self._limits.max_connections:
                self._known = {known: peer for known, peer in self._known.items() if peer.inside}
            self._known[standing] = _Peer(shares[standing.rank])
        return (self._known[standing], *(() if standing.rank else self._strangers))

    def _has_room(self, rank: int) -> bool:
        return self._inside < self._limits.max_connections + sum(self._limits.reserved[:rank])

    async def _live(self, connection: socket.socket, life: Callable[[trio.SocketStream], Awaitable[None]]) -> None:
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection))
        try:
            await life(stream)
        except* ClientGone:
            pass
        finally:
            await trio.aclose_forcefully(stream)

    async def _serve(self, peers: _Peers, stream: trio.SocketStream) -> None:
        try:
            await _Connection(stream, self._handler, self._limits, peers).serve()
        finally:
            self._inside -= 1
            for peer in peers:
                peer.inside -= 1

    async def _turn_away(self, stream: trio.SocketStream) -> None:
        try:
            error = TooManyConnections(f"{self._inside} connections are open: try again later")
            await refuse(stream, error, self._limits)
        finally:
            self._turned_away -= 1


_TOO_OFTEN = TooManyConnections("more connect than can be answered: try again in a second")


def _let_go(connection: socket.socket) -> None:
    """Close it, with a word if that fits at once."""
    with connection, suppress(OSError):
        connection.send(json_response(_TOO_OFTEN.status, _TOO_OFTEN.as_json(), keep_alive=False), socket.MSG_DONTWAIT)


async def serve_http(
    handler: Handler,
    listeners: Sequence[trio.SocketListener],
    limits: ServerLimits | None = None,
    *,
    judge: Judge | None = None,
    task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled, and close the listeners; or until they were closed and the last client has gone.

    A MuxdError that `handler` raises before it has sent anything becomes its answer; later,
    the connection ends uncleanly.  Any other exception is a bug and comes out of here.
    `judge` says who connects: all are of rank 0 without it.  Whoever is of the highest rank that connections are
    reserved for is accepted while no descriptor is left for others.
    """
    door = _ConnectionLimiter(handler, limits or ServerLimits(), judge)
    async with trio.open_nursery() as nursery:
        for listener in listeners:
            nursery.start_soon(_accept, listener, door, nursery, _Spare())
        task_status.started(listeners)


#: Connections that are taken in a row before others have their turn.
_AT_ONCE = 256

#: Seconds to the next try where there is no descriptor at all.
_BLIND = 0.1


async def _accept(
    listener: trio.SocketListener, door: _ConnectionLimiter, nursery: trio.Nursery, spare: "_Spare"
) -> None:
    """Take in whoever connects, as fast as they come: until then they stand in the way of all others."""
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
                if is_last and not door.is_above_all(connection):
                    connection.close()
                else:
                    door.admit(connection, nursery)
    except trio.ClosedResourceError:
        return
    finally:
        listening.detach()
        spare.close()
        listener.socket.close()


#: What accept(2) says where descriptors or memory are short.
_SHORT = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class _Spare:
    """Descriptors kept for the highest rank, who are to see why there is no other left."""

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
