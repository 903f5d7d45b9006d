"""What muxd takes from a launch script before it runs: the name of its model, its port, and whatever else is plain.

All else is seen at its process once it runs; nothing is guessed.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar

from muxd.config.command_lines import CONTAINERS, MODEL, CommandLine, NotKnown, TooFewGpus, server_at, sleep_level
from muxd.config.devices import ORDER, VARIABLE
from muxd.config.flags import CAPABILITY_FLAGS, Hole, Word, flag
from muxd.config.sources import why_unreadable

from .bash_syntax import Place
from .plain_reader import FoundServer, PlainReader
from .remarks import remarks
from .slips import slips, why_no_script

#: Addresses to listen on that are reached at 127.0.0.1.
REACHED = ("127.0.0.1", "0.0.0.0", "::")

#: They start what their arguments name with other files, or on another machine.
ELSEWHERE = ("singularity", "apptainer", "ssh", "srun")

Known = TypeVar("Known")

_INTERPRETER = re.compile(r"python[0-9.]*|sglang")


class Problem(NamedTuple):
    """`key` of the model's table would settle it, if the user gave it."""

    key: tuple[str, ...]
    place: Place
    text: str


@dataclass(slots=True)
class LaunchScript:
    """What was read; where it is not written plainly, nothing."""

    argv: tuple[str, ...] = ()  # bash, the script and its arguments
    digests: dict[str, str] = field(default_factory=dict)  # of its text, and of those that it reads in, by path
    names: tuple[str, ...] = ()
    names_by: str = ""  # as Said has it
    named: Place | None = None
    computed: Place | None = None  # where MODEL_NAME is set to what is known only when it runs, and nobody will know
    port: int = 0
    ported: Place | None = None
    sleep_level: int | None = None
    telling_flags: tuple[str, ...] = ()
    launch: Place | None = None
    asks_key: bool = False
    gpus: tuple[str, ...] = ()  # by number or name; none where they are not written plainly
    visible: tuple[str, ...] = ()  # likewise: those that the script lets the server see; none: all, or nobody knows
    too_few: str = ""  # why the server cannot be loaded on the GPUs that it sees
    placed: Place | None = None  # where they stand
    program: str = ""  # the Python, or SGLang's own command, that the launch names
    problems: list[Problem] = field(default_factory=list)
    remarks: tuple[str, ...] = ()  # of what can be run, and should not be so


def read_script(
    path: Path, shown: str, environ: Mapping[str, str], folder: Path, args: tuple[str, ...] = ()
) -> LaunchScript:
    """Read the script at `path`, to be run in `folder` with `environ` and `args`; messages call it `shown`."""
    script = LaunchScript()
    try:
        text = _text(path)
    except ValueError as error:
        script.problems.append(Problem(("script",), Place(shown, 0), str(error)))
        return script
    script.digests[str(path)] = _digest(text)
    bash = shutil.which("bash", path=environ.get("PATH"))
    script.argv = (bash or "bash", str(path), *args)
    missing = "launch scripts are run by bash, which is not in PATH; install it, or correct PATH"
    if wrong := missing if bash is None else why_no_script(path, text) or _unreadable(text, shown):
        line = text[: text.find("\r\n") + 1].count("\n") + 1
        script.problems.append(Problem(("script",), Place(shown, line), wrong))
        return script
    reader = PlainReader.at_start(shown, environ, folder, path, args)
    reader.read(text)
    _gather(script, reader)
    slipped = [Problem(("script",), place, slip) for place, slip in slips(text, shown)]
    script.problems += slipped or _valueless(reader, text)
    if reader.is_idle and not (reader.is_dark or script.problems):
        wrong = "nothing in it starts a server; give the script that has python -m sglang.launch_server"
        script.problems.append(Problem(("script",), Place(shown, 1), wrong))
    script.computed = _computed(script, reader, text)
    script.digests |= {name: _digest(found) for name, found in reader.sourced.items() if not _writes(text, name)}
    script.remarks = tuple(remarks(text, reader))
    return script


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def _writes(text: str, path: str) -> bool:
    """Say whether a script seems to make that file anew each time."""
    name = re.escape(os.path.basename(path))
    return re.search(rf"(?:>|\b(?:tee|cp|mv|ln|install|sed)\b)[^\n;|]*{name}", text) is not None


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


