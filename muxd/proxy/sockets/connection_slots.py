"""The slots that clients' connections take: which peer has them, and which connection is closed where few are left.

Nothing is limited while there is room.  A peer that has half of all slots does not get any of the last tenth, which is
left to others.  Where no slot is left for a new connection, a connection without a whole request is closed: the oldest
one of the peer that has the most slots.  A connection whose request is being answered, or waits for its model, is
never closed.  So the many clients behind a local reverse proxy, which all have its address, are limited only by the
number of slots.
"""

from itertools import islice
from typing import Protocol

_RESERVED_PART = 10  # a tenth of all slots is only for peers that have less than half of them
_MOST_EXAMINED = 64  # so many of the oldest connections are examined for one that can be closed


class SlotHolder(Protocol):
    """A client's connection, which takes one slot."""

    peer: str

    def make_room(self) -> None:
        """Close the connection, so that another can have its slot."""


class ConnectionSlots:
    def __init__(self, most: int, fresh_for: float) -> None:
        """Allow `most` connections.

        For `fresh_for` seconds a connection is not closed for another, as its request may just be coming.
        """
        self.taken = 0
        self._most = most
        self._fresh_for = fresh_for
        self._count_of_peer: dict[str, int] = {}
        #: Those without a whole request, and since when, on the monotonic clock; the oldest first.
        self.resting: dict[SlotHolder, float] = {}

    def take(self, holder: SlotHolder, now: float) -> None:
        self.taken += 1
        self._count_of_peer[holder.peer] = self._count_of_peer.get(holder.peer, 0) + 1
        self.resting[holder] = now

    def leave(self, holder: SlotHolder) -> None:
        self.taken -= 1
        self.resting.pop(holder, None)
        left = self._count_of_peer[holder.peer] - 1
        if left:
            self._count_of_peer[holder.peer] = left
        else:
            del self._count_of_peer[holder.peer]

    def rest(self, holder: SlotHolder, now: float) -> None:
        """Note that the connection has no whole request from now on; keep the time where it had none before."""
        if holder not in self.resting:
            self.resting[holder] = now

    def work(self, holder: SlotHolder) -> None:
        """Note that the connection has a whole request, so that it is not closed for another."""
        self.resting.pop(holder, None)

    def make_room(self, peer: str, now: float) -> bool:
        """Return whether `peer` may have one more slot, after closing another connection where that is necessary."""
        if self.taken < self._most - self._most // _RESERVED_PART:
            return True
        greedy = self._count_of_peer.get(peer, 0) >= self._most / 2
        if self.taken < self._most and not greedy:
            return True
        oldest = islice(self.resting.items(), _MOST_EXAMINED)
        old = [
            holder for holder, since in oldest if now - since >= self._fresh_for and (not greedy or holder.peer == peer)
        ]
        if not old:
            return False
        max(old, key=lambda holder: self._count_of_peer[holder.peer]).make_room()  # among equals the oldest
        return True
