"""When the bytes of a log came: kept in a file beside the log, whose own bytes stay what the child wrote.

`.NAME.stdout.log.times` belongs to `NAME.stdout.log`, and moves with it when it rotates.  It is a head, MAGIC and the
log's inode, and then an entry for each moment: the offset in the log, and nanoseconds since 1970, eight bytes each in
the machine's order.  The entry is there before the bytes that it tells of.
"""

from __future__ import annotations

import os
import sys

MAGIC = b"muxdtime"
#: Bytes of the head, and of an entry.
ENTRY = 16


def index_path(log: str) -> str:
    """Return the path of a log's time index."""
    folder, name = os.path.split(log)
    return os.path.join(folder, f".{name}.times")


class LineTimes:
    """The writer of a log's time index; never raises: without an index the log has no times, and is no worse."""

    def __init__(self, log: str) -> None:
        self.size = 0  # bytes of the file
        self._log = log
        self._fd = -1
        self._last = 0  # nanoseconds of the last entry

    def mark(self, log: int, offset: int, came: int) -> None:
        """Say that the bytes from `offset` on came at `came`; `log` is the open log's descriptor."""
        if came == self._last:
            return
        self._last = came
        try:
            if self._fd < 0:
                self._open(log, offset)
            self.size += os.write(self._fd, _numbers(offset, came))
        except OSError:
            self.close()

    def close(self) -> None:
        """Forget the file: the next mark opens the one that belongs to the log then."""
        fd, self._fd, self._last, self.size = self._fd, -1, 0, 0
        if fd >= 0:
            os.close(fd)

    def rotate(self, older: str) -> None:
        """Give the file the name of the index of `older`, as which the log goes on; or remove it where that is ""."""
        self.close()
        try:
            if older:
                os.replace(index_path(self._log), index_path(older))
            else:
                os.unlink(index_path(self._log))
        except OSError:
            return  # there is none

    def _open(self, log: int, offset: int) -> None:
        """Open the index; begin it anew unless it is this log's and whole.  Raises OSError."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(index_path(self._log), flags, 0o640)
        head = MAGIC + os.fstat(log).st_ino.to_bytes(8, sys.byteorder)
        self.size = os.fstat(self._fd).st_size // ENTRY * ENTRY
        os.ftruncate(self._fd, self.size)  # an entry that a full disk has cut
        last = os.pread(self._fd, 8, self.size - ENTRY) if self.size > ENTRY else bytes(8)
        if os.pread(self._fd, ENTRY, 0) != head or int.from_bytes(last, sys.byteorder) > offset:
            os.ftruncate(self._fd, 0)
            self.size = os.write(self._fd, head)


def _numbers(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(8, sys.byteorder) for number in numbers)
