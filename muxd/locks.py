"""Lock files that one process at a time holds, with flock and for as long as the process lives.

Lock files are never removed: after a removal two processes could lock two files of one
name.
"""

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

from .errors import AlreadyRunning
from .own_files import make_way

#: The lock that a muxd has on its state_dir.
STATE_LOCK = "muxd.lock"

#: The variable with the descriptors of locks that an upgrade passes on to the new muxd, as "7:8".
LOCKS = "MUXD_LOCKS"


def hold(path: Path, what: str) -> int:
    """Take a lock and return its file descriptor; the file then holds this process's pid, for error messages.

    `what` completes "muxd is already running ...".  Raises AlreadyRunning, OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    make_way(path)
    if (inherited := _inherited(path)) is not None:
        return inherited
    flags = os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o644)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        lock = os.open(path, os.O_RDONLY | flags)  # it can be held all the same, if an earlier muxd made it
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
        os.close(lock)
        raise already_running(what, holder) from None
    with suppress(OSError):  # a full or read-only disk keeps no muxd from starting: an error then names no pid
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def is_held(path: Path) -> bool:
    """Say whether some process holds the lock; raise OSError where there is no such file.

    Others may look at the same time; who wants to take the lock meanwhile finds it held.
    """
    lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def already_running(what: str, holder: str) -> AlreadyRunning:
    who = f"pid {holder}" if holder else "another process"
    return AlreadyRunning(
        f"muxd is already running {what} ({who}): stop it first, or choose another",
        pid=int(holder) if holder.isdigit() else None,
    )


def _inherited(path: Path) -> int | None:
    """Return the descriptor of a lock that the muxd before an upgrade held, or None; each is returned once."""
    passed = os.environ.get(LOCKS, "").split(":")
    for number in passed:
        try:
            if number.isdigit() and os.path.samestat(os.fstat(int(number)), path.stat()):
                os.environ[LOCKS] = ":".join(other for other in passed if other != number)
                if not os.environ[LOCKS]:
                    del os.environ[LOCKS]
                os.set_inheritable(int(number), False)
                return int(number)
        except OSError:
            continue
    return None
