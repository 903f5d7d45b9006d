"""The listening sockets on which the proxy accepts clients."""

import logging
import socket
from contextlib import suppress
from functools import partial
from math import inf
from time import monotonic

from muxd.errors import EXHAUSTED, TooManyConnections
from muxd.http.request import Request
from muxd.proxy.answers import Refusal
from muxd.proxy.peers import peer_of

from .context import ConnectionContext
from .downstream import ClientConnection

log = logging.getLogger(__name__)

NOTHING = Request("", b"", [], b"", "1.1", False)  # for a client that is refused before anything is read
_TURNS = 64  # clients that are accepted in a row until other handlers get their turn
_PAUSE = 0.1  # seconds until the next attempt where no descriptors or no memory are left
_KEEP_ALIVE_IDLE, _KEEP_ALIVE_INTERVAL, _KEEP_ALIVE_PROBES = 60, 15, 4  # seconds, seconds, count


class Listener:
    """A listening socket, bound by the caller; `close` ends no client's connection."""

    def __init__(self, context: ConnectionContext, sock: socket.socket) -> None:
        self.deadline = inf
        self._context = context
        self._sock = sock
        self._open = True
        self._accepted = partial(socket.socket, sock.family, sock.type, sock.proto)
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            _set_client_options(sock)
        context.reactor.add(sock, self)
        context.reactor.again(self._accept)  # a client that connected before the socket was registered makes no edge

    def on_event(self, mask: int) -> None:
        self._accept()

    def on_deadline(self) -> None:
        self._accept()

    def _accept(self) -> None:
        for _ in range(_TURNS):
            if not self._open:
                return
            try:
                # Not `accept`: it finds out family and type anew each time, which takes as long as the system call.
                fd, address = self._sock._accept()  # type: ignore[attr-defined]
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in EXHAUSTED:
                    log.warning("cannot accept a connection: %s", error.strerror)
                    self.deadline = self._context.reactor.after(_PAUSE)
                    return
                continue  # that client is gone already (accept(2), "Error handling")
            self._admit(self._accepted(fileno=fd), address)
        self._context.reactor.again(self._accept)

    def _admit(self, sock: socket.socket, address: object) -> None:
        sock.setblocking(False)
        client_address = _address_text(address)
        peer = peer_of(client_address)
        if self._context.places.make_room(peer, monotonic()):
            ClientConnection(self._context, sock, client_address, peer)
            return
        error = TooManyConnections(
            "the proxy has as many connections as it may, or as this address may: try again later"
        )
        refusal = Refusal(error.status, error.code, error.message, retry_after=1)
        data, receipt = self._context.answerer.reject(client_address, NOTHING, refusal)
        sent = 0
        with suppress(OSError):
            sent = sock.send(data)
        sock.close()
        receipt.delivered(len(data) - sent)

    def close(self) -> None:
        if self._open:
            self._open = False
            self.deadline = inf
            self._context.reactor.close(self._sock)


def _address_text(address: object) -> str:
    return str(address[0]) if isinstance(address, tuple) else "unix"


def _set_client_options(sock: socket.socket) -> None:
    """Set the options of clients' sockets on the listening socket.

    On Linux accepted sockets inherit them, which saves four system calls per connection.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # an event must not wait for the ACK of the one before
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEP_ALIVE_IDLE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEP_ALIVE_INTERVAL)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEP_ALIVE_PROBES)
