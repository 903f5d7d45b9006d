"""Losses of logs that the disk refuses: muxd's own log says when a loss begins and when it is over."""

import logging
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

    def __init__(self, folder: Path) -> None:
        """Begin with no losses; `folder` is the logs' folder, for the messages."""
        self._folder = folder
        self._seen: dict[str, Dropped] = {}

    def look(self, current: list[tuple[str, Dropped]]) -> None:
        """Log what has changed since the last call; `current` has the losses of every log so far, by name."""
        for name, dropped in current:
            seen = self._seen.get(name, Dropped())
            if dropped.going_on and not seen.going_on:
                lost = "%s: its log in %s cannot be written, what it says is lost until it can be: %s; see to that disk"
                log.warning(lost, name, self._folder, dropped.why)
            elif seen.going_on and not dropped.going_on:
                log.info("%s: its log is written again; %d bytes were lost so far", name, dropped.bytes)
            elif dropped.bytes > seen.bytes and not dropped.going_on:
                log.warning("%s: %d bytes of its log were lost: %s", name, dropped.bytes - seen.bytes, dropped.why)
        self._seen = dict(current)
