"""Reading a child's log across rotation: its last lines, and the lines that are appended later.

A log is `path`, with older parts beside it as `path.1`, `path.2` ... (the highest is the oldest).
Rotation renames the parts, and all parts together are read as one sequence of bytes: a line may
begin in one part and end in the next.  Nothing here waits: to follow a log, call `read` again.

This module needs only the standard library, because muxctl reads logs itself while muxd is down.
"""

import os
from collections import deque
from collections.abc import Iterator
from io import FileIO
from itertools import count
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

from muxd.log_times import TimeIndexReader

MAX_LINE = 64 << 10  # bytes; a longer line is returned in pieces of this size
MAX_TAIL = 8 << 20  # bytes from the end of the log at which a reader may begin, however many lines it asks for
GAP = "[muxd: lines are missing here, they were rotated away before they were read]"
_BLOCK = 64 << 10
_BATCH = 256 << 10


class LogLine(NamedTuple):
    """A line of a log, and when its first byte came, in nanoseconds since 1970."""

    text: str
    came: int | None  # None: nobody has kept it
    came_by: int  # the same, or a time by which it had come


class LogReader:
    """A reader of a log's last lines, and then of the lines that are appended.

    It begins `lines` lines back, or with the first line that came at `since`, whichever is later; back from the end, or
    from `until`.  Both are in nanoseconds since 1970, and bound where to look: a line that is returned may be older.
    The log may be made later: until then the reader returns no lines.  Close the reader after use.
    All methods raise OSError, but not for files that are missing.
    """

    def __init__(self, path: Path, lines: int | None, since: int | None = None, until: int | None = None) -> None:
        self._path = path
        self._file: FileIO | None = None
        self._times: TimeIndexReader | None = None
        self._unfinished = b""
        self._came: tuple[int | None, int] = (None, 0)  # when the unfinished line came, as LogLine has it
        self._is_within_line = False  # what comes first is the end of a line whose beginning is left out
        self._begin(lines, since, until)

    def __enter__(self) -> "LogReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._times is not None:
            self._times.close()
            self._times = None

    def read(self, size_wanted: int = _BATCH) -> list[LogLine]:
        """Return the next complete lines, not much more than so many bytes, or [] where there are no new ones."""
        lines: list[LogLine] = []
        size = 0
        while (size < min(size_wanted, _BATCH) or not lines) and (data := self._next_bytes(lines)):
            size += len(data)
            lines += self._complete_lines(data)
        return lines

    def unfinished(self) -> list[LogLine]:
        """Return the beginning of a line that has no end yet, if there is one."""
        return [LogLine(_decode(self._unfinished), *self._came)] if self._unfinished else []

    def _begin(self, lines: int | None, since: int | None, until: int | None) -> None:
        """Open the part, and go to the place in it, where the reader is to begin."""
        parts = _open_parts(self._path)
        try:
            if not parts:
                return
            end = (0, parts[0].seek(0, os.SEEK_END)) if until is None else self._place_of(parts, until)
            start = (len(parts) - 1, 0) if lines is None else _find_start(parts, lines, end)
            first = start if since is None else self._place_of(parts, since)
            index, offset = min(start, first, key=lambda place: (place[0], -place[1]))
            self._is_within_line = (index, offset) != start and not _is_line_start(parts, index, offset)
            self._go_on_with(parts.pop(index))
            assert self._file is not None
            self._file.seek(offset)
        finally:
            _close_all(parts)

    def _place_of(self, parts: list[FileIO], time: int) -> tuple[int, int]:
        """Return the index in `parts` and the offset of what came first at `time` or later: the end if nothing did."""
        place = (0, parts[0].seek(0, os.SEEK_END))
        for index, part in enumerate(parts):
            times = self._times_of(part)
            offset = times.first_since(time)
            times.close()
            if offset is not None:
                place = (index, offset)
            if offset != 0:
                return place
        return place

    def _times_of(self, part: FileIO) -> TimeIndexReader:
        def paths() -> Iterator[Path]:
            every = (_part_path(self._path, index) for index in _existing_indices(self._path))
            return (path for path in every if _is_at(path, part))

        return TimeIndexReader(paths, part)

    def _go_on_with(self, part: FileIO) -> None:
        self.close()
        self._file = part
        self._times = self._times_of(part)

    def _next_bytes(self, lines: list[LogLine]) -> bytes:
        """Return the next bytes, from the next part where the present one has ended; b"" where there are none yet.

        Where a part was rotated away unread, GAP is appended to `lines`, after the unfinished line if there is one.
        """
        while True:
            data = self._read_file()
            if data or not self._was_rotated():
                return data
            if data := self._read_file():  # written between the read above and the rename
                return data
            following, adjacent = _open_following(self._path, self._file)
            if following is None:
                return b""
            if not adjacent:
                lines += self.unfinished()
                self._unfinished, self._is_within_line = b"", False
                lines.append(LogLine(GAP, None, self._came[1]))
            self._go_on_with(following)

    def _read_file(self) -> bytes:
        if self._file is None:
            return b""
        if self._file.tell() > os.fstat(self._file.fileno()).st_size:
            self._file.seek(0)  # another program has truncated the file; muxd rotates by renaming
            self._go_on_with(FileIO(os.dup(self._file.fileno())))
        return self._file.read(_BLOCK)

    def _was_rotated(self) -> bool:
        """Say whether the part being read is not the newest any more; True also where no part was found so far."""
        return self._file is None or not _is_at(self._path, self._file)

    def _complete_lines(self, data: bytes) -> list[LogLine]:
        """Return the lines that `data`, just read, completes, and keep the rest as the unfinished line."""
        assert self._file is not None
        assert self._times is not None
        self._times.load()
        at = self._file.tell() - len(data)
        *ended, rest = data.split(b"\n")
        found: list[LogLine] = []
        for line in ended:
            self._begin_line(at)
            at += len(line) + 1
            if not self._is_within_line:
                found += self._pieces(self._unfinished + line)
            self._unfinished, self._is_within_line = b"", False
        if rest and not self._is_within_line:
            self._begin_line(at)
            *full, self._unfinished = _split(self._unfinished + rest)
            found += [LogLine(_decode(piece), *self._came) for piece in full]
        return found

    def _begin_line(self, at: int) -> None:
        """Take the time of the line that begins at this offset of the file, unless it has begun already."""
        if not self._unfinished and self._times is not None:
            came = self._times.at(at)
            self._came = (came, self._times.at_latest() if came is None else came)

    def _pieces(self, line: bytes) -> list[LogLine]:
        return [LogLine(_decode(piece), *self._came) for piece in _split(line)]


