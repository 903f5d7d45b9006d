"""Files of a configuration: the main file, which was named, then `muxd.d/*.toml` beside it.

Commands and packages write files in `muxd.d`, so that no program ever edits a user's own file.  The files are merged
key by key in the order of their names, each over the ones before; only `[[keys]]` add up (`key_tables` reads them file
by file).  Paths in all files are relative to the main file's folder, as if everything stood at the end of that file.
"""

import os
import pwd
import re
import stat
import tomllib
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator, Mapping
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from msgspec import Struct

from .lines import KeyPath, Repeated, key_lines, repeated, shown_path

FOLDER = "muxd.d"

#: First line of a file beside which no `muxd.d` is read: the settings that muxd writes for its proxy.
WHOLE = "# Written by muxd for its proxy; whatever is changed here is lost.\n"

#: Limit of nested tables and lists; muxd's own keys go no deeper than models.NAME.memory.weights.
DEEPEST = 16

#: Bytes of the longest file that is read as a configuration; one of a thousand models has 1 MB.
LONGEST = 16 << 20

#: Typographic characters that editors and web pages put in the place of TOML's.
_QUOTES = (
    dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033\u275d\u275e\u301d\u301e", '"')
    | dict.fromkeys("\u2018\u2019\u201a\u201b\u2039\u203a\u2032\u00b4`\u275b\u275c", "'")
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-")
    | dict.fromkeys("\u3001\u060c", ",")
)

#: Characters that TOML has a use for outside of strings.
_MARKS = frozenset("\"'[]{}=.,#-")

_QUOTED = re.compile(r"""\"(?:\\.|[^"\\])*\"|'[^']*'""")

#: Odd characters of one line that are told.
MOST_ODD = 4

#: Unicode categories of characters that cannot be seen: formats, spaces, separators, controls.
_UNSEEN = ("Cf", "Zs", "Zl", "Zp", "Cc")

_REPEATED = re.compile(r"Cannot (?:declare|overwrite|mutate|redefine) ")
_REPEATED_INSIDE = re.compile(r"Duplicate inline table key '(.*)'")
_YAML = re.compile(r"(?:---\s|(?:#.*\n|\s)*[\w-]+:(?:\s|$))")

_AT_LINE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


class Source(Struct, frozen=True):
    """One file of a configuration as parsed, or something else that has keys: a launch script, the command line."""

    file: Path
    table: dict[str, Any]
    lines: dict[KeyPath, int]
    whole: bool = False  # whether this file is the entire configuration: no muxd.d is merged into it

    def value(self, path: KeyPath) -> Any:
        """Return what is at `path`, which the file has."""
        return reduce(getitem, path, self.table)

    def has(self, path: KeyPath) -> bool:
        """Say whether the file has a table or key at `path`."""
        inner: Any = self.table
        for part in path:
            if not isinstance(inner, dict) or part not in inner:
                return False
            inner = inner[part]
        return True


def read_sources(path: Path) -> tuple[Source | None, list[Source], list[str]]:
    """Read the main file and those of `muxd.d`; return both, and what is wrong with those that cannot be read.

    The main file is None where it cannot be read; files of `muxd.d` that cannot be read are left out.
    """
    broken: list[str] = []
    main = _read(path, broken)
    if main is not None and main.whole:
        return main, [], broken
    parts = (_read(file, broken) for file in _files_of_folder(path.parent / FOLDER, broken))
    return main, [part for part in parts if part is not None], broken


def merged(sources: list[Source]) -> dict[str, Any]:
    """Return all sources' tables merged into one: later values win, tables are merged key by key."""
    whole: dict[str, Any] = {}
    for source in sources:
        whole = _merged_over(whole, source.table)
    return whole


