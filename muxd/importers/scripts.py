"""What muxd must know of a launch script before it runs it: its server's name, port, keys, GPUs, sleep level and kind.

The script is read, never run.  Anything else about it is its own business.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from muxd.config.handover import TELLING_FLAGS

from .shell.builtin import BUILTINS
from .shell.grammar import read_commands
from .shell.parameters import Ends
from .shell.state import State, Unknown, Value, Variable
from .shell.syntax import NotUnderstood, Place
from .shell.walk import Run, Walk

MODEL_FLAGS = ("--model-path", "--model")
PORT_FLAGS = ("--port",)
TENSOR_FLAGS = ("--tp", "--tp-size", "--tensor-parallel-size")

#: Their servers listen in a network of their own: the port outside is the one that PORT= names.
CONTAINERS = ("docker", "podman", "nerdctl")

_INTERPRETER = re.compile(r"python[0-9.]*|sglang")

#: Set anew for each start, so that nobody knows them when a script is read.
PER_START = ("TMPDIR", "MUXD_TOKEN")


class Problem(NamedTuple):
    """`key` of the model's table would settle it, if the user gave it; nothing settles what is below `script`."""

    key: tuple[str, ...]
    place: Place
    text: str


class Fact(NamedTuple):
    """Something a script says, and where."""

    text: str
    place: Place


@dataclass(slots=True)
class LaunchScript:
    """What was read.  `None` where the script does not say; then `problems` tells, if muxd needs it."""

    argv: tuple[str, ...] = ()  # bash and the script
    digest: str = ""  # of its text
    served_names: list[Fact] = field(default_factory=list)
    port: Fact | None = None
    gpus: tuple[int, ...] | None = None  # that it names itself
    tensor_parallel: int = 1
    memory_saver: bool = False
    cpu_backup: bool = False
    telling_flags: tuple[str, ...] = ()  # of handover.TELLING_FLAGS
    all_flags_seen: bool = False
    launch: Place | None = None
    program: str = ""  # the Python, or SGLang's own command, that the launch names
    admin_key: str = ""
    api_key: str = ""
    problems: list[Problem] = field(default_factory=list)

    @property
    def sleep_level(self) -> int:
        """By the flags that were seen."""
        if not self.memory_saver:
            return 3
        return 1 if self.cpu_backup else 2

    def can_sleep_at(self, level: int) -> bool:
        """As far as can be told: flags may be where they cannot be seen."""
        enough = self.memory_saver and (self.cpu_backup or level == 2)
        return level == 3 or enough or not self.all_flags_seen


def read_script(path: Path, shown: str, environ: Mapping[str, str], folder: Path) -> LaunchScript:
    """`path` as it will be run in `folder` with `environ`; `shown` is what messages call it."""
    script = LaunchScript()
    try:
        text = _text(path)
    except ValueError as error:
        script.problems.append(Problem(("script",), Place(shown, 0), str(error)))
        return script
    script.argv = (_bash(environ, shown, script), str(path))
    script.digest = sha256(text.encode()).hexdigest()
    if text.startswith("\ufeff"):
        remedy = f"remove it: sed -i '1s/^\\xEF\\xBB\\xBF//' {shown}"
        wrong = f"begins with a byte order mark, which shells stumble over; {remedy}"
        script.problems.append(Problem(("script",), Place(shown, 1), wrong))
        return script
    if "\r\n" in text:
        line = text[: text.index("\r\n")].count("\n") + 1
        wrong = f"lines end as on Windows, and shells stumble over it; convert it: sed -i 's/\\r$//' {shown}"
        script.problems.append(Problem(("script",), Place(shown, line), wrong))
        return script
    walk = _followed(path, text, shown, environ, folder, script)
    _Facts(script, walk.runs, walk.state.variables, Place(shown, 1)).gather()
    return script


