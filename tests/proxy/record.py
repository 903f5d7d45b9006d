"""A list that tests can wait on."""

from typing import TypeVar

import trio

T = TypeVar("T")

PATIENCE = 20.0  # seconds until a test gives up waiting: a busy machine can stand still for 5


class Record(list[T]):
    """Append-only; `nth` waits for what has not happened yet."""

    def __init__(self) -> None:
        super().__init__()
        self._grown = trio.Event()

    def append(self, item: T) -> None:
        super().append(item)
        self._grown.set()
        self._grown = trio.Event()

    async def nth(self, index: int) -> T:
        with trio.fail_after(PATIENCE):
            while len(self) <= index:
                await self._grown.wait()
        return self[index]

    async def until(self, item: T) -> None:
        """Return when the newest is `item`."""
        with trio.fail_after(PATIENCE):
            while not self or self[-1] != item:
                await self._grown.wait()

    async def has(self, item: T) -> None:
        """Return when `item` is in it."""
        with trio.fail_after(PATIENCE):
            while item not in self:
                await self._grown.wait()
