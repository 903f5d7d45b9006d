"""The process that holds a port."""

import errno
import socket

from msgspec import Struct

from muxd.ports import pid_of
from muxd.shim.listening import all_listening
from muxd.shim.processes import program_of


class PortHolder(Struct, frozen=True):
    """A process that listens on a port; pid 0 if it is another user's, and cannot be seen, or no process at all."""

    pid: int = 0
    program: str = ""

    def __str__(self) -> str:
        return f"{self.program} (pid {self.pid})" if self.pid else self.program or "a process of another user"


def holder_of(host: str, port: int) -> PortHolder | None:
    """Return the process that listens on the port; None if the port is free.

    Raises OSError if nobody can bind the address on this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return _listener(port)
    return None


def _listener(port: int) -> PortHolder:
    sockets = {found.name for found in all_listening() if found.port == port}
    if not sockets:
        return PortHolder(program="a connection from this host (no process listens on it)")
    pid = pid_of(sockets)
    return PortHolder(pid, program_of(pid) or "a process") if pid else PortHolder()
