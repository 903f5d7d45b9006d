"""Logs that the disk refuses: told in muxd's own log when that begins, and when it is over."""

import logging
from pathlib import Path
from typing import Protocol

from .children import Dropped

log = logging.getLogger(__name__)


class LogTeller(Protocol):
    """Whose output muxd keeps."""

    @property
    def log_files(self) -> dict[str, Path]: ...

    @property
    def dropped(self) -> Dropped: ...


class Losses:
    """What the disk refuses of logs."""

    def __init__(self, folder: Path) -> None:
        """`folder`: where the logs are."""
        self._folder = folder
        self._seen: dict[str, Dropped] = {}

    def look(self, found: list[tuple[str, Dropped]]) -> None:
        for name, dropped in found:
            seen = self._seen.get(name, Dropped())
            if dropped.going_on and not seen.going_on:
                lost = "%s: its log in %s cannot be written, what it says is lost until it can be: %s; see to that disk"
                log.warning(lost, name, self._folder, dropped.why)
            elif seen.going_on and not dropped.going_on:
                log.info("%s: its log is written again; %d bytes were lost so far", name, dropped.bytes)
            elif dropped.bytes > seen.bytes and not dropped.going_on:
                log.warning("%s: %d bytes of its log were lost: %s", name, dropped.bytes - seen.bytes, dropped.why)
        self._seen = dict(found)
