"""Descriptors that are kept for the end of a child: it must be seen also when clients hold all others."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

#: A directory, a file in it, a pidfd, and one over.
COUNT = 4


class SpareDescriptors:
    def __init__(self) -> None:
        self._fds: list[int] = []
        self._fill()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """What is opened and closed in here finds room.  Nothing may be awaited in here, lest others take it."""
        while self._fds:
            os.close(self._fds.pop())
        try:
            yield
        finally:
            self._fill()

    def _fill(self) -> None:
        with suppress(OSError):  # a thread was faster: the next time
            while len(self._fds) < COUNT:
                self._fds.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


@cache
def spare() -> SpareDescriptors:
    """This process's."""
    return SpareDescriptors()
