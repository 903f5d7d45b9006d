"""Text for people: aligned tables, durations, sizes; none of it moves a terminal's cursor."""

import os
import sys
import unicodedata
from collections.abc import Sequence

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Return lines with aligned columns, two blanks apart; columns in `right` are aligned to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(_cell(cell, widths[i], i in right) for i, cell in enumerate(row)).rstrip() for row in rows]


def _cell(text: str, width: int, right: bool) -> str:
    return text.rjust(width) if right else text.ljust(width)


def cut(text: str, width: int) -> str:
    """Return at most `width` characters of the text; … stands for what is left off."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def hanging(rows: Sequence[tuple[str, str]], width: int | None = None) -> list[str]:
    """Return lines of names and texts; a text that is longer than `width` goes on below its beginning."""
    indent = max(len(name) for name, _ in rows) + 2
    if width is None or width < indent + 20:
        return table(rows)
    from textwrap import wrap

    lines = []
    for name, text in rows:
        first, *more = wrap(text, width - indent, break_long_words=False, break_on_hyphens=False) or [""]
        lines += [f"{name:{indent}}{first}".rstrip(), *(" " * indent + line for line in more)]
    return lines


def duration(seconds: float) -> str:
    """Return a time in its two largest units: "12s", "1min 5s", "2h 5min", "3d 4h"."""
    rest = max(0, int(seconds))
    parts: list[tuple[int, str]] = []
    for size, unit in _UNITS:
        count, rest = divmod(rest, size)
        if count or (unit == "s" and not parts):
            parts.append((size, f"{count}{unit}"))
    largest = parts[0][0]
    return " ".join(text for size, text in parts[:2] if size * 60 >= largest)


def gibibytes(size: float) -> str:
    """Return bytes as GiB with one decimal, without the unit."""
    return f"{size / (1 << 30):.1f}"


def plain(value: object) -> str:
    """Return the text as one line without control characters: foreign text must not steer the terminal."""
    return "".join(char if char.isprintable() else " " for char in str(value))


def visible(text: str) -> str:
    """Return the text with Python's escapes in the place of characters that steer a terminal or the writing direction.

    Tabs stay.
    """
    return "".join(
        char if char.isprintable() or not _steers(char) else char.encode("unicode_escape").decode() for char in text
    )


def _steers(char: str) -> bool:
    return char not in "\t\u200c\u200d" and unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def on_terminal() -> bool:
    """Say whether stdout is a terminal whose cursor can be moved."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")
