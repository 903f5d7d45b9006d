"""Losses of logs that the disk refuses: muxd's own log and its events say when a loss begins and when it is over."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from .children import Dropped

log = logging.getLogger(__name__)


class LogTeller(Protocol):
    """A worker or proxy whose output muxd keeps in log files."""

    @property
    def log_files(self) -> dict[str, Path]: ...

    @property
    def dropped(self) -> Dropped: ...


class Losses:
    """The losses of all logs below one folder, as last reported."""

    def __init__(self, folder: Path, record: Callable[..., None]) -> None:
        """Begin with no losses; `folder` is the logs' folder, for the messages, `record` takes events."""
        self._folder = folder
        self._record = record
        self._seen: dict[str, Dropped] = {}
        self._last: dict[str, float] = {}  # when bytes of a log were last lost

    def ago(self, names: Iterable[str], now: float) -> float | None:
        """Return the seconds since bytes of any of these logs were last lost; None where none were."""
        return min((now - self._last[name] for name in names if name in self._last), default=None)

    def look(self, current: list[tuple[str, Dropped]], now: float) -> None:
        """Tell what has changed since the last call; `current` has the losses of every log so far, by name."""
        for name, dropped in current:
            seen = self._seen.get(name, Dropped())
            if dropped.bytes > seen.bytes:
                self._last[name] = now
            if (dropped.going_on, dropped.bytes) != (seen.going_on, seen.bytes) and not (
                dropped.going_on and seen.going_on
            ):
                kind = "log_lost" if dropped.going_on or not seen.going_on else "log_written_again"
                self._record(kind, model=name, bytes=dropped.bytes, reason=dropped.why)
            if dropped.going_on and not seen.going_on:
                lost = "%s: its log in %s cannot be written, what it says is lost until it can be: %s; see to that disk"
                log.warning(lost, name, self._folder, dropped.why)
            elif seen.going_on and not dropped.going_on:
                log.info("%s: its log is written again; %d bytes were lost so far", name, dropped.bytes)
            elif dropped.bytes > seen.bytes and not dropped.going_on:
                log.warning("%s: %d bytes of its log were lost: %s", name, dropped.bytes - seen.bytes, dropped.why)
        self._seen = dict(current)
