"""The Pythons of this machine, the SGLang that they have, and the arguments that it rejects."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from tempfile import TemporaryFile
from typing import IO, Any

from muxd.config.default_paths import home
from muxd.engines.kind import ArgFault, NotInstalled

#: Seconds for one interpreter: to find a package is not to import it, but the disk may be slow or remote.
PATIENCE = 20.0

#: Where the README says to install SGLang.
USUAL = ("/opt/sglang/bin/python", "/opt/sglang/.venv/bin/python", "/opt/sglang/venv/bin/python")

# A mere folder named sglang is a namespace package, whose spec has no origin.
_ASK = """
import json, os, runpy
from importlib import metadata, util
def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "of unknown version"
def place(name):
    spec = util.find_spec(name)
    return spec.origin if spec is not None else None
if place("sglang") is not None:
    found = {"version": version("sglang")}
    if place("torch") is not None:
        found["torch"] = version("torch")
        try:
            said = runpy.run_path(os.path.join(os.path.dirname(place("torch")), "version.py"))
            found["cuda"] = said.get("cuda") or said.get("hip") or ""
        except Exception:
            pass
    print("sglang", json.dumps(found))
"""

# Runs SGLang's own parser, which alone knows the flags and values of its version.  It imports torch: seconds.
# It names one wrong value at a time: the flag is then left out, and the rest is parsed again.
_PARSE = """
import argparse, json, re, sys
class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise ValueError(message)
    def exit(self, status=0, message=None):
        raise ValueError("a flag that prints something and ends")
from sglang.srt.server_args import ServerArgs
parser = Parser(prog="sglang")
ServerArgs.add_cli_args(parser)
def without(args, names):
    left, leaving = [], False
    for word in args:
        flag = word.partition("=")[0]
        if word.startswith("--"):
            leaving = any(name == flag or name.startswith(flag) for name in names)
        if not leaving:
            left.append(word)
    return left
def complaints(args):
    while True:
        try:
            parser.parse_args(args)
            return
        except (ValueError, argparse.ArgumentError) as error:
            yield str(error)
            named = re.match("argument ([^:]+):", str(error)) or re.match("ambiguous option: ([^ =]+)", str(error))
            left = without(args, named[1].split("/")) if named else args
            if len(left) == len(args):
                return
            args = left
told = {name: found for name, args in json.load(sys.stdin).items() if (found := list(complaints(args)))}
print("\\nsglang", json.dumps({"errors": told, "flags": list(parser._option_string_actions)}))
"""

#: Seconds for an interpreter that has to import SGLang.
LONG_PATIENCE = 90.0

#: The least similarity (difflib's ratio) of two flags of which one may be a slip of the other.
CLOSE = 0.8

LARGEST_ANSWER = 1 << 20


class NoSGLang(NotInstalled):
    """An interpreter has no SGLang, or cannot be asked; the text says why."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    path: str
    version: str  # of SGLang
    torch: str = ""
    cuda: str = ""  # the version that torch was built for

    def __str__(self) -> str:
        torch = f", torch {self.torch}" if self.torch else ""
        return f"SGLang {self.version}{torch}{f' (CUDA {self.cuda})' if self.cuda else ''}"


#: What the parser takes for a flag: a number below 0 is none.
_FLAG = re.compile("--?[A-Za-z]")


_NO_CHOICE = re.compile(
    r"argument (?P<flag>[^:]+): invalid choice: '?(?P<value>.*?)'? \(choose from (?P<choices>.*)\)", re.DOTALL
)


def find_sglang(environ: Mapping[str, str], places: tuple[str, ...] = USUAL) -> tuple[Interpreter | None, list[str]]:
    """Return the first interpreter that has SGLang, or None, and the paths of all that were asked."""
    asked: list[str] = []
    for path in dict.fromkeys(_candidates(environ, places)):
        asked.append(path)
        with suppress(NoSGLang):
            return look(path, environ), asked
    return None, asked


def _candidates(environ: Mapping[str, str], places: tuple[str, ...]) -> Iterator[str]:
    """Yield the interpreters of this machine in the order in which they are asked.

    Links are not resolved: the python of a virtual environment is a link, and finds its packages by its own path.
    """
    named = [sys.executable]
    named += [f"{environ[name]}/bin/python" for name in ("VIRTUAL_ENV", "CONDA_PREFIX") if environ.get(name)]
    named += ["python3", "python", *places, str(home(environ) / "sglang/bin/python")]
    for name in named:
        found = shutil.which(name, path=environ.get("PATH")) if name else None
        if found and (path := os.path.abspath(found)).isprintable():  # a configuration cannot hold another path
            yield path


