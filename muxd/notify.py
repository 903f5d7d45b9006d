"""muxd's reports to systemd, by the protocol of sd_notify(3).

Without $NOTIFY_SOCKET every call does nothing.  No call blocks or raises: a service
manager that cannot be reached must not stop the service.
"""

import os
import socket
from array import array
from collections.abc import MutableMapping, Sequence
from contextlib import suppress
from pathlib import Path


class Notifier:
    """One service's connection to its service manager.

    Every method that reports returns whether the service manager has received the report.
    """

    def __init__(self, address: str | None, watchdog_interval: float | None = None) -> None:
        self._address = address
        self.kept: list[tuple[str, socket.socket]] = []  # sockets passed to this process, with names, not yet taken
        self.watchdog_interval = watchdog_interval  # seconds between calls of watchdog(), or None for no watchdog

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str]) -> "Notifier":
        """Return the notifier for the socket that systemd names in `environ`.

        Removes systemd's variables from `environ`, so that no child inherits them.
        """
        address = environ.pop("NOTIFY_SOCKET", None)
        kept = _passed_sockets(environ)
        timeout = environ.pop("WATCHDOG_USEC", "")
        watched = environ.pop("WATCHDOG_PID", "")
        ours = watched in ("", str(os.getpid()))
        # Half the time that systemd asks for, as sd_watchdog_enabled(3) recommends.
        interval = int(timeout) / 2e6 if ours and timeout.isascii() and timeout.isdigit() and int(timeout) else None
        notifier = cls(address, interval)
        notifier.kept = kept
        return notifier

    def ready(self, status: str = "") -> bool:
        """Report that the control socket is listening."""
        return self._send("READY=1", *_status(status))

    def status(self, status: str) -> bool:
        """Set the line that `systemctl status` shows."""
        return self._send(*_status(status))

    def stopping(self, status: str = "") -> bool:
        return self._send("STOPPING=1", *_status(status))

    def keep(self, listener: socket.socket, name: str) -> bool:
        """Have systemd keep a copy of the socket open for this service's next process (FileDescriptorStoreMax=)."""
        return self._send(f"FDSTOREREMOVE=1\nFDNAME={name}") and self._send(
            "FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", fds=[listener.fileno()]
        )

    def take(self, name: str, where: tuple[str, int] | None) -> socket.socket | None:
        """Return the socket that was kept under this name, or None where it does not listen at `where`.

        A socket that listens elsewhere is shut down, in all processes that have a copy, because it could keep the new
        one from a wider address.
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

    def take_unix(self, name: str, path: Path) -> socket.socket | None:
        """Return the socket that was kept under this name, or None where it is not the one at `path`."""
        for each in [each for each in self.kept if each[0] == name]:
            self.kept.remove(each)
            if each[1].getsockname() == str(path):
                return each[1]
            each[1].close()
        return None

    def watchdog(self) -> bool:
        """Report that the service is alive; due every `watchdog_interval` seconds."""
        return self._send("WATCHDOG=1")

    def _send(self, *lines: str, fds: Sequence[int] = ()) -> bool:
        """Send one datagram of lines; return whether the service manager has it."""
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


def _passed_sockets(environ: MutableMapping[str, str]) -> list[tuple[str, socket.socket]]:
    """Return the sockets that were passed to this process, with their names (sd_listen_fds_with_names(3))."""
    pid, count, names = (environ.pop(f"LISTEN_{word}", "") for word in ("PID", "FDS", "FDNAMES"))
    if pid != str(os.getpid()) or not (count.isascii() and count.isdigit()):
        return []
    kept = []
    for number, name in zip(range(int(count)), [*names.split(":"), *[""] * int(count)], strict=False):
        os.set_inheritable(3 + number, False)
        kept.append((name, socket.socket(fileno=3 + number)))
    return kept


def _listens_at(kept: socket.socket, host: str, port: int) -> bool:
    """Say whether a socket listens at this address; port 0 means any port."""
    try:
        found = socket.getaddrinfo(host, port, kept.family, socket.SOCK_STREAM)
        listens = kept.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        here, where = kept.getsockname()[:2], found[0][4][:2]
        return bool(listens) and here[0] == where[0] and port in (here[1], 0)
    except OSError:
        return False


def _status(text: str) -> list[str]:
    return [f"STATUS={' '.join(text.split())}"] if text else []
