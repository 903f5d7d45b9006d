"""The control socket itself: one per muxd, and one muxd per socket.

muxd holds `<socket>.lock` with flock for as long as it lives.  The lock's holder may
replace a socket that a dead muxd left.
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
_BACKLOG = 512  # a new client waits until all before it in the queue are accepted or turned away: 4096 would take 0.6 s


class ControlSocket:
    """A bound and listening control socket, with the lock that makes it the only one.

    Clients may connect as soon as the object exists; their requests are answered once `listener` is served.
    """

    def __init__(
        self,
        path: Path,
        *,
        admin_group: str | None = None,
        others: bool = False,
        passed: socket.socket | None = None,
    ) -> None:
        """Take the lock, then bind and listen, unless the socket was `passed` on by the muxd before an upgrade.

        The socket belongs to `admin_group`, where one is given; with `others` every user may connect.  Raises
        AlreadyRunning, and ConfigError for a path or a group that cannot be used.
        """
        if len(os.fsencode(path)) > _LONGEST_PATH:
            raise ConfigError(
                [f"muxd.socket: {path} is longer than {_LONGEST_PATH} bytes, which is the system's limit"]
            )
        self.path = path
        gid = group_id(admin_group) if admin_group else None
        self._gid, self._mode = gid, 0o666 if others else 0o660
        self._lock = _lock(path)
        try:
            if passed is not None:
                self._take(passed)
            else:
                _remove_stale(path)
                self._listen()
        except BaseException:
            os.close(self._lock)
            raise

    def _listen(self) -> None:
        self._take(_bind(self.path, self._gid, self._mode))

    def _take(self, bound: socket.socket) -> None:
        self._identity = _identity(self.path)
        self.listener = trio.SocketListener(trio.socket.from_stdlib_socket(bound))

    def make_again(self) -> bool:
        """Bind and listen again where the socket's file was removed; return whether that was so.

        `listener` is then a new one, and the old one is closed.  Connected clients stay connected.  Raises
        ConfigError.
        """
        if self.path.is_symlink() or self.path.exists():
            return False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        old = self.listener
        self._listen()
        old.socket.close()
        return True

    @property
    def lock(self) -> int:
        """Return the descriptor of the lock."""
        return self._lock

    def close(self) -> None:
        """Remove the socket, if it is still this one, and give up the lock."""
        self.listener.socket.close()
        if _identity(self.path) == self._identity:
            self.path.unlink(missing_ok=True)
        os.close(self._lock)


def group_id(name: str) -> int:
    """Return the id of a group; raises ConfigError where there is no such group."""
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


def _remove_stale(path: Path) -> None:
    """Remove the socket of a muxd that died; anything else at this path is not ours to remove."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError([f"muxd.socket: {path} is there and is not a socket; {_ANOTHER}"])
    if _somebody_listens(path):  # the lock file of a living muxd was removed
        raise already_running(f"at {path}", "")
    path.unlink()


def _somebody_listens(path: Path) -> bool:
    """Say whether a process listens at this socket; one whose queue is full does."""
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
    """Return a listening socket with this group and mode; raises ConfigError.

    Until group and mode are set, only muxd's own user can connect.
    """
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
