"""YAML and JSON files of other programs, read with the line of every key.

A file is read whole or refused: what is wrong is raised as ConfigError, with file, line and what to do.
"""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from muxd.config.lines import KeyPath, shown_path
from muxd.config.problems import shown_file
from muxd.config.sources import DEEPEST, Source, why_unreadable
from muxd.config.units import show_size
from muxd.errors import ConfigError

#: The largest file that is read: the longest public configurations have 200 KiB.
LARGEST = 4 << 20

#: Values of a document, aliases followed: so few lines as ten can stand for 10^9 of them.
MOST_VALUES = 100_000

_ESCAPE = re.compile(r"\\(?:u([dD][89a-fA-F][0-9a-fA-F]{2})|.)")  # with the digits of half a character

_MERGE = "tag:yaml.org,2002:merge"

#: Kinds of scalars that are more than their text.  Dates stay text, as in JSON.
_READ = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float")}


def read_document(file: Path, *, is_yaml: bool) -> Source:
    """Read a YAML or JSON file whose root is a mapping; raise ConfigError for any other."""
    text = _text(file)
    try:
        source = _yaml(file, text) if is_yaml else _json(file, text)
    except RecursionError:
        raise _refused(file, 0, "nested too deeply; write plain lists and mappings") from None
    if not source.table:
        raise _refused(file, 0, "no key is in it; name the file that has the models")
    return source


def _refused(file: Path, line: int, text: str) -> ConfigError:
    return ConfigError([f"{shown_file(file)}{f':{line}' if line else ''}: {text}"])


def _text(file: Path) -> str:
    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for a writer
            raise _refused(file, 0, f"is {'a folder' if os.path.isdir(file) else 'no file'}; name the file itself")
        with file.open("rb") as opened:
            raw = opened.read(LARGEST + 1)
    except OSError as error:
        raise _refused(file, 0, why_unreadable(file, error)) from None
    if len(raw) > LARGEST:
        size = show_size(max(found.st_size, LARGEST + 1) >> 20 << 20)
        raise _refused(file, 0, f"has {size}, no configuration is larger than {show_size(LARGEST)}; name another file")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise _refused(file, line, "not UTF-8; save the file as UTF-8") from None


def _json(file: Path, text: str) -> Source:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        advice = _why_not_json(text, error.pos)
        raise _refused(file, error.lineno, f"not JSON: {error.msg} (column {error.colno}); {advice}") from None
    except ValueError:  # a number of thousands of digits
        raise _refused(file, 0, "not usable: a number in it is too long; correct it") from None
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise _refused(file, 0, "not usable: half a character (\\ud800 to \\udfff) is in it; take it out") from None
    # Outside of its strings a tab is white space, and within them JSON has none: YAML reads the rest, with lines.
    # It knows no escapes of half a character, as \ud83d is one: these become other text, a different one for each.
    plain = _ESCAPE.sub(lambda escape: f"_{escape[1]}_" if escape[1] else escape[0], text)
    nodes = _yaml(file, plain.replace("\t", " "))
    return Source(file, value, nodes.lines)


def _why_not_json(text: str, at: int) -> str:
    """Return advice on what stands at position `at`, where JSON allows none of it."""
    before, rest = text[:at].rstrip(), text[at:].lstrip()
    if rest.startswith(("//", "/*", "#")):
        return "JSON has no comments; take this one out"
    if rest[:1] in "}]" and rest and before.endswith(","):
        return f"take out the comma before {rest[0]}"
    if rest.startswith("'"):
        return 'JSON has double quotes alone: write "..."'
    if rest.startswith(("True", "False", "None")):
        return "write true, false or null"
    return "correct this line; a file of YAML ends in .yaml"


def _yaml(file: Path, text: str) -> Source:
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        opened = loader(text)
        try:
            root = opened.get_single_node()
            if root is not None and not isinstance(root, yaml.MappingNode):
                raise _refused(file, root.start_mark.line + 1, "not a mapping; a configuration begins with KEY: VALUE")
            reading = _NodeReading(file, opened)
            return Source(file, reading.value(root, ()) if root is not None else {}, reading.lines)
        finally:
            opened.dispose()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _refused(file, line, f"not YAML: {error.reason}; take the character out") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 0
        raise _refused(file, line, f"not YAML: {error.problem}; {_why_not_yaml(text, line)}") from None


def _why_not_yaml(text: str, line: int) -> str:
    lines = text.split("\n")
    here = lines[line - 1] if 0 < line <= len(lines) else ""
    if "\t" in here[: len(here) - len(here.lstrip())]:
        return "indent with blanks, not with tabs"
    return "correct this line, or the one above"


class _NodeReading:
    """One pass over the nodes of a YAML document: their values, and the line of each key and list item by its path."""

    def __init__(self, file: Path, loader: Any) -> None:
        self._file = file
        self._loader = loader
        self.lines: dict[KeyPath, int] = {}
        self._count = 0
        self._seen: set[int] = set()  # ids of mappings whose own keys were looked at

    def value(self, node: Any, path: KeyPath) -> Any:
        """Return a node's value."""
        self._count += 1
        if self._count > MOST_VALUES or len(path) > DEEPEST:
            what = "nested too deeply" if len(path) > DEEPEST else f"more than {MOST_VALUES} values, aliases followed"
            raise _refused(self._file, node.start_mark.line + 1, f"{what}; write plain lists and mappings")
        if node.id == "mapping":
            return self._mapping(node, path)
        if node.id == "sequence":
            return [self._item(item, (*path, str(place))) for place, item in enumerate(node.value)]
        if not node.tag.startswith("tag:yaml.org,2002:"):
            raise _refused(self._file, node.start_mark.line + 1, f"the tag {node.tag} is not known; take it out")
        try:
            return self._loader.construct_object(node) if node.tag in _READ else node.value
        except ValueError:
            return node.value

    def _item(self, node: Any, path: KeyPath) -> Any:
        self.lines[path] = node.start_mark.line + 1
        return self.value(node, path)

    def _mapping(self, node: Any, path: KeyPath) -> dict[str, Any]:
        if id(node) not in self._seen:
            self._seen.add(id(node))
            self._refuse_repeated(node, path)
            self._loader.flatten_mapping(node)  # puts what `<<` merges in before its own keys
        found = {}
        for key, inner in node.value:
            self.lines[*path, key.value] = key.start_mark.line + 1
            found[key.value] = self.value(inner, (*path, key.value))
        return found

    def _refuse_repeated(self, node: Any, path: KeyPath) -> None:
        first: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.id != "scalar":
                raise _refused(self._file, line, "a key that is no text; write KEY: VALUE")
            if key.tag == _MERGE:
                continue
            if key.value in first:
                where = shown_path((*path, key.value))
                raise _refused(self._file, line, f"{where} is there twice, first in line {first[key.value]}; keep one")
            first[key.value] = line
