"""A small HTTP/1.1 server on trio, for the control socket and the simulator.

Each connection has one task, which answers its requests in order.  Every wait for a client
has a deadline, and a client that does not read blocks only its own task.  The proxy does
not use this server, which is too slow to relay streams (see muxd/proxy/sockets).
"""

import errno
import os
import random
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any, NamedTuple

import trio
from msgspec import Struct

from muxd.errors import EXHAUSTED, HeadTimeout, MuxdError, TooManyConnections
from muxd.http.request import Headers, Request, RequestParser
from muxd.http.response import CONTINUE, LAST_CHUNK, chunk, head, json_response, spliced

KiB = 1 << 10
_READ = 64 * KiB

#: A connection may take up to this share longer than its timeouts: a thousand that came together would else be ended
#: together, 0.15 s in which nobody is answered.
SPREAD = 0.5


class Share(Struct, frozen=True):
    """The most that one peer may have."""

    connections: int
    pace: float  # per second: requests, where more have to wait, and new connections, where more are refused
    burst: float  # requests, and new connections, that may come in a row


class Standing(NamedTuple):
    """Who connects: all connections of one owner at one rank are one peer's."""

    owner: int = 0
    rank: int = 0  # see ServerLimits.reserved and .shares


class ServerLimits(Struct, frozen=True):
    """What one server allows its clients; sizes in bytes, times in seconds, see SPREAD."""

    max_head: int = 16 * KiB
    max_body: int = 64 * KiB
    head_timeout: float = 5.0  # from a connection, or a request's first byte, to the end of its head
    body_timeout: float = 30.0
    idle_timeout: float = 60.0  # between two requests
    write_timeout: float = 30.0  # a client that reads nothing for so long is dropped
    linger_timeout: float = 1.0  # after a refusal, so that the client reads it before it sees the close
    max_connections: int = 256
    reserved: tuple[int, ...] = ()  # connections beyond these, for each higher rank
    max_lingering: int = 64  # refused connections that may linger; further ones are closed at once
    shares: tuple[Share, ...] = ()  # of one peer, by its rank; a peer of a higher rank has no limit
    strangers: Share | None = None  # of all peers of rank 0 together
    upgrades: tuple[bytes, ...] = ()  # protocols to which a connection may be switched, see switch_protocol


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
                return os.read(connection, _READ)
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
            while data := await self._stream.receive_some(_READ):
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


Handler = Callable[[Request, ResponseWriter], Awaitable[None]]
Judge = Callable[[socket.socket], Standing]


async def send(stream: trio.SocketStream, data: bytes, patience: float) -> None:
    """Send all of `data`; raise ClientGone where the client closed, or takes longer than `patience` seconds."""
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
        self._parser = RequestParser(limits.max_head, limits.max_body, limits.upgrades)
        self._requests: deque[Request] = deque()
        self._stretch = random.uniform(1.0, 1.0 + SPREAD)

    async def serve(self) -> None:
        """Answer requests until the client or the server ends the connection."""
        patience = self._limits.head_timeout * self._stretch
        try:
            while request := await self._next_request(patience):
                if delay := max((peer.requests.count() for peer in self._peers), default=0.0):
                    await trio.sleep(delay)
                if not await self._answer(request):
                    return
                patience = self._limits.idle_timeout * self._stretch
        except MuxdError as error:  # the bytes that arrived are no usable request
            await refuse(self._stream, error, self._limits)
        finally:
            self._parser.release()

    async def _next_request(self, patience: float) -> Request | None:
        """Return the next request; None where the client closes, or sends nothing for `patience` seconds.

        Raise the error of a request that cannot be read, HeadTimeout of one that does not arrive in time.
        """
        parser, phase = self._parser, 0
        with trio.move_on_after(patience) as scope:
            while not self._requests:
                if parser.broken is not None:
                    raise parser.broken
                if parser.mid_message + parser.head_seen > phase:
                    phase = parser.mid_message + parser.head_seen
                    scope.deadline = trio.current_time() + self._patience(phase) * self._stretch
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
        """Parse the bytes that arrive next; return False where the client is gone."""
        try:
            data = await self._stream.receive_some(_READ)
        except trio.BrokenResourceError:
            return False
        self._requests.extend(self._parser.feed(data))
        return bool(data)

    async def _answer(self, request: Request) -> bool:
        """Answer one request; return whether another may follow on the connection."""
        exchange = ResponseWriter(self._stream, request, self._limits)
        exchange.early = self._parser.rest
        try:
            await self._handler(request, exchange)
            await exchange.finish()
        except MuxdError as error:
            if exchange.started:
                return False  # only an unclean end can still tell the client
            await exchange.send_error(error)
        if not exchange.keep_alive:
            await linger(self._stream, self._limits)
            return False
        self._requests.extend(self._parser.feed(exchange.early))
        return True


