"""Who may have how many connections, and how often: one peer shall not keep others out."""

import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from math import inf

import trio

from muxd.errors import TooManyConnections

from .response import json_response
from .response_writer import ClientGone, refuse
from .server_limits import ServerLimits, Share, Standing


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
Peers = tuple[_Peer, ...]

#: Serves a connection until it is over.
Serve = Callable[[trio.SocketStream, Peers], Awaitable[None]]
Judge = Callable[[socket.socket], Standing]


class ConnectionLimiter:
    """Counts the open connections, and refuses those that there is no room for."""

    def __init__(self, serve: Serve, limits: ServerLimits, judge: Judge | None) -> None:
        """Take what serves an admitted connection, and what returns the standing of a new one; None: all are alike."""
        self._serve_admitted = serve
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

    def _peers_of(self, standing: Standing) -> Peers:
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

    async def _serve(self, peers: Peers, stream: trio.SocketStream) -> None:
        try:
            await self._serve_admitted(stream, peers)
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
