"""What is wrong with a configuration, gathered until all of it is known."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from muxd.errors import ConfigError

from .lines import KeyPath, line_of
from .names import MODEL_NAME
from .sources import Source

_BARE = re.compile(r"[A-Za-z0-9_-]+")


class Problems:
    """Problems of the files that were merged, each with its key path."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = list(sources)
        self._found: dict[tuple[KeyPath, str, Path | None], Source | None] = {}  # in their order

    def add(self, path: KeyPath, text: str, source: Source | None = None) -> None:
        """`text` says what is wrong, then "; ", then what to do.  The same problem twice is one.

        `source` is to blame, where it is not one of those that said the key.
        """
        self._found[path, text, source.file if source is not None else None] = source
        if source is not None:
            self._sources.append(source)

    def also(self, source: Source) -> None:
        """Something else that said keys, to be blamed for them as the files are: a launch script."""
        self._sources.append(source)

    def paths(self) -> set[KeyPath]:
        """Where problems have been found so far."""
        return {path for path, _, _ in self._found}

    def said(self, path: KeyPath) -> bool:
        """One of those that may be blamed has it."""
        return any(source.has(path) for source in self._sources)

    def raise_any(self, but: tuple[str, ...] = ()) -> None:
        """Raise ConfigError with all of them, in the order of the files, but those in the tables `but`."""
        if found := [shown for path, shown in self.told() if path[0] not in but]:
            raise ConfigError(found)

    def told(self) -> list[tuple[KeyPath, str]]:
        """Each with its key, in the order of the files."""
        found = [(*self._place(path, source), path, text) for (path, text, _), source in self._found.items()]
        found.sort(key=lambda problem: problem[:2])
        return [(path, self._shown(place, line, path, text)) for place, line, path, text in found]

    def where(self, path: KeyPath) -> str:
        """FILE:LINE of a key, or of the nearest table around it; "" where no file has it."""
        place, line = self._place(path)
        return f"{shown_file(self._sources[place].file)}:{line}" if line else ""

    def _place(self, path: KeyPath, source: Source | None = None) -> tuple[int, int]:
        """The file to blame, by its position, and the line in it; 0 for none.

        It is the one that said the key last.  What nobody said is missing where its table first stands.
        """
        if source is not None:
            return self._sources.index(source), line_of(path, source.lines) or 0
        for length in range(len(path), 0, -1):
            said = [place for place, source in enumerate(self._sources) if source.has(path[:length])]
            if said:
                place = said[-1] if length == len(path) else said[0]
                return place, line_of(path[:length], self._sources[place].lines) or 0
        return 0, 0

    def _shown(self, place: int, line: int, path: KeyPath, text: str) -> str:
        file = shown_file(self._sources[place].file)
        path = _with_name(path, self._sources[place].table)
        return f"{file}:{line}: {shown_path(path)}: {text}" if line else f"{file}: {shown_path(path)}: {text}"


def _with_name(path: KeyPath, table: dict[str, Any]) -> KeyPath:
    """A table of [[keys]] is told by its name in place of its number, where it has one."""
    if path[0] != "keys" or len(path) < 2:
        return path
    name = table["keys"][int(path[1])].get("name")
    return ("keys", *([name] if isinstance(name, str) and MODEL_NAME.fullmatch(name) else []), *path[2:])


def shown_file(file: Path) -> str:
    """A path that any stream can take: what is not UTF-8 in it is written out."""
    return str(file).encode(errors="backslashreplace").decode()


def shown_path(path: KeyPath) -> str:
    """As TOML writes it: models."qwen2.5".port."""
    return ".".join(part if _BARE.fullmatch(part) else f'"{part}"' for part in path)
