"""Problems of a configuration, gathered until all of it is read, and reported together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from muxd.errors import ConfigError

from .lines import KeyPath, line_of, shown_path
from .names import MODEL_NAME
from .sources import Source


class Problems:
    """Problems of the files that were merged, each with the path of its key.

    A problem is blamed on a source: a file, a launch script or the command line.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = list(sources)
        self._problems: dict[tuple[KeyPath, str, Path | None], Source | None] = {}  # in the order of add()

    def add(self, path: KeyPath, text: str, source: Source | None = None) -> None:
        """Note a problem of the key at `path`; the same problem twice is noted once.

        `text` says what is wrong, then "; ", then what to do.  `source` is given where the source to blame does not
        have the key.
        """
        self._problems[path, text, source.file if source is not None else None] = source
        if source is not None:
            self._sources.append(source)

    def also(self, source: Source) -> None:
        """Add a source that is no file, such as a launch script; it is blamed for its keys like the files."""
        self._sources.append(source)

    def paths(self) -> set[KeyPath]:
        """Return the paths of the keys that have problems so far."""
        return {path for path, _, _ in self._problems}

    def said(self, path: KeyPath) -> bool:
        """Say whether any of the sources has the key at `path`."""
        return any(source.has(path) for source in self._sources)

    def raise_any(self, but: tuple[str, ...] = ()) -> None:
        """Raise ConfigError with all problems except those in the tables `but`, in the order of the files, if any."""
        if found := [shown for path, shown in self.told() if path[0] not in but]:
            raise ConfigError(found)

    def told(self) -> list[tuple[KeyPath, str]]:
        """Return every problem as its key's path and its line of text, in the order of the files."""
        found = [(*self._place(path, source), path, text) for (path, text, _), source in self._problems.items()]
        found.sort(key=lambda problem: problem[:2])
        return [(path, self._shown(place, line, path, text)) for place, line, path, text in found]

    def value(self, path: KeyPath) -> Any:
        """Return what a key is set to, as it is written; None where no source has the key."""
        return next((source.value(path) for source in reversed(self._sources) if source.has(path)), None)

    def where(self, path: KeyPath) -> str:
        """Return FILE:LINE of a key, or of the nearest table around it; "" where no file has either."""
        place, line = self._place(path)
        return f"{shown_file(self._sources[place].file)}:{line}" if line else ""

    def _place(self, path: KeyPath, source: Source | None = None) -> tuple[int, int]:
        """Return the source to blame, by its index in `_sources`, and the line in it; line 0 for none.

        Of several sources with the key the last is blamed, whose value counts.  For a key that no source has, the first
        source with the key's table is blamed.
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
    """Return the path with the name of an API key, where it has a valid one, in place of its number in [[keys]]."""
    if path[0] != "keys" or len(path) < 2:
        return path
    name = table["keys"][int(path[1])].get("name")
    return ("keys", *([name] if isinstance(name, str) and MODEL_NAME.fullmatch(name) else []), *path[2:])


def shown_file(file: Path) -> str:
    """Return a path as text that any stream accepts: bytes that are not UTF-8 are written as escapes."""
    return str(file).encode(errors="backslashreplace").decode()
