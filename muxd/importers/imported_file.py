"""Text of the configuration that an import writes: muxd's tables, with what is to be said of each as comments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from textwrap import wrap
from typing import Any

from muxd.config.lines import KeyPath
from muxd.config.problems import shown_file
from muxd.config.toml_line import on_one_line, toml_key, toml_line

from .translations import Conversion, grouped, printable

_WIDTH = 120

#: The tables in the order in which they are written; those of the models follow.
_SECTIONS = ("proxy", "muxd", "policy", "defaults")

#: Keys that stand first in a model's table.
_FIRST = ("engine", "python", "model_path", "command", "served_names")

_HEAD = """\
# muxd.toml, made of {file} by `muxd import {program}`.  It is yours: change what you like, then
#   muxd check     says everything that is wrong with it, each with its line
#   muxd start     runs it: one address for all models, and the GPUs hold those that are asked for
# `muxd init --reference` prints every key; docs/how-to/coming-from.md has what becomes of each key of {program}.
"""


def file_text(conversion: Conversion, program: str) -> str:
    """Return the text of muxd.toml."""
    tables = conversion.tables
    parts = [_HEAD.format(file=printable(conversion.source.file.name), program=program)]
    parts.append(_comments(conversion, ()))
    for section in _SECTIONS:
        if section in tables:
            parts.append(f"\n{_comments(conversion, (section,))}[{section}]\n{_keys(tables[section])}")
    for name, table in tables.get("models", {}).items():
        path = ("models", name)
        ordered = {key: table[key] for key in (*_FIRST, *table) if key in table}
        parts.append(f"\n{_comments(conversion, path)}[{toml_key(*path)}]\n{_keys(ordered)}")
    parts += [f"\n[[keys]]\n{_keys(key)}" for key in tables.get("keys", [])]
    return "".join(parts)


def remark_lines(conversion: Conversion) -> Iterator[str]:
    """Yield one line for each remark, with file and line."""
    file = shown_file(conversion.source.file)
    for remark in grouped(conversion.remarks):
        yield printable(f"{file}:{remark.line}: {remark}" if remark.line else f"{file}: {remark}")


def _comments(conversion: Conversion, table: KeyPath) -> str:
    said = (remark for remark in grouped(conversion.remarks) if remark.table == table)
    texts = (f"line {remark.line}: {remark}" if remark.line else str(remark) for remark in said)
    lines = (line for text in texts for line in wrap(printable(text), _WIDTH - 2, break_on_hyphens=False))
    return "".join(f"# {line}\n" for line in lines)


def _keys(table: Mapping[str, Any]) -> str:
    return "".join(_key(key, value) for key, value in table.items())


def _key(key: str, value: Any) -> str:
    """Return a key with its value; of a long list of words, each flag begins a line of its own."""
    line = toml_line(key, value)
    if len(line) <= _WIDTH or not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        return line
    lines = "".join(f"    {', '.join(map(on_one_line, words))},\n" for words in _by_flag(value))
    return f"{toml_key(key)} = [\n{lines}]\n"


def _by_flag(words: Iterable[str]) -> Iterator[list[str]]:
    group: list[str] = []
    for word in words:
        if word.startswith("-") and group:
            yield group
            group = []
        group.append(word)
    yield group
