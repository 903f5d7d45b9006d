"""What muxd must know of a launch script before it runs it: its server's name, port, keys, GPUs, sleep level and kind.

The script is read, never run.  Anything else about it is its own business.
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
from typing import NamedTuple

from muxd.config.devices import VARIABLE
from muxd.config.flags import Parallel, is_flag, parallel
from muxd.config.handover import TELLING_FLAGS

from .devices import CONTAINERS, CannotTell, GpuUse, Start, published
from .remarks import remarks
from .shell.builtin import BUILTINS
from .shell.grammar import read_commands
from .shell.parameters import Ends
from .shell.state import State, Unknown, Value, Variable
from .shell.syntax import NotUnderstood, Place
from .shell.walk import Run, Walk

MODEL_FLAGS = ("--model-path", "--model")
PORT_FLAGS = ("--port",)

#: SGLang's own, without --port.
DEFAULT_PORT = "30000"

#: SGLang's flags that have no value: 167 of the 188 of 0.5.23.
_SWITCH = re.compile(
    r"--(\w+-)*(enable|disable|skip|trust|is|show|allow|use|no|keep|delete|only|return|idle|strip|grpc-mode)(-|$)"
    r"|--(log-requests|quantize-and-serve|pre-warm-nccl|debug-cuda-graph)$"
)

_INTERPRETER = re.compile(r"python[0-9.]*|sglang")

#: Addresses to listen on that are reached at 127.0.0.1.
REACHED = ("127.0.0.1", "0.0.0.0", "::")

#: Set anew for each start, so that nobody knows them when a script is read.
PER_START = ("TMPDIR", "MUXD_TOKEN")

#: Programs and modules that serve models otherwise.
OTHER_ENGINES = ("vllm", "llama-server", "ollama", "tgi", "text-generation-launcher", "lmdeploy", "tritonserver")


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
    digests: dict[str, str] = field(default_factory=dict)  # of its text, and of those that it reads in, by path
    served_names: list[Fact] = field(default_factory=list)
    port: Fact | None = None
    gpu_uses: list[GpuUse] = field(default_factory=list)  # of each command that may be the server's
    memory_saver: bool = False
    cpu_backup: bool = False
    telling_flags: tuple[str, ...] = ()  # of handover.TELLING_FLAGS
    all_flags_seen: bool = False
    launch: Place | None = None
    program: str = ""  # the Python, or SGLang's own command, that the launch names
    admin_key: str = ""
    api_key: str = ""
    problems: list[Problem] = field(default_factory=list)
    remarks: tuple[str, ...] = ()  # of what can be run, and should not be so

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


def read_script(
    path: Path, shown: str, environ: Mapping[str, str], folder: Path, args: tuple[str, ...] = ()
) -> LaunchScript:
    """`path` as it will be run in `folder` with `environ` and `args`; `shown` is what messages call it."""
    script = LaunchScript()
    try:
        text = _text(path)
    except ValueError as error:
        script.problems.append(Problem(("script",), Place(shown, 0), str(error)))
        return script
    script.argv = (_bash(environ, shown, script), str(path), *args)
    script.digests[str(path)] = sha256(text.encode()).hexdigest()
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
    others = {name: found for name, found in walk.sourced.items() if not _writes(text, name)}
    script.digests |= {name: sha256(found.encode()).hexdigest() for name, found in others.items()}
    script.remarks = tuple(remarks(text, walk, launches(walk.runs), shown))
    return script


def _writes(text: str, path: str) -> bool:
    """Whether a script seems to make that file anew each time."""
    name = re.escape(os.path.basename(path))
    return re.search(rf"(?:>|\b(?:tee|cp|mv|ln|install|sed)\b)[^\n;|]*{name}", text) is not None


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
    state.arguments = list(script.argv[2:])
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
        self._candidates = launches(runs)
        self._run = self._candidates[-1] if self._candidates else None
        self._stranger = next(filter(None, map(_other_engine, runs)), "")
        self._variables = self._run.variables if self._run is not None else variables
        self._top = top

    def gather(self) -> None:
        """Problems only where nothing has made the script unusable before."""
        script, run = self._script, self._run
        broken = bool(script.problems)
        if run is not None:
            script.launch, script.program = run.place, _interpreter(run)
            self._flags(run)
        uses = [*map(_gpu_use, self._candidates), *self._maybe_several()]
        uses = uses or [GpuUse(self._top, why="where it starts its server cannot be seen")]
        broken_off = next(iter(script.problems), None)
        script.gpu_uses = uses if broken_off is None else [GpuUse(broken_off.place, why=broken_off.text)]
        found = [*self._served_names(), *self._port(), *self._host(), *self._keys(), *self._one_server()]
        if not broken:
            script.problems += found

    def _flags(self, run: Run) -> None:
        script, words = self._script, run.arguments
        script.memory_saver = self._have("--enable-memory-saver")
        script.cpu_backup = self._have("--enable-weights-cpu-backup")
        script.telling_flags = tuple(name for name in sorted(TELLING_FLAGS) if flag(words, name) is not None)
        hidden = any(_hidden(run)) or flag(words, "--config") is not None
        script.all_flags_seen = _server_at(run) is not None and not hidden

    def _have(self, name: str) -> bool:
        """Whichever of the commands is the server's."""
        return all(flag(run.arguments, name) is not None for run in self._candidates)

    def _maybe_several(self) -> Iterator[GpuUse]:
        """Servers beside each other, which their ports would tell apart, if these were known."""
        hidden = [run for run in self._candidates if isinstance(flag(run.arguments, *PORT_FLAGS), Unknown)]
        doubtful = [run for run in self._candidates if run.repeated and (run.background or run in hidden)]
        if doubtful or (hidden and len(self._candidates) > 1):
            why = "whether it starts one server or several is known only when it runs"
            yield GpuUse((doubtful or hidden)[0].place, why=why)

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
            value = next(_hidden(self._run), None)
        return (value, self._run.place) if value is not None else None

    def _served_names(self) -> Iterator[Problem]:
        named = self._assigned("MODEL_NAME")
        if named is None or isinstance(named[0], Unknown):
            named = self._positional() or self._flag(*MODEL_FLAGS) or named
        if named is None:
            missing = "no model: it neither sets MODEL_NAME nor starts a server with --model-path; "
            advice = (
                f"{self._stranger} is not SGLang, which muxd runs" if self._stranger else "add a line MODEL_NAME=NAME"
            )
            yield Problem(("served_names",), self._where, missing + advice)
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

    def _positional(self) -> tuple[Value, Place] | None:
        """`sglang serve MODEL`."""
        place = _server_at(self._run) if self._run is not None else None
        if self._run is None or place is None:
            return None
        before, word, *_ = (*self._run.arguments[place + 1 :], "", "")
        model = before == "serve" and isinstance(word, str) and word and not word.startswith("-")
        return (word, self._run.place) if model else None

    @property
    def _where(self) -> Place:
        return self._run.place if self._run is not None else self._top

    def _port(self) -> Iterator[Problem]:
        assigned, given = self._assigned("PORT"), self._listens()
        chosen = given if assigned is None or isinstance(assigned[0], Unknown) else assigned
        chosen = chosen or assigned
        if chosen is None:
            missing = "no port: it neither sets PORT nor starts a server with --port; "
            yield Problem(("port",), self._where, missing + "add a line PORT=NUMBER")
        elif isinstance(chosen[0], Unknown):
            yield Problem(("port",), chosen[0].place, f"the port: {chosen[0].why}; {ELSEWHERE.format('port')}")
        elif not _is_port(chosen[0]):
            yield Problem(("port",), chosen[1], f'"{chosen[0]}" is not a port; write a number from 1 to 65535')
        elif assigned is not None and given is not None and isinstance(given[0], str) and chosen[0] != given[0]:
            text = f"PORT is {chosen[0]} (line {chosen[1].line}), but {self._how(given[0])}; make them one"
            yield Problem(("port",), given[1], text)
        else:
            self._script.port = Fact(chosen[0], chosen[1])

    def _how(self, port: str) -> str:
        if self._contained:
            return f"its container is reached at {port}"
        named = self._flag(*PORT_FLAGS) is not None
        return f"the server is started with{f' --port {port}' if named else f'out --port, and takes {port}'}"

    @property
    def _contained(self) -> bool:
        return self._run is not None and Start(_before_server(self._run), {}, inherited=False).container is not None

    def _listens(self) -> tuple[Value, Place] | None:
        """Where the server is reached; None where that is for PORT to say."""
        given, run = self._flag(*PORT_FLAGS), self._run
        if run is None or _server_at(run) is None or flag(run.arguments, "--config") is not None:
            inside = given
        else:
            inside = given or (DEFAULT_PORT, run.place)
        if run is None or inside is None or not self._contained or isinstance(inside[0], Unknown):
            return inside
        try:
            outside = published(_before_server(run), inside[0])
        except CannotTell as error:
            outside = Unknown(str(error), run.place)
        missing = Unknown(f"the container does not publish its port {inside[0]} (-p NUMBER:{inside[0]})", run.place)
        return (outside or missing, run.place)

    def _host(self) -> Iterator[Problem]:
        """In a container it has addresses of its own."""
        given = self._flag("--host")
        if given is None or self._contained or not isinstance(given[0], str) or given[0] in REACHED:
            return
        with suppress(ValueError):
            ip_address(given[0])
            text = f"its server listens on {given[0]} alone, and muxd asks on 127.0.0.1; write --host 127.0.0.1"
            yield Problem(("script", "--host"), given[1], text)

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


