"""Logs that the disk refuses: told in muxd's own log when that begins."""

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
    """What the disk refuses of logs, told when it begins: not again while it goes on."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}
        self._going_on: frozenset[str] = frozenset()

    def look(self, found: list[tuple[str, Dropped]]) -> None:
        growing = frozenset(name for name, dropped in found if dropped.bytes > self._seen.get(name, 0))
        for name, dropped in found:
            if name in growing - self._going_on:
                log.warning(
                    "%s: its log cannot be written, what it says is lost until it can be: %s", name, dropped.why
                )
        self._seen = {name: dropped.bytes for name, dropped in found}
        self._going_on = growing
