"""Asks an interpreter of this machine which engine it has, and what that has against a server's flags.

Each engine brings its own two programs, which the interpreter runs: one that looks for the engine without importing it,
and one that runs the engine's own parser.  A program prints one line: its engine's name and JSON.
"""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from tempfile import TemporaryFile
from typing import IO, Any

from msgspec import Struct

from .kind import ArgFault, NotInstalled

#: Seconds for one interpreter: to find a package is not to import it, but the disk may be slow or remote.
PATIENCE = 20.0

#: Seconds for an interpreter that has to import its engine.
LONG_PATIENCE = 90.0

#: The least similarity (difflib's ratio) of two flags of which one may be a slip of the other.
CLOSE = 0.8

LARGEST_ANSWER = 1 << 20

#: How each program begins: it ends with the thread that asked (PR_SET_PDEATHSIG), such as by muxd's end in a reload.
_MORTAL = """
try:
    import ctypes
    ctypes.CDLL(None).prctl(1, 9)
except Exception:
    pass
"""

#: Finds a package, its version and torch's.  A mere folder of its name is a namespace package: its spec has no origin.
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
where = place("PACKAGE")
if where is not None:
    folder = os.path.dirname(where)
    found = {"version": version("PACKAGE"), "folder": folder}
    own = os.path.join(folder, "_version.py")  # of a build that is installed by another name
    if found["version"].startswith("of ") and os.path.exists(own):
        found["version"] = str(runpy.run_path(own).get("__version__", found["version"]))
    if place("torch") is not None:
        found["torch"] = version("torch")
        try:
            said = runpy.run_path(os.path.join(os.path.dirname(place("torch")), "version.py"))
            found["cuda"] = said.get("cuda") or said.get("hip") or ""
        except Exception:
            pass
    print("PACKAGE", json.dumps(found))
"""

#: Runs an engine's own parser, which alone knows the flags and values of its version.  It imports torch: seconds.  The
#: parser names one wrong value at a time: the flag is then left out, and the rest is parsed again.
_PARSE = """
import argparse, json, re, sys
IMPORTS
class Parser(PARSER):
    def error(self, message):
        raise ValueError(message)
    def exit(self, status=0, message=None):
        raise ValueError("a flag that prints something and ends")
parser = Parser(prog="PACKAGE")
ADD
def check(found):
    pass
CHECK
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
            found = parser.parse_args(args)
            # Nothing that muxd gives a server is a value without a flag, which vLLM takes for its model.
            stray = [getattr(found, each.dest) for each in parser._actions if not each.option_strings]
            yield from (f"unrecognized arguments: {value}" for value in stray if value is not None)
            check(found)
            return
        except (ValueError, argparse.ArgumentError) as error:
            yield str(error)
            named = re.match("argument ([^:]+):", str(error)) or re.match("ambiguous option: ([^ =]+)", str(error))
            left = without(args, named[1].split("/")) if named else args
            if len(left) == len(args):
                return
            args = left
