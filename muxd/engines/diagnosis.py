"""Why a server did not start, died, or would not sleep or wake: what is true of any engine.

Pure functions over the end of the server's log, how its process ended, and the answers of its API.  What one engine
alone writes and answers is in its own package; `Engine.diagnose` joins both.
"""

import errno
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from shutil import which
from signal import SIGKILL

from msgspec import Struct

from muxd.config.model_schema import Model
from muxd.errors import (
    AccessDenied,
    DiskFull,
    EngineError,
    EngineLocked,
    EngineMissing,
    EngineTooOld,
    OutOfGpuMemory,
    OutOfHostMemory,
    ScriptChanged,
    ScriptEnded,
    ScriptUnusable,
    StartTimeout,
    WokeWrong,
    WrongGpus,
    WrongPort,
)
from muxd.ports import FREE_IT, PortTaken

from .log_patterns import LogPattern

#: Characters of an engine's own text that a message quotes.
QUOTE = 200

#: Characters of an engine's own text that are looked at to make a quotation.
LONGEST_QUOTED = 1 << 14

#: An error in this many last lines of the log counts as the cause of death.
LAST_LINES = 12


class Diagnosis(Struct, frozen=True):
    """What happened and what to do next; `refused`: another start is no use before somebody has followed `remedy`."""

    code: str  # of an error in muxd.errors
    message: str
    remedy: str
    refused: bool = False

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


_LAST_ERROR = re.compile(r"(?:\[rank\d+\]: ?)?[\w.]*(?:Error|Exception): .+")
_SECRETS = re.compile(r"\b(?:muxd-[0-9a-f]{32}|hf_\w+)")


class Evidence(Struct, frozen=True):
    """What is known of a server that ended, or will never be ready."""

    said: str  # the end of its log
    doing: str | None = None  # what the server did since it was first ready, such as "served"; None: never ready
    is_alive: bool = False  # it still runs, and loads
    timed_out: bool = False  # muxd ended it, for it was not ready in time
    broken_call: str = ""  # the verb of the call at whose connection it ended
    signal: int | None = None
    status: int | None = None
    oom_kills: int | None = None  # the kernel's kills for want of memory during its life; None: not known

    @property
    def was_killed(self) -> bool:
        """Return whether SIGKILL ended the process, or the program that its launch script waited for."""
        return self.signal == SIGKILL or self.status == 128 + SIGKILL


def of_log(
    evidence: Evidence,
    patterns: Sequence[LogPattern],
    model: Model,
    words: Mapping[str, str],
    phases: Sequence[tuple[str, str]] = (),
) -> Diagnosis | None:
    """Return what the end of a log tells of the end of its process; None where none of `patterns` matches.

    `words`: an engine's own words, for the templates of patterns.  `phases`: lines that begin a phase of its start,
    each with the verb for that phase.  A server that has been ready is never `refused`: another start can help.
    """
    said = evidence.said
    matches = [(match.start(), -place, match) for place, each in enumerate(patterns) if (match := each.find(said))]
    if not matches:
        return None
    _, place, match = max(matches, key=lambda each: each[:2])
    pattern = patterns[-place]
    fields = {**words, **_message_fields(match, model), "phase": evidence.doing or _phase(said, phases)}
    message = pattern.message.format_map(fields)
    remedy = pattern.remedy.format_map(fields)
    return Diagnosis(pattern.error.code, message, remedy, pattern.refused and evidence.doing is None)


def of_end(evidence: Evidence, *, was_killed: bool) -> Diagnosis | None:
    """Return why a process ended whose log matches no pattern; None where nothing tells.

    `was_killed`: whether SIGKILL ended it or a part of it.
    """
    if was_killed and evidence.oom_kills:
        return _HOST_MEMORY
    last_error = _of_last_error(evidence.said)
    return last_error or (_HOST_MEMORY if was_killed and evidence.oom_kills is None else None)


_HOST_MEMORY = Diagnosis(
    OutOfHostMemory.code,
    "it was killed by SIGKILL, which muxd did not send: probably by the kernel, for want of host memory",
    "see `dmesg`, and free host memory: sleep_level = 2 instead of 1 keeps no weights there",
)


def _of_last_error(said: str) -> Diagnosis | None:
    """Quote the last line of the log that names an exception, if it is among the last LAST_LINES."""
    for line in reversed(said.splitlines()[-LAST_LINES:]):
        if _LAST_ERROR.match(line):
            return Diagnosis(EngineError.code, f"the engine failed: {quote(line)}", "see its log")
    return None


