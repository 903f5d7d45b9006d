"""Files in shared memory that a killed server leaves behind, as Python's multiprocessing makes them."""

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

SHM = Path("/dev/shm")

_IN_SHM = re.compile(rb" (\d+) +/dev/shm/")  # the inode, in a line of /proc/PID/maps


def mapped_files(pids: Iterable[int], patterns: Sequence[str]) -> list[Path]:
    """Return the files of these names that the processes have mapped.

    Their names are random, and a semaphore is mapped under a name that it loses at once: the files are recognised by
    the inodes.
    """
    mapped: set[int] = set()
    for pid in pids:
        with suppress(OSError):  # the process ended, or belongs to another user
            mapped |= {int(inode) for inode in _IN_SHM.findall(Path(f"/proc/{pid}/maps").read_bytes())}
    return [path for pattern in patterns for path in sorted(SHM.glob(pattern)) if _inode(path) in mapped]


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None
