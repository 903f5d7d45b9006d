"""How many unknown API keys came from each address of late: whoever tries them out is told to wait.

A right key is served whatever came before it from its address, which many may share; so what is
limited is how fast wrong ones are answered, and each then costs a connection.
"""

import time
from collections.abc import Callable

from muxd.proxy.peers import peer_of

MOST = 20  # within a minute, of one address

_MINUTE = 60.0
_MOST_ADDRESSES = 4096


class FailedKeys:
    """`clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: dict[str, tuple[float, int]] = {}  # since when, and how many; the oldest first

    def __len__(self) -> int:
        return len(self._counts)

    def failed(self, address: str) -> float:
        """Count one more; for how many seconds it is too many, 0 where it is not."""
        place, now = peer_of(address), self._clock()
        since, count = self._counts.get(place, (now, 0))
        if now - since >= _MINUTE:
            since, count = now, 0
        if not count:
            self._counts.pop(place, None)
            self._make_room()
        self._counts[place] = since, count + 1
        return since + _MINUTE - now if count >= MOST else 0.0

    def _make_room(self) -> None:
        """The oldest is forgotten first, be its minute over or not: nobody's addresses take more memory."""
        if len(self._counts) >= _MOST_ADDRESSES:
            del self._counts[next(iter(self._counts))]