def look(path: str, environ: Mapping[str, str]) -> Interpreter:
    """Return the SGLang that this interpreter would import.  Raises NoSGLang."""
    found = _answer([path, "-c", _ASK], environ, b"", PATIENCE)
    if found is None:
        raise NoSGLang("no SGLang is installed in it")
    said = [str(found.get(key, "")) for key in ("version", "torch", "cuda")]
    if not "".join(said).isprintable():
        raise NoSGLang("its answer cannot be read")
    return Interpreter(path, *said)


def rejected_args(
    path: str, environ: Mapping[str, str], args: Mapping[str, Sequence[str]]
) -> dict[str, list[ArgFault]]:
    """Return, by model, what the interpreter's SGLang says against its arguments.

    Models whose arguments it accepts are left out.  Raises NoSGLang.
    """
    question = json.dumps({name: list(words) for name, words in args.items()}).encode()
    found = _answer([path, "-c", _PARSE], environ, question, LONG_PATIENCE)
    if found is None:
        raise NoSGLang("its parser of arguments does not answer")
    flags = [flag for flag in found.get("flags", []) if flag.startswith("--")]
    return {
        name: [rejected for error in errors for rejected in _rejected(str(error), flags)]
        for name, errors in found.get("errors", {}).items()
    }


def _rejected(error: str, flags: list[str]) -> Iterator[ArgFault]:
    """Yield the arguments that one error of the parser is about; flags it does not know with those that were meant."""
    if unknown := re.match(r"unrecognized arguments: (.*)", error, re.DOTALL):
        words = unknown[1].split()
        for flag in dict.fromkeys(word.partition("=")[0] for word in words if _FLAG.match(word)):
            close = get_close_matches(flag.replace("_", "-").lower(), flags, 1, CLOSE)
            remedy = f"did you mean {close[0]}?" if close else "remove it"
            yield ArgFault(frozenset({flag}), f"it knows no {flag}; {remedy}")
        if not any(map(_FLAG.match, words)):
            text = f"{unknown[1].strip() or 'an empty word'} belongs to no flag; remove it, or write its flag first"
            yield ArgFault(frozenset(words), text)
    elif several := re.match(r"ambiguous option: ([^\s=]+)\S* could match (.*)", error):
        text = f"{several[1]} is the beginning of {several[2]}; write one of them in full"
        yield ArgFault(frozenset({several[1]}), text)
    else:
        named = re.match(r"argument ([^\s:]+):", error)
        yield ArgFault(frozenset(named[1].split("/")) if named else frozenset(), _with_nearest_choice(error))


def _with_nearest_choice(error: str) -> str:
    """Return an error of the parser; of a value that is none of a few, first the one that was probably meant."""
    if (wrong := _NO_CHOICE.match(error)) is None:
        return error
    choices = wrong["choices"].replace("'", "").split(", ")
    value, rest = wrong["value"], ", ".join(choices)
    longer = [choice for choice in choices if choice.startswith(value)] if value else []
    meant = " or ".join(longer[:3] or get_close_matches(value, choices, 1, 0.5))
    hint = f"did you mean {meant}? There are {rest}" if meant else f"there are {rest}"
    return f"{wrong['flag']}: {value} is no value of it; {hint}"


def _answer(argv: list[str], environ: Mapping[str, str], question: bytes, patience: float) -> dict[str, Any] | None:
    """Run a program of this module; return the JSON of its last line that begins with "sglang ", or None.

    Raises NoSGLang if the interpreter cannot be run, hangs, or fails.
    """
    with TemporaryFile() as asked, TemporaryFile() as output:  # a pipe stays open while any descendant lives
        asked.write(question)
        asked.seek(0)
        _run(argv, environ, asked, output, patience)
        output.seek(max(0, output.seek(0, os.SEEK_END) - LARGEST_ANSWER))
        lines = output.read(LARGEST_ANSWER).decode(errors="replace").splitlines()
    for line in reversed(lines):
        with suppress(ValueError):
            if line.startswith("sglang ") and isinstance(found := json.loads(line.removeprefix("sglang ")), dict):
                return found
    return None


def _run(argv: list[str], environ: Mapping[str, str], stdin: IO[bytes], output: IO[bytes], patience: float) -> None:
    """Run a command to its end, in a session of its own so that all of it can be killed.  Raises NoSGLang."""
    try:
        process = subprocess.Popen(
            argv,
            cwd="/",  # not a folder that may hold one called sglang
            env=dict(environ),
            stdin=stdin,
            stdout=output,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise NoSGLang(f"it cannot be run: {error.strerror or error}") from None
    try:
        status = process.wait(patience)
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as over:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(over, KeyboardInterrupt):
            raise
        raise NoSGLang(f"it did not answer in {patience:.0f} s") from None
    if status:
        raise NoSGLang(f"it is no Python that works: it ended with {_status_text(status)}")


def _status_text(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"status {status}"
