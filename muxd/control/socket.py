"""The control socket itself: one per muxd, and one muxd per socket.

`<socket>.lock` is held with flock for as long as muxd lives; whoever holds it may replace
a socket that a dead muxd left.
"""

import grp
import os
import socket
import stat
from pathlib import Path

import trio

from muxd.errors import ConfigError, in_words
from muxd.locks import already_running, hold

_LONGEST_PATH = 107  # sun_path, less its final NUL
_ANOTHER = "name a socket in a folder of muxd's user: [muxd] socket"
_BACKLOG = 512  # whoever is let in waits for all who came before: 4096 would be 0.6 s of those that are let go of


class ControlSocket:
    """A bound and listening control socket, with the lock that makes it the only one.

    Clients may connect as soon as it exists; they are answered when `listener` is served.
    """

    def __init__(self, path: Path, *, admin_group: str | None = None, others: bool = False) -> None:
        """Raises ConfigError for a path or a group that cannot be used, and AlreadyRunning."""
        if len(os.fsencode(path)) > _LONGEST_PATH:
            raise ConfigError(
                [f"muxd.socket: {path} is longer than {_LONGEST_PATH} bytes, which is the system's limit"]
            )
        self.path = path
        gid = group_id(admin_group) if admin_group else None
        self._gid, self._mode = gid, 0o666 if others else 0o660
        self._lock = _lock(path)
        try:
            _clear(path)
            self._listen()
        except BaseException:
            os.close(self._lock)
            raise

    def _listen(self) -> None:
        bound = _bind(self.path, self._gid, self._mode)
        self._identity = _identity(self.path)
        self.listener = trio.SocketListener(trio.socket.from_stdlib_socket(bound))

    def make_again(self) -> bool:
        """If its file was removed, and whether it was: `listener` is another one then, and the old one closed.

        Clients that are connected stay so.  Raises ConfigError.
        """
        if self.path.is_symlink() or self.path.exists():
            return False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        old = self.listener
        self._listen()
        old.socket.close()
        return True

    def close(self) -> None:
        """Remove the socket, if it is still this one, and give up the lock."""
        self.listener.socket.close()
        if _identity(self.path) == self._identity:
            self.path.unlink(missing_ok=True)
        os.close(self._lock)


def group_id(name: str) -> int:
    """Raises ConfigError."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError([f"muxd.admin_group: there is no group {name}"]) from None


def _lock(path: Path) -> int:
    where = path.with_name(f"{path.name}.lock")
    try:
        return hold(where, f"at {path}")
    except OSError as error:
        raise ConfigError([f"muxd.socket: cannot open {where}: {in_words(error)}; {_ANOTHER}"]) from None


def _clear(path: Path) -> None:
    """Remove the socket of a muxd that died; anything else at this path is not ours to remove."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError([f"muxd.socket: {path} is there and is not a socket; {_ANOTHER}"])
    if _answers(path):  # someone removed the lock file under a living muxd
        raise already_running(f"at {path}", "")
    path.unlink()


def _answers(path: Path) -> bool:
    """Somebody listens there; one whose queue is full counts."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except BlockingIOError:
            return True
        except OSError:
            return False
    return True


def _bind(path: Path, gid: int | None, mode: int) -> socket.socket:
    """Bind and listen.  Nobody but us can connect before group and mode are right."""
    bound = socket.socket(socket.AF_UNIX)
    umask = os.umask(0o177)
    try:
        bound.bind(os.fspath(path))
        if gid is not None:
            os.chown(path, -1, gid)
        path.chmod(mode)
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise ConfigError([f"muxd.socket: cannot listen at {path}: {in_words(error)}; {_ANOTHER}"]) from None
    finally:
        os.umask(umask)
    return bound


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
