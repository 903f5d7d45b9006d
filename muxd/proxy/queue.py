"""Requests that wait for one model: the highest priority first, and the oldest first within a priority."""

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from muxd.protocol import WaitingRequests


class Waiter(Protocol):
    """What the queue needs to know of a request."""

    since: float  # when the request began to wait, on the monotonic clock
    priority: int


T = TypeVar("T", bound=Waiter)


class Queue(Generic[T]):
    """One line for each priority that has waiters; there are few priorities, and nearly always one.

    `lines` is empty where nobody waits, which costs less to see than a call.
    """

    def __init__(self) -> None:
        self.lines: dict[int, dict[T, None]] = {}  # by priority; an empty line is removed

    def __len__(self) -> int:
        return sum(map(len, self.lines.values()))

    def __bool__(self) -> bool:
        return bool(self.lines)

    def __iter__(self) -> Iterator[T]:
        for priority in sorted(self.lines, reverse=True):
            yield from self.lines[priority]

    def put(self, waiter: T) -> None:
        """Add `waiter` as the last of its priority."""
        self.lines.setdefault(waiter.priority, {})[waiter] = None

    def discard(self, waiter: T) -> bool:
        """Remove `waiter`; return whether it was in the queue."""
        line = self.lines.get(waiter.priority)
        if line is None or waiter not in line:
            return False
        del line[waiter]
        if not line:
            del self.lines[waiter.priority]
        return True

    def pop(self) -> T:
        """Remove and return the next waiter; raise StopIteration when the queue is empty."""
        waiter = next(iter(self))
        self.discard(waiter)
        return waiter

    def demand(self, now: float) -> tuple[WaitingRequests, ...]:
        """Return how many wait at each priority and since when the oldest does, as muxd is told.

        `now` is on the monotonic clock.  The first of a line is its oldest, as waiters join at the end.
        """
        return tuple(
            WaitingRequests(count=len(line), oldest_s=max(0.0, now - next(iter(line)).since), priority=priority)
            for priority, line in self.lines.items()
        )
