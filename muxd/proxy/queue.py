"""Requests that wait for one model: the highest priority first, within it the oldest."""

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from muxd.core.events import Waiting


class Waiter(Protocol):
    since: float  # when it began to wait, monotonic
    priority: int


T = TypeVar("T", bound=Waiter)


class Queue(Generic[T]):
    """Lines by priority; there are few priorities, and nearly always one."""

    def __init__(self) -> None:
        self._lines: dict[int, dict[T, None]] = {}  # none is empty

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __bool__(self) -> bool:
        return bool(self._lines)

    def __iter__(self) -> Iterator[T]:
        for priority in sorted(self._lines, reverse=True):
            yield from self._lines[priority]

    def put(self, waiter: T) -> None:
        self._lines.setdefault(waiter.priority, {})[waiter] = None

    def discard(self, waiter: T) -> bool:
        """Whether it was there."""
        line = self._lines.get(waiter.priority)
        if line is None or waiter not in line:
            return False
        del line[waiter]
        if not line:
            del self._lines[waiter.priority]
        return True

    def pop(self) -> T:
        """Take out the next; raises StopIteration when there is none."""
        waiter = next(iter(self))
        self.discard(waiter)
        return waiter

    def demand(self, now: float) -> tuple[Waiting, ...]:
        """What muxd is told of it; who joins a line is its youngest."""
        return tuple(
            Waiting(len(line), max(0.0, now - next(iter(line)).since), priority=priority)
            for priority, line in self._lines.items()
        )
