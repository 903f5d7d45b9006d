"""Reads of a launch script what is written plainly: what it sets, and the commands that start a server.

What only bash could know when it runs, such as the output of a program or what a loop, a condition or a function sets,
is a Hole, and so is all that depends on it.  Nothing is ever run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import NamedTuple

from muxd.config.command_lines import CONTAINERS, MODEL, MODULES, server_at
from muxd.config.devices import ORDER, VARIABLE
from muxd.config.flags import Hole, Word, flag

from .expansion import VOLATILE, ScriptVariables, Value
from .lexer import ASSIGNMENT, NotPlain, Place, Token, tokens

#: Programs that only name a server, or are none of interest.
_QUIET = (
    "echo printf pkill pgrep killall kill grep egrep ps awk sed cat which type test [ [[ true false : trap "
    "head mkdir rm cp mv curl wget touch chmod ulimit logger date ls set shopt nvidia-smi exit return cd "
    "disown jobs bg alias hash umask tee lsof fuser ss netstat"
)
QUIET = frozenset(_QUIET.split())

#: Further programs that start no server.
_TOOLS = (
    "tar gzip gunzip zip unzip zstd xz rsync scp ln find sort uniq cut tr wc diff cmp chown chgrp stat df du free "
    "uname hostname id whoami uptime sync mktemp basename dirname readlink realpath seq tail less more dd file "
    "mount umount mail sendmail clear tput stty git pip pip3 apt apt-get dnf yum crontab getent md5sum sha256sum "
    "base64 jq yq bc expr env printenv : wait sleep fg exec let read"
)
TOOLS = QUIET | frozenset(_TOOLS.split())

#: Programs for which a script stays.
WAITING = ("wait", "sleep", "tail", "fg")

#: Programs that start what their arguments name.
WRAPPERS = ("sudo", "env", "numactl", "taskset", "timeout", "nice", "uv", "conda", "docker", "podman", "srun", "xargs")

#: Programs, modules and images that serve models otherwise; their names may go on behind "." or ":".
_OTHER_ENGINES = (
    "vllm llama-server llama_cpp llamafile ollama tgi text-generation-launcher text-generation-inference lmdeploy "
    "tritonserver trtllm-serve tensorrt_llm koboldcpp aphrodite mlc_llm mlx_lm tabbyapi exllamav2 exllamav3 "
    "xinference localai mistralrs-server ktransformers infinity_emb fastchat litellm ctransformers"
)
OTHER_ENGINES = frozenset(_OTHER_ENGINES.split())

#: SGLang's modules that start no server of a model.
_NO_SERVER = re.compile(
    r"sglang\.(bench_\w+|check_env|profiler|eval\b.*|test\b.*|compile_\w+)|sglang_router\.launch_router"
)

#: What `uv`, `conda` and the like do with a program besides starting it.
_HANDLING = frozenset(("pip", "install", "activate", "deactivate", "create", "remove", "add", "pull", "stop", "rm"))

#: `eval` of what such a program prints makes an environment's programs known, and the variables that are set by it.
_HOOK = re.compile(r"[\"']?(?:\$\(|`)\s*(\S*\b(?:conda|mamba|micromamba|pyenv|mise|modulecmd))\s[^;|&]*(?:\)|`)[\"']?$")
_SET_BY_HOOKS = "PATH PYTHONPATH LD_LIBRARY_PATH CONDA_EXE CONDA_PREFIX CONDA_DEFAULT_ENV CONDA_SHLVL CONDA_PYTHON_EXE"

#: Builtins that set the variables among their arguments to what is known only when they run.
SETTERS = ("read", "mapfile", "readarray", "getopts", "let")
DECLARING = ("export", "declare", "typeset", "readonly")

#: What begins a compound command, and what ends it.
_CLOSERS = {"if": "fi", "while": "done", "until": "done", "for": "done", "select": "done", "case": "esac", "{": "}"}
_BETWEEN = ("then", "do", "else", "elif", "!", "time", "fi", "done", "esac", "}", "in")
_SERVER = re.compile(r"launch_server|muxd\.simulator|\bsglang\s+serve\b")

#: Bytes of a file that is read in.
_LONGEST_FILE = 1 << 20

#: Shells and functions in each other, compound commands in each other, and commands in all, that are followed.
_DEEPEST, _MOST_NESTED, _MOST_STEPS = 8, 50, 50_000


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


class Foreign(NamedTuple):
    """A command that starts something else than SGLang's server; the text says what, with advice."""

    text: str
    place: Place


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
    foreign: Foreign | None = None  # what it starts in a server's place
    _is_over: bool = False
    _has_returned: bool = False
    _functions: dict[str, list[Token]] = field(default_factory=dict)
    _depth: int = 0
    _nesting: int = 0
    _steps: int = 0
    _prefixed: dict[str, Word] = field(default_factory=dict)  # what stands before a command, and is set for it alone

    @classmethod
    def at_start(
        cls, file: str, environ: Mapping[str, str], folder: Path, script: Path, arguments: Sequence[str]
    ) -> PlainReader:
        variables: dict[str, Value] = {n: value for n, value in environ.items() if n not in VOLATILE}
        return cls(file, variables, str(folder), str(script), list(arguments), set(environ))

    def read(self, text: str) -> None:
        try:
            self._follow(tokens(text), sure=True)
        except (NotPlain, RecursionError):
            self._is_over, self.is_dark, self.is_idle = True, True, False
            self._lose()

    # Commands

    def _follow(self, found: Sequence[Token], *, sure: bool, arms: bool = False) -> None:
        """Follow commands in their order; `arms`: those of a `case`, whose patterns are no commands."""
        outer, self._is_sure = self._is_sure, sure and self._is_sure
        at, before = 0, ";;" if arms else ";"
        while at < len(found) and not (self._is_over or self._has_returned):
            token = found[at]
            if arms and before.startswith(";") and before != ";" and token.text not in ("\n", "esac"):
                at = next((n for n in range(at, len(found)) if found[n].text == ")"), len(found))
                before = ";"
            elif token.kind == "operator" and token.text != "(":
                is_joined = token.text == "\n" and before in ("&&", "||", "|", "|&", ";;")
                before = before if is_joined else token.text
            elif (end := self._compound(found, at)) is not None:
                at, before = end - 1, ";"
            elif token.kind == "word" and token.text in _BETWEEN:
                before = ";"
            else:
                end = next((n for n in range(at, len(found)) if found[n].kind == "operator"), len(found))
                after = (found[n].text for n in range(end, len(found)) if found[n].kind == "operator")
                self._simple(found[at:end], before, after)
                at, before = end - 1, ";"
            at += 1
        self._is_sure = outer

    def _compound(self, found: Sequence[Token], at: int) -> int | None:
        """Return where a compound command ends that begins at `at`; what it may set is unknown from its start on."""
        text = found[at].text
        if text.startswith("(("):
            self._forget(text)
            return at + 1
        if text == "[[":
            end = next((n for n in range(at, len(found)) if found[n].text == "]]"), None)
            if end is None:
                raise NotPlain("[[ is not closed")
            for token in found[at:end]:
                self._forget("".join(re.findall(r"\$\{\w+:?=", token.text)))
            return end + 1
        is_short = [t.text for t in found[at + 1 : at + 3]] == ["(", ")"] and found[at].kind == "word"
        if text == "function" or is_short:
            return self._function(found, at + 1 if text == "function" else at)
        if text not in (*_CLOSERS, "("):
            return None
        end = _end_of(found, at)
        inner = found[at + 1 : end - 1]
        for token in inner if not self._nesting else ():
            self._forget(token.text)
        self._nesting += 1
        if self._nesting > _MOST_NESTED:
            raise NotPlain("it is nested too deeply")
        if text == "case":
            begin = next((n for n, t in enumerate(inner) if t.text == "in"), len(inner))
            self._follow(inner[begin + 1 :], sure=False, arms=True)
        elif text in ("for", "select"):
            begin = next((n for n, t in enumerate(inner) if t.kind == "operator" or t.text == "do"), len(inner))
            self._follow(inner[begin:], sure=False)
        else:
            self._follow(inner, sure=False)
        self._nesting -= 1
        return end

    def _function(self, found: Sequence[Token], at: int) -> int:
        body = next((n for n in range(at + 1, len(found)) if found[n].text not in ("(", ")", "\n")), None)
        if body is None or found[body].text not in _CLOSERS:
            raise NotPlain("a function without a body")
        end = _end_of(found, body)
        self._functions[found[at].text] = list(found[body:end])
        for token in found[body:end]:
            self._lasting.update(self._forget(token.text))
        return end

    def _simple(self, found: Sequence[Token], before: str, after: Iterator[str]) -> None:
        raws = [t.text for n, t in enumerate(found) if t.kind == "word" and not (n and found[n - 1].kind == "redirect")]
        if not raws:
            return
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise NotPlain("it has no end")
        place = Place(self.file, found[0].line)
        follows = next(after, ";")
        end = next(
            (text for text in chain((follows,), islice(after, _MOST_NESTED)) if text not in ("|", "|&", "&&", "||")),
            ";",
        )
        piped = before in ("|", "|&") or follows in ("|", "|&")
        apart = piped or (end == "&")  # in a process of its own
        sure, self._is_sure = self._is_sure, self._is_sure and before not in ("&&", "||")
        count = next((n for n, raw in enumerate(raws) if not ASSIGNMENT.fullmatch(raw)), len(raws))
        if count < len(raws):
            words = [word for raw in raws[count:] for word in self._words(raw)]
            if words:
                outer = self._prefixed
                self._prefixed = outer | dict(self._prefixes(raws[:count]))
                self._run(words, raws[count:], place, apart=apart, waits=end != "&")
                self._prefixed = outer
                for raw in raws[:count] if self._is_over else ():
                    self._assign(raw, place)
        elif not apart:
            for raw in raws:
                self._assign(raw, place)
        self._is_sure = sure

    def _run(self, words: list[Word], raws: Sequence[str], place: Place, *, apart: bool, waits: bool) -> None:
        first, *rest = words
        program = os.path.basename(first) if isinstance(first, str) else ""
        if program in ("command", "builtin", "exec", "nohup", "setsid", "time") and rest and str(rest[0])[0:1] != "-":
            self._run(rest, raws[1:], place, apart=apart, waits=waits)
            self._is_over |= program == "exec" and self._is_sure and not apart
            return
        if program == "return" and not self._depth:
            pass  # bash only complains
        elif program == "local":
            for raw in raws[1:]:
                self._forget(raw)
        elif program in ("exit", "return") and self._is_sure and not apart:
            self._is_over, self._has_returned = program == "exit" or self._is_over, program == "return"
        elif program in self._functions:
            self._call(program)
        elif program in DECLARING:
            self._declare(raws[1:], place, exports=program == "export")
        elif program in ("source", "."):
            self._source(rest, place)
        elif program == "eval":
            self._eval(rest, raws[1:], place)
        elif program in (*SETTERS, "unset") or (program == "printf" and "-v" in rest):
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
            self.runs.append(Run(words, place, background=not waits))
            self._start(words, program, place, waits=waits)

    def _start(self, words: list[Word], program: str, place: Place, *, waits: bool) -> None:
        """Note a program that may be the server, or start it."""
        inner = next(
            (n for n, w in enumerate(words) if isinstance(w, str) and os.path.basename(w) in ("bash", "sh")), None
        )
        foreign = _foreign(words, program)
        at = server_at(words)
        if words[0] == "":
            pass  # bash finds no such program
        elif at is not None and any(isinstance(word, Hole) and word.many for word in words[: max(0, at - 3)]):
            self.is_dark = True
        elif at is not None and program != "coproc":
            self.candidates.append(FoundServer(words, place, self._is_sure, self._seen_by_server()))
            self.is_held |= self._is_sure and waits and not is_detached(words)
            self._is_over |= self.is_held
        elif inner is not None and len(words) > inner + 2 and re.fullmatch("-[a-z]*c", str(words[inner + 1])):
            self._shell(words[inner + 2], waits=waits)
        elif _is_unseen(words, program):
            self.is_dark = True
        elif foreign:
            self.foreign = Foreign(foreign, place)
        elif all(isinstance(flag(words, names), str) for names in (MODEL, ("--port",))):
            self.others.append(FoundServer(words, place, self._is_sure))

    def _prefixes(self, raws: Sequence[str]) -> Iterator[tuple[str, Word]]:
        for raw in raws:
            if (match := ASSIGNMENT.fullmatch(raw)) is not None:
                name, index, appends, text = match.groups()
                yield name, Hole() if index or appends else self._text(text)

    def _seen_by_server(self) -> dict[str, Word]:
        seen = {}
        for name in (VARIABLE, ORDER):
            value = self._prefixed.get(name, self._look(name))
            if isinstance(value, Hole) or name in self._prefixed or (value is not None and name in self.exported):
                seen[name] = value if isinstance(value, str) else Hole()
        return seen

    def _look_into(self, substitution: str) -> None:
        """Look for a server in a command substitution: it may be the one; a program that only names one is not."""
        inner = self._inner(dict(self.variables))
        inner.read(substitution.strip("`").removeprefix("$").lstrip("<>(").removesuffix(")"))
        self.is_idle &= inner.is_idle
        if _SERVER.search(substitution):
            self.is_dark |= inner.is_dark or bool(inner.candidates)

    def _inner(self, variables: dict[str, Value]) -> PlainReader:
        """Return a reader for a shell below this one."""
        inner = PlainReader(self.file, variables, self.folder, Hole(), None, type(self.exported)(self.exported))
        inner._prefixed = self._prefixed
        inner._is_sure, inner._is_lost, inner._depth = self._is_sure, self._is_lost, self._depth + 1
        if inner._depth > _DEEPEST:
            inner._is_over = inner.is_dark = True
        return inner

    def _shell(self, text: Word, *, waits: bool) -> None:
        """Follow `bash -c TEXT`, which gets what is exported and changes no variable here."""
        if not isinstance(text, str):
            self.is_dark, self.is_idle = True, False
            return
        handed_on = {name: value for name, value in self.variables.items() if name in self.exported}
        inner = self._inner(handed_on)
        inner.read(text)
        self.candidates += inner.candidates
        self.runs += inner.runs
        self.others += inner.others
        self.is_dark |= inner.is_dark
        self.is_idle &= inner.is_idle
        self.is_held |= inner.is_held and self._is_sure and waits
        self._is_over |= self.is_held
        self.foreign = self.foreign or inner.foreign

    def _call(self, name: str) -> None:
        body, arguments = self._functions[name], self.arguments
        if self._depth >= _DEEPEST:
            self.is_dark, self.is_idle = True, False
            return
        self._depth, self.arguments = self._depth + 1, None
        self._follow(body, sure=False)
        self._depth, self.arguments, self._has_returned = self._depth - 1, arguments, False

    def _source(self, words: Sequence[Word], place: Place) -> None:
        name = words[0] if words else Hole()
        try:
            if (
                not isinstance(name, str)
                or not isinstance(self.folder, str)
                or "/" not in name
                or self._depth >= _DEEPEST
            ):
                raise NotPlain("which file that is, is known only when it runs")
            path = Path(os.path.normpath(os.path.join(self.folder, name)))
            self._miss(path, place)
            if not path.is_file() or path.stat().st_size > _LONGEST_FILE:  # a pipe would keep us
                raise NotPlain("it is no file that is read here")
            text = self.sourced[str(path)] = path.read_text()
            outer = self.arguments
            self.arguments = list(words[1:]) or outer
            self._read_in(text)
            self.arguments = outer if words[1:] else self.arguments
        except (OSError, ValueError, NotPlain):
            self.is_idle = False
            if isinstance(name, str) and name.endswith("/bin/activate"):
                self._forget("PATH VIRTUAL_ENV")  # a virtual environment's, which sets nothing else
            else:
                self._lose()
        self._has_returned = False

    def _read_in(self, text: str) -> None:
        """Follow a text in this shell; raise NotPlain."""
        before = self._depth, self._nesting, self._is_sure
        self._depth += 1
        try:
            self._follow(tokens(text), sure=True)
        finally:
            self._depth, self._nesting, self._is_sure = before

    def _miss(self, path: Word | Path, place: Place) -> None:
        if self._is_sure and not isinstance(path, Hole) and not os.path.exists(path):
            self.absent.append((str(path), place))

    def _eval(self, words: Sequence[Word], raws: Sequence[str], place: Place) -> None:
        known = [word for word in words if isinstance(word, str)]
        if (hook := _HOOK.match(" ".join(raws))) is not None:
            self.runs.append(Run([hook[1]], place))
            self._forget(_SET_BY_HOOKS)
        elif len(known) == len(words) and self._depth < _DEEPEST:
            self._read_in(" ".join(known))
        else:
            self.is_dark |= any(map(_SERVER.search, known))
            self.is_idle = False
            self._lose()

    # What is set

    def _declare(self, raws: Sequence[str], place: Place, *, exports: bool) -> None:
        options = "".join(raw for raw in raws if raw[:1] in "-+")
        if "n" in options and not exports:  # a name for another variable
            self._lose()
        for raw in raws:
            if raw[:1] in "-+":
                continue
            if not ASSIGNMENT.fullmatch(raw):
                words = self._words(raw)
                if any(isinstance(word, Hole) for word in words):
                    self._lose()
                    continue
                raw = str(words[0]) if words else ""
            name = raw.partition("=")[0].rstrip("+")
            if "=" in raw:
                self._assign(raw, place)
            if set(options) & set("inlu") and name in self.variables:
                self.variables[name] = Hole()
            if exports or "x" in options:
                self.exported.add(name)

    def _set(self, program: str, words: Sequence[Word]) -> None:
        is_plain = self._is_sure and all(isinstance(word, str) for word in words)
        if program == "shift":
            self.arguments = self.arguments[1:] if self.arguments is not None and is_plain and not words else None
        elif words[:1] == ["--"] and is_plain:
            self.arguments = list(words[1:])
        elif not all(isinstance(word, str) and (word[:1] in "-+" or word in _OPTIONS) for word in words):
            self.arguments = None
        if any(word == "allexport" or (isinstance(word, str) and re.match("-[a-z]*a", word)) for word in words):
            self.exported = _All()


