"""A registered non-blocking socket that keeps what the kernel would not take yet."""

import socket
from collections import deque
from math import inf

from .reactor import Reactor


class Connection:
    """One peer.  A subclass says what events mean; this class sends.

    Sending never raises and never calls the subclass back directly: a peer found gone is
    told through `on_lost` after the present event, so that no caller is closed under its
    own feet.
    """

    __slots__ = ("closed", "deadline", "error", "outbox", "reactor", "sock")

    def __init__(self, reactor: Reactor, sock: socket.socket) -> None:
        self.reactor = reactor
        self.sock = sock
        self.outbox: deque[memoryview] = deque()
        self.deadline = inf
        self.closed = False
        self.error: OSError | None = None  # why sending failed: the kernel tells it only once

    def on_event(self, mask: int) -> None:
        raise NotImplementedError

    def on_deadline(self) -> None:
        raise NotImplementedError

    def on_lost(self) -> None:
        """Sending failed: the peer is gone."""
        raise NotImplementedError

    def on_kept(self) -> None:
        """The outbox is no longer empty."""

    def send(self, data: bytes) -> bool:
        """Send it now or keep it; False if some is still kept."""
        sent = 0
        if not self.outbox:
            try:
                sent = self.sock.send(data)
            except BlockingIOError:
                pass
            except OSError as error:
                self._lose(error)
                return True
            if sent == len(data):
                return True
        self.outbox.append(memoryview(data)[sent:])
        if len(self.outbox) == 1:
            self.on_kept()
        return False

    def flush(self) -> bool:
        """Send what was kept; False if nothing could be sent."""
        outbox, progress = self.outbox, False
        while outbox:
            try:
                sent = self.sock.send(outbox[0])
            except BlockingIOError:
                break
            except OSError as error:
                self._lose(error)
                break
            progress = True
            if sent == len(outbox[0]):
                outbox.popleft()
            else:
                outbox[0] = outbox[0][sent:]
        return progress

    def _lose(self, error: OSError) -> None:
        self.error = error
        self.reactor.again(self.on_lost)

    def unsent(self) -> int:
        return sum(map(len, self.outbox))

    def close(self) -> None:
        """Idempotent."""
        if not self.closed:
            self.closed = True
            self.deadline = inf
            self.outbox.clear()
            self.reactor.close(self.sock)
