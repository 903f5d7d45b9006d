"""Descriptors that are kept for the end of a child: muxd must see it even when clients hold all others."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

#: Enough for a directory, a file in it, and a pidfd; and one more.
COUNT = 4


class SpareDescriptors:
    """COUNT descriptors of /dev/null, held only to be closed when there is need of others."""

    def __init__(self) -> None:
        self._fds: list[int] = []
        self._fill()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Free the spare descriptors for the block, which must close what it opens.

        The block must not await anything: another task could take the descriptors.
        """
        while self._fds:
            os.close(self._fds.pop())
        try:
            yield
        finally:
            self._fill()

    def _fill(self) -> None:
        with suppress(OSError):  # another thread took the descriptor: the next call tries again
            while len(self._fds) < COUNT:
                self._fds.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


@cache
def spare() -> SpareDescriptors:
    """Return the spare descriptors of this process."""
    return SpareDescriptors()
