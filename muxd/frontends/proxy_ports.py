"""The ports of the managed proxy: muxd binds them, so that clients wait in their queue while a new proxy starts.

systemd keeps the listening sockets from one muxd to the next.  Without systemd they are copied out of the proxy that a
killed muxd left.  Only where muxd was stopped without systemd the ports are free for a while: another process that
binds one then gets what clients send.  muxd logs which process that is, goes on, and tries again.

Each of several processes has a listening socket of its own at the clients' address, and the kernel deals connections
out among them.  A socket is bound for as long as muxd runs: what was dealt to a process that has died waits for the
next one of its number.  The first socket is bound as the only one is, so that a stranger at the port is noticed; only
then may others be bound beside it.
"""

import ctypes
import logging
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from threading import Lock

from muxd.children import ChildRecord, read_shim_record
from muxd.config import Proxy
from muxd.notify import Notifier
from muxd.ports import CLIENTS, METRICS, AddressInUse, CannotListen, listen_at, listen_beside
from muxd.shim.listening import all_listening
from muxd.shim.processes import boot_id, look_up

log = logging.getLogger(__name__)

#: The number of pidfd_getfd(2), the same on every architecture; Python has no function for this system call.
PIDFD_GETFD = 438


def clients_sockets(processes: int) -> list[str]:
    """Return the names of the clients' sockets of that many processes, the first process's first."""
    return [CLIENTS, *(f"{CLIENTS}-{number}" for number in range(2, processes + 1))]


def rescue(processes: Mapping[str, ChildRecord], proxy: Proxy, notifier: Notifier) -> None:
    """Copy the listening sockets of the proxy's processes that a killed muxd left, by name, into `notifier.kept`.

    This is done before the sweep ends any, so that no other process can bind the ports in between.
    """
    for name, record in processes.items():  # a record's own name is another one where a process was replaced
        number = name.removeprefix("muxd-proxy").removeprefix("-")
        _rescue(record, CLIENTS if number in ("", "1") else f"{CLIENTS}-{number}", proxy, notifier)


def _rescue(record: ChildRecord, clients: str, proxy: Proxy, notifier: Notifier) -> None:
    shim_record = read_shim_record(record.lock_file, record.token)
    left = look_up(shim_record.pid) if shim_record is not None and record.boot_id == boot_id() else None
    if shim_record is None or left is None or left.start != shim_record.start:
        return
    known = {name for name, _ in notifier.kept}
    for name, (_, port) in ((clients, (proxy.host, proxy.port)), (METRICS, proxy.metrics_listen or ("", 0))):
        if name not in known and (copy := _copy_listener(left.pid, port)) is not None:
            notifier.kept.append((name, copy))


def _copy_listener(pid: int, port: int) -> socket.socket | None:
    """Return a copy of the socket by which a process listens at a port, or None.

    None means that the process does not listen there, or that this user may not take its file descriptors.
    """
    try:
        names = {listening.name for listening in all_listening() if listening.port == port}
        entries, pidfd = os.listdir(f"/proc/{pid}/fd"), os.pidfd_open(pid)
    except OSError:
        return None
    try:
        for entry in entries:
            with suppress(OSError):  # the process has closed this one meanwhile
                if os.readlink(f"/proc/{pid}/fd/{entry}") in names:
                    fd = ctypes.CDLL(None).syscall(PIDFD_GETFD, pidfd, int(entry), 0)
                    return socket.socket(fileno=fd) if fd >= 0 else None
    finally:
        os.close(pidfd)
    return None


class ProxyPorts:
    """The listening sockets of the managed proxy: for clients, and for metrics where that has a port of its own.

    Each of its processes has one for clients; the first has that for metrics, too.
    """

    def __init__(self, proxy: Proxy, notifier: Notifier, processes: int = 1) -> None:
        """Take over the sockets that were kept, and bind the others, but not where another process has the port.

        For a proxy that muxd does not run no socket is bound, and kept ones are closed.  Raises CannotListen.
        """
        names = clients_sockets(processes if proxy.managed else 1)
        clients, metrics = ((proxy.host, proxy.port), proxy.metrics_listen) if proxy.managed else (None, None)
        self._proxy = proxy
        self.port = proxy.port  # for port 0 the port that the kernel chose, once the socket is bound
        self._notifier = notifier
        self._wanted: dict[str, tuple[str, int]] = {}
        self._open: dict[str, socket.socket] = {}
        self._in_use: dict[str, str] = {}  # message of the last AddressInUse, by socket name
        self._clients = names
        self._binding = Lock()
        surplus = [name for name, _ in notifier.kept if name.startswith(f"{CLIENTS}-") and name not in names]
        for name in surplus:  # of a proxy with more processes
            notifier.take(name, None)
        for name, where in (*((name, clients) for name in names), (METRICS, metrics)):
            kept = notifier.take(name, where)
            if where is not None:
                self._wanted[name] = where
            if kept is not None:
                self._add_listener(name, kept)
        try:
            self.bind()
        except CannotListen:
            self.close()
            raise

    def bind(self) -> bool:
        """Bind the sockets that are not open yet; return whether the clients' sockets are open.

        A port that another process has is logged and left for the next call.  Raises CannotListen for other errors.
        Several threads may call this.
        """
        with self._binding:
            for name in self._wanted:
                if name not in self._open:
                    self._bind_one(name)
        return all(name in self._open for name in self._clients)

    def _bind_one(self, name: str) -> None:
        host, port = self._wanted[name]
        beside = next((self._open[each] for each in self._clients if each in self._open), None)
        if name == METRICS or beside is None:
            if name in (CLIENTS, METRICS):  # else it waits for the first
                self._bind_alone(name, host, port)
            return
        self._add_listener(name, listen_beside(beside))
        self._notifier.keep(self._open[name], name)

    def _bind_alone(self, name: str, host: str, port: int) -> None:
        try:
            self._add_listener(name, listen_at(host, port, name))
        except AddressInUse as error:
            if self._in_use.get(name) != error.message:
                log.error("%s; until then muxd tries again", error.message)
            self._in_use[name] = error.message
        else:
            self._notifier.keep(self._open[name], name)
            if self._in_use.pop(name, None):
                log.info("%s:%d is free again: the proxy listens there now", host, port)
                self._notifier.status(f"proxy on {self.listen}")

    def _add_listener(self, name: str, listener: socket.socket) -> None:
        self._open[name] = listener
        if name in self._clients:
            self.port = listener.getsockname()[1]

    @property
    def listen(self) -> str:
        """Return the address for clients, as HOST:PORT, whether or not it is bound."""
        return f"{self._proxy.host}:{self.port}"

    @property
    def trouble(self) -> str | None:
        """Return why clients cannot connect, or None."""
        return self._in_use.get(CLIENTS)

    def descriptors(self, number: int = 1) -> dict[str, int]:
        """Return the file descriptors for the process with that number, by the names it knows, the clients' first."""
        own = {CLIENTS: self._clients[number - 1], **({METRICS: METRICS} if number == 1 else {})}
        return {known: self._open[name].fileno() for known, name in own.items() if name in self._open}

    def all_descriptors(self) -> dict[str, int]:
        """Return the file descriptors of all open sockets by the names under which they are kept."""
        return {name: listener.fileno() for name, listener in self._open.items()}

    def close(self) -> None:
        for listener in self._open.values():
            listener.close()