def _unreadable(text: str, shown: str) -> str:
    if text.startswith("\ufeff"):
        remedy = f"remove it: sed -i '1s/^\\xEF\\xBB\\xBF//' {shown}"
        return f"begins with a byte order mark, which shells stumble over; {remedy}"
    if "\r\n" in text:
        return f"lines end as on Windows, and shells stumble over it; convert it: sed -i 's/\\r$//' {shown}"
    return ""


def _gather(script: LaunchScript, reader: PlainReader) -> None:
    found = [] if reader.is_dark else reader.candidates or reader.others
    if found:
        script.launch, script.program = found[-1].place, _interpreter(found[-1])
    ports = {_of(each, CommandLine.port): each.place for each in found if each.sure and each in reader.candidates}
    if len(ports.keys() - {None}) > 1:
        lines = " and ".join(f"line {place.line}" for place in sorted(ports.values()))
        text = f"{lines} start servers on different ports; muxd runs one server with each script: split it"
        script.problems.append(Problem(("script",), max(ports.values()), text))
    script.port, script.ported = _agreed(found, CommandLine.port) or 0, script.launch
    port = _contract(reader, "PORT") if not found else None
    if port is not None and re.fullmatch("[1-9][0-9]{0,4}", port):
        script.port, script.ported = (int(port), reader.assigned["PORT"]) if int(port) <= 65535 else (0, None)
    named, model = _contract(reader, "MODEL_NAME"), _agreed(found, CommandLine.model)
    if named or model:
        script.names = tuple(dict.fromkeys(filter(None, (named or model, _flag(found, "--served-model-name")))))
        script.names_by = "contract" if named else "flag"
        script.named = reader.assigned["MODEL_NAME"] if named else script.launch
    script.asks_key = bool(_flag(found, "--api-key"))
    script.sleep_level = _agreed(found, lambda line: sleep_level(line.look_up))
    script.telling_flags = tuple(name for name in sorted(CAPABILITY_FLAGS) if _flag(found, name) is not None)
    if reader.foreign is not None and not found and not reader.is_dark:
        script.problems.append(Problem(("script",), *reader.foreign))
    script.problems += _unreached(found)
    if len(found) == 1 and found == reader.candidates:
        (server,) = found
        try:
            script.gpus, script.visible = _gpus(server)
        except TooFewGpus as error:
            script.too_few = str(error)
        except NotKnown:
            pass
        by_variable = server.environ.get(VARIABLE) == reader.variables.get(VARIABLE) and not _is_contained(server)
        script.placed = reader.assigned.get(VARIABLE, server.place) if by_variable else server.place


def _is_contained(server: FoundServer) -> bool:
    return any(os.path.basename(word) in CONTAINERS for word in server.words if isinstance(word, str))


def _gpus(server: FoundServer) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the GPUs that the server uses, and those that CUDA_VISIBLE_DEVICES names, by number or name.

    Raise NotKnown.
    """
    before, environ = server.words[: server_at(server.words)], {}
    if _is_elsewhere(before):
        raise NotKnown("its GPUs are chosen by another program")
    given = (word.partition("=") for word in before if isinstance(word, str) and not _is_contained(server))
    set_here = {name: value for name, equals, value in given if equals and name in (VARIABLE, ORDER)}
    for name, value in {**server.environ, **set_here}.items():
        if isinstance(value, Hole):
            raise NotKnown(f"{name} is known only when it runs")
        environ[name] = value
    line = CommandLine(server.words, environ)
    return line.gpus(), line.visible() or ()


def _is_elsewhere(before: Sequence[Word]) -> bool:
    """Say whether what comes before the server's flags hides which GPUs it sees: another host, or another program."""
    names = [os.path.basename(word) if isinstance(word, str) else "" for word in before]
    clears = "env" in names and any(re.match("-$|-[iu]|--(ignore|unset)", name) for name in names)
    return clears or "" in names or not {*ELSEWHERE, "xargs", "enroot", "conda"}.isdisjoint(names)


def _unreached(found: Iterable[FoundServer]) -> Iterator[Problem]:
    """Yield servers at an address where muxd does not ask; a container has addresses of its own."""
    for candidate in found:
        host = _flag([candidate], "--host")
        with suppress(ValueError):
            if host and not _is_contained(candidate) and str(ip_address(host)) not in REACHED:
                text = f"its server listens on {host} alone, and muxd asks on 127.0.0.1; write --host 127.0.0.1"
                yield Problem(("script", "--host"), candidate.place, text)


