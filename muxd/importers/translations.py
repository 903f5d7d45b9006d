"""Translation of another program's configuration into muxd's, declared key by key.

A table of `Translation`s says of each key of the other program what becomes of it.  The same tables are printed in
docs/how-to/coming-from.md, so that nothing is promised there which an import does not do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple, Union

from muxd.config.lines import KeyPath, line_of
from muxd.config.names import MODEL_NAME, as_model_name, did_you_mean, few
from muxd.config.problems import Problems
from muxd.config.readers import Base, Reader
from muxd.config.rules import OWN_NAMES
from muxd.config.sources import Source

#: Models that are named where the same is said of several.
MOST_NAMED = 8

#: Stands for any name in a path of keys.
ANY = "*"

_NOWHERE = Base(Path("/"), Path("/"), host=False)
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\xa0-\U0010ffff]|[\ud800-\udfff\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Translation:
    """What becomes of one key of another program."""

    becomes: str  # what it is here, or why it has no equal, as the docs write it
    take: Take | None = None  # puts a value into the conversion; None: there is nothing to put
    is_lost: bool = False  # whether it has no equal, which is said of every value


Take = Callable[["Conversion", KeyPath, Any], None]
Translations = dict[str, Union[Translation, "Translations"]]


def lost(why: str) -> Translation:
    """Return the translation of a key that has no equal, with the reason and what there is instead."""
    return Translation(why, is_lost=True)


def put(target: str, read: Reader[Any], show: Callable[[Any], Any] | None = None) -> Take:
    """Return a function that reads a value and puts it at a path of muxd's keys, such as "models.*.port".

    `show` makes of what `read` returns the value that is written; without it, the value is written as it was.
    """

    def take(conversion: Conversion, at: KeyPath, value: Any) -> None:
        if (found := conversion.read(at, value, read)) is not None:
            path = tuple(conversion.table_names[at[1]] if part == ANY else part for part in target.split("."))
            conversion.put(path, show(found) if show is not None else value, at)

    return take


class Remark(NamedTuple):
    """Something to be said of an import, beside what was written."""

    table: KeyPath  # muxd's table that it is about, such as ("models", "qwen"); () for all
    line: int  # 0: none
    key: KeyPath  # of the other program
    text: str

    def __str__(self) -> str:
        return f"{shown(self.key)}: {self.text}" if self.key else self.text


class Conversion:
    """A configuration of another program on its way into muxd's."""

    def __init__(self, source: Source, problems: Problems) -> None:
        self.source = source  # as it is followed: llama-swap's macros are replaced
        self.original = source
        self.tables: dict[str, Any] = {}  # muxd's, as TOML has them
        self.lines: dict[KeyPath, int] = {}  # of the other program's file, by the paths of muxd's keys
        self.remarks: list[Remark] = []
        self.is_private = False  # what is written has the values of variables, which may be secrets
        self.table_names: dict[str, str] = {}  # names of muxd's tables, by the models' names
        self.aliases: dict[str, str] = {}  # what else clients call models, with the models' names
        self._problems = problems

    def name_models(self, names: Collection[str], others: Iterable[str] = ()) -> None:
        """Give each model a table's name of its own, none of `others`, which clients use for another model."""
        taken = {*OWN_NAMES, *names, *others}
        for name in names:
            plain = as_model_name(name)
            if MODEL_NAME.fullmatch(name) and name not in OWN_NAMES:
                plain = name
            else:
                numbered = (f"{plain}-{number}" for number in count(2))
                plain = next(free for free in chain((plain,), numbered) if free not in taken)
            taken.add(plain)
            self.table_names[name] = plain
            self.tables.setdefault("models", {})[plain] = {}  # in the order of the file, whichever key comes first

    def follow(self, translations: Translations) -> None:
        """Translate every key of the file; a key that nobody knows is a problem."""
        self._table(self.source.table, translations, ())

    def _table(self, table: Mapping[str, Any], known: Translations, at: KeyPath) -> None:
        for key, value in table.items():
            place = (*at, key)
            translation = known.get(key, known.get(ANY))
            if translation is None:
                self.wrong(place, f"unknown key; {did_you_mean(key, known)}")
            elif value is None:
                continue  # a key without a value, as if it were not there
            elif isinstance(translation, Translation):
                self._key(translation, place, value)
            elif isinstance(value, dict):
                self._table(value, translation, place)
            else:
                inside = few(["NAME" if key == ANY else key for key in translation], MOST_NAMED)
                self.wrong(place, f"not a mapping; write {inside} below it")

    def _key(self, translation: Translation, at: KeyPath, value: Any) -> None:
        if translation.take is not None:
            translation.take(self, at, value)
        if translation.is_lost and value:  # what is switched off or empty is not missed
            self.remark(at, f"no equal: {plain_text(translation.becomes)}")

    def named(self, name: str) -> str | None:
        """Return the table's name of a model by its name or an alias; None where there is no such model."""
        return self.table_names.get(self.aliases.get(name, name))

    def drop_model(self, name: str) -> None:
        """Take a model out of what was put."""
        self.tables.get("models", {}).pop(self.table_names[name], None)

    def add_key(self, table: dict[str, str], at: KeyPath) -> None:
        """Add a table of [[keys]]."""
        keys = self.tables.setdefault("keys", [])
        self._note(("keys", str(len(keys))), at)
        keys.append(table)

    def read(self, at: KeyPath, value: Any, read: Reader[Any]) -> Any:
        """Return a value as a reader of muxd's keys reads it; None where the reader refuses it, which is noted."""
        try:
            return read(value, _NOWHERE)
        except ValueError as error:
            self.wrong(at, str(error))
            return None

    def put(self, path: KeyPath, value: Any, at: KeyPath) -> None:
        """Put a value at a path of muxd's keys, which comes from the other program's key `at`."""
        table = self.tables
        for place, part in enumerate(path[:-1]):
            self._note(path[: place + 1], at[: place + 1] or at)
            table = table.setdefault(part, {})
        table[path[-1]] = value
        self._note(path, at)

    def _note(self, path: KeyPath, at: KeyPath) -> None:
        if (line := line_of(at, self.source.lines)) is not None:
            self.lines.setdefault(path, line)

    def wrong(self, at: KeyPath, text: str) -> None:
        """Note what is wrong with a key of the other program, and what to do."""
        self._problems.add(at, text, self.source)

    def remark(self, at: KeyPath, text: str) -> None:
        """Note what is to be said of a key of the other program, with the table of muxd that it is about."""
        name = self.table_names.get(at[1]) if at[:1] == ("models",) and len(at) > 1 else None
        line = line_of(at, self.source.lines) or 0
        self.remarks.append(Remark(("models", name) if name else (), line, at, text))