def of_answer(call: str, status: int, *, remedy: str = "update it, or use sleep_level = 3") -> Diagnosis | None:
    """Return why an engine answered a call with an error status; None where the status does not tell.

    `remedy`: what to do about an engine that does not know the call.
    """
    if status in (404, 405):
        return Diagnosis(EngineTooOld.code, f"this engine knows no {call}: it is too old to sleep", remedy)
    if status in (401, 403):
        message = f"the engine did not take muxd's key for {call}"
        return Diagnosis(
            EngineLocked.code, message, "take --api-key and --admin-api-key out of its args or launch script"
        )
    return None


def are_parts(names: Sequence[str], parts: tuple[str, ...]) -> bool:
    """Say whether there are processes, and the names of all begin as those of a server's `parts`."""
    return bool(names) and all(name.startswith(parts) for name in names)


def of_missing_memory(missing: str) -> Diagnosis:
    """Return that the GPU had no room even before the engine was called; `missing` holds the remedy as well."""
    return Diagnosis(OutOfGpuMemory.code, missing, "")


def of_wrong_wake(difference: str) -> Diagnosis:
    """Return that a server answers otherwise than when it was loaded; `difference` says how."""
    message = f"it does not answer as when it was loaded: {difference}"
    return Diagnosis(WokeWrong.code, message, "it is loaded anew")


def of_ended_script(said: str, left: Sequence[str], doing: str | None) -> Diagnosis | None:
    """Return why a launch script that ended with status 0 kept no server; None where its log has to tell.

    `said`: the end of the log.  `left`: names of the programs that outlived the script.  `doing`: as for of_log.
    """
    refused = doing is None
    if left:
        message = f"its launch script ended while {_listed(left)} still ran in the background, which muxd then ended"
        return Diagnosis(ScriptEnded.code, message, _FOREGROUND, refused)
    if not refused:
        return None
    if container_id := _CONTAINER.search(said):
        container = container_id[0][:12]
        message = f"its launch script left container {container} running on its own (docker run -d)"
        remedy = (
            f"run it without -d (--detach), so that muxd can follow and end it; end this one: docker stop {container}"
        )
        return Diagnosis(ScriptEnded.code, message, remedy, refused=True)
    message = "its launch script ended with status 0, and left no server"
    return Diagnosis(ScriptEnded.code, message, _FOREGROUND, refused=True)


_FOREGROUND = (
    "its last command must be the server, and wait for it: no &, nohup, setsid or disown, no tmux or sbatch, or `wait` "
    "as the last line"
)
_CONTAINER = re.compile(r"^[0-9a-f]{64}$", re.MULTILINE)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]


def of_changed_script(path: str) -> Diagnosis:
    """Return the refusal to start a launch script whose text is no longer the one that muxd read."""
    message = f"{path} was changed after muxd read it, and may say another port or other GPUs"
    return Diagnosis(ScriptChanged.code, message, "take it over with `muxctl reload`", refused=True)


def of_taken_port(message: str) -> Diagnosis:
    """Return that another process listens on the worker's port; `message` names that process."""
    return Diagnosis(PortTaken.code, message, FREE_IT)


def of_wrong_port(found: int, wanted: int) -> Diagnosis:
    """Return that the server listens on port `found` while muxd probes port `wanted`."""
    message = f"its server listens on port {found}, and muxd waits for it on port {wanted}"
    remedy = f"write port = {found} into the model's table, or correct its launch script or args"
    return Diagnosis(WrongPort.code, message, remedy, refused=True)


def of_two_servers(ports: Sequence[int]) -> Diagnosis:
    """Return that a launch script runs several servers, on these ports, at the same time."""
    listed = " and ".join(map(str, ports))
    message = f"its launch script runs {len(ports)} servers at a time, on ports {listed}"
    return Diagnosis(ScriptUnusable.code, message, "muxd runs one server with each script: split it", refused=True)


def of_stranger(program: str, engine: str, route: str) -> Diagnosis:
    """Return that a launch script starts a server of another engine than `engine`.

    `program`: the name of who listens, or "".  `route`: what every server of the engine knows, and this one does not.
    """
    message = f"its launch script starts {program or 'a server'}, which is not {engine}: it knows no {route}"
    return Diagnosis(ScriptUnusable.code, message, f"muxd runs {engine} servers: correct the script", refused=True)