def _merged_over(under: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    over = dict(under)
    for key, value in table.items():
        old = over.get(key)
        over[key] = _merged_over(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return over


def _files_of_folder(folder: Path, broken: list[str]) -> Iterator[Path]:
    """Yield the files of `muxd.d` to read, by name; hidden files and others than .toml (editors' copies) are not."""
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return
    except OSError as error:
        if os.access(folder.parent, os.X_OK, effective_ids=True):  # else the main file's problem says the same
            broken.append(f"{folder}: {why_unreadable(folder, error)}")
        return
    for name in names:
        if name.endswith(".toml") and not name.startswith("."):
            yield from _if_regular_file(folder / name, broken)


def _if_regular_file(file: Path, broken: list[str]) -> Iterator[Path]:
    """Yield `file` if it is a regular file, else note what is wrong.

    A pipe or a device must not be opened.  A link to /dev/null is no mistake: it switches a packaged file off, as with
    systemd.
    """
    try:
        found = file.stat()
    except OSError as error:
        broken.append(f"{file}: {why_unreadable(file, error)}")
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


def why_unreadable(path: Path, error: OSError) -> str:
    """Return why a file or a folder cannot be read, with advice; for want of permission with mode and owner.

    Of a path that this user may not follow, these are of the folder that may not be entered.
    """
    why = f"cannot be read: {error.strerror}"
    if not isinstance(error, PermissionError):
        remedy = "correct the link, or remove it" if os.path.islink(path) else "correct the path, or what is there"
        return f"{why}; {remedy}"
    for place in (path, *path.parents):
        try:
            found = place.stat()
        except OSError:
            continue
        try:
            owner = pwd.getpwuid(found.st_uid).pw_name
        except KeyError:
            owner = f"user {found.st_uid}"
        what, use = (f"{place} is ", "enter") if place != path else ("", "read")
        mode = stat.filemode(found.st_mode)
        return f"{why}: {what}{mode} {owner}; run this as {owner}, or let muxd's user {use} it (chown, chgrp)"
    return why


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            raw = opened.read(LONGEST + 1)
        if len(raw) > LONGEST:
            raise ValueError(f"{file}: has more than {LONGEST >> 20} MiB, as no configuration has; correct the path")
        if raw.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) or b"\0" in raw[:2]:
            raise ValueError(f"{file}:1: UTF-16 or UTF-32, not UTF-8; save the file as UTF-8")
        return raw.removeprefix(BOM_UTF8).decode()
    except OSError as error:
        raise ValueError(f"{file}: {why_unreadable(file, error)}") from None
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
        if _REPEATED.match(message) and (told := repeated("\n".join(text.split("\n")[:line]))) is not None:
            raise ValueError(f"{file}:{told.line}: not TOML: {_why_repeated(told)}") from None
        if inner := _REPEATED_INSIDE.match(message):
            raise ValueError(f"{file}:{line}: not TOML: {inner[1]} is there twice within {{ }}; remove one") from None
        where = text.split("\n")[line - 1]
        wrong = _odd_characters(where) or _why_not_toml(text) or _slip(where, message) or "correct this line"
        raise ValueError(f"{file}:{line}: not TOML: {_AT_LINE.sub('', message)}; {wrong}") from None
    except RecursionError:
        raise ValueError(f"{file}: not usable: nested too deeply; write plain tables") from None
    if _depth(table) > DEEPEST:
        raise ValueError(f"{file}: not usable: nested too deeply; write plain tables")
    return table


def _why_repeated(told: Repeated) -> str:
    name = f"[{shown_path(told.path)}]" if told.is_table else shown_path(told.path)
    if not told.is_same:
        return f"{name} is there already, in line {told.first}; write all of it in one place"
    return f"{name} is there twice, first in line {told.first}; {'join the two' if told.is_table else 'remove one'}"


def _why_not_toml(text: str) -> str:
    """Return advice on a text that is of another kind; "" for one that may be TOML."""
    start = text.lstrip()
    if start.startswith("{"):
        return "this looks like JSON: muxd import llmux reads llmux's; or write it as TOML, see muxd init --print"
    if _YAML.match(start):
        return "this looks like YAML: muxd import llama-swap reads llama-swap's; or write TOML, see muxd init --print"
    return ""


def _slip(line: str, message: str) -> str:
    """Return advice on what is often written in TOML's place, by its line and by `tomllib`'s words; "" for another."""
    if message.startswith("Expected '='") and (colon := re.match(r"\s*([\w.-]+)\s*:", line)):
        return f"write {colon[1]} = ..., with = in the place of :"
    if message.startswith("Invalid value") and (word := re.search(r"=\s*([A-Za-z~/.][^\s,#\]]*)", line)):
        told = _CONSTANTS.get(word[1].lower(), "")
        return told or f'text is written in quotes: "{word[1]}"'
    if message.startswith(("Illegal character '\\n'", "Found invalid character '\\n'", 'Expected "\'"')):
        return "a quotation mark is missing at its end"
    if message.startswith("Unclosed array"):
        return "a comma is missing before this, or the ] of a list that begins above"
    if message.startswith("Expected ']' at the end of a table declaration"):
        has_blank = re.match(r"\s*\[+[\w.-]+\s+[\w.-]+[^\]]*\]", line)
        return "a name with a blank in it is written in quotes" if has_blank else "write ] at its end"
    return ""


#: Words that other languages have for TOML's constants, or for none.
_CONSTANTS = {
    **dict.fromkeys(("true", "yes", "on"), "write true, in lower case"),
    **dict.fromkeys(("false", "no", "off"), "write false, in lower case"),
    **dict.fromkeys(("none", "null", "nil"), "TOML has no such value; leave the key out"),
}


def _odd_characters(line: str) -> str:
    """Return advice on characters that cannot be seen or only look like TOML's; "" where there are none.

    Inside of quotation marks such a character may be meant: it is told only where there is none outside.
    """
    code = line.removesuffix("\r").partition("#")[0]
    outside = _QUOTED.sub(lambda quoted: " " * len(quoted[0]), code)
    return "; ".join(list(_odd(outside) or _odd(code))[:MOST_ODD])


def _odd(code: str) -> list[str]:
    import unicodedata  # imported for broken files only

    found = []
    for column, character in enumerate(code, 1):
        plain = _QUOTES.get(character) or unicodedata.normalize("NFKC", character)
        is_alike = character != plain and plain in _MARKS
        if is_alike or (character not in " \t" and unicodedata.category(character) in _UNSEEN):
            name = unicodedata.name(character, "a control character")
            remedy = f"write {plain}" if is_alike else "remove it, or write a space"
            found.append(f"column {column} has U+{ord(character):04X} ({name}): {remedy}")
    return found


def _depth(table: dict[str, Any]) -> int:
    """Return how deep tables and lists are nested, at most DEEPEST + 1."""
    level: list[Any] = [table]
    for depth in range(DEEPEST + 1):
        level = [inner for outer in level for inner in _nested(outer)]
        if not level:
            return depth
    return DEEPEST + 1


def _nested(outer: Any) -> list[Any]:
    values = outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ()
    return [value for value in values if isinstance(value, dict | list)]