def is_detached(words: Sequence[Word]) -> bool:
    """Say whether a container is left running, by what comes before the server's own flags."""
    texts = [word for word in words[: server_at(words)] if isinstance(word, str)]
    is_contained = any(os.path.basename(text) in (*CONTAINERS, "docker-compose") for text in texts[:2])
    return is_contained and any(re.fullmatch("-[iteP]*d[itdP]*|--detach(=true)?", text) for text in texts)


def _is_unseen(words: Sequence[Word], program: str) -> bool:
    """Say whether a command may start a server, for all that is known of its words."""
    if isinstance(words[0], Hole) or (program in WRAPPERS and any(isinstance(word, Hole) for word in words)):
        return True
    return "--help" not in words and any(isinstance(word, str) and _SERVER.search(word) for word in words)


def _foreign(words: Sequence[Word], program: str) -> str:
    """Return what a command starts that is not SGLang's server, with advice; "" where nothing shows that."""
    texts = [word for word in words if isinstance(word, str)]
    advice = "have the script start python -m sglang.launch_server"
    named = [program, *(after for word, after in pairwise(texts) if word == "-m" or after.endswith(".py"))]
    named = [os.path.basename(name) for name in named]
    for module in named[1:]:
        if _NO_SERVER.fullmatch(module):
            return f"{module} serves no model; {advice}"
        if module not in MODULES and get_close_matches(module, MODULES[:1], 1, 0.85):
            return f"there is no module {module}; did you mean {MODULES[0]}?"
    if (program in (*WRAPPERS, "uvx", "pipx", *CONTAINERS)) and _HANDLING.isdisjoint(texts[1:3]):
        named += [part for word in texts[1:] for part in re.split("[/:]", word)]
    names = (name for word in named for name in (word, word.partition(".")[0], word.partition(":")[0]))
    engine = next((name for name in names if name in OTHER_ENGINES), "")
    if engine == "vllm":
        advice = 'muxd starts vLLM itself: write a table [models.NAME] with engine = "vllm", model_path and args'
    return f"{engine} is not SGLang, of which launch scripts are run; {advice}" if engine else ""


