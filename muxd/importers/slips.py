"""What a launch script is known by, and slips of the pen that bash takes for something else."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .bash_syntax import Place, is_plain, text_of, tree, walk

if TYPE_CHECKING:
    from tree_sitter import Node

_SHEBANG = re.compile(r"#![ \t]*(\S+)(.*)")
#: Shells whose scripts bash reads; the others have a syntax of their own.
_SHELL = re.compile(r"(?!fish$|t?csh$|pwsh$|nush$|xonsh$)[a-z]*sh")
_ENDINGS = (".sh", ".bash")

_KINDS = {
    ".yaml": "YAML",
    ".yml": "YAML",
    ".json": "JSON",
    ".toml": "TOML",
    ".md": "Markdown",
    ".rst": "text",
    ".txt": "text",
    ".log": "text",
    ".py": "Python",
    ".service": "a unit of systemd",
    ".env": "variables alone",
}
_TEXTS = (
    (re.compile(r"\s*(?:\{|\[\s*[\[{\"])"), "JSON"),
    (re.compile(r"(?:[ \t]*(?:#.*)?\n)*\[[\w.\"' -]+\]"), "TOML"),
    (re.compile(r"(?:[ \t]*(?:#.*)?\n)*[\w.-]+[ \t]+=[ \t]*[\[{\"'\w]"), "TOML"),
    (re.compile(r"(?:[ \t]*(?:#.*)?\n)*(?:---|[\w.-]+:(?:[ \t]|\n))"), "YAML"),
)
_REMEDIES = {
    "TOML": "a configuration is given with --config",
    "YAML": "muxd's configuration is TOML: muxd init writes one, muxd import llama-swap one from llama-swap's",
    "JSON": "muxd's configuration is TOML: muxd init writes one; llmux's is given with --llmux",
    "Python": "write a launch script that has `exec python3` and its name",
}

_NAME = re.compile(r"[A-Za-z_]\w*")

#: A flag where a command begins, and characters that word processors put in the place of "-".
_FLAG = re.compile(r"--?[A-Za-z]")
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"
_DASH = re.compile(f"[{_DASHES}]+-?[a-zA-Z]")

#: Behind a command: a "\\" that a blank parts from the line's end.
_BLANK_END = re.compile(rb"[ \t]*\\[ \t]+$")


def why_no_script(path: Path, text: str) -> str:
    """Return what a file looks like instead of a launch script, with advice; "" for one that is a shell's by its looks.

    muxd runs what it takes for a launch script, so that a file has to say that it is one.
    """
    text = text.removeprefix("\ufeff")
    if (shebang := _SHEBANG.match(text)) is not None:
        program = _program(shebang[1], shebang[2])
        if _SHELL.fullmatch(program):
            return ""
        remedy = "give a script of bash that starts it"
        return f"is a script of {program or 'no shell'} by its first line, and launch scripts are run by bash; {remedy}"
    if "\0" in text:
        return "is a binary file, and launch scripts are text that bash runs; give a script that starts it"
    if path.suffix.lower() in _ENDINGS:
        return ""
    kind = _KINDS.get(path.suffix.lower()) or next((kind for look, kind in _TEXTS if look.match(text)), "text")
    remedy = f"{_REMEDIES[kind]}; " if kind in _REMEDIES else ""
    return f"looks like {kind}, not like a launch script; {remedy}if it is one, begin it with #!/bin/bash"


def _program(first: str, rest: str) -> str:
    """Return the name of the program that a shebang names, also by way of env."""
    words = [first, *rest.split()]
    if os.path.basename(first) == "env":
        words = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
    return os.path.basename(words[0]) if words else ""


def why_misread(text: str, shown: str) -> str:
    """Return what an editor left in a script that shells stumble over, with advice; "" for nothing."""
    if text.startswith("\ufeff"):
        remedy = f"remove it: sed -i '1s/^\\xEF\\xBB\\xBF//' {shown}"
        return f"begins with a byte order mark, which shells stumble over; {remedy}"
    if "\r\n" in text:
        return f"lines end as on Windows, and shells stumble over it; convert it: sed -i 's/\\r$//' {shown}"
    return ""


def slips(text: str, shown: str) -> Iterator[tuple[Place, str]]:
    """Yield the slips of a script, with places.

    These are blanks around "=" and behind the "\\" at a line's end, a line that such a "\\" should have joined, dashes
    that are none, and here-documents without an end; only the last where the script is not understood.
    """
    root, lines = tree(text), text.splitlines()
    is_understood = is_plain(root, text)
    for node in walk(root):
        found, place = text_of(node), Place(shown, node.start_point[0] + 1)
        if node.type == "heredoc_start" and (why := _endless(lines, node)):
            yield place, why
        if node.type == "word" and _DASH.match(found) and is_understood:
            meant = "-" * (1 if len(found) == 2 else 2) + found.lstrip(_DASHES)
            yield place, f'{found} begins with a dash that is no "-"; write {meant}'
        if node.type in ("command", "declaration_command", "variable_assignment") and is_understood:
            yield from ((place, slip) for slip in _slips_of(node, lines))
            row, column = node.end_point
            if _BLANK_END.match(lines[row].encode(), column):
                why = "a blank stands behind the \\ at the line's end, so that the line ends there; remove the blank"
                yield Place(shown, row + 1), why


def _slips_of(command: Node, lines: Sequence[str]) -> Iterator[str]:
    """Yield what is written amiss in a command, or in an assignment that should be a flag of one."""
    is_command = command.type != "variable_assignment"
    parts = command.children if is_command else [command]
    first, *others = [part for part in parts if is_command is (part.type != "variable_assignment")] or [command]
    words = [text_of(first), *map(text_of, others)]
    for word, equals, value in zip(words, words[1:], [*words[2:], ""], strict=False):
        is_name = _NAME.fullmatch(word) and (word == words[0] or command.type == "declaration_command")
        if is_name and equals.startswith("=") and not equals.startswith("=="):
            yield _parted(word, equals[1:] or value)
    before = text_of(command.children[0])
    if not others and before in ("MODEL_NAME=", "PORT="):
        yield _parted(before[:-1], words[0])
    row, column = command.start_point
    last = lines[row - 1].strip() if row else "\\"
    if _FLAG.match(text_of(command)) and not lines[row][:column].strip() and (last[:1] == "#" or last[-1:] != "\\"):
        why = "the line before does not end in \\; write one there"
        if last.startswith("#"):
            why = "the comment in the line before ends that command; move it out of it"
        yield f"{words[0]} is no part of the command before, and bash takes it for a program: {why}"


def _parted(name: str, value: str) -> str:
    return f"there are blanks around the = of {name}, which bash takes for a program then; write {name}={value}"


def _endless(lines: Sequence[str], start: Node) -> str:
    """Return why a here-document takes the rest of the script; "" for one that has its end."""
    last = re.sub(r"[\"'\\]", "", text_of(start))
    begin = start.start_point[0] + 1
    rest = lines[begin:]
    if last in rest or last in (line.lstrip("\t") for line in rest):
        return ""
    near = next((number for number, line in enumerate(rest, begin + 1) if line.strip() == last), None)
    remedy = f"take the blanks out of line {near}" if near else f"end it with a line {last}"
    return f"the here-document <<{last} has no end, and takes the rest of the script; {remedy}"