told = {name: found for name, args in json.load(sys.stdin).items() if (found := list(complaints(args)))}
print("\\nPACKAGE", json.dumps({"errors": told, "flags": list(parser._option_string_actions)}))
"""

#: What the parser takes for a flag: a number below 0 is none.
_FLAG = re.compile("--?[A-Za-z]")

_NO_CHOICE = re.compile(
    r"argument (?P<flag>[^:]+): invalid choice: '?(?P<value>.*?)'? \(choose from (?P<choices>.*)\)", re.DOTALL
)


class Interpreter(Struct, frozen=True):
    """An interpreter, and the engine that it would import."""

    path: str
    version: str  # of the engine
    torch: str = ""
    cuda: str = ""  # the version that torch was built for
    title: str = "SGLang"
    folder: str = ""  # of the engine's package

    def __str__(self) -> str:
        torch = f", torch {self.torch}" if self.torch else ""
        return f"{self.title} {self.version}{torch}{f' (CUDA {self.cuda})' if self.cuda else ''}"


class EnginePackage(Struct, frozen=True):
    """An engine as an interpreter has it: a package of Python."""

    name: str  # to import and to install
    title: str
    imports: str  # lines that import the parser
    parser: str = "argparse.ArgumentParser"  # the class that its flags are read by
    add: str = ""  # a line that adds its flags to `parser`
    check: str = ""  # lines that define `check(found)`, which raises ValueError for what the parser lets pass

    def look(self, path: str, environ: Mapping[str, str]) -> Interpreter:
        """Return the interpreter with the engine that it would import; raise NotInstalled."""
        found = self._answer([path, "-c", _MORTAL + _ASK.replace("PACKAGE", self.name)], environ, b"", PATIENCE)
        if found is None:
            raise NotInstalled(f"no {self.title} is installed in it", is_missing=True)
        version, torch, cuda, folder = (str(found.get(key, "")) for key in ("version", "torch", "cuda", "folder"))
        if not "".join((version, torch, cuda)).isprintable():
            raise NotInstalled("its answer cannot be read")
        return Interpreter(path, version, torch, cuda, self.title, folder)

    def rejected_args(
        self, path: str, environ: Mapping[str, str], args: Mapping[str, Sequence[str]]
    ) -> dict[str, list[ArgFault]]:
        """Return, by model, what the interpreter's engine says against its arguments.

        Models whose arguments it accepts are left out.  Raises NotInstalled.
        """
        program = _PARSE.replace("PARSER", self.parser).replace("PACKAGE", self.name)
        program = program.replace("IMPORTS", self.imports).replace("ADD", self.add)
        program = program.replace("CHECK", self.check)
        question = json.dumps({name: list(words) for name, words in args.items()}).encode()
        found = self._answer([path, "-c", _MORTAL + program], environ, question, LONG_PATIENCE)
        if found is None:
            raise NotInstalled("its parser of arguments does not answer")
        flags = [flag for flag in found.get("flags", []) if flag.startswith("--")]
        return {
            name: [rejected for error in errors for rejected in _rejected(str(error), flags)]
            for name, errors in found.get("errors", {}).items()
        }

    def _answer(
        self, argv: list[str], environ: Mapping[str, str], question: bytes, patience: float
    ) -> dict[str, Any] | None:
        """Run a program of this module; return the JSON of its last line that begins with the name, or None.

        Raise NotInstalled if the interpreter cannot be run, hangs, or fails.
        """
        with TemporaryFile() as asked, TemporaryFile() as output:  # a pipe stays open while any descendant lives
            asked.write(question)
            asked.seek(0)
            _run(argv, environ, asked, output, patience)
            output.seek(max(0, output.seek(0, os.SEEK_END) - LARGEST_ANSWER))
            lines = output.read(LARGEST_ANSWER).decode(errors="replace").splitlines()
        for line in reversed(lines):
            with suppress(ValueError):
                said = line.removeprefix(f"{self.name} ")
                if said != line and isinstance(found := json.loads(said), dict):
                    return found
        return None


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


def _run(argv: list[str], environ: Mapping[str, str], stdin: IO[bytes], output: IO[bytes], patience: float) -> None:
    """Run a command to its end, in a session of its own so that all of it can be killed.  Raises NotInstalled."""
    try:
        process = subprocess.Popen(
            argv,
            cwd="/",  # not a folder that may hold one called as the engine is
            env=dict(environ),
            stdin=stdin,
            stdout=output,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise NotInstalled(f"it cannot be run: {error.strerror or error}") from None
    try:
        status = process.wait(patience)
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as over:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(over, KeyboardInterrupt):
            raise
        raise NotInstalled(f"it did not answer in {patience:.0f} s") from None
    if status:
        raise NotInstalled(f"it is no Python that works: it ended with {_status_text(status)}")


def _status_text(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"status {status}"