def of_no_server(seconds: float, ports: Collection[int]) -> Diagnosis:
    """Return that a launch script started no server within its start_timeout, or listens on several `ports`."""
    if len(ports) > 1:
        message = f"the processes of its launch script listen on ports {', '.join(map(str, sorted(ports)))}"
        return Diagnosis(ScriptUnusable.code, message, "write the server's as port = N into the model's table")
    message = f"its launch script has run for {seconds:g} s, and started no server that listens"
    return Diagnosis(ScriptUnusable.code, message, "see in its log what it does, or raise start_timeout")


def of_wrong_gpus(used: Sequence[str], granted: Sequence[str]) -> Diagnosis:
    """Return that a script's server uses GPUs that were not set aside for its model (`granted`)."""
    listed, had = (", ".join(gpus) for gpus in (used, granted))
    message = (
        f"its server uses GPU {listed}, and GPU {had} was set aside for it: it is ended before another model is hurt"
    )
    return Diagnosis(
        WrongGpus.code, message, f"from now on GPU {listed} is set aside for it; correct gpus, or the script"
    )


def of_opened_gate(port: int) -> Diagnosis:
    """Return that a server, which waited at its gate at this port, has gone on without muxd's word."""
    message = f"it loaded before it was wanted: somebody else than muxd has opened its gate, port {port}"
    return Diagnosis(EngineError.code, message, "it is ended; find out who calls ports of this host")


def of_start_timeout(seconds: float) -> Diagnosis:
    """Return that a server was not ready within its start_timeout, in seconds."""
    message = f"did not become ready in {seconds:g} s"
    return Diagnosis(StartTimeout.code, message, "see in its log what it waits for, or raise start_timeout")


def of_failed_exec(number: int | None, message: str) -> Diagnosis | None:
    """Return what the system refused before the engine ran (its program, a file, a folder), by errno; None: unknown."""
    for numbers, code, remedy in _ERRNOS:
        if number in numbers:
            return Diagnosis(code, message, remedy)
    return None


_CORRECT_PROGRAM = "correct the model's `python`, `command`, launch script or `cwd`"
_ERRNOS = (
    ((errno.ENOENT, errno.ENOTDIR), EngineMissing.code, _CORRECT_PROGRAM),
    ((errno.ENOEXEC,), EngineMissing.code, "it is no program; a launch script begins with a line like #!/bin/bash"),
    ((errno.EACCES, errno.EPERM), AccessDenied.code, "give muxd's user the right to it (chmod +x for a script)"),
    ((errno.ENOSPC, errno.EDQUOT), DiskFull.code, "free some room there"),
    ((errno.ENOMEM,), OutOfHostMemory.code, "free host memory"),
)


def _message_fields(match: re.Match[str], model: Model) -> dict[str, str]:
    """Return the fields that a sign's message and remedy may name in braces."""
    fields = {name: quote(text or "") for name, text in match.groupdict().items()}
    fields["path"] = fields.get("path") or "one of its files"
    fields["flags"] = " ".join(_flags(match.groupdict().get("args") or ""))
    fields["model"] = model.model_path or "the model"
    fields["python"] = _python(model)
    if "gpu" in fields:
        fields["gpu"] = _physical_gpu(int(fields["gpu"]), model)
    if version := fields.get("found"):  # CUDA's version as one number: 12080 is 12.8
        fields["cuda"] = f"{int(version) // 1000}.{int(version) % 1000 // 10}"
    return fields


def _python(model: Model) -> str:
    if model.script is not None:
        return f"{model.script.program or 'the Python'}, which its launch script calls"
    python = model.engine_options.python
    return which(python, path=model.env.get("PATH")) or python


def _flags(args: str) -> Iterator[str]:
    """Yield the flags that argparse did not know, without their values, which can be secret."""
    words = args.split()
    flags = [word.partition("=")[0] for word in words if word.startswith("-")]
    yield from flags or words[:1]


def _phase(said: str, phases: Sequence[tuple[str, str]]) -> str:
    """Return the phase of its start that the server reached last, by its log."""
    reached = [(said.rfind(mark), doing) for mark, doing in phases if mark in said]
    return max(reached)[1] if reached else "started"


def _physical_gpu(visible: int, model: Model) -> str:
    """Return the host's number of a GPU from a process's own, which counts only the GPUs that it sees."""
    return model.gpus[visible] if visible < len(model.gpus) else f"{visible} of those it sees"


def quote(text: str) -> str:
    """Return `text` as one line of printable characters, at most QUOTE of them, without muxd's keys or HF tokens."""
    words = _SECRETS.sub("[secret]", text[:LONGEST_QUOTED]).split()
    line = "".join(c if c.isprintable() else "?" for c in " ".join(words))
    line = line.rstrip(".")
    return line if len(line) <= QUOTE else line[:QUOTE] + "..."
