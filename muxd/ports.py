"""Ports: the workers', reserved before a load is paid for, and the proxy's.

A bound socket that does not listen keeps a port from everybody who does not ask for
SO_REUSEADDR, and from the kernel's own choice, yet lets the worker (SGLang and the
simulator ask for it) bind and listen: observed with SGLang 0.5.23.  Whoever asks for it
can listen first, too: see workers/listener.  SGLang itself notices a taken port only
after its whole load.
"""

import errno
import os
import socket
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import MuxdError, in_words

if TYPE_CHECKING:
    from .shim.listening import Listening

HOST = "127.0.0.1"

#: What to do about a port that somebody else has.
FREE_IT = "end it, or give the model another port"

#: Clients that may wait to be accepted while a new proxy starts.
BACKLOG = 4096

#: Names of the proxy's sockets, wherever they are kept or passed on, and the keys of [proxy] that have their addresses.
CLIENTS, METRICS = "proxy", "metrics"
SETTINGS = {CLIENTS: "listen", METRICS: "metrics_listen"}


class PortTaken(MuxdError):
    code = "port_taken"


class CannotListen(MuxdError):
    code = "cannot_listen"


class AddressInUse(CannotListen):
    """Somebody has it; later it may be free."""

    code = "address_in_use"


class Reservation:
    """A port that is ours until `close`."""

    def __init__(self, port: int) -> None:
        """Port 0: any free one.  Raises PortTaken, naming who has it where that can be seen."""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((HOST, port))
        except OSError as error:
            self._socket.close()
            raise PortTaken(f"port {port} cannot be used: {error.strerror}; {_holder_at(port)}; {FREE_IT}") from None
        self.port: int = self._socket.getsockname()[1]

    def close(self) -> None:
        self._socket.close()


def listen_at(host: str, port: int, name: str = CLIENTS) -> socket.socket:
    """A listening socket of the proxy, one of SETTINGS; raises CannotListen, and AddressInUse where somebody has it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        reason, see = f"the proxy cannot listen at {host}:{port}: {in_words(error)}", f"see [proxy] {SETTINGS[name]}"
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(f"{reason}: {_holder_at(port)}; end it, or choose another port; {see}") from None
        raise CannotListen(f"{reason}; {see}") from None
    return listener


def holder_of(sockets: "Collection[Listening]") -> str:
    """Which process listens by one of them, as far as this user may see.

    By its program's name only: this is told to clients, and arguments can be secret.
    """
    from .shim.processes import program_of  # only where there is something to explain

    user = next((socket.uid for socket in sockets), None)
    if pid := pid_of({socket.name for socket in sockets}):
        whose = f", user {user}" if user != os.geteuid() else ""
        return f"process {pid} listens on it ({program_of(pid) or 'gone meanwhile'}{whose})"
    return f"a process of user {user} listens on it" if user is not None else "another process has it"


def pid_of(names: set[str]) -> int:
    """A process that has one of these sockets open (their names in /proc/PID/fd); 0 where none can be seen."""
    from .shim.processes import has_any

    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return next((pid for pid in pids if has_any(pid, names)), 0)


def _holder_at(port: int) -> str:
    from .shim.listening import all_listening

    return holder_of([socket for socket in all_listening() if socket.port == port])
