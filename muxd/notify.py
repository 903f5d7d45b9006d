"""Telling systemd how muxd is: the sd_notify protocol, as sd_notify(3) describes it.

Without $NOTIFY_SOCKET every call does nothing.  Nothing here blocks or raises: a service
manager that cannot be told must not stop the service.
"""

import os
import socket
from array import array
from collections.abc import MutableMapping, Sequence
from contextlib import suppress


class Notifier:
    """One service's line to its service manager."""

    def __init__(self, address: str | None, watchdog_interval: float | None = None) -> None:
        self._address = address
        self.kept: list[tuple[str, socket.socket]] = []  # what was passed to this process, by name, and not yet taken
        self.watchdog_interval = watchdog_interval  # seconds between calls of watchdog(); None: nobody watches

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str]) -> "Notifier":
        """The line that systemd names in `environ`; its variables are taken out, so that no child has them."""
        address = environ.pop("NOTIFY_SOCKET", None)
        kept = _kept(environ)
        timeout = environ.pop("WATCHDOG_USEC", "")
        watched = environ.pop("WATCHDOG_PID", "")
        ours = watched in ("", str(os.getpid()))
        # Twice as often as asked for, as sd_watchdog_enabled(3) recommends.
        interval = int(timeout) / 2e6 if ours and timeout.isascii() and timeout.isdigit() and int(timeout) else None
        notifier = cls(address, interval)
        notifier.kept = kept
        return notifier

    def ready(self, status: str = "") -> bool:
        """The control socket is listening."""
        return self._send("READY=1", *_status(status))

    def status(self, status: str) -> bool:
        """One line for `systemctl status`."""
        return self._send(*_status(status))

    def stopping(self, status: str = "") -> bool:
        return self._send("STOPPING=1", *_status(status))

    def keep(self, listener: socket.socket, name: str) -> bool:
        """Have a copy of it kept open, for the process that follows this one (FileDescriptorStoreMax=)."""
        return self._send(f"FDSTOREREMOVE=1\nFDNAME={name}") and self._send(
            "FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", fds=[listener.fileno()]
        )

    def take(self, name: str, where: tuple[str, int] | None) -> socket.socket | None:
        """What was kept under this name, if it listens there.

        One that does not is closed, for everybody who has a copy: it would be in the way of a wider address.
        """
        found = next((each for each in self.kept if each[0] == name), None)
        if found is None:
            return None
        self.kept.remove(found)
        _, kept = found
        if where is not None and _listens_at(kept, *where):
            return kept
        with suppress(OSError):
            kept.shutdown(socket.SHUT_RDWR)
        kept.close()
        self._send(f"FDSTOREREMOVE=1\nFDNAME={name}")
        return None

    def watchdog(self) -> bool:
        """Still alive: due every `watchdog_interval` seconds."""
        return self._send("WATCHDOG=1")

    def _send(self, *lines: str, fds: Sequence[int] = ()) -> bool:
        """True when the manager has it."""
        if not self._address or self._address[0] not in "/@" or not lines:
            return False
        # "@" stands for the NUL byte that begins an abstract address.
        address = b"\0" + os.fsencode(self._address[1:]) if self._address[0] == "@" else os.fsencode(self._address)
        try:
            with socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            ) as sender:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
                sender.sendmsg(["\n".join(lines).encode()], rights, 0, address)
        except OSError:
            return False
        return True


def _kept(environ: MutableMapping[str, str]) -> list[tuple[str, socket.socket]]:
    """Sockets that were passed to this process, by the names they were kept under (sd_listen_fds_with_names(3))."""
    pid, count, names = (environ.pop(f"LISTEN_{word}", "") for word in ("PID", "FDS", "FDNAMES"))
    if pid != str(os.getpid()) or not (count.isascii() and count.isdigit()):
        return []
    kept = []
    for number, name in zip(range(int(count)), [*names.split(":"), *[""] * int(count)], strict=False):
        os.set_inheritable(3 + number, False)
        kept.append((name, socket.socket(fileno=3 + number)))
    return kept


def _listens_at(kept: socket.socket, host: str, port: int) -> bool:
    """Whether it is what one would get who listened there now; any port is what port 0 asks for."""
    try:
        found = socket.getaddrinfo(host, port, kept.family, socket.SOCK_STREAM)
        listens = kept.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        here, where = kept.getsockname()[:2], found[0][4][:2]
        return bool(listens) and here[0] == where[0] and port in (here[1], 0)
    except OSError:
        return False


def _status(text: str) -> list[str]:
    return [f"STATUS={' '.join(text.split())}"] if text else []
