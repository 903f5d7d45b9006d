"""Text for people: aligned tables, durations, sizes; none of it moves a terminal's cursor."""

import os
import sys
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Return lines with aligned columns, two blanks apart; columns in `right` are aligned to the right."""
    widths = [max(width_of(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(padded(cell, widths[i], i in right) for i, cell in enumerate(row)).rstrip() for row in rows]


def width_of(text: str) -> int:
    """Return how many columns of a terminal the text takes: a letter of Chinese, Japanese or Korean takes two."""
    return len(text) if text.isascii() else sum(map(_width_of, text))


def _width_of(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):  # accents and joiners, which stand over what is before them
        return 0
    return 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1


def padded(text: str, width: int, right: bool = False) -> str:
    """Return the text filled with blanks to `width` columns of a terminal; `right`: with the blanks before it."""
    blanks = " " * (width - width_of(text))
    return blanks + text if right else text + blanks


def cut(text: str, width: int) -> str:
    """Return at most `width` columns of the text; … stands for what is left off."""
    if width_of(text) <= width:
        return text
    taken = list(accumulate(map(_width_of, text)))
    return text[: bisect_right(taken, width - 1)] + "…"


def hanging(rows: Sequence[tuple[str, str]], width: int | None = None) -> list[str]:
    """Return lines of names and texts; a text that is wider than `width` columns goes on below its beginning."""
    indent = max(width_of(name) for name, _ in rows) + 2
    if width is None or width < indent + 20:
        return table(rows)
    lines = []
    for name, text in rows:
        first, *more = _wrapped(text, width - indent)
        lines += [f"{padded(name, indent)}{first}".rstrip(), *(" " * indent + line for line in more)]
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    """Return lines of whole words, at most `width` columns wide unless a single word is wider."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and width_of(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
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


def about(seconds: float) -> str:
    """Return a time that is estimated: "about 12s"."""
    return f"about {duration(round(seconds))}"


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
