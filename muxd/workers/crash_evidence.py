"""What is left of a server by which its end can be explained: the end of its log, and the kernel's own kills."""

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

#: So much of each log is read.  SGLang's longest traceback is 10 KiB, and each rank writes its own.
WINDOW = 64 << 10


class CrashEvidence:
    """Of one life.  `logs` are the files that its server appends to, what counts most first."""

    def __init__(self, logs: Iterable[Path], vmstat: Path = Path("/proc/vmstat")) -> None:
        """From now on; what the logs had before is an earlier life's."""
        self._logs = tuple(logs)
        self._vmstat = vmstat
        self._kills = _oom_kills(vmstat)
        self._marks = [_mark(path) for path in self._logs]

    def reset(self) -> None:
        """What was said so far explains nothing that happens from now on."""
        self._marks = [_mark(path) for path in self._logs]

    def said(self) -> str:
        """The end of what it has said since, one log after the other; the one that counts most comes last."""
        ends = [_end(path, mark) for path, mark in zip(self._logs, self._marks, strict=True)]
        return "\n".join(end.decode(errors="replace") for end in reversed(ends))

    def oom_kills(self) -> int | None:
        """How often the kernel has killed for want of memory since, on the whole host; None: it does not say."""
        kills = _oom_kills(self._vmstat)
        return None if kills is None or self._kills is None else kills - self._kills


@dataclass(frozen=True, slots=True)
class _Mark:
    """A place in a log that may be rotated."""

    file: tuple[int, int] | None  # device and inode
    offset: int


def _mark(path: Path) -> _Mark:
    try:
        found = path.stat()
    except OSError:
        return _Mark(None, 0)
    return _Mark((found.st_dev, found.st_ino), found.st_size)


def _end(path: Path, mark: _Mark) -> bytes:
    """At most WINDOW bytes, none from before the mark; of the file and the one that was rotated last."""
    end = b""
    for part in (path, path.with_name(f"{path.name}.1")):
        with suppress(OSError), part.open("rb") as file:
            found = os.fstat(file.fileno())
            is_marked = (found.st_dev, found.st_ino) == mark.file
            start = max(mark.offset if is_marked else 0, found.st_size - (WINDOW - len(end)))
            end = os.pread(file.fileno(), max(0, found.st_size - start), start) + end
            if is_marked:
                break
    return end


def _oom_kills(vmstat: Path) -> int | None:
    try:
        lines = vmstat.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)