def _text(path: Path) -> str:
    """Raises ValueError, which says what to do."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would keep us for as long as nobody writes
            raise ValueError("is not a file; correct the path")
        return path.read_bytes().decode()
    except OSError as error:
        reason = error.strerror or "it is not a file"
        raise ValueError(f"cannot be read: {reason}; correct the path or its permissions") from None
    except UnicodeDecodeError:
        raise ValueError("not UTF-8, or no script at all; give a shell script") from None


def _bash(environ: Mapping[str, str], shown: str, script: LaunchScript) -> str:
    """As sglangmux does, whatever the `#!` line says: scripts that ran there may need it."""
    found = shutil.which("bash", path=environ.get("PATH"))
    if found is None:
        wrong = "launch scripts are run by bash, which is not in PATH; install it, or correct PATH"
        script.problems.append(Problem(("script",), Place(shown, 1), wrong))
    return found or "bash"


def _followed(
    path: Path, text: str, shown: str, environ: Mapping[str, str], folder: Path, script: LaunchScript
) -> Walk:
    state = State.at_start(environ, PER_START, str(folder), str(path))
    walk = Walk(state, builtins=BUILTINS)
    try:
        walk.follow_to_end(read_commands(text, shown))
    except Ends as end:
        if end.problem is not None:
            script.problems.append(Problem(("script",), end.place, end.problem))
    except (NotUnderstood, RecursionError) as error:
        place = error.place if isinstance(error, NotUnderstood) and error.place.file else Place(shown, 1)
        what = error.text if isinstance(error, NotUnderstood) else "it is nested too deeply"
        script.problems.append(Problem(("port",), place, f"{what}; {ELSEWHERE.format('port and served_names')}"))
    return walk


#: What to do about what cannot be read.
ELSEWHERE = "write it plainly, or give {} to [models.NAME] in muxd.toml beside `script`"


class _Facts:
    """Puts together what the script sets and what it starts."""

    def __init__(self, script: LaunchScript, runs: list[Run], variables: dict[str, Variable], top: Place) -> None:
        self._script = script
        self._candidates = _launches(runs)
        self._run = self._candidates[-1] if self._candidates else None
        self._variables = self._run.variables if self._run is not None else variables
        self._top = top

    def gather(self) -> None:
        """Problems only where nothing has made the script unusable before."""
        script, run = self._script, self._run
        broken = bool(script.problems)
        if run is not None:
            script.launch, script.program = run.place, _interpreter(run)
            self._flags(run)
        found = [*self._served_names(), *self._port(), *self._keys(), *self._one_server()]
        if not broken:
            script.problems += found

    def _flags(self, run: Run) -> None:
        script, words = self._script, run.arguments
        script.memory_saver = "--enable-memory-saver" in words
        script.cpu_backup = "--enable-weights-cpu-backup" in words
        script.telling_flags = tuple(flag for flag in sorted(TELLING_FLAGS) if flag in words)
        hidden = any(_hidden(words)) or flag(words, "--config") is not None
        script.all_flags_seen = _is_sglang(run) and not hidden
        tensor = flag(words, *TENSOR_FLAGS)
        script.tensor_parallel = int(tensor) if isinstance(tensor, str) and re.fullmatch("[1-9][0-9]?", tensor) else 1
        visible = run.environment.get("CUDA_VISIBLE_DEVICES")
        script.gpus = gpu_list(visible) if isinstance(visible, str) else None

    def _assigned(self, name: str) -> tuple[Value, Place] | None:
        """A variable that the script sets itself: sglangmux's contract."""
        variable = self._variables.get(name)
        if variable is None or variable.place is None or isinstance(variable.value, dict):
            return None
        return (variable.value, variable.place) if variable.value != "" else None

    def _flag(self, *names: str) -> tuple[Value, Place] | None:
        if self._run is None:
            return None
        value = flag(self._run.arguments, *names)
        if value is None:
            value = next(_hidden(self._run.arguments), None)
        return (value, self._run.place) if value is not None else None

    def _served_names(self) -> Iterator[Problem]:
        named = self._assigned("MODEL_NAME")
        if named is None or isinstance(named[0], Unknown):
            named = self._flag(*MODEL_FLAGS) or named
        if named is None:
            missing = "no model: it neither sets MODEL_NAME nor starts a server with --model-path; "
            yield Problem(("served_names",), self._where, missing + "add a line MODEL_NAME=NAME")
        elif isinstance(named[0], Unknown):
            text = f"the model's name: {named[0].why}; {ELSEWHERE.format('served_names')}"
            yield Problem(("served_names",), named[0].place, text)
        elif named[0] == "":
            yield Problem(("served_names",), named[1], "the model's name is empty; write one")
        else:
            self._script.served_names.append(Fact(named[0], named[1]))
        further = flag(self._run.arguments, "--served-model-name") if self._run is not None else None
        known = [fact.text for fact in self._script.served_names]
        if isinstance(further, str) and further and further not in known and self._run is not None:
            self._script.served_names.append(Fact(further, self._run.place))

    @property
    def _where(self) -> Place:
        return self._run.place if self._run is not None else self._top

    def _port(self) -> Iterator[Problem]:
        assigned, given = self._assigned("PORT"), self._flag(*PORT_FLAGS)
        chosen = given if assigned is None or isinstance(assigned[0], Unknown) else assigned
        chosen = chosen or assigned
        if chosen is None:
            missing = "no port: it neither sets PORT nor starts a server with --port; "
            yield Problem(("port",), self._where, missing + "add a line PORT=NUMBER")
        elif isinstance(chosen[0], Unknown):
            yield Problem(("port",), chosen[0].place, f"the port: {chosen[0].why}; {ELSEWHERE.format('port')}")
        elif not _is_port(chosen[0]):
            yield Problem(("port",), chosen[1], f'"{chosen[0]}" is not a port; write a number from 1 to 65535')
        elif self._differs(assigned, given):
            assert assigned is not None
            assert given is not None
            text = f"PORT is {assigned[0]} (line {assigned[1].line}), but the server is started with --port {given[0]}"
            yield Problem(("port",), given[1], f"{text}; make them one")
        else:
            self._script.port = Fact(chosen[0], chosen[1])

    def _differs(self, assigned: tuple[Value, Place] | None, given: tuple[Value, Place] | None) -> bool:
        if assigned is None or given is None or self._run is None or _program(self._run) in CONTAINERS:
            return False
        both = isinstance(assigned[0], str) and isinstance(given[0], str)
        return both and assigned[0] != given[0]

    def _keys(self) -> Iterator[Problem]:
        """What control calls and probes have to bring."""
        for name in ("--admin-api-key", "--api-key"):
            value = flag(self._run.arguments, name) if self._run is not None else None
            if isinstance(value, Unknown):
                text = f"{name}: {value.why}, and muxd needs it; write it plainly, or export it where muxd is started"
                yield Problem(("script", name), value.place, text)
            elif value is not None and name == "--api-key":
                self._script.api_key = value
            elif value is not None:
                self._script.admin_key = value

    def _one_server(self) -> Iterator[Problem]:
        ports = {_port_of(run): run.place for run in self._candidates}
        if len(ports) > 1:
            lines = " and ".join(f"line {place.line}" for place in sorted(ports.values()))
            text = f"{lines} start servers on different ports; muxd runs one server with each script: split it"
            yield Problem(("script",), sorted(ports.values())[-1], text)