def launches(runs: list[Run]) -> list[Run]:
    """The commands that start the server: SGLang's own, else whatever is given a model's path or a port."""
    runs = [run for run in runs if not {"--help", "-h"} & set(run.arguments)]
    own = [run for run in runs if _server_at(run) is not None]
    others = [run for run in runs if not _other_engine(run)]
    return own or [run for run in others if flag(run.arguments, *MODEL_FLAGS, *PORT_FLAGS) is not None]


def _server_at(run: Run) -> int | None:
    """Where among the arguments SGLang's server begins; others may only name it, as pkill does."""
    names = [os.path.basename(word) if isinstance(word, str) else "" for word in run.arguments]
    for place, (name, following) in enumerate(zip(names, [*names[1:], ""], strict=True)):
        if (name, following) in (("-m", "sglang.launch_server"), ("sglang", "serve")) or name == "launch_server.py":
            return place
    return None


def _gpu_use(run: Run) -> GpuUse:
    variable = run.variables.get(VARIABLE)
    environment = {**({VARIABLE: run.unseen} if run.unseen is not None else {}), **run.environment}
    start = Start(_before_server(run), environment, inherited=variable is None or variable.place is None)
    why = ""
    try:
        needs = _needs(run)
    except CannotTell as error:
        needs, why = None, str(error)
    except ValueError as error:
        needs, why = None, f"{error}"
    return _seen(start, run.place, needs, why)


