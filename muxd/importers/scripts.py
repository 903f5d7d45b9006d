"""What muxd takes from a launch script before it runs: the name of its model, its port, and whatever else is plain.

All else is seen at its process once it runs; nothing is guessed.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from muxd.config.command_lines import CONTAINERS, CommandLine, NotKnown, sleep_level
from muxd.config.flags import CAPABILITY_FLAGS, Hole, flag
from muxd.config.sources import why_unreadable

from .bash_syntax import Place
from .plain_reader import FoundServer, PlainReader
from .remarks import remarks
from .slips import slips, why_misread, why_no_script

#: Their programs have files and Pythons of their own.
_ELSEWHERE = (*CONTAINERS, "singularity", "apptainer", "ssh", "srun")

_INTERPRETER = re.compile(r"python[0-9.]*|sglang")

Known = TypeVar("Known")


@dataclass(slots=True)
class LaunchScript:
    """What was read; where it is not written plainly, nothing."""

    argv: tuple[str, ...] = ()  # bash, the script and its arguments
    digests: dict[str, str] = field(default_factory=dict)  # of its text, by its path
    names: tuple[str, ...] = ()
    names_by: str = ""  # as DeclaredServer has it
    named: Place | None = None
    computed: Place | None = None  # where MODEL_NAME is set to what is known only when it runs, and nobody will know
    port: int = 0
    ported: Place | None = None
    sleep_level: int | None = None
    telling_flags: tuple[str, ...] = ()
    launch: Place | None = None  # what starts the server, or may do so unseen
    asks_key: bool = False
    program: str = ""  # the Python, or SGLang's own command, that the launch names
    problems: list[tuple[Place, str]] = field(default_factory=list)  # why it cannot be run, with what to do
    remarks: tuple[str, ...] = ()  # of what can be run, and should not be so


def read_script(
    path: Path, shown: str, environ: Mapping[str, str], folder: Path, args: tuple[str, ...] = ()
) -> LaunchScript:
    """Read the script at `path`, to be run in `folder` with `environ` and `args`; messages call it `shown`."""
    script = LaunchScript()
    try:
        text = _text(path)
    except ValueError as error:
        script.problems.append((Place(shown, 0), str(error)))
        return script
    script.digests[str(path)] = sha256(text.encode()).hexdigest()
    bash = shutil.which("bash", path=environ.get("PATH"))
    script.argv = (bash or "bash", str(path), *args)
    missing = "launch scripts are run by bash, which is not in PATH; install it, or correct PATH"
    if wrong := missing if bash is None else why_no_script(path, text) or why_misread(text, shown):
        line = text[: text.find("\r\n") + 1].count("\n") + 1
        script.problems.append((Place(shown, line), wrong))
        return script
    reader = PlainReader.at_start(shown, environ, folder, args)
    reader.read(text)
    _gather(script, reader)
    script.problems += slips(text, shown)
    script.remarks = tuple(remarks(text, reader))
    return script


def _text(path: Path) -> str:
    """Return the text of the file; raise ValueError, which says what to do."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would keep us for as long as nobody writes
            raise ValueError("is not a file; correct the path")
        return path.read_bytes().decode()
    except OSError as error:
        raise ValueError(why_unreadable(path, error)) from None
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8; save it as UTF-8") from None


def _gather(script: LaunchScript, reader: PlainReader) -> None:
    found = [] if reader.dark is not None else reader.candidates or reader.others
    script.launch = found[-1].place if found else reader.dark
    script.port, script.ported = _agreed(found, CommandLine.port) or 0, script.launch
    port = reader.set_to("PORT") if not script.launch else None
    if port is not None and re.fullmatch("[1-9][0-9]{0,4}", port) and int(port) <= 65535:
        script.port, script.ported = int(port), reader.assigned["PORT"]
    named, model = reader.set_to("MODEL_NAME"), _agreed(found, CommandLine.model)
    said = [name for name in (named or model, _flag(found, "--served-model-name")) if name and name[:2] != "--"]
    if said and (named or model):  # "--" is the next flag: there is no value
        script.names, script.names_by = tuple(dict.fromkeys(said)), "contract" if named else "flag"
        script.named = reader.assigned["MODEL_NAME"] if named else script.launch
    is_told = any(isinstance(flag(server.words, ("--served-model-name",)), Hole) for server in found)
    script.computed = reader.assigned.get("MODEL_NAME") if not (named or is_told) else None
    script.asks_key = bool(_flag(found, "--api-key"))
    script.sleep_level = _agreed(found, lambda line: sleep_level(line.look_up))
    script.telling_flags = tuple(name for name in sorted(CAPABILITY_FLAGS) if _flag(found, name) is not None)
    script.program = _interpreter(found[-1]) if found else ""


def _agreed(found: Sequence[FoundServer], ask: Callable[[CommandLine], Known | None]) -> Known | None:
    """Return what all command lines say; None where they differ, or one does not say it plainly."""
    try:
        said = {ask(CommandLine(server.words)) for server in found}
    except NotKnown:
        return None
    return said.pop() if len(said) == 1 else None


def _flag(found: Sequence[FoundServer], name: str) -> str | None:
    return _agreed(found, lambda line: line.look_up((name,)))


def _interpreter(server: FoundServer) -> str:
    """Return the interpreter that a command names; "" where there is none, or another machine has its files."""
    words = {os.path.basename(word): word for word in reversed(server.words) if isinstance(word, str)}
    found = (word for name, word in reversed(words.items()) if _INTERPRETER.fullmatch(name))
    return next(found, "") if words.keys().isdisjoint(_ELSEWHERE) else ""
