"""What is wrong with one configuration file, gathered until all of it is known."""

import re
from pathlib import Path

from muxd.errors import ConfigError

from .lines import KeyPath, line_of

_BARE = re.compile(r"[A-Za-z0-9_-]+")


class Problems:
    """Problems of one file, each with its key path."""

    def __init__(self, file: Path, lines: dict[KeyPath, int]) -> None:
        self._file = file
        self._lines = lines
        self._found: dict[tuple[KeyPath, str], None] = {}  # as a set that keeps its order

    def add(self, path: KeyPath, text: str) -> None:
        """`text` says what is wrong, then "; ", then what to do.  The same problem twice is one."""
        self._found[path, text] = None

    def paths(self) -> set[KeyPath]:
        """Where problems have been found so far."""
        return {path for path, _ in self._found}

    def raise_any(self, but: tuple[str, ...] = ()) -> None:
        """Raise ConfigError with all of them, in the order of the file, but those in the tables `but`."""
        kept = [(path, text) for path, text in self._found if path[0] not in but]
        found = [(line_of(path, self._lines), path, text) for path, text in kept]
        found.sort(key=lambda problem: problem[0] or 0)
        if found:
            raise ConfigError([self._shown(*problem) for problem in found])

    def _shown(self, line: int | None, path: KeyPath, text: str) -> str:
        where = f"{self._file}:{line}" if line else str(self._file)
        return f"{where}: {shown_path(path)}: {text}"


def shown_path(path: KeyPath) -> str:
    """As TOML writes it: models."qwen2.5".port."""
    return ".".join(part if _BARE.fullmatch(part) else f'"{part}"' for part in path)