def _computed(script: LaunchScript, reader: PlainReader, text: str) -> Place | None:
    """Return where MODEL_NAME is set to what only bash knows, if the server's command does not tell it either."""
    where = reader.assigned.get("MODEL_NAME")
    is_told = any(isinstance(flag(found.words, ("--served-model-name",)), Hole) for found in reader.candidates)
    is_computed = re.search(r"MODEL_NAME=.*(?:\$\(|`)", _lines_from(where, reader, text)[0])
    return where if is_computed and not is_told and script.names_by == "flag" else None


def _lines_from(place: Place | None, reader: PlainReader, text: str) -> list[str]:
    """Return the script's lines from a place on; an empty one for a place elsewhere, as in a text that is evaluated."""
    lines = text.splitlines() if place is not None and place.file == reader.file and place.line else []
    return lines[place.line - 1 :] or [""] if place is not None else [""]


#: Flags behind which SGLang wants a value.
_VALUED = (*MODEL, "--port", "--served-model-name", "--host", "--tp", "--tp-size", "--context-length")


def _valueless(reader: PlainReader, text: str) -> Iterator[Problem]:
    """Yield flags of the server whose value is surely empty, with the variable that is to blame."""
    for candidate in reader.candidates if not reader.is_dark else ():
        flags = candidate.words[server_at(candidate.words) :]
        for word, after in pairwise([*flags, "--"]):
            name, equals, value = word.partition("=") if isinstance(word, str) else ("", "", "")
            is_empty = value == "" if equals else isinstance(after, str) and (after == "" or after.startswith("--"))
            if name in _VALUED and is_empty:
                cause = _cause(reader, text, candidate.place, name)
                yield Problem(("script",), candidate.place, f"{name} has no value: {cause}")


def _cause(reader: PlainReader, text: str, place: Place, name: str) -> str:
    """Return why the value of a flag is empty, with advice."""
    command = "\n".join(_lines_from(place, reader, text))
    found = re.search(rf"{name}[= \t]+[\"']?\$\{{?(\w+)", command)
    if found is None:
        return "write one behind it"
    variable, where = found[1], reader.assigned.get(found[1])
    line = _lines_from(where, reader, text)[0]
    argument = re.search(r"\$\{?([1-9])", f"${variable}" if variable.isdigit() else line)
    if argument is not None:
        said = f"{variable} is ${argument[1]}, and " if where is not None else ""
        remedy = 'write the value, or [models.NAME] script = { file = "...", args = ["..."] }'
        return f"{said}muxd gives the script no ${argument[1]}; {remedy}"
    if where is not None:
        return f"{variable} is empty; correct {where}"
    return f"{variable} is set nowhere; set it in the script, or in the model's env"


def _contract(reader: PlainReader, name: str) -> str | None:
    """Return a variable that the script sets itself, which is sglangmux's contract; None where it is unknown."""
    value = reader.variables.get(name)
    return value if name in reader.assigned and isinstance(value, str) and value else None


def _agreed(found: Iterable[FoundServer], ask: Callable[[CommandLine], Known | None]) -> Known | None:
    """Return what all command lines say; None where they differ, or one does not say it plainly."""
    said = {_of(candidate, ask) for candidate in found}
    return said.pop() if len(said) == 1 else None


def _flag(found: Iterable[FoundServer], name: str) -> str | None:
    return _agreed(found, lambda line: line.look_up((name,)))


def _of(candidate: FoundServer, ask: Callable[[CommandLine], Known | None]) -> Known | None:
    try:
        return ask(CommandLine(candidate.words))
    except NotKnown:
        return None


def _interpreter(candidate: FoundServer) -> str:
    """Return the interpreter that a command names; "" where there is none, or another machine has its files."""
    words = [word for word in candidate.words if isinstance(word, str)]
    names = [os.path.basename(word) for word in words]
    if set(names) & {*CONTAINERS, *ELSEWHERE}:
        return ""
    return next((word for word, name in zip(words, names, strict=True) if _INTERPRETER.fullmatch(name)), "")