def _launches(runs: list[Run]) -> list[Run]:
    """The commands that start the server: SGLang's own, else whatever is given a model's path or a port."""
    own = [run for run in runs if _is_sglang(run)]
    return own or [run for run in runs if flag(run.arguments, *MODEL_FLAGS, *PORT_FLAGS) is not None]


def _is_sglang(run: Run) -> bool:
    words = [word for word in run.arguments if isinstance(word, str)]
    names = [os.path.basename(word) for word in words]
    pairs = pairwise(names)
    return "sglang.launch_server" in words or "launch_server.py" in names or ("sglang", "serve") in pairs


def _program(run: Run) -> str:
    first = next((word for word in run.arguments if word not in ("sudo", "exec")), "")
    return os.path.basename(first) if isinstance(first, str) else ""


def _interpreter(run: Run) -> str:
    """ "" where the command names none, or runs it in a container, whose files are not those of this machine."""
    words = [word for word in run.arguments if isinstance(word, str)]
    names = [os.path.basename(word) for word in words]
    if set(names) & {*CONTAINERS, "singularity", "apptainer", "ssh", "srun"}:
        return ""
    return next((word for word, name in zip(words, names, strict=True) if _INTERPRETER.fullmatch(name)), "")


def _port_of(run: Run) -> Value | None:
    value = flag(run.arguments, *PORT_FLAGS)
    return None if isinstance(value, Unknown) else value


def flag(words: Iterable[Value], *names: str) -> Value | None:
    """The value of a flag, `--flag VALUE` or `--flag=VALUE`; of several the last, as argparse has it."""
    found: Value | None = None
    expected = False
    for word in words:
        if expected:
            found, expected = word, False
        elif isinstance(word, Unknown):
            if word.prefix.partition("=")[0] in names and "=" in word.prefix:
                found = word
        elif word in names:
            expected = True
        elif word.partition("=")[0] in names:
            found = word.partition("=")[2]
    return found


def _hidden(words: Iterable[Value]) -> Iterator[Unknown]:
    """What may be flags, and is not the value of one."""
    before = ""
    for word in words:
        if isinstance(word, Unknown) and word.many and not (before.startswith("--") and "=" not in before):
            yield word
        before = word if isinstance(word, str) else ""


def gpu_list(text: str) -> tuple[int, ...] | None:
    """`0,1` of CUDA_VISIBLE_DEVICES; None for names of GPUs, or none at all."""
    numbers = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,3}", number) for number in numbers):
        return None
    return tuple(dict.fromkeys(map(int, numbers)))


def _is_port(text: str) -> bool:
    return re.fullmatch("[0-9]{1,5}", text) is not None and 0 < int(text) <= 65535
