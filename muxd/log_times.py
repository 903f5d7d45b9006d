"""When the lines of a log came: the reader of the time indices that `muxd.shim.time_index` writes.

This module needs only the standard library, as `muxd.logfiles` does.
"""

import os
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable
from contextlib import suppress
from io import FileIO
from pathlib import Path

from muxd.shim.time_index import ENTRY, MAGIC, index_path


class TimeIndexReader:
    """The times of one part of a log, which may still be written.  Times are nanoseconds since 1970."""

    def __init__(self, paths: Callable[[], Iterable[Path]], part: FileIO) -> None:
        """Open the index of the open `part`, which is at one of `paths` now."""
        self._file = part
        self._offsets, self._times = array("Q"), array("Q")
        inode = os.fstat(part.fileno()).st_ino
        self._index = _open_index(paths(), inode) or _open_index(paths(), inode)  # the first fails within a rotation
        self._read_to = ENTRY
        self.load()

    def close(self) -> None:
        if self._index is not None:
            self._index.close()
            self._index = None

    def load(self) -> None:
        """Read what was added to the index: with the times of all that is in the part by now."""
        if self._index is None:
            return
        data = b""
        with suppress(OSError):  # without the index, its lines have no times
            data = os.pread(self._index.fileno(), os.fstat(self._index.fileno()).st_size, self._read_to)
        whole = len(data) // ENTRY * ENTRY
        self._read_to += whole
        numbers = array("Q", data[:whole])
        self._offsets += numbers[0::2]
        self._times += numbers[1::2]

    def at(self, offset: int) -> int | None:
        """Return when the byte at `offset` came; None where that is not known."""
        found = bisect_right(self._offsets, offset) - 1
        return self._times[found] if found >= 0 else None

    def at_latest(self) -> int:
        """Return a time at which the bytes whose time is not known had come."""
        return self._times[0] if self._times else os.fstat(self._file.fileno()).st_mtime_ns

    def first_since(self, time: int) -> int | None:
        """Return the offset of the first byte that may have come at `time` or later; None where none has."""
        found = next((number for number, each in enumerate(self._times) if each >= time), None)
        if found == 0 or (found is None and not self._times):
            return 0 if self.at_latest() >= time else None
        return self._offsets[found] if found is not None else None


def _open_index(paths: Iterable[Path], inode: int) -> FileIO | None:
    """Open the index of the file at one of `paths` with this inode; None where there is none that can be read."""
    head = array("Q", MAGIC) + array("Q", [inode])
    for path in paths:
        with suppress(OSError):
            index = FileIO(index_path(str(path)), opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
            if os.pread(index.fileno(), ENTRY, 0) == head.tobytes():
                return index
            index.close()
    return None
