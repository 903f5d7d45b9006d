"""Reading a child's log: its last lines, and what is appended, across rotation.

A log is `path`, with older parts beside it as `path.1`, `path.2` ... (the highest the oldest).
Rotation is by rename, and all parts together are read as one sequence of bytes: a line may
begin in one part and end in the next.  Nothing here waits; who follows a log asks again.

Standard library only: muxctl reads logs itself while muxd is down.
"""

import os
from collections import deque
from collections.abc import Iterator
from io import FileIO
from itertools import count
from pathlib import Path

MAX_LINE = 64 << 10  # a longer line is given in pieces of this size
MAX_TAIL = 8 << 20  # how far back a reader may start, however many lines it asks for
GAP = "[muxd: lines are missing here, they were rotated away before they were read]"
_BLOCK = 64 << 10
_BATCH = 256 << 10


class LogReader:
    """The last `lines` lines of a log, then what is appended to it.

    A log that does not exist yet is waited for.  `close` it after use.  OSError comes
    through, but not for files that are missing.
    """

    def __init__(self, path: Path, lines: int) -> None:
        self._path = path
        self._file: FileIO | None = None
        self._unfinished = b""
        self._begin(lines)

    def __enter__(self) -> "LogReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def read(self) -> list[str]:
        """The next complete lines, not much more than 256 KiB of them; none when there is nothing new."""
        lines: list[str] = []
        size = 0
        while size < _BATCH and (data := self._next_bytes(lines)):
            size += len(data)
            lines += self._complete(data)
        return lines

    def unfinished(self) -> str:
        """What there is of a line that has no end yet."""
        return _text(self._unfinished)

    def _begin(self, lines: int) -> None:
        """Open the part, and go to the place in it, where the last `lines` lines begin."""
        parts = _open_parts(self._path)
        try:
            if parts:
                index, offset = _find_start(parts, lines)
                self._file = parts.pop(index)
                self._file.seek(offset)
        finally:
            _close_all(parts)

    def _next_bytes(self, lines: list[str]) -> bytes:
        """What comes next, from a newer part where this one has ended; a gap is told in `lines`."""
        while True:
            data = self._read_file()
            if data or not self._was_rotated():
                return data
            if data := self._read_file():  # written between that read and the rename
                return data
            following, adjacent = _open_following(self._path, self._file)
            if following is None:
                return b""
            if not adjacent:
                lines += [*(self._complete(b"\n") if self._unfinished else ()), GAP]
            self.close()
            self._file = following

    def _read_file(self) -> bytes:
        if self._file is None:
            return b""
        if self._file.tell() > os.fstat(self._file.fileno()).st_size:
            self._file.seek(0)  # cut short in place, which is not how muxd rotates
        return self._file.read(_BLOCK)

    def _was_rotated(self) -> bool:
        """The part being read is not the newest any more, or there was none so far."""
        return self._file is None or not _is_at(self._path, self._file)

    def _complete(self, data: bytes) -> list[str]:
        """The lines that `data` completes."""
        *ended, rest = (self._unfinished + data).split(b"\n")
        *full, self._unfinished = _pieces(rest)
        return [_text(piece) for line in ended for piece in _pieces(line)] + [_text(piece) for piece in full]


def tail(path: Path, lines: int) -> list[str]:
    """The last `lines` lines of a log; one that has no end yet counts."""
    found: deque[str] = deque(maxlen=lines)
    with LogReader(path, lines) as reader:
        for _ in range(MAX_TAIL // _BATCH + 2):  # a child that writes faster than this reads is not waited for
            batch = reader.read()
            if not batch:
                break
            found.extend(batch)
        if unfinished := reader.unfinished():
            found.append(unfinished)
    return list(found)


def _text(line: bytes) -> str:
    return line.decode("utf-8", errors="replace")


def _pieces(line: bytes) -> list[bytes]:
    """`line` in pieces of at most MAX_LINE; at least one."""
    return [line[start : start + MAX_LINE] for start in range(0, max(len(line), 1), MAX_LINE)]


def _part(path: Path, index: int) -> Path:
    return path.with_name(f"{path.name}.{index}") if index else path


def _open(path: Path) -> FileIO | None:
    try:
        return FileIO(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _identity(file: FileIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino


def _is_at(path: Path, file: FileIO) -> bool:
    """`path` names this open file."""
    try:
        status = os.stat(path)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == _identity(file)


def _close_all(parts: list[FileIO]) -> None:
    for part in parts:
        part.close()


def _existing(path: Path) -> Iterator[int]:
    """The indices of the parts there are.  While a rotation goes on, one may be missing between two."""
    missing = 0
    for index in count():
        missing = 0 if _part(path, index).exists() else missing + 1
        if missing == 2:
            return
        if not missing:
            yield index


def _open_parts(path: Path) -> list[FileIO]:
    """All parts, the newest first, each once.

    Rotation moves parts only to higher numbers, so that going upwards misses none; it may
    meet one twice.
    """
    parts: list[FileIO] = []
    for index in _existing(path):
        part = _open(_part(path, index))
        if part is None:
            continue
        if any(_identity(part) == _identity(other) for other in parts):
            part.close()
        else:
            parts.append(part)
    return parts


def _open_following(path: Path, file: FileIO | None) -> tuple[FileIO | None, bool]:
    """The part after `file`, and whether nothing is between; None while there is none.

    What was opened is the follower only if `file` had not moved on meanwhile.
    """
    while file is not None:
        index = next((index for index in _existing(path) if _is_at(_part(path, index), file)), None)
        if index is None:
            break  # it was rotated away
        following = _open(_part(path, index - 1)) if index else None
        if following is None or _is_at(_part(path, index), file):
            return following, True
        following.close()
    parts = _open_parts(path)
    oldest = parts.pop() if parts else None
    _close_all(parts)
    return oldest, file is None


def _find_start(parts: list[FileIO], lines: int) -> tuple[int, int]:
    """Which part, and where in it, the last `lines` lines begin; at most MAX_TAIL bytes back."""
    allowance = MAX_TAIL
    wanted = lines  # line ends still to go back over
    at_end = True  # the very last byte, when it is a line end, ends the last line
    for index, part in enumerate(parts):
        position = part.seek(0, os.SEEK_END)
        while position:
            if not wanted or not allowance:
                return index, position
            block_start = max(position - min(_BLOCK, allowance), 0)
            block = os.pread(part.fileno(), position - block_start, block_start)
            allowance -= position - block_start
            wanted += at_end and block.endswith(b"\n")
            at_end = False
            found = block.count(b"\n")
            if found >= wanted:
                return index, block_start + _nth_end(block, wanted)
            wanted -= found
            position = block_start
    return len(parts) - 1, 0


def _nth_end(block: bytes, nth: int) -> int:
    """Where the line after the nth line end from the back begins."""
    at = len(block)
    for _ in range(nth):
        at = block.rfind(b"\n", 0, at)
    return at + 1