async def refuse(stream: trio.SocketStream, error: MuxdError, limits: ServerLimits) -> None:
    """Send the error as the last response of the connection; raise ClientGone."""
    await send(stream, json_response(error.status, error.as_json(), keep_alive=False), limits.write_timeout)
    await linger(stream, limits)


async def linger(stream: trio.SocketStream, limits: ServerLimits) -> None:
    """Read and discard what the client still sends: a close with unread data would destroy the response on its way."""
    with suppress(trio.BrokenResourceError), trio.move_on_after(limits.linger_timeout):
        await stream.send_eof()
        while await stream.receive_some(_READ):
            pass


class _Pace:
    """A rate limit: `share.burst` in a row, then `share.pace` a second."""

    def __init__(self, share: Share) -> None:
        self._share = share
        self._paid_until = -inf  # when all that were counted have had their time, on trio's clock

    def is_due(self) -> bool:
        """Return whether one more would be within the rate."""
        return self._paid_until_with_one_more() <= trio.current_time()

    def count(self) -> float:
        """Count one more; return the seconds until it is within the rate."""
        self._paid_until = self._paid_until_with_one_more()
        return max(0.0, self._paid_until - trio.current_time())

    def _paid_until_with_one_more(self) -> float:
        share = self._share
        return max(self._paid_until, trio.current_time() - share.burst / share.pace) + 1 / share.pace


class _Peer:
    """What one peer, or all strangers together, has of a share."""

    def __init__(self, share: Share) -> None:
        self.open_count = 0
        self.requests = _Pace(share)
        self.connections = _Pace(share)
        self._share = share

    def has_room(self) -> bool:
        return self.open_count < self._share.connections


#: The peers whose shares a connection counts against; none where the connection is not limited.
_Peers = tuple[_Peer, ...]


class _ConnectionLimiter:
    """Counts the open connections, and refuses those that there is no room for."""

    def __init__(self, handler: Handler, limits: ServerLimits, judge: Judge | None) -> None:
        self._handler = handler
        self._limits = limits
        self._judge = judge
        self._peer_of: dict[Standing, _Peer] = {}
        self._strangers = (_Peer(limits.strangers),) if limits.strangers is not None else ()
        self._open_count = 0
        self._turned_away = 0  # refused connections that linger still

    def is_above_all(self, connection: socket.socket) -> bool:
        return self._standing(connection).rank >= len(self._limits.reserved) > 0

    def admit(self, connection: socket.socket, nursery: trio.Nursery) -> bool:
        """Start the task that serves the connection, or refuses it; return False where its peer connects too often.

        A connection of a peer that connects too often, or beyond the refused ones that may linger, is closed at once:
        that takes no task and little time, so that other clients do not wait for it.
        """
        standing = self._standing(connection)
        peers = self._peers_of(standing)
        if not all(peer.connections.is_due() for peer in peers):
            _close_at_once(connection)
            return False
        for peer in peers:
            peer.connections.count()
        if self._has_room(standing.rank) and all(peer.has_room() for peer in peers):
            self._open_count += 1
            for peer in peers:
                peer.open_count += 1
            nursery.start_soon(self._run, connection, partial(self._serve, peers))
        elif self._turned_away < self._limits.max_lingering:
            self._turned_away += 1
            nursery.start_soon(self._run, connection, self._turn_away)
        else:
            _close_at_once(connection)
        return True

    def _standing(self, connection: socket.socket) -> Standing:
        return self._judge(connection) if self._judge is not None else Standing()

    def _peers_of(self, standing: Standing) -> _Peers:
        shares = self._limits.shares
        if standing.rank >= len(shares):
            return ()
        if standing not in self._peer_of:
            if len(self._peer_of) >= self._limits.max_connections:
                self._peer_of = {known: peer for known, peer in self._peer_of.items() if peer.open_count}
            self._peer_of[standing] = _Peer(shares[standing.rank])
        return (self._peer_of[standing], *(() if standing.rank else self._strangers))

    def _has_room(self, rank: int) -> bool:
        return self._open_count < self._limits.max_connections + sum(self._limits.reserved[:rank])

    async def _run(self, connection: socket.socket, life: Callable[[trio.SocketStream], Awaitable[None]]) -> None:
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
            self._open_count -= 1
            for peer in peers:
                peer.open_count -= 1

    async def _turn_away(self, stream: trio.SocketStream) -> None:
        try:
            error = TooManyConnections(f"{self._open_count} connections are open: try again later")
            await refuse(stream, error, self._limits)
        finally:
            self._turned_away -= 1