def _needs(run: Run) -> Parallel:
    """Raises CannotTell, ValueError."""
    if _server_at(run) is None and not _is_router(run):
        raise CannotTell(f"how many {_program(run) or 'its server'} uses is known only when it runs")
    look_up = _look_up(run)
    if look_up(("--num-gpus",)) is not None:  # of servers of images
        raise CannotTell("--num-gpus is not followed")
    return parallel(look_up)


def _is_router(run: Run) -> bool:
    """Which starts SGLang's servers with their flags."""
    return ("-m", "sglang_router.launch_server") in pairwise(run.arguments)


def _seen(start: Start, place: Place, needs: Parallel | None, why: str) -> GpuUse:
    try:
        visible, given = start.visible()
    except CannotTell as error:
        return GpuUse(place, why=str(error))
    contained = start.container is not None
    return GpuUse(place, visible, given, needs, why if visible is None or contained else "", contained)


def _before_server(run: Run) -> tuple[Value, ...]:
    """Who starts the server; of one that is not known by its name, what comes before its flags."""
    end = _server_at(run)
    if end is None:
        ends = (n for n, word in enumerate(run.arguments) if flag((word, ""), *MODEL_FLAGS, *PORT_FLAGS) is not None)
        end = next(ends, len(run.arguments))
    return run.arguments[:end]


def _look_up(run: Run) -> Callable[[Sequence[str]], str | None]:
    """Raises CannotTell where the flag may be there and is not seen."""

    def look_up(names: Sequence[str]) -> str | None:
        value = flag(run.arguments, *names)
        if value is None:
            value = next(_hidden(run), None)
        if isinstance(value, Unknown):
            raise CannotTell(value.why)
        if value is None and flag(run.arguments, "--config") is not None:
            raise CannotTell("what its --config file says is not read")
        return value

    return look_up


def _interpreter(run: Run) -> str:
    """ "" where the command names none, or runs it in a container, whose files are not those of this machine."""
    words = [word for word in run.arguments if isinstance(word, str)]
    names = [os.path.basename(word) for word in words]
    if set(names) & {*CONTAINERS, "singularity", "apptainer", "ssh", "srun"}:
        return ""
    return next((word for word, name in zip(words, names, strict=True) if _INTERPRETER.fullmatch(name)), "")


def _other_engine(run: Run) -> str:
    """The engine of another kind that the command starts: `vllm serve`, `python -m vllm.entrypoints...`."""
    modules = [after for word, after in pairwise(run.arguments) if word == "-m" and isinstance(after, str)]
    names = [_program(run), *(module.partition(".")[0] for module in modules)]
    return next((name for name in names if name in OTHER_ENGINES), "")


def _program(run: Run) -> str:
    first = next((word for word in run.arguments if word not in ("sudo", "exec")), "")
    return os.path.basename(first) if isinstance(first, str) else ""


def _port_of(run: Run) -> Value | None:
    value = flag(run.arguments, *PORT_FLAGS)
    return None if isinstance(value, Unknown) else value


def flag(words: Iterable[Value], *names: str) -> Value | None:
    """The value of a flag, `--flag VALUE` or `--flag=VALUE`; of several the last, as argparse has it.

    Of one that has none it is whatever follows: that it is there.
    """
    found: Value | None = None
    expected = False
    for word in words:
        if expected:
            found, expected = word, False
        name, equals, value = (word.prefix if isinstance(word, Unknown) else word).partition("=")
        if not is_flag(name, names):
            continue
        if isinstance(word, Unknown):
            found = word if equals else found
        elif equals:
            found = value
        else:
            expected = True
    return "" if expected and found is None else found


def _hidden(run: Run) -> Iterator[Unknown]:
    """What may be flags of the server, and is not the value of one."""
    server, before = _server_at(run) or 0, ""
    for place, word in enumerate(run.arguments):
        expected = before.startswith("--") and "=" not in before and not _SWITCH.match(before)
        if isinstance(word, Unknown) and not expected and before != "serve":
            alone = place > server and (not word.prefix or word.prefix.startswith("-"))  # in quotes
            if word.many or alone:
                yield word
        before = word if isinstance(word, str) else ""


def _is_port(text: str) -> bool:
    return re.fullmatch("[0-9]{1,5}", text) is not None and 0 < int(text) <= 65535
