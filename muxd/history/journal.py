"""Numbered entries of what happened: the last ones, in memory, and the streams that follow them.

muxd has one journal of events, for `muxctl events`, and one of requests that have ended.
"""

import pwd
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import inf
from typing import Any

import trio
from msgspec import Struct

from muxd.errors import BadRequest

#: Entries kept for readers that come later.
KEPT = 1000

#: Numbers that are left out after the entries of an earlier muxd: one that was killed may have given so many to entries
#: that it had no time to keep, and no number means two entries.
LEFT_OUT = 1000

#: Entries that a follower may lag behind; beyond that, entries are dropped and a `gap` entry says how many.
LAG = 256

Entry = dict[str, Any]


class EntryFilter(Struct, frozen=True):
    """Which entries a reader wants; times in seconds since the epoch."""

    model: str | None = None
    kinds: frozenset[str] = frozenset()  # none: all
    key: str | None = None  # the name of an API key, of requests
    since: float = -inf
    until: float = inf
    last: int | None = None  # of those that are kept, only so many, the newest

    def matches(self, entry: Entry) -> bool:
        return (
            (self.model is None or entry.get("model") == self.model)
            and (not self.kinds or entry["type"] in self.kinds)
            and (self.key is None or entry.get("key") == self.key)
            and self.since <= entry["time"] <= self.until
        )


ALL = EntryFilter()


@dataclass(slots=True)
class _Follower:
    wanted: EntryFilter
    missed: int = 0


class Journal:
    """The entries; their ids grow by one, and by LEFT_OUT from those of an earlier muxd to the first of this one."""

    def __init__(
        self, kept: int = KEPT, entries: Iterable[Entry] = (), sink: Callable[[Entry], None] | None = None
    ) -> None:
        """Go on from `entries`; `sink` gets every new one, to be kept."""
        self._entries: deque[Entry] = deque(entries, maxlen=kept)
        self._inherited: int = self._entries[-1]["id"] if self._entries else 0
        self._last: int = self._inherited + (LEFT_OUT if self._entries else 0)
        self._sink = sink
        self._followers: dict[trio.MemorySendChannel[Entry], _Follower] = {}

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def record(self, kind: str, **facts: Any) -> None:
        """Add an entry; one that is `by` a user has that user's number, too."""
        self._last += 1
        if by := facts.get("by"):
            facts["uid"] = _uid_of(by)
        entry = {"id": self._last, "time": time.time(), "type": kind, **facts}
        self._entries.append(entry)
        if self._sink is not None:
            self._sink(entry)
        for channel, follower in list(self._followers.items()):
            if follower.wanted.matches(entry):
                self._send(channel, follower, entry)

    def read(self, after: int | None, *, follow: bool, wanted: EntryFilter = ALL) -> trio.MemoryReceiveChannel[Entry]:
        """Return a channel of the kept entries with ids above `after` (None: of no old ones; 0: of all that are kept).

        With `follow` the channel goes on with the entries to come; else it closes after the last.  A `gap` entry says
        how many entries above `after` are missing in its place.  Raises BadRequest where no entry has that number yet.
        """
        if after is not None and after > self._last:
            newest = f"the newest is {self._last}; begin anew with after=0"
            raise BadRequest(f"after={after}: there is no entry {after} yet, {newest}", field="after", last=self._last)
        old = [] if after is None else [e for e in self._entries if e["id"] > after]
        missed = self._between(after, old[0]["id"]) if old and after else 0
        old = [entry for entry in old if wanted.matches(entry)]
        if wanted.last is not None:
            missed, old = 0, old[-wanted.last :] if wanted.last else []
        send, receive = trio.open_memory_channel[Entry](LAG + len(old) + bool(missed))
        if missed:
            send.send_nowait({"type": "gap", "missed": missed})
        for entry in old:
            send.send_nowait(entry)
        if follow:
            self._followers[send] = _Follower(wanted)
        else:
            send.close()
        return receive

    def _between(self, after: int, before: int) -> int:
        """Return how many entries have numbers between these two."""
        first = self._inherited + LEFT_OUT + 1 if self._inherited else 1
        return max(0, min(self._inherited, before - 1) - after) + max(0, before - max(after + 1, first))

    def close(self) -> None:
        for channel in self._followers:
            channel.close()
        self._followers.clear()

    def _send(self, channel: trio.MemorySendChannel[Entry], follower: _Follower, entry: Entry) -> None:
        try:
            if follower.missed:
                channel.send_nowait({"type": "gap", "missed": follower.missed})
                follower.missed = 0
            channel.send_nowait(entry)
        except trio.WouldBlock:
            follower.missed += 1
        except trio.BrokenResourceError:
            del self._followers[channel]


def _uid_of(user: str) -> int | None:
    """Return the number of the user with this name, or whose name is unknown and who is told by it."""
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return int(user) if user.isdecimal() else None
