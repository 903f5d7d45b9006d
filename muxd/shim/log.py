"""A child's log files: bounded, of whole lines, and never a reason for the child to wait."""

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: A log rotates at a line end within this many bytes of its limit; only a longer line is cut in two.
LINE_MARGIN = 1 << 16


def reason_of(error: OSError) -> str:
    """Without the errno, which tells people nothing."""
    return (error.strerror or str(error)).lower()


class Log:
    """An append-only file that rotates by size and never raises: what the disk refuses is lost and counted.

    No file grows beyond `max_bytes`.  After a loss the log goes on at a line's start, below a
    line that says how much is missing.  A file that was moved or removed is made anew.
    """

    def __init__(self, path: str, max_bytes: int, backups: int) -> None:
        self.lost = 0  # bytes, since the start
        self.why = ""  # what the system said when it last refused some
        self._path = path
        self._max_bytes = max(1, max_bytes)
        self._margin = min(LINE_MARGIN, max_bytes // 2)
        self._backups = backups
        self._fd = -1
        self._identity = (0, 0)  # device and inode of what _fd is
        self._size = 0
        self._at_line_start = True
        self._gap = 0  # bytes lost since the last successful write
        self._in_torn_line = False  # the beginning of the present line is lost

    def write(self, data: bytes) -> None:
        data = self._without_torn_line(data)
        if not data:
            return
        done = 0
        try:
            if self._gap:
                self._say_gap()
            for part in self._put(data):
                done += part
        except OSError as error:
            self._close()
            self._lose(data[done:], reason_of(error))

    @property
    def refused(self) -> bool:
        """The last that was to be written is lost."""
        return self._gap > 0

    def retry(self) -> None:
        """Say what is missing, if that can be written by now: the child may say nothing for hours."""
        if self._gap:
            try:
                self._say_gap()
            except OSError:
                self._close()

    def note(self, text: str) -> None:
        """A line of the shim's own, below the child's last; that one is ended if the child did not."""
        self._in_torn_line = False
        try:
            if self._gap:
                self._say_gap()
            self._say(text)
        except OSError:
            self._close()

    def _put(self, data: bytes) -> Iterator[int]:
        """Write it all and yield how many bytes each step wrote; raises OSError."""
        start = 0
        while start < len(data):
            self._open()
            share = self._share(data, start)
            if share == 0:
                self._rotate()
                continue
            written = os.write(self._fd, memoryview(data)[start : start + share])
            start += written
            self._size += written
            self._at_line_start = data[start - 1] == 10
            yield written

    def _share(self, data: bytes, start: int) -> int:
        """How much of data[start:] goes into the present file; 0: it is full."""
        left = len(data) - start
        room = self._max_bytes - self._margin - self._size
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
        if self._fd >= 0:
            if self._in_place():
                return
            self._close()
        self._refuse_links_of_others()
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            self._fd = os.open(self._path, flags, 0o640)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(self._path), mode=0o750, exist_ok=True)
            self._fd = os.open(self._path, flags, 0o640)
        found = os.fstat(self._fd)
        self._identity = (found.st_dev, found.st_ino)
        self._size = found.st_size
        self._at_line_start = True
        if self._size and os.pread(self._fd, 1, self._size - 1) != b"\n":
            self._size += os.write(self._fd, b"\n")

    def _refuse_links_of_others(self) -> None:
        """Who may write in the folder must not choose what is written to; an operator's own link is followed."""
        try:
            found = os.lstat(self._path)
        except FileNotFoundError:
            return
        if stat.S_ISLNK(found.st_mode) and found.st_uid not in (0, os.geteuid()):
            raise OSError(errno.ELOOP, "a symbolic link of another user is not followed", self._path)

    def _in_place(self) -> bool:
        """Whether the open file is still the one at the path.  One stat for each write: 2 microseconds."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) == self._identity

    def _rotate(self) -> None:
        self._close()
        for number in range(self._backups, 0, -1):
            newer = f"{self._path}.{number - 1}" if number > 1 else self._path
            if os.path.exists(newer):
                os.replace(newer, f"{self._path}.{number}")
        if not self._backups:
            os.unlink(self._path)

    def _close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _lose(self, data: bytes, reason: str) -> None:
        self.lost += len(data)
        self._gap += len(data)
        self.why = reason
        self._in_torn_line = not data.endswith(b"\n")

    def _without_torn_line(self, data: bytes) -> bytes:
        if not self._in_torn_line:
            return data
        rest = data.find(b"\n") + 1 or len(data)
        self._lose(data[:rest], self.why)
        return data[rest:]

    def _say_gap(self) -> None:
        self._say(f"{self._gap} bytes of the log were lost here: {self.why}")
        self._gap = 0

    def _say(self, text: str) -> None:
        newline = b"" if self._at_line_start or self._fd < 0 else b"\n"
        for _ in self._put(newline + f"muxd-shim: {text}\n".encode(errors="replace")):
            pass
