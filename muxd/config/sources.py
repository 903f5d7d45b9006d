"""The files that a configuration is written in: the one that was named, then `muxd.d/*.toml` beside it.

The second kind is for what commands and packages write, so that nobody's own file is
ever edited: merged key by key over what came before, in the order of their names; only
`[[keys]]` add up (see `api_keys`, which reads them file by file).
Paths in them are relative to where the first file is, as if they stood at its end.
"""

import os
import pwd
import re
import stat
import tomllib
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .lines import KeyPath, key_lines

FOLDER = "muxd.d"

#: How a file begins that is all there is to read, whatever lies beside it: what muxd hands over to its proxy.
WHOLE = "# Written by muxd for its proxy; whatever is changed here is lost.\n"

#: The deepest that anything in a configuration goes is models.NAME.memory.weights.
DEEPEST = 16

#: What editors and web pages make of TOML's quotes.
_QUOTES = dict.fromkeys("\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}", '"') | dict.fromkeys(
    "\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}", "'"
)

#: Unicode's categories of what is not seen: formats, spaces, separators.
_UNSEEN = ("Cf", "Zs", "Zl", "Zp", "Cc")

_AT_LINE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


@dataclass(frozen=True, slots=True)
class Source:
    """One file, as parsed."""

    file: Path
    table: dict[str, Any]
    lines: dict[KeyPath, int]
    whole: bool = False  # nothing is merged into it

    def has(self, path: KeyPath) -> bool:
        inner: Any = self.table
        for part in path:
            if not isinstance(inner, dict) or part not in inner:
                return False
            inner = inner[part]
        return True


def read_sources(path: Path) -> tuple[Source | None, list[Source], list[str]]:
    """The file itself, those of its folder, and what is wrong with any that cannot be read."""
    broken: list[str] = []
    main = _read(path, broken)
    if main is not None and main.whole:
        return main, [], broken
    parts = (_read(file, broken) for file in _parts(path.parent / FOLDER, broken))
    return main, [part for part in parts if part is not None], broken


def merged(sources: list[Source]) -> dict[str, Any]:
    """All tables in one; what is said later counts, tables key by key."""
    whole: dict[str, Any] = {}
    for source in sources:
        whole = _over(whole, source.table)
    return whole


def _over(under: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    over = dict(under)
    for key, value in table.items():
        old = over.get(key)
        over[key] = _over(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return over


def _parts(folder: Path, broken: list[str]) -> Iterator[Path]:
    """Hidden files and what does not end in .toml, such as an editor's copies, are none."""
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return
    except OSError as error:
        broken.append(f"{folder}: cannot be read: {error.strerror}; correct its permissions, or remove it")
        return
    for name in names:
        if name.endswith(".toml") and not name.startswith("."):
            yield from _if_file(folder / name, broken)


def _if_file(file: Path, broken: list[str]) -> Iterator[Path]:
    """A pipe or a device must not be opened; a link to /dev/null switches a file off, as systemd has it."""
    try:
        found = file.stat()
    except OSError as error:
        broken.append(f"{file}: cannot be read: {error.strerror}; correct the link or its permissions, or remove it")
        return
    if stat.S_ISREG(found.st_mode):
        yield file
    elif not file.samefile(os.devnull):
        broken.append(f"{file}: not a file; move it to another folder")


def _read(file: Path, broken: list[str]) -> Source | None:
    try:
        text = _text(file)
        return Source(file, _parsed(file, text), key_lines(text), whole=text.startswith(WHOLE))
    except ValueError as error:
        broken.append(str(error))
        return None


def _who_may(file: Path) -> str:
    """Its mode and its owner, as far as we may see them, and what to do."""
    try:
        found = file.stat()
        owner = pwd.getpwuid(found.st_uid).pw_name
    except OSError:
        return "; correct the permissions of its folder"
    except KeyError:
        owner = f"user {found.st_uid}"
    return f": {stat.filemode(found.st_mode)} {owner}; run this as {owner}, or let muxd's user read it (chown, chgrp)"


def _text(file: Path) -> str:
    try:
        raw = file.read_bytes()
        if raw.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) or b"\0" in raw[:2]:
            raise ValueError(f"{file}:1: UTF-16 or UTF-32, not UTF-8; save the file as UTF-8")
        return raw.removeprefix(BOM_UTF8).decode()
    except PermissionError as error:
        raise ValueError(f"{file}: cannot be read: {error.strerror}{_who_may(file)}") from None
    except OSError as error:
        raise ValueError(f"{file}: cannot be read: {error.strerror}; correct the path or its permissions") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"{file}:{line}: not UTF-8; save the file as UTF-8") from None


def _parsed(file: Path, text: str) -> dict[str, Any]:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        at = _AT_LINE.search(message)
        line = int(at[1]) if at and at[1] else text.count("\n") + 1
        wrong = _not_as_it_looks(text.split("\n")[line - 1]) or "correct this line"
        raise ValueError(f"{file}:{line}: not TOML: {_AT_LINE.sub('', message)}; {wrong}") from None
    except RecursionError:
        raise ValueError(f"{file}: not usable: nested too deeply; write plain tables") from None
    if _depth(table) > DEEPEST:
        raise ValueError(f"{file}: not usable: nested too deeply; write plain tables")
    return table


def _not_as_it_looks(line: str) -> str | None:
    """What to do about a character that cannot be seen, or that only looks like one of TOML's; None without one."""
    import unicodedata  # only where something is wrong

    for column, character in enumerate(line.removesuffix("\r").partition("#")[0], 1):
        if character in _QUOTES or (character not in " \t" and unicodedata.category(character) in _UNSEEN):
            name = unicodedata.name(character, "a control character")
            remedy = f"write {_QUOTES[character]}" if character in _QUOTES else "remove it, or write a space"
            return f"column {column} has U+{ord(character):04X} ({name}): {remedy}"
    return None


def _depth(table: dict[str, Any]) -> int:
    """How many tables or lists are in each other; counted no further than matters."""
    level: list[Any] = [table]
    for depth in range(DEEPEST + 1):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return depth
    return DEEPEST + 1


def _inside(outer: Any) -> list[Any]:
    values = outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ()
    return [value for value in values if isinstance(value, dict | list)]
