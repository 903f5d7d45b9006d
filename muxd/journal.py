"""The journal of events for `muxctl events`: the last entries, in memory, and the streams that follow it."""

import time
from collections import deque
from typing import Any

import trio

#: Entries kept for readers that come later.
KEPT = 1000

#: Entries that a follower may lag behind; beyond that, entries are dropped and a `gap` entry says how many.
LAG = 256


class Journal:
    """The numbered entries; their ids grow by one for as long as muxd lives."""

    def __init__(self) -> None:
        self._entries: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._last = 0
        self._followers: dict[trio.MemorySendChannel[dict[str, Any]], int] = {}  # -> number of missed entries

    def record(self, kind: str, **facts: Any) -> None:
        self._last += 1
        entry = {"id": self._last, "time": time.time(), "type": kind, **facts}
        self._entries.append(entry)
        for channel in list(self._followers):
            self._send(channel, entry)

    def read(self, after: int | None, *, follow: bool) -> trio.MemoryReceiveChannel[dict[str, Any]]:
        """Return a channel of the kept entries with ids above `after` (None: of no old entries).

        With `follow` the channel goes on with the entries to come; else it closes after the last.  A `gap` entry says
        how many entries are missing in its place.
        """
        old = [] if after is None else [e for e in self._entries if e["id"] > after]
        send, receive = trio.open_memory_channel[dict[str, Any]](LAG + len(old))
        if old and after is not None and old[0]["id"] > after + 1:
            send.send_nowait({"type": "gap", "missed": old[0]["id"] - after - 1})
        for entry in old:
            send.send_nowait(entry)
        if follow:
            self._followers[send] = 0
        else:
            send.close()
        return receive

    def close(self) -> None:
        for channel in self._followers:
            channel.close()
        self._followers.clear()

    def _send(self, channel: trio.MemorySendChannel[dict[str, Any]], entry: dict[str, Any]) -> None:
        try:
            if missed := self._followers[channel]:
                channel.send_nowait({"type": "gap", "missed": missed})
                self._followers[channel] = 0
            channel.send_nowait(entry)
        except trio.WouldBlock:
            self._followers[channel] += 1
        except trio.BrokenResourceError:
            del self._followers[channel]
