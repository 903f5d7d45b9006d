"""Telling systemd how muxd is: the sd_notify protocol, as sd_notify(3) describes it.

Without $NOTIFY_SOCKET every call does nothing.  Nothing here blocks or raises: a service
manager that cannot be told must not stop the service.
"""

import os
import socket
from collections.abc import MutableMapping


class Notifier:
    """One service's line to its service manager."""

    def __init__(self, address: str | None, watchdog_interval: float | None = None) -> None:
        self._address = address
        self.watchdog_interval = watchdog_interval  # seconds between calls of watchdog(); None: nobody watches

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str]) -> "Notifier":
        """The line that systemd names in `environ`; its variables are taken out, so that no child has them."""
        address = environ.pop("NOTIFY_SOCKET", None)
        timeout = environ.pop("WATCHDOG_USEC", "")
        watched = environ.pop("WATCHDOG_PID", "")
        ours = watched in ("", str(os.getpid()))
        # Twice as often as asked for, as sd_watchdog_enabled(3) recommends.
        interval = int(timeout) / 2e6 if ours and timeout.isascii() and timeout.isdigit() and int(timeout) else None
        return cls(address, interval)

    def ready(self, status: str = "") -> bool:
        """The control socket is listening."""
        return self._send("READY=1", *_status(status))

    def status(self, status: str) -> bool:
        """One line for `systemctl status`."""
        return self._send(*_status(status))

    def stopping(self, status: str = "") -> bool:
        return self._send("STOPPING=1", *_status(status))

    def watchdog(self) -> bool:
        """Still alive: due every `watchdog_interval` seconds."""
        return self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> bool:
        """True when the manager has it."""
        if not self._address or self._address[0] not in "/@" or not lines:
            return False
        # "@" stands for the NUL byte that begins an abstract address.
        address = b"\0" + os.fsencode(self._address[1:]) if self._address[0] == "@" else os.fsencode(self._address)
        try:
            with socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            ) as sender:
                sender.sendto("\n".join(lines).encode(), address)
        except OSError:
            return False
        return True


def _status(text: str) -> list[str]:
    return [f"STATUS={' '.join(text.split())}"] if text else []
