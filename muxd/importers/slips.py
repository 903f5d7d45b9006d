"""What a launch script is known by, and slips of the pen that bash takes for something else."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from .lexer import NotPlain, Place, Token, tokens

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

#: Words behind which an assignment may stand.
_BEFORE = ("then", "do", "else", "{", "export", "readonly", "declare", "local", "typeset")


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


def slips(text: str, shown: str) -> Iterator[tuple[Place, str]]:
    """Yield the slips of a script, with places.

    These are blanks around "=" and behind the "\\" at a line's end, a line that such a "\\" should have joined, dashes
    that are none, and here-documents without an end.
    """
    lines = text.splitlines()
    try:
        found = tokens(text)
    except NotPlain:
        return
    for at, token in enumerate(found):
        place, after = Place(shown, token.line), found[at + 1 : at + 3]
        if token.kind == "word" and _begins(found, at) and (value := _parted(token.text, after)) is not None:
            name = token.text.rstrip("=")
            fault = f"there are blanks around the = of {name}, which bash takes for a program then"
            yield place, f"{fault}; write {name}={value}"
        if token.text.endswith(("\\ ", "\\\t")) and token.kind == "word" and [t.text for t in after[:1]] == ["\n"]:
            yield place, "a blank stands behind the \\ at the line's end, so that the line ends there; remove the blank"
        if token.kind != "word":
            continue
        if _is_cut_off(found, at, lines):
            yield (
                place,
                f"{token.text} is no part of the command before, and bash takes it for a program: {_cut(lines, token)}",
            )
        if _DASH.match(token.text):
            meant = "-" * (1 if len(token.text) == 2 else 2) + token.text.lstrip(_DASHES)
            yield place, f'{token.text} begins with a dash that is no "-"; write {meant}'
        if at and found[at - 1].text.lstrip("0123456789") in ("<<", "<<-") and (why := _endless(lines, token)):
            yield place, why


def _is_cut_off(found: Sequence[Token], at: int, lines: Sequence[str]) -> bool:
    """Say whether a line begins a command with a flag.

    Patterns of a `case` and conditions in [[ ]] may do so, and a blank behind a "\\" is told already.
    """
    if not _FLAG.match(found[at].text) or at == 0 or found[at - 1].text != "\n":
        return False
    texts = [token.text for token in found[:at]]
    if texts.count("[[") > texts.count("]]"):
        return False
    is_pattern = found[at + 1 : at + 2] and found[at + 1].text in (")", "|")
    before = lines[found[at].line - 2].strip()
    return not is_pattern and (before.startswith("#") or not before.endswith("\\"))


def _cut(lines: Sequence[str], token: Token) -> str:
    """Return what ended a command before one of its flags, with advice."""
    before = token.line - 2
    if 0 <= before < len(lines) and lines[before].lstrip().startswith("#"):
        return "the comment in the line before ends that command; move it out of it"
    return "the line before does not end in \\; write one there"


def _endless(lines: Sequence[str], token: Token) -> str:
    """Return why a here-document takes the rest of the script; "" for one that has its end."""
    last = re.sub(r"[\"'\\]", "", token.text)
    rest = lines[token.line :]
    if last in rest or last in (line.lstrip("\t") for line in rest):
        return ""
    near = next((number for number, line in enumerate(rest, token.line + 1) if line.strip() == last), None)
    remedy = f"take the blanks out of line {near}" if near else f"end it with a line {last}"
    return f"the here-document <<{last} has no end, and takes the rest of the script; {remedy}"


def _begins(found: Sequence[Token], at: int) -> bool:
    """Say whether a command begins at that token."""
    if at == 0:
        return True
    before = found[at - 1]
    return before.text in _BEFORE or (before.kind == "operator" and before.text != ")")


def _parted(word: str, after: Sequence[Token]) -> str | None:
    """Return the value of an assignment that is written with blanks around its "="; None where there is none."""
    texts = [token.text for token in after if token.kind == "word"]
    if _NAME.fullmatch(word) and texts and texts[0].startswith("=") and not texts[0].startswith("=="):
        return texts[0][1:] or "".join(texts[1:2])
    if word in ("MODEL_NAME=", "PORT=") and texts and len(after) > 1 and after[1].kind == "operator":
        return texts[0]
    return None
