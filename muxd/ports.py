"""TCP ports: the workers', reserved before a model loads, and the proxy's.

A bound socket that does not listen keeps a port from processes that do not set
SO_REUSEADDR, and from the kernel's own choice of free ports.  SGLang and the simulator do
set SO_REUSEADDR, so that the worker can still bind and listen: observed with SGLang 0.5.23.
Any other process that sets it could listen first, too: see workers/port_ownership.  The port
is reserved because SGLang itself notices a taken port only after its whole load.
"""

import errno
import os
import socket
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import MuxdError, in_words

if TYPE_CHECKING:
    from .shim.listening import Listening

HOST = "127.0.0.1"

#: The advice about a port that another process has.
FREE_IT = "end it, or give the model another port"

#: Connections that may wait to be accepted while a new proxy starts.
BACKLOG = 4096

#: Names of the proxy's sockets, by which systemd and children get them, and the keys of [proxy] with their addresses.
CLIENTS, METRICS, UI = "proxy", "metrics", "ui"
SETTINGS = {CLIENTS: "[proxy] listen", METRICS: "[proxy] metrics_listen", UI: "[ui] listen"}


class PortTaken(MuxdError):
    code = "port_taken"


class CannotListen(MuxdError):
    code = "cannot_listen"


class AddressInUse(CannotListen):
    """Another process has the address; later it may be free."""

    code = "address_in_use"


class Reservation:
    """A TCP port of 127.0.0.1 that is reserved for a worker until `close`."""

    def __init__(self, port: int) -> None:
        """Reserve a port, or any free one for port 0; raises PortTaken, which names the process that has the port."""
        self._socket = _unbound()
        try:
            self._socket.bind((HOST, port))
        except OSError as error:
            self._socket.close()
            raise PortTaken(f"port {port} cannot be used: {error.strerror}; {_holder_at(port)}; {FREE_IT}") from None
        self.port: int = self._socket.getsockname()[1]

    def close(self) -> None:
        self._socket.close()


def _unbound() -> socket.socket:
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return found


def is_free(port: int) -> bool:
    """Say whether the port could be reserved now."""
    try:
        with _unbound() as probe:
            probe.bind((HOST, port))
    except OSError:
        return False
    return True


def free_port() -> int:
    """Return a port of loopback that nobody has; who is told it fails to start if somebody takes it before."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Return so many of them, no port twice."""
    with ExitStack() as bound:
        sockets = [bound.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [int(each.getsockname()[1]) for each in sockets]


def listen_at(host: str, port: int, name: str = CLIENTS) -> socket.socket:
    """Return a listening socket of the proxy; `name` is one of SETTINGS.

    Raises AddressInUse where another process has the address, else CannotListen.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        reason, see = f"the proxy cannot listen at {host}:{port}: {in_words(error)}", f"see {SETTINGS[name]}"
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(f"{reason}: {_holder_at(port)}; end it, or choose another port; {see}") from None
        raise CannotListen(f"{reason}; {see}") from None
    return listener


def listen_beside(listener: socket.socket, name: str = CLIENTS) -> socket.socket:
    """Return one more listening socket at the address of `listener`, which this process has; raises CannotListen.

    The kernel deals new connections out among all of them (SO_REUSEPORT), by their addresses.  Whoever wants the
    address for itself is refused as before, and the first one was bound so: no other process has the address.
    """
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    host, port = listener.getsockname()[:2]
    beside = socket.socket(listener.family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    beside.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    beside.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        beside.bind((host, port))
        beside.listen(BACKLOG)
    except OSError as error:
        beside.close()
        said = f"the proxy cannot listen at {host}:{port} with a further process: {in_words(error)}"
        raise CannotListen(f"{said}; see [proxy] {SETTINGS[name]} and processes") from None
    return beside


#: Why a port that no process listens on cannot be had: it was given to a connection, as ports from
#: net.ipv4.ip_local_port_range are.
NOBODY_LISTENS = "no process listens on it, a connection from this host uses it for a while"


def holder_of(sockets: "Collection[Listening]") -> str:
    """Return the words for the process that listens at one of these sockets, as far as this user may see it.

    The text names the program without its arguments, because clients read it and arguments can be secret.
    """
    from .shim.processes import program_of  # imported for an error only

    user = next((socket.uid for socket in sockets), None)
    if pid := pid_of({socket.name for socket in sockets}):
        whose = f", user {user}" if user != os.geteuid() else ""
        return f"process {pid} listens on it ({program_of(pid) or 'gone meanwhile'}{whose})"
    return f"a process of user {user} listens on it" if user is not None else NOBODY_LISTENS


def pid_of(names: set[str]) -> int:
    """Return the pid of a process that has one of these sockets open, or 0 where none can be seen.

    `names` are the sockets' names in /proc/PID/fd, such as "socket:[1234]".
    """
    from .shim.processes import has_any

    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return next((pid for pid in pids if has_any(pid, names)), 0)


def _holder_at(port: int) -> str:
    from .shim.listening import all_listening

    return holder_of([socket for socket in all_listening() if socket.port == port])
