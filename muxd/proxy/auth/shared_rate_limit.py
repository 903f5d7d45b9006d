"""A rate limit over all processes of a proxy: a token bucket whose level is in a file that they share.

A process reads the level, counts its request and writes the level back while it holds a lock on the file, which the
kernel releases where a process dies: all of that takes 5 to 12 us (timeit, on a busy machine), where a bucket of one
process takes 0.3, and only for requests with a key that has a limit.  Mapped memory would cost less, but a full disk
can end a process that writes there (SIGBUS).  CLOCK_MONOTONIC, by which the level's time is told, is one for all.
"""

import fcntl
import logging
import os
import struct
from collections.abc import Callable
from pathlib import Path

from muxd.errors import in_words

from .rate_limit import MINUTE, TokenBucket

log = logging.getLogger(__name__)

_LEVEL = struct.Struct("dd")  # seconds until the bucket is full, and when that was so


def shared_bucket(path: Path, owner: str, limit: int, clock: Callable[[], float]) -> TokenBucket:
    """Return the bucket whose level is in the file; where that cannot be opened, one of this process alone."""
    try:
        return SharedTokenBucket(path, owner, limit, clock)
    except OSError as error:
        _tell_apart(owner, error)
        return TokenBucket(owner, limit, clock)


def _tell_apart(owner: str, error: OSError) -> None:
    log.error("the limit of API key %s holds for each process of the proxy by itself: %s", owner, in_words(error))


class SharedTokenBucket(TokenBucket):
    """A bucket whose level all processes count in that have opened the file.

    While the disk refuses the level, as a full or broken one does, each counts by itself.
    """

    __slots__ = ("_file", "_is_apart", "_path")

    def __init__(self, path: Path, owner: str, limit: int, clock: Callable[[], float]) -> None:
        """Open the file, and make it where it is missing; raises OSError."""
        super().__init__(owner, limit, clock)
        self._path = path
        self._is_apart = False
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def __del__(self) -> None:
        if hasattr(self, "_file"):  # else it could not be opened
            os.close(self._file)

    def renewed(self, limit: int) -> TokenBucket:
        return self if limit == self.limit else shared_bucket(self._path, self.owner, limit, self._clock)

    def acquire(self) -> bytes:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            self._read_level()
            lines = super().acquire()
            self._write_level()
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        return lines

    def headers(self) -> bytes:
        self._read_level()
        return super().headers()

    def _write_level(self) -> None:
        try:
            os.pwrite(self._file, _LEVEL.pack(self._full_in, self._since), 0)
        except OSError as error:
            if not self._is_apart:
                _tell_apart(self.owner, error)
            self._is_apart = True
        else:
            self._is_apart = False

    def _read_level(self) -> None:
        if self._is_apart:
            return
        try:
            level = os.pread(self._file, _LEVEL.size, 0)
        except OSError:  # of a broken disk; what this process has counted holds
            return
        if len(level) != _LEVEL.size:  # nobody has counted yet
            return
        full_in, since = _LEVEL.unpack(level)
        if 0.0 <= full_in <= 2 * MINUTE and since <= self._clock():  # else it is of another boot, or damaged
            self._full_in, self._since = full_in, since
