"""The streams of lines to clients that hold a lease, or wait for an operator's order or switch.

Every client has a channel of JSON-ready lines.  For a client that reads too slowly old lines are
left out, but never the last line, which says how the lease, order or switch ended.
"""

from collections.abc import Callable, Iterator
from typing import Any

import trio

from .core.progress import Progress

#: Seconds after which an unchanged progress line is sent again, so that the client knows that muxd lives.
REPEAT = 5.0

#: Lines that a client may lag behind.
LAG = 64

Line = dict[str, Any]


class LeaseStream:
    """One client's lines about one worker."""

    def __init__(self, number: int, worker: str, opened: float) -> None:
        self.number = number
        self.worker = worker
        self.opened = opened
        self.waiting = True  # the client wants progress lines
        self._send, self.receive = trio.open_memory_channel[Line](LAG)
        self._last_progress: tuple[str, tuple[str, ...]] | None = None
        self._last_progress_at = 0.0

    def say(self, line: Line) -> None:
        """Send a line; where the channel is full, the oldest line is dropped to make room."""
        try:
            self._send.send_nowait(line)
        except trio.WouldBlock:
            self.receive.receive_nowait()
            self._send.send_nowait(line)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client is gone; the end of its connection tells the core

    def end(self, line: Line | None = None) -> None:
        if line is not None:
            self.say(line)
        self._send.close()

    def progress(self, progress: Progress, now: float) -> bool:
        """Say whether a progress line is due, and remember it as sent.

        A line is due where the phase or the victims have changed, or where the last line was sent REPEAT seconds ago.
        """
        seen = (progress.phase, progress.victims)
        if not self.waiting or (seen == self._last_progress and now < self._last_progress_at + REPEAT):
            return False
        self._last_progress, self._last_progress_at = seen, now
        return True


class LeaseStreams:
    """The open streams of one kind, by number."""

    def __init__(self, compose: Callable[[LeaseStream, Progress], Line]) -> None:
        self._compose = compose
        self._open: dict[int, LeaseStream] = {}

    def open(self, number: int, worker: str, now: float) -> LeaseStream:
        stream = self._open[number] = LeaseStream(number, worker, now)
        return stream

    def get(self, number: int) -> LeaseStream | None:
        return self._open.get(number)

    def end(self, number: int, line: Line | None = None) -> None:
        stream = self._open.pop(number, None)
        if stream is not None:
            stream.end(line)

    def end_all(self) -> None:
        for number in list(self._open):
            self.end(number)

    def __iter__(self) -> Iterator[LeaseStream]:
        return iter(self._open.values())

    def tell_progress(self, progress_of: Callable[[str], Progress | None], now: float) -> None:
        for stream in self:
            if stream.waiting:
                progress = progress_of(stream.worker)
                if progress is not None and stream.progress(progress, now):
                    stream.say(self._compose(stream, progress))


def seconds(value: float | None) -> float | None:
    """Return a duration for JSON: seconds rounded to milliseconds, or None for an unknown or unbounded one."""
    return None if value is None or value == float("inf") else round(value, 3)
