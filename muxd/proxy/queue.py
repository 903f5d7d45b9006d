"""Requests that wait for one model: interactive before batch, the highest priority first, each key in its turn.

Within a class and a priority keys take turns, so that one with many requests does not keep out one with few; of one key
the oldest comes first.  Batch that has waited for too long comes before all others.
"""

from collections.abc import Iterator
from itertools import zip_longest
from typing import Generic, NamedTuple, Protocol, TypeVar

from muxd.protocol import WaitingRequests


class Waiter(Protocol):
    """What the queue needs to know of a request."""

    since: float  # when the request began to wait, on the monotonic clock
    priority: int
    is_batch: bool  # nobody waits for the answer

    @property
    def key_name(self) -> str:
        """Return the name of the API key; "" for none."""
        ...


T = TypeVar("T", bound=Waiter)

_NOBODY = object()


class Rank(NamedTuple):
    """The place of a line among the others: the least comes first."""

    is_batch: bool
    minus_priority: int

    @classmethod
    def of(cls, waiter: Waiter) -> "Rank":
        return cls(waiter.is_batch, -waiter.priority)


class Queue(Generic[T]):
    """One line for each class and priority that has waiters, and in it one for each key; there are few of either.

    `lines` is empty where nobody waits, which costs less to see than a call.
    """

    def __init__(self) -> None:
        self.lines: dict[Rank, dict[str, dict[T, None]]] = {}  # by key; whose turn it is stands first; none is empty

    def __len__(self) -> int:
        return sum(len(of_key) for line in self.lines.values() for of_key in line.values())

    def __bool__(self) -> bool:
        return bool(self.lines)

    def __iter__(self) -> Iterator[T]:
        """Yield the waiters in the order in which they would come now."""
        for rank in sorted(self.lines):
            for turn in zip_longest(*self.lines[rank].values(), fillvalue=_NOBODY):
                yield from (waiter for waiter in turn if waiter is not _NOBODY)  # type: ignore[misc]

    def put(self, waiter: T) -> None:
        """Add `waiter` as the last of its key's."""
        self.lines.setdefault(Rank.of(waiter), {}).setdefault(waiter.key_name, {})[waiter] = None

    def discard(self, waiter: T) -> bool:
        """Remove `waiter`; return whether it was in the queue."""
        rank, key = Rank.of(waiter), waiter.key_name
        line = self.lines.get(rank, {})
        if waiter not in line.get(key, {}):
            return False
        del line[key][waiter]
        if not line[key]:
            del line[key]
            if not line:
                del self.lines[rank]
        return True

    def pop(self, now: float, batch_max_wait: float) -> T:
        """Remove and return the next waiter; raise StopIteration when the queue is empty."""
        waiter = self._overdue(now - batch_max_wait) or next(iter(self))
        rank, key = Rank.of(waiter), waiter.key_name
        self.discard(waiter)
        line = self.lines.get(rank, {})
        if key in line and len(line) > 1:
            line[key] = line.pop(key)  # the other keys have their turns first
        return waiter

    def _overdue(self, since: float) -> T | None:
        """Return the batch waiter that came first, if that was before `since`."""
        if len(self.lines) < 2:
            return None
        batch = (of_key for rank, line in self.lines.items() if rank.is_batch for of_key in line.values())
        oldest = min((next(iter(of_key)) for of_key in batch), key=lambda waiter: waiter.since, default=None)
        return oldest if oldest is not None and oldest.since <= since else None

    def demand(self, now: float) -> tuple[WaitingRequests, ...]:
        """Return how many wait in each line and since when the oldest does, as muxd is told.

        `now` is on the monotonic clock.  The first of a key is its oldest, as waiters join at the end.
        """
        return tuple(
            WaitingRequests(
                count=sum(map(len, line.values())),
                oldest_s=max(0.0, now - min(next(iter(of_key)).since for of_key in line.values())),
                priority=-rank.minus_priority,
                batch=rank.is_batch,
            )
            for rank, line in self.lines.items()
        )
