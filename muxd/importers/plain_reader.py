"""Reads of a launch script what is written plainly: what it sets, and the commands that start a server.

What is no plain command is not followed: a loop, a condition, a function, a file that is read in, a text that is
evaluated.  What it may set is unknown from there on (a Hole), and so is all that depends on that.  Nothing is ever run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from muxd.config.command_lines import MODEL, server_at
from muxd.config.flags import Hole, Word, flag

from .bash_syntax import NotPlain, Place, has_words_behind, is_plain, text_of, tree, walk, words_of
from .expansion import MARKS, NAMED, PART, VOLATILE, ScriptVariables, array, word_of

if TYPE_CHECKING:
    from tree_sitter import Node

#: Programs that only name a server, or are none of interest.
_QUIET = (
    "echo printf pkill pgrep killall kill grep egrep ps awk sed cat which type test true false wait sleep exit "
    "head tail mkdir rm cp mv curl wget touch chmod logger ls tee lsof fuser ss netstat nvidia-smi"
)
QUIET = frozenset(_QUIET.split())

#: What names a server in a text, and what only names one.
_SERVER = re.compile(r"launch_server|muxd\.simulator|\bsglang\s+serve\b")
_NAMED_SERVER = re.compile(rf"\b(?:{'|'.join(QUIET)})\b[^;&|\n]*?(?:{_SERVER.pattern})")

#: What makes an environment's programs known, and sets these variables alone.
_ENVIRONMENT = re.compile(
    r"(?:source|\.)\s+[^\s;|&]*/(?:bin/activate|conda\.sh)\b"
    r"|eval\s+[\"']?(?:\$\(|`)\s*\S*\b(?:conda|mamba|micromamba|pyenv|mise|modulecmd)\s[^;|&]*$"
)
_SET_BY_ENVIRONMENTS = "PATH PYTHONPATH LD_LIBRARY_PATH VIRTUAL_ENV CONDA_EXE CONDA_PREFIX CONDA_DEFAULT_ENV"

#: Builtins that set what their arguments name; those of which the assignments are read; what sets what no text names.
_SETTING = "read mapfile readarray getopts let export declare typeset readonly local coproc"
_SETTERS = _SETTING.split()
_DECLARED = ("export", "readonly", "declare", "typeset", "variable_assignment", "variable_name")
_SETS_UNSEEN = re.compile(
    rf"(?:^|[\s;&|({{])(?:(?:eval|source|\.|printf\s+-v)\s|(?:{'|'.join(_SETTERS)}|unset)\s+(?:[^;\n=]*\$|-\w*n))"
)

#: `set` with options alone, which sets no arguments.
_OPTIONS = re.compile(r"set(?:\s+(?:[-+]\w*o\s+[a-z]+|[-+]\w+))*")


class FoundServer(NamedTuple):
    """A command that may start the server."""

    words: Sequence[Word]
    place: Place


@dataclass
class PlainReader(ScriptVariables):
    folder: Word = ""
    candidates: list[FoundServer] = field(default_factory=list)
    others: list[FoundServer] = field(default_factory=list)  # with a model and a port, and no program that is known
    needed: list[tuple[str, Place]] = field(default_factory=list)  # files that it reads in, and folders that it goes to
    dark: Place | None = None  # what may start a server unseen
    _is_over: bool = False
    _functions: set[str] = field(default_factory=set)

    @classmethod
    def at_start(cls, file: str, environ: Mapping[str, str], folder: Path, arguments: Sequence[str]) -> PlainReader:
        kept = {name: MARKS.sub(PART, value) for name, value in environ.items() if not VOLATILE.fullmatch(name)}
        kept["@"] = array(MARKS.sub(PART, argument) for argument in arguments)
        return cls(Place(file, 1), kept, folder=str(folder))

    def read(self, text: str) -> None:
        """Follow a script."""
        try:
            root = tree(text)
            if MARKS.search(text) or not is_plain(root, text):
                raise NotPlain("it is not understood")
            self._follow(root.children)
        except (NotPlain, RecursionError):
            self._lose()
            self.dark = self.dark or self.place

    def set_to(self, name: str) -> str | None:
        """Return what the script itself sets a variable to; None where that is not known, or nothing."""
        value = self.variables[name] if name in self.assigned else ""
        return value if value and not MARKS.search(value) else None

    def _follow(self, nodes: Sequence[Node], *, sure: bool = True) -> None:
        """Follow commands in their order; what is not sure may not be done, or not in this shell."""
        outer = self._is_sure
        for node, after in zip(nodes, [*nodes[1:], None], strict=False):
            if not self._is_over:
                self.place = self.place._replace(line=node.start_point[0] + 1)
                self._is_sure = outer and sure and (after is None or after.type != "&")
                self._statement(node, text_of(node))
        self._is_sure = outer

    def _statement(self, node: Node, text: str) -> None:
        for part in (part for part in walk(node) if part.type.endswith("_substitution")):
            self._look_for_server(text_of(part))
        match node.type:
            case "redirected_statement" if not any(map(has_words_behind, node.children)):
                self._follow(node.named_children[:1])
            case "list":
                self._follow(node.children[:1])
                self._follow(node.children[1:], sure=False)
            case "command" | "variable_assignment" | "variable_assignments":
                assignments, words = words_of(node)
                if said := [word_of(word) for nodes in words for word in self._words(nodes)]:
                    self._run(said, text)
                for assignment in assignments if not said else ():
                    self._assign([assignment])
            case "declaration_command" if all(c.type in _DECLARED or text_of(c) == "-x" for c in node.children):
                self._assign([child for child in node.children if child.type == "variable_assignment"])
                self._lasting.update(NAMED.findall(text) if text.startswith("readonly") else ())
            case "function_definition" | "redirected_statement" | "declaration_command" | "unset_command":
                self._lasting.update(self._forget(text))
                self._look_for_server(text)
                if _SETS_UNSEEN.search(text):
                    raise NotPlain("it may set any variable at any time")
                self._functions |= {text_of(node.named_children[0])} if node.type == "function_definition" else set()
            case _:
                self._forget(text)
                self._follow(node.children, sure=False)

    def _run(self, words: list[Word], text: str) -> None:
        first, *rest = words
        program = os.path.basename(first) if isinstance(first, str) else ""
        if program in ("command", "builtin", "exec", "nohup", "setsid", "time") and rest and str(rest[0])[:1] != "-":
            self._run(rest, text)
        elif program in ("source", ".", "eval"):
            self._look_for_server(text)
            self._need(rest[0] if rest and program != "eval" and "/" in str(rest[0]) else Hole())
            self._forget(_SET_BY_ENVIRONMENTS) if _ENVIRONMENT.match(text) else self._lose()
        elif program == "trap":  # it may be carried out at any time
            self._lasting.update(self._forget(text))
        elif program in _SETTERS or "=" in program or (program in ("printf", "wait") and {"-v", "-p", "-np"} & {*rest}):
            self._forget(text) if "$" not in text else self._lose()  # "=" as in `time PORT=1`
        elif program in ("set", "shift"):
            self.variables["@"] = self.variables["@"] if _OPTIONS.fullmatch(text) else PART
        elif program in ("cd", "pushd", "popd"):
            self.folder = self._need(rest[0] if len(rest) == 1 and rest[0] != "-" else Hole())
        elif program not in QUIET:
            self._start(words, program)
        self._is_over |= self._is_sure and (program == "exit" or (program == "exec" and rest != []))

    def _start(self, words: list[Word], program: str) -> None:
        """Note a program that may be the server, or start it."""
        at = server_at(words)
        before = [word for word in words[: max(0, (at or 0) - 3)] if isinstance(word, Hole) and word.many]
        if at is not None and not before and program not in self._functions:
            self.candidates.append(FoundServer(words, self.place))
        elif not program or at is not None:
            self.dark = self.dark or self.place
        elif all(isinstance(flag(words, names), str) for names in (MODEL, ("--port",))):
            self.others.append(FoundServer(words, self.place))
        elif "--help" not in words:
            self._look_for_server("\n".join(word for word in words if isinstance(word, str)))

    def _look_for_server(self, text: str) -> None:
        if _SERVER.search(_NAMED_SERVER.sub("", text)):
            self.dark = self.dark or self.place

    def _need(self, path: Word) -> Word:
        """Return the whole path of what the script reads in or goes to, and note it where bash surely comes there."""
        if not (self._is_sure and isinstance(path, str) and isinstance(self.folder, str)):
            return Hole()
        self.needed.append((os.path.normpath(os.path.join(self.folder, path)), self.place))
        return self.needed[-1][0]
