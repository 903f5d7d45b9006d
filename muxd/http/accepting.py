"""Connections are accepted: fast, but no flood of them takes the time of those who are served."""

import errno
import os
import socket
import time
from contextlib import suppress

import trio

from muxd.errors import EXHAUSTED

from .connection_limiter import ConnectionLimiter

#: Connections that are accepted in a row before other tasks have their turn: as many as wait in the socket's queue.
_MOST_IN_A_ROW = 512

#: Where some of them came too often, so many times the CPU time that they took is rested, within these seconds: a
#: flood of connections costs 3 % of a core, and who is served comes in with the next turn.
_REST = 36.0
_SHORTEST_REST, _LONGEST_REST = 0.05, 0.25
_LONGEST_TURN = _LONGEST_REST / _REST  # seconds of CPU time, for which the longest rest is enough

#: Seconds until the next try where not even a spare descriptor is left.
_RETRY_AFTER = 0.1


async def accept(
    listener: trio.SocketListener, limiter: ConnectionLimiter, nursery: trio.Nursery, spare: "Spare"
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


class Spare:
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
