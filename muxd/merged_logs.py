"""Several logs as one: their lines in the order in which they came, the last ones, those of a time, or as they come.

This module needs only the standard library, as `muxd.logfiles` does.
"""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from heapq import heappop, heappush
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from muxd.logfiles import LogLine, LogReader

#: Nanoseconds for which a line is held back while logs are followed: one that came before may not be written yet.
SETTLED = 50_000_000

#: Lines that one call of `read` returns at most, and bytes that all logs together are read ahead, about.
_BATCH, _AHEAD = 4000, 4 << 20

#: Seconds since 1970 beyond which a time is as late as any.
_LATEST = 9e9


class LogWindow(NamedTuple):
    """Which lines of logs are wanted: the last `lines` of those that came at `since` or later, and before `until`.

    Times are seconds since 1970.  A line whose time nobody has kept counts by a time by which it had come.
    """

    lines: int | None = None  # None: all
    since: float | None = None
    until: float | None = None


class MergedLogs:
    """The lines of several logs, by name, in the order in which they came; those of one log stay in its own order.

    Close it after use.  All methods raise OSError, but not for files that are missing.
    """

    def __init__(self, files: Mapping[str, Path], window: LogWindow) -> None:
        self._since, self._until = _nanoseconds(window.since), _nanoseconds(window.until)
        self._back = window.lines  # of what is there already, so many lines at most are wanted
        self._ahead = _AHEAD // max(1, len(files))
        self._read: dict[str, deque[tuple[int, LogLine]]] = {name: deque() for name in files}  # with their places
        with ExitStack() as opened:
            self._readers = {
                name: opened.enter_context(LogReader(path, window.lines, self._since, self._until))
                for name, path in files.items()
            }
            self._opened = opened.pop_all()

    def __enter__(self) -> "MergedLogs":
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def read(self) -> list[dict[str, Any]]:
        """Return the next lines, as JSON has them; [] where nothing more is there that is old enough to be in order."""
        lines = self._next(time.time_ns() - SETTLED)
        if self._back is None:
            return list(islice(lines, _BATCH))
        last = deque(lines, maxlen=self._back)
        self._back = None
        return list(last)

    def rest(self) -> list[dict[str, Any]]:
        """Return all that is there by now, lines that have no end yet, too."""
        return list(deque(self._next(time.time_ns(), final=True), maxlen=self._back))

    def _next(self, settled: int, *, final: bool = False) -> Iterator[dict[str, Any]]:
        """Yield the lines that came by `settled`."""
        heads: list[tuple[int, str]] = []
        drained: set[str] = set()

        def wait_for(name: str) -> None:
            lines = self._read[name]
            if not lines and name not in drained and not self._read_more(name):
                drained.add(name)
                if final:
                    self._put(name, self._readers[name].unfinished())
            if lines:
                heappush(heads, (lines[0][0], name))

        for name in self._readers:
            wait_for(name)
        while heads and heads[0][0] <= settled:
            _, name = heappop(heads)
            _, line = self._read[name].popleft()
            if self._is_wanted(line):
                came = None if line.came is None else round(line.came / 1e9, 6)
                yield {"stream": name, "line": line.text, "time": came}
            wait_for(name)

    def _read_more(self, name: str) -> bool:
        """Read on in one log; return whether there was more."""
        lines = self._readers[name].read(self._ahead)
        if lines and self._until is not None and lines[0].came_by >= self._until:
            return False
        self._put(name, lines)
        return bool(lines)

    def _put(self, name: str, lines: list[LogLine]) -> None:
        """Take lines in at their times; one from the future, as a clock that was put back has it, has come by now."""
        now = time.time_ns()
        self._read[name].extend((min(line.came_by, now), line) for line in lines)

    def _is_wanted(self, line: LogLine) -> bool:
        too_old = self._since is not None and line.came_by < self._since
        return not too_old and (self._until is None or line.came_by < self._until)


def _nanoseconds(seconds: float | None) -> int | None:
    return None if seconds is None else int(min(max(seconds, 0.0), _LATEST) * 1e9)
