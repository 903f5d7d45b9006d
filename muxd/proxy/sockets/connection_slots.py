"""The places that clients' connections take: who has them, and who gives one up where few are left.

Nothing is limited while there is room.  A peer that has half of all places does not get the last tenth: those are for
others.  Where no place is left for a newcomer, a connection without a whole request gives way, the oldest of those
whose peer has the most; what is answered or waits for its model never does.  So the many clients of a local reverse
proxy, which all have its address, are limited by nothing but the number of places.
"""

from itertools import islice
from typing import Protocol

_RESERVE = 10  # the last of so many parts of all places is for peers that have less than half
_LOOKED_AT = 64  # connections, the oldest, of which one gives way


class SlotHolder(Protocol):
    """A connection."""

    peer: str

    def make_room(self) -> None:
        """Close."""


class ConnectionSlots:
    def __init__(self, most: int, fresh_for: float) -> None:
        """`fresh_for`: seconds in which a connection need not give way, as its request may just be coming."""
        self.taken = 0
        self._most = most
        self._fresh_for = fresh_for
        self._of_peer: dict[str, int] = {}
        self._resting: dict[SlotHolder, float] = {}  # without a whole request, and since when; the oldest first

    def take(self, guest: SlotHolder, now: float) -> None:
        self.taken += 1
        self._of_peer[guest.peer] = self._of_peer.get(guest.peer, 0) + 1
        self._resting[guest] = now

    def leave(self, guest: SlotHolder) -> None:
        self.taken -= 1
        self._resting.pop(guest, None)
        left = self._of_peer[guest.peer] - 1
        if left:
            self._of_peer[guest.peer] = left
        else:
            del self._of_peer[guest.peer]

    def rest(self, guest: SlotHolder, now: float) -> None:
        """It has no whole request; where it had none before, its time runs on."""
        if guest not in self._resting:
            self._resting[guest] = now

    def work(self, guest: SlotHolder) -> None:
        """It has one."""
        self._resting.pop(guest, None)

    def make_room(self, peer: str, now: float) -> bool:
        """Whether there is a place for a newcomer, by now."""
        if self.taken < self._most - self._most // _RESERVE:
            return True
        greedy = self._of_peer.get(peer, 0) >= self._most / 2
        if self.taken < self._most and not greedy:
            return True
        oldest = islice(self._resting.items(), _LOOKED_AT)
        old = [
            guest for guest, since in oldest if now - since >= self._fresh_for and (not greedy or guest.peer == peer)
        ]
        if not old:
            return False
        max(old, key=lambda guest: self._of_peer[guest.peer]).make_room()  # of equals the first
        return True
