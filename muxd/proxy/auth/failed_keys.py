"""Counts the unknown API keys that each address has sent of late, so that a client that guesses is told to wait.

A right key is served whatever its address, which many clients may share, has sent before.  Only the rate of wrong keys
is limited: above it each of them costs the client a connection.
"""

import time
from collections.abc import Callable

from muxd.proxy.peers import peer_of

MOST = 20  # unknown keys from one address within a minute

_MINUTE = 60.0
_MOST_ADDRESSES = 4096


class FailedKeys:
    """The counts of all addresses.  `clock` is monotonic, in seconds; `most` is this process's share of MOST."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, most: int = MOST) -> None:
        self._clock = clock
        self._most = most
        self._counts: dict[str, tuple[float, int]] = {}  # by peer: the minute's begin, and the count; oldest first

    def __len__(self) -> int:
        return len(self._counts)

    def failed(self, address: str) -> float:
        """Count one unknown key; return for how many seconds the address has sent too many, 0 for not too many."""
        peer, now = peer_of(address), self._clock()
        since, count = self._counts.get(peer, (now, 0))
        if now - since >= _MINUTE:
            since, count = now, 0
        if not count:
            self._counts.pop(peer, None)
            self._make_room()
        self._counts[peer] = since, count + 1
        return since + _MINUTE - now if count >= self._most else 0.0

    def _make_room(self) -> None:
        """Forget the oldest count where there are too many, even within its minute: memory is bounded."""
        if len(self._counts) >= _MOST_ADDRESSES:
            del self._counts[next(iter(self._counts))]