def tail(path: Path, lines: int) -> list[str]:
    """Return the last `lines` lines of a log, the last of which may have no end yet; raises OSError."""
    found: deque[LogLine] = deque(maxlen=lines)
    with LogReader(path, lines) as reader:
        for _ in range(MAX_TAIL // _BATCH + 2):  # bounded, for a child may write faster than this loop reads
            batch = reader.read()
            if not batch:
                break
            found.extend(batch)
        found.extend(reader.unfinished())
    return [line.text for line in found]


def _decode(line: bytes) -> str:
    return line.decode("utf-8", errors="replace")


def _split(line: bytes) -> list[bytes]:
    """Return a line in pieces of at most MAX_LINE bytes, at least one."""
    return [line[start : start + MAX_LINE] for start in range(0, max(len(line), 1), MAX_LINE)]


def _part_path(path: Path, index: int) -> Path:
    return path.with_name(f"{path.name}.{index}") if index else path


def open_log(path: Path) -> FileIO | None:
    """Open a file of a log; None where there is none, or a FIFO, which would never be read.  Raise OSError."""
    try:
        file = FileIO(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    except (FileNotFoundError, NotADirectoryError):
        return None
    if S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    return None


def _identity(file: FileIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino


def _is_at(path: Path, file: FileIO) -> bool:
    """Say whether `path` names this open file."""
    try:
        status = os.stat(path)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == _identity(file)


def _close_all(parts: list[FileIO]) -> None:
    for part in parts:
        part.close()


def _existing_indices(path: Path) -> Iterator[int]:
    """Yield the indices of the existing parts; during a rotation one index may be missing between two others."""
    missing = 0
    for index in count():
        missing = 0 if _part_path(path, index).exists() else missing + 1
        if missing == 2:
            return
        if not missing:
            yield index


def _open_parts(path: Path) -> list[FileIO]:
    """Open all parts and return them, the newest first, each once.

    Rotation moves parts only to higher indices: going through the indices upwards misses no
    part, but may find one twice.
    """
    parts: list[FileIO] = []
    for index in _existing_indices(path):
        part = open_log(_part_path(path, index))
        if part is None:
            continue
        if any(_identity(part) == _identity(other) for other in parts):
            part.close()
        else:
            parts.append(part)
    return parts


def _open_following(path: Path, file: FileIO | None) -> tuple[FileIO | None, bool]:
    """Open the part that follows `file`, or None where there is none yet; say also whether nothing is missing between.

    The part that was opened is the right one only if `file` was not renamed meanwhile; else the search begins again.
    """
    while file is not None:
        index = next((index for index in _existing_indices(path) if _is_at(_part_path(path, index), file)), None)
        if index is None:
            break  # `file` was rotated away
        following = open_log(_part_path(path, index - 1)) if index else None
        if following is None or _is_at(_part_path(path, index), file):
            return following, True
        following.close()
    parts = _open_parts(path)
    oldest = parts.pop() if parts else None
    _close_all(parts)
    return oldest, file is None


def _find_start(parts: list[FileIO], lines: int, end: tuple[int, int]) -> tuple[int, int]:
    """Return the index in `parts` and the offset at which the last `lines` lines before `end`, likewise, begin.

    At most MAX_TAIL bytes before.
    """
    allowance = MAX_TAIL
    wanted = lines  # number of line ends still to go back over
    at_end = True  # the block is the last one: a line end at its end belongs to the last line
    for index, part in enumerate(parts[end[0] :], end[0]):
        position = end[1] if index == end[0] else part.seek(0, os.SEEK_END)
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


def _is_line_start(parts: list[FileIO], index: int, offset: int) -> bool:
    """Say whether a line begins at this offset of the part."""
    if offset:
        return os.pread(parts[index].fileno(), 1, offset - 1) == b"\n"
    older = parts[index + 1 :][:1]
    return not older or os.pread(older[0].fileno(), 1, max(0, older[0].seek(0, os.SEEK_END) - 1)) in (b"\n", b"")


def _nth_end(block: bytes, nth: int) -> int:
    """Return the offset behind the nth line end from the back."""
    at = len(block)
    for _ in range(nth):
        at = block.rfind(b"\n", 0, at)
    return at + 1