class _All(set[str]):
    """After `set -a` all that is set is exported."""

    def __contains__(self, name: object) -> bool:
        return True


_OPTIONS = ("allexport", "errexit", "nounset", "pipefail", "xtrace", "noclobber", "verbose", "errtrace", "posix")


def _end_of(found: Sequence[Token], at: int) -> int:
    """Return the place past the compound command that begins at `at`; raise NotPlain."""
    stack: list[str] = []
    begins = True
    number = at
    while number < len(found):
        kind, text, _ = found[number]
        if kind == "operator":
            if text == "(":
                stack.append(")")
            elif text == ")" and stack[-1:] == [")"]:
                stack.pop()
            elif text == ")" and stack[-1:] != ["esac"]:
                raise NotPlain(") is not opened")
            begins = True
        elif kind == "word" and begins and text == "[[":
            number = next((n for n in range(number, len(found)) if found[n].text == "]]"), len(found))
            begins = False
        elif kind == "word" and begins and text in _CLOSERS:
            stack.append(_CLOSERS[text])
            begins = text in ("if", "while", "until", "{")
        elif kind == "word" and begins and stack[-1:] == [text]:
            stack.pop()
            begins = False
        else:
            begins = kind == "word" and begins and text in ("then", "do", "else", "elif", "!", "time")
        number += 1
        if not stack:
            return number
    raise NotPlain("a compound command is not closed")