_TOO_OFTEN = TooManyConnections("more connect than can be answered: try again in a second")
_TOLD_TOO_OFTEN = json_response(_TOO_OFTEN.status, _TOO_OFTEN.as_json(), keep_alive=False)


def _close_at_once(connection: socket.socket) -> None:
    """Close the connection, with a response if the kernel takes it at once."""
    with connection, suppress(OSError):
        connection.send(_TOLD_TOO_OFTEN, socket.MSG_DONTWAIT)


async def serve_http(
    handler: Handler,
    listeners: Sequence[trio.SocketListener],
    limits: ServerLimits | None = None,
    *,
    judge: Judge | None = None,
    task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled, and close the listeners; or until they were closed and the last client has gone.

    A MuxdError that `handler` raises before it has sent anything is sent as the response; where it raises one later,
    the connection ends uncleanly.  Any other exception is a bug, and is raised from here.
    `judge` returns the standing of a connection; without `judge` all are of rank 0.  Clients of the highest rank that
    connections are reserved for are accepted even where no descriptor is left for others.
    """
    limiter = _ConnectionLimiter(handler, limits or ServerLimits(), judge)
    async with trio.open_nursery() as nursery:
        for listener in listeners:
            nursery.start_soon(_accept, listener, limiter, nursery, _Spare())
        task_status.started(listeners)


#: Connections that are accepted in a row before other tasks have their turn: as many as wait in the socket's queue.
_MOST_IN_A_ROW = 512

#: Where some of them came too often, so many times the CPU time that they took is rested, within these seconds: a
#: flood of connections costs 3 % of a core, and who is served comes in with the next turn.
_REST = 36.0
_SHORTEST_REST, _LONGEST_REST = 0.05, 0.25
_LONGEST_TURN = _LONGEST_REST / _REST  # seconds of CPU time, for which the longest rest is enough

#: Seconds until the next try where not even a spare descriptor is left.
_RETRY_AFTER = 0.1


async def _accept(
    listener: trio.SocketListener, limiter: _ConnectionLimiter, nursery: trio.Nursery, spare: "_Spare"
) -> None:
    """Accept connections as fast as they come: one that is not accepted yet delays all behind it.

    Only where peers connect too often, all wait a moment for the next turn.
    """
    listening = socket.socket(fileno=listener.socket.fileno())
    try:
        while listener.socket.fileno() >= 0:
            await trio.lowlevel.wait_readable(listener.socket)
            began, refused = time.thread_time(), 0
            for _ in range(_MOST_IN_A_ROW):
                try:
                    connection, is_last = spare.accept(listening)
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno in EXHAUSTED:
                        await trio.sleep(_RETRY_AFTER)
                    break
                if is_last and not limiter.is_above_all(connection):
                    connection.close()
                elif not limiter.admit(connection, nursery):
                    refused += 1
                    if time.thread_time() - began > _LONGEST_TURN:
                        break
            if refused:
                rest = _REST * (time.thread_time() - began)
                await trio.sleep(min(max(rest, _SHORTEST_REST), _LONGEST_REST))
    except trio.ClosedResourceError:
        return
    finally:
        listening.detach()
        spare.close()
        listener.socket.close()


class _Spare:
    """Descriptors kept for clients of the highest rank, so that they can look why no other descriptor is left."""

    COUNT = 4

    def __init__(self) -> None:
        self._fds: list[int] = []
        self._fill()

    def accept(self, listening: socket.socket) -> tuple[socket.socket, bool]:
        """Return a new connection, and whether it took a spare descriptor; raise OSError."""
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
