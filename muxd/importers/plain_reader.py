"""Reads of a launch script what is written plainly: what it sets, and the commands that start a server.

What only bash could know when it runs, such as the output of a program or what a loop, a condition or a function sets,
is a Hole, and so is all that depends on it.  Nothing is ever run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from muxd.config.command_lines import MODEL, server_at
from muxd.config.devices import ORDER, VARIABLE
from muxd.config.flags import Hole, Word, flag

from .bash_syntax import NotPlain, Place, code, command_words, plain_tree, text_of, walk, words_behind
from .expansion import VOLATILE, ScriptVariables, Value, appends
from .launched_programs import QUIET, SERVER, TOOLS, WAITING, foreign_server, is_detached, is_unseen

if TYPE_CHECKING:
    from tree_sitter import Node

#: `eval` of what such a program prints makes an environment's programs known, and the variables that are set by it.
_HOOK = re.compile(r"[\"']?(?:\$\(|`)\s*(\S*\b(?:conda|mamba|micromamba|pyenv|mise|modulecmd))\s[^;|&]*(?:\)|`)[\"']?$")
_SET_BY_HOOKS = "PATH PYTHONPATH LD_LIBRARY_PATH CONDA_EXE CONDA_PREFIX CONDA_DEFAULT_ENV CONDA_SHLVL CONDA_PYTHON_EXE"

#: Builtins that set the variables among their arguments to what is known only when they run.
SETTERS = ("read", "mapfile", "readarray", "getopts", "let")
DECLARING = ("export", "declare", "typeset", "readonly", "local", "unset")

#: Commands in each other, of which what is set and started is not sure.
_COMPOUNDS = (
    *("if_statement", "elif_clause", "else_clause", "while_statement", "for_statement", "c_style_for_statement"),
    *("do_group", "case_statement", "case_item", "compound_statement", "subshell"),
)

#: Bytes of a file that is read in.
_LONGEST_FILE = 1 << 20

#: Shells and functions in each other, and commands in all, that are followed.
_DEEPEST, _MOST_STEPS = 8, 20_000

#: Words behind `set` that are options, or what they are called.
_OPTION = re.compile("[-+].*|allexport|errexit|nounset|pipefail|xtrace|noclobber|verbose|errtrace|posix", re.DOTALL)


class FoundServer(NamedTuple):
    """A command that may start the server."""

    words: Sequence[Word]
    place: Place
    sure: bool = True  # bash comes to it, whatever it finds
    environ: Mapping[str, Word] = {}  # of its variables those that say which GPUs it sees


class Run(NamedTuple):
    """A program that is started."""

    words: Sequence[Word]
    place: Place
    background: bool = False


@dataclass
class PlainReader(ScriptVariables):
    candidates: list[FoundServer] = field(default_factory=list)
    others: list[FoundServer] = field(default_factory=list)  # with a model and a port, and no program that is known
    runs: list[Run] = field(default_factory=list)
    waited: int = 0  # how many of them there were when the script last waited for something
    absent: list[tuple[str, Place]] = field(default_factory=list)  # what it reads in or goes to, and is not there
    sourced: dict[str, str] = field(default_factory=dict)  # texts that it reads in, by path
    is_held: bool = False  # bash waits for a server, and comes to nothing else
    is_dark: bool = False  # something that cannot be seen may start a server
    is_idle: bool = True  # no command of it can start anything
    foreign: tuple[Place, str] | None = None  # what it starts in a server's place, with advice
    _is_apart: bool = False  # in a process of its own
    _is_left: bool = False  # in the background
    _is_over: bool = False
    _has_returned: bool = False
    _functions: dict[str, Node] = field(default_factory=dict)
    _evaluated: Place | None = None  # the command of which an argument is followed
    _depth: int = 0
    _steps: int = 0
    _prefixed: dict[str, Word] = field(default_factory=dict)  # what stands before a command, and is set for it alone

    @classmethod
    def at_start(
        cls, file: str, environ: Mapping[str, str], folder: Path, script: Path, arguments: Sequence[str]
    ) -> PlainReader:
        variables: dict[str, Value] = {n: value for n, value in environ.items() if n not in VOLATILE}
        return cls(file, variables, str(folder), str(script), list(arguments), set(environ))

    def read(self, source: str | Node) -> None:
        """Follow a script, or a command substitution of one."""
        try:
            self._enter(source)
        except (NotPlain, RecursionError):
            self._is_over, self.is_dark, self.is_idle = True, True, False
            self._lose()

    def _enter(self, source: str | Node, *, sure: bool = True) -> None:
        """Follow a text, a substitution or a function's body in this shell; raise NotPlain."""
        if self._depth >= _DEEPEST:
            self.is_dark, self.is_idle = True, False
            return
        root = plain_tree(source) if isinstance(source, str) else source
        self._depth += 1
        try:
            self._follow([root] if root.type in _COMPOUNDS else root.children, sure=sure)
        finally:
            self._depth -= 1
        self._has_returned = False

    # Commands

    def _follow(
        self, nodes: Sequence[Node], more: Sequence[Node] = (), *, sure: bool = True, apart: bool = False
    ) -> None:
        """Follow commands in their order, with `more` words of the last; `apart`: each in a process of its own."""
        outer = self._is_sure, self._is_apart, self._is_left
        try:
            for node, after in zip(nodes, [*nodes[1:], None], strict=False):
                if self._is_over or self._has_returned:
                    break
                self._is_sure = outer[0] and sure
                self._is_left = outer[2] or (after is not None and after.type == "&")
                self._is_apart = outer[1] or apart or self._is_left
                self._statement(node, more)
        finally:
            self._is_sure, self._is_apart, self._is_left = outer

    def _statement(self, node: Node, more: Sequence[Node]) -> None:
        inner = [child for child in node.named_children if child.type != "comment"]
        match node.type:
            case "redirected_statement":
                here = [each for child in inner[1:] if child.type == "heredoc_redirect" for each in child.children]
                is_piped = any(each.type == "pipeline" for each in here)
                behind = [word for child in inner[1:] for word in words_behind(child)]
                self._follow(inner[:1], [*behind, *more], apart=is_piped)
                self._follow(here, sure=False, apart=is_piped)  # what stands behind "<<END" in its line
            case "list":
                self._follow(inner[:1])
                self._follow(inner[1:], more, sure=False)
            case "pipeline":
                self._follow(inner[:-1], apart=True)
                self._follow(inner[-1:], more, apart=True)
            case "negated_command":
                self._follow(inner, more)
            case "function_definition":
                self._functions[text_of(inner[0])] = inner[-1]
                self._lasting.update(self._forget(code(inner[-1])))
            case "test_command":
                self._forget("".join(re.findall(r"\$\{\w+:?=", text_of(node))))
                for substitution in (each for each in walk(node) if each.type == "command_substitution"):
                    self._look_into(substitution)
            case "command" | "variable_assignment" | "variable_assignments":
                self._command(*command_words(node, more), self._place(node))
            case "declaration_command" | "unset_command":
                self._declare(node.children[0].type, node.children[1:], self._place(node))
            case kind if kind in _COMPOUNDS:
                self._forget(code(node))
                self._follow(node.children, sure=False)

    def _place(self, node: Node) -> Place:
        return self._evaluated or Place(self.file, node.start_point[0] + 1)

    def _command(self, assignments: list[Node], nodes: list[list[Node]], place: Place) -> None:
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise NotPlain("it has no end")
        if words := [word for each in nodes for word in self._words(each)]:
            outer, own = self._prefixed, map(self._assignment, assignments)
            self._prefixed = outer | {name: value if isinstance(value, str) else Hole() for name, value in own}
            self._run(words, nodes, place)
            self._prefixed = outer
        for assignment in assignments if self._is_over or not (nodes or self._is_apart) else ():
            self._set_variable(*self._assignment(assignment), place, appends=appends(assignment))

    def _run(self, words: list[Word], nodes: Sequence[list[Node]], place: Place) -> None:
        first, *rest = words
        program = os.path.basename(first) if isinstance(first, str) else ""
        if program in ("command", "builtin", "exec", "nohup", "setsid", "time") and rest and str(rest[0])[0:1] != "-":
            self._run(rest, nodes[1:], place)
            self._is_over |= program == "exec" and self._is_sure and not self._is_apart
        elif program == "return" and self._depth == 1:
            pass  # bash only complains
        elif program in ("exit", "return") and self._is_sure and not self._is_apart:
            self._is_over, self._has_returned = program == "exit" or self._is_over, program == "return"
        elif program in self._functions:
            outer, self.arguments = self.arguments, None
            self._enter(self._functions[program], sure=False)
            self.arguments = outer
        elif program in DECLARING:
            self._declare(program, [node for each in nodes[1:] for node in each], place)
        elif program in ("source", "."):
            self._source(rest, place)
        elif program == "eval":
            self._eval(rest, " ".join(text_of(node) for each in nodes[1:] for node in each), place)
        elif program in SETTERS or (program == "printf" and "-v" in rest):
            for word in rest:
                self._forget(word) if isinstance(word, str) else self._lose()
        elif program in ("set", "shift"):
            self._set(program, rest)
        elif program in ("cd", "pushd", "popd"):
            plain = len(rest) == 1 and self._is_sure and isinstance(rest[0], str) and isinstance(self.folder, str)
            self.folder = os.path.join(str(self.folder), str(rest[0])) if plain and rest[0] != "-" else Hole()
            self._miss(self.folder, place)
        elif program in WAITING:
            self.waited = len(self.runs)
        elif program not in QUIET:
            self.is_idle &= program in TOOLS and (program not in ("env", "exec") or not rest)
            self.runs.append(Run(words, place, background=self._is_left))
            self._start(words, program, place)

    def _start(self, words: list[Word], program: str, place: Place) -> None:
        """Note a program that may be the server, or start it."""
        names = [os.path.basename(word) if isinstance(word, str) else "" for word in words]
        shell = next((n for n, name in enumerate(names) if name in ("bash", "sh")), len(words))
        at, foreign = server_at(words), foreign_server(words, program)
        if words[0] == "":
            pass  # bash finds no such program
        elif at is not None and any(isinstance(word, Hole) and word.many for word in words[: max(0, at - 3)]):
            self.is_dark = True
        elif at is not None and program != "coproc":
            self.candidates.append(FoundServer(words, place, self._is_sure, self._seen_by_server()))
            self.is_held |= self._is_sure and not (self._is_left or is_detached(words))
            self._is_over |= self.is_held
        elif len(words) > shell + 2 and re.fullmatch("-[a-z]*c", str(words[shell + 1])):
            self._shell(words[shell + 2], place)
        elif is_unseen(words, program):
            self.is_dark = True
        elif foreign:
            self.foreign = place, foreign
        elif all(isinstance(flag(words, names), str) for names in (MODEL, ("--port",))):
            self.others.append(FoundServer(words, place, self._is_sure))

    def _seen_by_server(self) -> dict[str, Word]:
        seen = {}
        for name in (VARIABLE, ORDER):
            value = self._prefixed.get(name, self._look(name))
            if isinstance(value, Hole) or name in self._prefixed or (value is not None and name in self.exported):
                seen[name] = value if isinstance(value, str) else Hole()
        return seen

    def _look_into(self, substitution: Node) -> None:
        """Look for a server in a command substitution: it may be the one; a program that only names one is not."""
        inner = self._below(substitution, dict(self.variables))
        if SERVER.search(text_of(substitution)):
            self.is_dark |= inner.is_dark or bool(inner.candidates)

    def _below(self, source: str | Node, variables: dict[str, Value]) -> PlainReader:
        """Follow what a shell below this one does, which changes no variable here."""
        inner = PlainReader(self.file, variables, self.folder, Hole(), None, set(self.exported))
        inner._prefixed, inner._depth, inner._evaluated = self._prefixed, self._depth, self._evaluated
        inner._is_sure, inner._is_lost = self._is_sure, self._is_lost
        inner.read(source)
        self.is_idle &= inner.is_idle
        return inner

    def _shell(self, text: Word, place: Place) -> None:
        """Follow `bash -c TEXT`, which gets what is exported."""
        if not isinstance(text, str):
            self.is_dark, self.is_idle = True, False
            return
        outer, self._evaluated = self._evaluated, place
        inner = self._below(text, {name: value for name, value in self.variables.items() if name in self.exported})
        self._evaluated = outer
        self.candidates += inner.candidates
        self.runs += inner.runs
        self.others += inner.others
        self.is_dark |= inner.is_dark
        self.is_held |= inner.is_held and self._is_sure and not self._is_left
        self._is_over |= self.is_held
        self.foreign = self.foreign or inner.foreign

    def _source(self, words: Sequence[Word], place: Place) -> None:
        name, (file, evaluated, arguments) = words[0] if words else Hole(), (self.file, self._evaluated, self.arguments)
        try:
            if not (isinstance(name, str) and isinstance(self.folder, str) and "/" in name):
                raise NotPlain("which file that is, is known only when it runs")
            path = Path(os.path.normpath(os.path.join(self.folder, name)))
            self._miss(path, place)
            if not path.is_file() or path.stat().st_size > _LONGEST_FILE:  # a pipe would keep us
                raise NotPlain("it is no file that is read here")
            text = self.sourced[str(path)] = path.read_text()
            self.file, self._evaluated, self.arguments = str(path), None, list(words[1:]) or self.arguments
            self._enter(text)
        except (OSError, ValueError, NotPlain):
            self.is_idle = False
            if isinstance(name, str) and name.endswith("/bin/activate"):
                self._forget("PATH VIRTUAL_ENV")  # a virtual environment's, which sets nothing else
            else:
                self._lose()
        self.file, self._evaluated, self.arguments = file, evaluated, arguments if words[1:] else self.arguments

    def _miss(self, path: Word | Path, place: Place) -> None:
        if self._is_sure and not isinstance(path, Hole) and not os.path.exists(path):
            self.absent.append((str(path), place))

    def _eval(self, words: Sequence[Word], text: str, place: Place) -> None:
        known = [word for word in words if isinstance(word, str)]
        if (hook := _HOOK.match(text)) is not None:
            self.runs.append(Run([hook[1]], place))
            self._forget(_SET_BY_HOOKS)
        elif len(known) == len(words):
            outer, self._evaluated = self._evaluated, place
            self._enter(" ".join(known))
            self._evaluated = outer
        else:
            self.is_dark |= any(map(SERVER.search, known))
            self.is_idle = False
            self._lose()

    # What is set

    def _declare(self, program: str, nodes: Sequence[Node], place: Place) -> None:
        options = "".join(text for text in map(text_of, nodes) if text[:1] in "-+")
        if "n" in options and program != "export":  # a name for another variable
            self._lose()
        declared: list[tuple[str, Value | None, bool]] = []  # bash expands all before it sets any
        for node in nodes:
            if program in ("local", "unset"):
                self._lose() if program == "unset" and "$" in text_of(node) else self._forget(code(node))
            elif node.type == "variable_assignment":
                declared.append((*self._assignment(node), appends(node)))
            elif text_of(node)[:1] not in "-+":
                for word in self._words([node]):
                    name, equals, value = ("", "", "") if isinstance(word, Hole) else word.partition("=")
                    if isinstance(word, Hole):
                        self._lose()
                    declared.append((name.rstrip("+"), value if equals else None, name.endswith("+")))
        for name, given, is_more in declared:
            if given is not None:
                self._set_variable(name, given, place, appends=is_more)
            if program != "export" and set(options) & set("inlu") and name in self.variables:
                self.variables[name] = Hole()
            if "n" in options if program == "export" else re.search(r"\+\w*x", options):
                self.exported.discard(name)
                if not self._is_sure:
                    self.variables[name] = Hole()
            elif program == "export" or "x" in options:
                self.exported.add(name)

    def _set(self, program: str, words: Sequence[Word]) -> None:
        is_plain = self._is_sure and all(isinstance(word, str) for word in words)
        if program == "shift":
            self.arguments = self.arguments[1:] if self.arguments is not None and is_plain and not words else None
        elif words[:1] == ["--"] and is_plain:
            self.arguments = list(words[1:])
        elif not all(isinstance(word, str) and _OPTION.fullmatch(word) for word in words):
            self.arguments = None
        for sign, word in pairwise(["-", *words]):
            if word == "allexport" or (isinstance(word, str) and re.match("[-+][a-z]*a", word)):
                self._exports_all = "+" not in f"{sign}{word}"
