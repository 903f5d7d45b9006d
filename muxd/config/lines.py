"""Lines of a TOML file on which its tables and keys stand.

`tomllib` keeps no positions, so this module scans the text a second time.  The text must be one that `tomllib` has
accepted.  Keys inside inline tables are not seen: `line_of` returns the line of their nearest parent.
"""

import re
from typing import NamedTuple

KeyPath = tuple[str, ...]

_BARE = re.compile(r"[A-Za-z0-9_-]+")

_TOKEN = re.compile(
    r'(?P<long>"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5})'
    r"""|(?P<quoted>"(?:\\.|[^"\\\n])*"|'[^'\n]*')"""
    r"|(?P<bare>[A-Za-z0-9_-]+)"
    r"|(?P<comment>\#[^\n]*)"
    r"|(?P<newline>\n)"
    r"|(?P<mark>[\[\]{}=.,])"
    r"|(?P<other>.)",
    re.DOTALL,
)


def key_lines(text: str) -> dict[KeyPath, int]:
    """Return the line, counted from 1, of every table header and of every key that starts a line.

    The tables of an array, [[keys]], are numbered: ("keys", "0"), ("keys", "1", "name").
    """
    scan = _Scan()
    for match in _TOKEN.finditer(text):
        scan.take(match.lastgroup or "", match.group())
    return scan.found


def line_of(path: KeyPath, lines: dict[KeyPath, int]) -> int | None:
    """Return the line of `path`, else that of its nearest parent in `lines`; None where no parent is there either."""
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    return None


def shown_path(path: KeyPath) -> str:
    """Return a key's path as TOML writes it, for example models."qwen2.5".port."""
    return ".".join(part if _BARE.fullmatch(part) else f'"{part}"' for part in path)


class Repeated(NamedTuple):
    """A table or key of a text that stands where it may not, since it is there already."""

    path: KeyPath  # without the numbers of an array's tables
    is_table: bool
    line: int
    first: int  # the line on which it is already, or a part of it, or what it would be a part of
    is_same: bool  # whether the very same path is in that line


def repeated(text: str) -> Repeated | None:
    """Return the last table or key of a text that `tomllib` has refused there as repeated; None where none is seen."""
    scan = _Scan()
    for match in _TOKEN.finditer(text):
        scan.take(match.lastgroup or "", match.group())
    *earlier, (path, line, is_table) = scan.order or [((), 0, False)]
    same = [at for other, at, _ in earlier if other == path]
    related = [at for other, at, _ in earlier if other[: len(path)] == path]
    related += [at for other, at, is_head in earlier if path[: len(other)] == other and not is_head]
    if not same and not related:
        return None
    shown = tuple(part for place, part in enumerate(path) if path[:place] not in scan.arrays)
    return Repeated(shown, is_table, line, (same or related)[0], bool(same))


class _Scan:
    """State of the scan of a TOML text: before a key, inside a table's header, or in a value."""

    def __init__(self) -> None:
        self.found: dict[KeyPath, int] = {}
        self.order: list[tuple[KeyPath, int, bool]] = []  # each header and key: its path, its line, is it a header
        self._line = 1
        self._table: KeyPath = ()
        self.arrays: dict[KeyPath, int] = {}  # how many tables of each array have been seen
        self._parts: list[str] = []
        self._in_value = False
        self._header = 0  # opening brackets of the current header: 1 of a table, 2 of an array's table
        self._depth = 0  # brackets that are open inside the current value

    def take(self, kind: str, text: str) -> None:
        if kind == "newline":
            self._end_line()
        elif self._in_value:
            self._depth += (text in ("[", "{")) - (text in ("]", "}")) if kind == "mark" else 0
        elif kind in ("bare", "quoted"):
            self._parts.append(text if kind == "bare" else _unquoted(text))
        elif kind == "mark":
            self._mark(text)
        self._line += text.count("\n")

    def _mark(self, text: str) -> None:
        if text == "[" and not self._parts:
            self._header += 1
        elif text == "]" and self._header and self._parts:
            self._table, self._parts = tuple(self._parts), []
            if self._header == 2:
                self._table = self._next_in_array(self._table)
            self._note(self._table, is_table=True)
        elif text == "=":
            self._note(self._table + tuple(self._parts))
            self._in_value = True

    def _next_in_array(self, array: KeyPath) -> KeyPath:
        number = self.arrays.get(array, 0)
        self.arrays[array] = number + 1
        return (*array, str(number))

    def _note(self, path: KeyPath, *, is_table: bool = False) -> None:
        self.order.append((path, self._line, is_table))
        for length in range(1, len(path) + 1):
            self.found.setdefault(path[:length], self._line)

    def _end_line(self) -> None:
        if not (self._in_value and self._depth):
            self._in_value, self._depth, self._header, self._parts = False, 0, 0, []


def _unquoted(text: str) -> str:
    inner = text[1:-1]
    return inner if text[0] == "'" else re.sub(r"\\(.)", r"\1", inner)
