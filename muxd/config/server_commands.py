"""Command lines that a user writes for a server that muxd knows nothing of, and the steps that put it to sleep.

Words may have placeholders, such as {port}, which are filled in when the command is run.  No shell is involved.
"""

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from .names import did_you_mean
from .readers import Base, command, text, texts
from .units import shown

#: A name in single braces.  "${PORT}" is a shell's, "{{name}}" a template's: both are left alone.
PLACEHOLDER = re.compile(r"(?<![{$])\{([a-z_]+)\}(?!\})")

#: The placeholder that stands for a brace, where one is meant that muxd is to leave alone.
BRACE = "lbrace"

#: What a server's own command line may ask for, each with what stands there then.
OF_SERVER = {
    "port": "the port at which muxd expects it",
    "host": "the address at which muxd expects it: 127.0.0.1",
    "model": "the model's name",
    "model_path": "the key model_path",
    "gpus": "its GPUs' numbers, with commas",
    BRACE: "a brace as it is: {lbrace}print} becomes {print}",
}

#: What commands may ask for that are run once the server runs.
OF_RUNNING_SERVER = {
    **OF_SERVER,
    "pid": "the process that listens at its port",
    "pids": "all processes of it: a word that is {pids} alone becomes a word for each",
}

_METHODS = ("get", "post", "put", "delete")
_URL_PATH = re.compile(r"/[!-~]*")


class HookStep(Struct, frozen=True):
    """One step of a sleep or a wake: an HTTP call to the server, or a command that muxd runs."""

    method: str = ""  # "" for a command
    path: str = ""
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.method} {self.path}" if self.method else shlex.join(self.command)


def placeholders_in(words: Sequence[str]) -> Iterator[str]:
    """Yield the names of the placeholders in words, in their order."""
    for word in words:
        yield from PLACEHOLDER.findall(word)


def filled(words: Sequence[str], values: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return words with their placeholders replaced; a word that is one alone becomes as many as it has values."""
    known = {**values, BRACE: ("{",)}
    found: list[str] = []
    for word in words:
        alone = PLACEHOLDER.fullmatch(word)
        if alone is not None:
            found += known[alone[1]]
        else:
            found.append(PLACEHOLDER.sub(lambda match: " ".join(known[match[1]]), word))
    return tuple(found)


def literal(text: str) -> str:
    """Return text for a command in which nothing is replaced: what muxd would take for a placeholder stays as it is."""
    return PLACEHOLDER.sub(rf"{{{BRACE}}}\1}}", text)


def command_line(value: Any, base: Base) -> tuple[str, ...]:
    """Read a command line as a list of words; a program that is given as a path is returned absolute."""
    if isinstance(value, str):
        raise ValueError(f"{shown(value)} is one text, and no shell takes it apart; write {_as_list(value)}")
    words = texts(value, base)
    if not words or not words[0]:
        raise ValueError('names no program; write ["PROGRAM", "ARGUMENT", ...]')
    return (command(words[0], base), *words[1:])


def url_path(value: Any, base: Base) -> str:
    """Read the path of a URL on the server, with its query."""
    given = text(value, base)
    if not _URL_PATH.fullmatch(given):
        raise ValueError(f'{shown(given)} is no path of a URL; write "/health", with a slash and without the host')
    return given


def url_paths(value: Any, base: Base) -> tuple[str, ...]:
    """Read a list of paths of URLs, at least one."""
    if found := tuple(url_path(item, base) for item in texts(value, base)):
        return found
    raise ValueError("an empty list leaves nothing to ask; name some, or leave it out: then it is asked for all")


def hook_steps(value: Any, base: Base) -> tuple[HookStep, ...]:
    """Read a list of steps, each a table with one of get, post, put, delete or command."""
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ValueError(f'{shown(value)} is no list of steps; write [{{ post = "/sleep" }}, {{ command = ["..."] }}]')
    return tuple(_step(item, base) for item in value)


def _step(table: Mapping[str, Any], base: Base) -> HookStep:
    known = (*_METHODS, "command", "body", "headers")
    if unknown := next((key for key in table if key not in known), None):
        raise ValueError(f"{shown(unknown)} is not known in a step; {did_you_mean(unknown, known)}")
    kinds = [key for key in table if key in (*_METHODS, "command")]
    if len(kinds) != 1:
        what = "says nothing to do" if not kinds else f"says {' and '.join(kinds)} at once"
        raise ValueError(
            f'a step {what}; write one of {{ post = "/path" }}, {{ get = "/path" }}, {{ command = [...] }}'
        )
    (kind,) = kinds
    if kind == "command":
        if extra := next((key for key in ("body", "headers") if key in table), None):
            raise ValueError(f"{extra} belongs to an HTTP call, and this step is a command; remove it")
        return HookStep(command=command_line(table[kind], base))
    try:
        json.dumps(body := table.get("body"), allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError("its body cannot be said in JSON; use text, numbers, true, false, lists and tables") from None
    return HookStep(kind.upper(), url_path(table[kind], base), body, _headers(table.get("headers", {}), base))


def _headers(value: Any, base: Base) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError(f'{shown(value)} is no table of headers; write {{ x-admin-key = "..." }}')
    return {text(name, base): text(content, base) for name, content in value.items()}


def _as_list(given: str) -> str:
    try:
        words = shlex.split(given)
    except ValueError:
        words = given.split()
    return f"[{', '.join(map(shown, words))}]"
