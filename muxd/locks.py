"""One holder at a time: a lock file, held with flock for as long as a process lives.

Lock files are never removed: removing one would let two processes lock two files of one
name.
"""

import fcntl
import os
from pathlib import Path

from .errors import AlreadyRunning
from .own_files import make_way


def hold(path: Path, what: str) -> int:
    """The lock's file descriptor, with our pid in the file for the next one to read.

    `what` completes "muxd is already running ...".  Raises AlreadyRunning, OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    make_way(path)
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
        os.close(lock)
        raise already_running(what, holder) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def already_running(what: str, holder: str) -> AlreadyRunning:
    who = f"pid {holder}" if holder else "another process"
    return AlreadyRunning(
        f"muxd is already running {what} ({who}): stop it first, or choose another",
        pid=int(holder) if holder.isdigit() else None,
    )
