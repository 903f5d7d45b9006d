"""The ports of the managed proxy: bound by muxd, so that clients wait at them while a new proxy starts.

A service manager that can (systemd) keeps them also from one muxd to the next.  Without one they are taken out of a
proxy that a killed muxd left; only where muxd was stopped a port is free for a while, and whoever takes it gets what
clients send: muxd says who, goes on, and tries again.
"""

import ctypes
import logging
import os
import socket
from contextlib import suppress

from .children import ChildRecord, read_card
from .config import Proxy
from .notify import Notifier
from .ports import CLIENTS, METRICS, AddressInUse, CannotListen, listen_at
from .shim.listening import all_listening
from .shim.processes import boot_id, look_up

log = logging.getLogger(__name__)

#: pidfd_getfd(2), which Python lacks; its number is the same on every architecture.
PIDFD_GETFD = 438


def rescue(record: ChildRecord, proxy: Proxy, notifier: Notifier) -> None:
    """Copy the listening sockets of a proxy that a killed muxd left, before it is ended: nobody gets in between."""
    card = read_card(record.lock_file, record.token)
    left = look_up(card.pid) if card is not None and record.boot_id == boot_id() else None
    if card is None or left is None or left.start != card.start:
        return
    known = {name for name, _ in notifier.kept}
    for name, (_, port) in ((CLIENTS, (proxy.host, proxy.port)), (METRICS, proxy.metrics_listen or ("", 0))):
        if name not in known and (copy := _copy(left.pid, port)) is not None:
            notifier.kept.append((name, copy))


def _copy(pid: int, port: int) -> socket.socket | None:
    """Of the socket by which it listens there; None where there is none, or this user may not have it."""
    try:
        names = {listening.name for listening in all_listening() if listening.port == port}
        entries, pidfd = os.listdir(f"/proc/{pid}/fd"), os.pidfd_open(pid)
    except OSError:
        return None
    try:
        for entry in entries:
            with suppress(OSError):  # closed meanwhile
                if os.readlink(f"/proc/{pid}/fd/{entry}") in names:
                    fd = ctypes.CDLL(None).syscall(PIDFD_GETFD, pidfd, int(entry), 0)
                    return socket.socket(fileno=fd) if fd >= 0 else None
    finally:
        os.close(pidfd)
    return None


class ProxyPorts:
    def __init__(self, proxy: Proxy, notifier: Notifier) -> None:
        """Takes over what was kept, and binds the rest as far as nobody has it; raises CannotListen.

        Of a proxy that muxd does not run, nothing is bound or kept.
        """
        clients, metrics = ((proxy.host, proxy.port), proxy.metrics_listen) if proxy.managed else (None, None)
        self._proxy = proxy
        self.port = proxy.port  # once it is open, the one that was chosen where any will do
        self._notifier = notifier
        self._wanted: dict[str, tuple[str, int]] = {}
        self._open: dict[str, socket.socket] = {}
        self._held: dict[str, str] = {}  # by somebody else: what was said of it
        for name, where in ((CLIENTS, clients), (METRICS, metrics)):
            kept = notifier.take(name, where)
            if where is not None:
                self._wanted[name] = where
            if kept is not None:
                self._take(name, kept)
        try:
            self.bind()
        except CannotListen:
            self.close()
            raise

    def bind(self) -> bool:
        """Bind what is not open yet; whether clients can come.  Raises CannotListen, but not where somebody has it."""
        for name, (host, port) in self._wanted.items():
            if name in self._open:
                continue
            try:
                self._take(name, listen_at(host, port, name))
            except AddressInUse as error:
                if self._held.get(name) != error.message:
                    log.error("%s; until then muxd tries again", error.message)
                self._held[name] = error.message
            else:
                self._notifier.keep(self._open[name], name)
                if self._held.pop(name, None):
                    log.info("%s:%d is free again: the proxy listens there now", host, port)
                    self._notifier.status(f"proxy on {self.listen}")
        return CLIENTS in self._open

    def _take(self, name: str, listener: socket.socket) -> None:
        self._open[name] = listener
        if name == CLIENTS:
            self.port = listener.getsockname()[1]

    @property
    def listen(self) -> str:
        """Where clients come to, or would."""
        return f"{self._proxy.host}:{self.port}"

    @property
    def trouble(self) -> str | None:
        """Why clients cannot come."""
        return self._held.get(CLIENTS)

    def descriptors(self) -> dict[str, int]:
        """Of what is open, by name: clients' first."""
        return {name: self._open[name].fileno() for name in self._wanted if name in self._open}

    def close(self) -> None:
        for listener in self._open.values():
            listener.close()