def grouped(remarks: Iterable[Remark]) -> list[Remark]:
    """Return remarks by line, those that say the same of several models made into one, which is about no table."""
    groups: dict[tuple[KeyPath, str], list[Remark]] = {}
    for remark in remarks:
        of_model = remark.key[:1] == ("models",) and len(remark.key) > 2
        pattern = ("models", "NAME", *remark.key[2:]) if of_model else remark.key
        groups.setdefault((pattern, remark.text), []).append(remark)
    found = [_joined(pattern, group) if len(group) > 1 else group[0] for (pattern, _), group in groups.items()]
    return sorted(found, key=lambda remark: remark.line)


def _joined(pattern: KeyPath, group: list[Remark]) -> Remark:
    models = list(dict.fromkeys(remark.key[1] for remark in group if len(remark.key) > 2))
    text = f"{group[0].text} ({few(models, MOST_NAMED)})" if models else group[0].text
    return Remark((), group[0].line, pattern, text)


def shown(at: KeyPath) -> str:
    """Return the path of another program's key for a message."""
    return printable(".".join(at))


def printable(text: str) -> str:
    """Return text for one line of a comment or a message, with "?" for what would end the line or cannot be seen."""
    return _UNPRINTABLE.sub("?", text)


def plain_text(markdown: str) -> str:
    """Return a cell of the docs as plain text."""
    return markdown.replace("`", "")


def rows(translations: Translations, before: str = "") -> Iterator[tuple[str, str]]:
    """Yield each key with what becomes of it, for a table of the docs; any name is written NAME."""
    for key, translation in translations.items():
        path = f"{before}{'NAME' if key == ANY else key}"
        if isinstance(translation, Translation):
            yield path, f"no equal: {translation.becomes}" if translation.is_lost else translation.becomes
        else:
            yield from rows(translation, f"{path}.")
