"""What explains a server's end: the end of its log, and the kernel's own kills."""

import os
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from pathlib import Path

from msgspec import Struct

from muxd.logfiles import open_log

#: Bytes that are read of each log.  The longest traceback seen of an engine has 10 KiB, and each rank writes its own.
WINDOW = 64 << 10


class CrashEvidence:
    """The evidence of one life of a worker.

    `logs` are the files that its server appends to, the one that counts most first.
    """

    def __init__(self, logs: Iterable[Path], vmstat: Path = Path("/proc/vmstat")) -> None:
        """Begin to collect now: what the logs hold already belongs to an earlier life."""
        self._logs = tuple(logs)
        self._vmstat = vmstat
        self._kills = _oom_kills(vmstat)
        self._marks = [_mark(path) for path in self._logs]

    def reset(self) -> None:
        """Ignore what the logs hold so far: it explains nothing that happens from now on."""
        self._marks = [_mark(path) for path in self._logs]

    def said(self) -> str:
        """Return the end of each log since the last reset, at most WINDOW bytes each; what counts most comes last."""
        ends = [_end(path, mark) for path, mark in zip(self._logs, self._marks, strict=True)]
        return "\n".join(end.decode(errors="replace") for end in reversed(ends))

    def oom_kills(self) -> int | None:
        """Return how often the kernel has killed for want of memory in this life, on the whole host; None: unknown."""
        kills = _oom_kills(self._vmstat)
        return None if kills is None or self._kills is None else kills - self._kills


class _Mark(Struct, frozen=True):
    """A place in a log that may be rotated."""

    file: tuple[int, int] | None  # device and inode
    offset: int


def _mark(path: Path) -> _Mark:
    try:
        status = path.stat()
    except OSError:
        return _Mark(None, 0)
    return _Mark((status.st_dev, status.st_ino), status.st_size)


def _end(path: Path, mark: _Mark) -> bytes:
    """Return the last WINDOW bytes after the mark, from the log and the one file that was rotated last."""
    end = b""
    for part in (path, path.with_name(f"{path.name}.1")):
        with suppress(OSError), open_log(part) or nullcontext() as file:
            if file is None:
                continue
            status = os.fstat(file.fileno())
            is_marked = (status.st_dev, status.st_ino) == mark.file
            start = max(mark.offset if is_marked else 0, status.st_size - (WINDOW - len(end)))
            end = os.pread(file.fileno(), max(0, status.st_size - start), start) + end
            if is_marked:
                break
    return end


def _oom_kills(vmstat: Path) -> int | None:
    try:
        lines = vmstat.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)
