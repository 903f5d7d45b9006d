"""A child's log files: bounded in size, cut between lines, and never a reason for the child to wait."""

from __future__ import annotations

import errno
import os
import stat

from .time_index import LineTimes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: A log rotates at a line end within this many bytes of its limit; only a longer line is cut in two.
LINE_MARGIN = 1 << 16


def reason_of(error: OSError) -> str:
    """Return the error's text in lower case, without the errno, which tells people nothing."""
    return (error.strerror or str(error)).lower()


class Log:
    """An append-only file that rotates by size and never raises: bytes that the disk refuses are lost and counted.

    No file grows beyond `max_bytes`, nor does its time index.  After a loss the log goes on at the start of a line,
    below a line that says how many bytes are missing.  A file that was moved or removed is created again.

    `came` is the time at which bytes came, in nanoseconds since 1970; no time is kept of those with 0.
    """

    def __init__(self, path: str, max_bytes: int, backups: int) -> None:
        self.lost = 0  # bytes lost since the start
        self.why = ""  # the text of the last error
        self._path = path
        self._max_bytes = max(1, max_bytes)
        self._margin = min(LINE_MARGIN, max_bytes // 2)
        self._backups = backups
        self._fd = -1
        self._identity = (0, 0)  # device and inode of _fd
        self._size = 0
        self._at_line_start = True
        self._gap = 0  # bytes lost since the last successful write
        self._in_torn_line = False  # the beginning of the current line is lost
        self._times = LineTimes(path)

    def write(self, data: bytes, came: int = 0) -> None:
        """Append `data`; bytes that cannot be written are counted as lost."""
        data = self._without_torn_line(data)
        if not data:
            return
        done = 0
        try:
            if self._gap:
                self._say_gap(came)
            for part in self._append(data, came):
                done += part
        except OSError as error:
            self._close()
            self._lose(data[done:], reason_of(error))

    @property
    def refused(self) -> bool:
        """Say whether the last write was refused, and the line that reports the loss is not yet written."""
        return self._gap > 0

    def retry(self, came: int = 0) -> None:
        """Try to write the line that reports a loss: the child's next output may be hours away."""
        if self._gap:
            try:
                self._say_gap(came)
            except OSError:
                self._close()

    def note(self, text: str, came: int = 0) -> None:
        """Write a line of the shim's own below the child's last line, which is ended first where the child did not."""
        self._in_torn_line = False
        try:
            if self._gap:
                self._say_gap(came)
            self._say(text, came)
        except OSError:
            self._close()

    def _append(self, data: bytes, came: int) -> Iterator[int]:
        """Write all of `data`, rotating where due; yield how many bytes each step wrote.  Raises OSError."""
        start = 0
        while start < len(data):
            self._open()
            room_now = self._room_for(data, start)
            if room_now == 0:
                self._rotate()
                continue
            if came:
                self._times.mark(self._fd, self._size, came)
            written = os.write(self._fd, memoryview(data)[start : start + room_now])
            start += written
            self._size += written
            self._at_line_start = data[start - 1] == 10
            yield written

    def _room_for(self, data: bytes, start: int) -> int:
        """Return how many bytes of data[start:] go into the current file; 0 if it must be rotated first."""
        left = len(data) - start
        room = self._max_bytes - self._margin - max(self._size, self._times.size)
        if left <= room:
            return left
        whole_lines = data.rfind(b"\n", start, start + max(room, 0)) + 1 - start
        if whole_lines > 0:
            return whole_lines
        if self._at_line_start and self._size:
            return 0
        line_end = data.find(b"\n", start) + 1
        return max(0, min(line_end - start if line_end else left, room + self._margin))

    def _open(self) -> None:
        """Open the file at the path unless it is open, and end a torn last line.  Raises OSError."""
        if self._fd >= 0:
            if self._is_still_at_path():
                return
            self._close()
        self._refuse_links_of_others()
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            self._fd = os.open(self._path, flags, 0o640)
        except FileNotFoundError:
            before = os.umask(0o027)
            try:
                os.makedirs(os.path.dirname(self._path), mode=0o750, exist_ok=True)
            finally:
                os.umask(before)
            self._fd = os.open(self._path, flags, 0o640)
        found = os.fstat(self._fd)
        self._identity = (found.st_dev, found.st_ino)
        self._size = found.st_size
        self._at_line_start = True
        if self._size and os.pread(self._fd, 1, self._size - 1) != b"\n":
            self._size += os.write(self._fd, b"\n")

    def _refuse_links_of_others(self) -> None:
        """Raise OSError if the path is a symbolic link of a user other than root and this one.

        Another user who may write in the folder must not choose the file; an operator's own link is followed.
        """
        try:
            found = os.lstat(self._path)
        except FileNotFoundError:
            return
        if stat.S_ISLNK(found.st_mode) and found.st_uid not in (0, os.geteuid()):
            raise OSError(errno.ELOOP, "a symbolic link of another user is not followed", self._path)

    def _is_still_at_path(self) -> bool:
        """Say whether the open file is still the one at the path, and whole.  Costs one stat: 2 microseconds."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) == self._identity and found.st_size >= self._size

    def _rotate(self) -> None:
        self._close()
        for number in range(self._backups, 0, -1):
            newer = f"{self._path}.{number - 1}" if number > 1 else self._path
            if os.path.exists(newer):
                os.replace(newer, f"{self._path}.{number}")
                LineTimes(newer).rotate(f"{self._path}.{number}")
        if not self._backups:
            os.unlink(self._path)
            self._times.rotate("")

    def _close(self) -> None:
        self._times.close()
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _lose(self, data: bytes, reason: str) -> None:
        self.lost += len(data)
        self._gap += len(data)
        self.why = reason
        self._in_torn_line = not data.endswith(b"\n")

    def _without_torn_line(self, data: bytes) -> bytes:
        """Return `data` without the rest of a line whose beginning is lost; that rest is counted as lost too."""
        if not self._in_torn_line:
            return data
        rest = data.find(b"\n") + 1 or len(data)
        self._lose(data[:rest], self.why)
        return data[rest:]

    def _say_gap(self, came: int) -> None:
        self._say(f"{self._gap} bytes of the log were lost here: {self.why}", came)
        self._gap = 0

    def _say(self, text: str, came: int) -> None:
        newline = b"" if self._at_line_start or self._fd < 0 else b"\n"
        for _ in self._append(newline + f"muxd-shim: {text}\n".encode(errors="replace"), came):
            pass
