"""Why a server did not start, died, or would not sleep or wake: told from what it left behind.

Pure functions over the end of its log, how its process ended, and the answers of its API.
"""

import errno
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from shutil import which
from signal import SIGKILL

from muxd.config import Model
from muxd.errors import (
    AccessDenied,
    DiskFull,
    EngineError,
    EngineLocked,
    EngineMissing,
    EngineTooOld,
    MemoryNotReleased,
    OutOfGpuMemory,
    OutOfHostMemory,
    ReloadRefused,
    ScriptChanged,
    ScriptEnded,
    ScriptUnusable,
    StartTimeout,
    WrongGpus,
    WrongPort,
)
from muxd.ports import FREE_IT, PortTaken

from .log_patterns import OTHER_LEVEL, SIGNS

#: So much of what an engine says is quoted.
QUOTE = 200

#: And no more than that of it is looked at.
LONGEST_QUOTED = 1 << 14

#: An error in so many last lines of the log is what it died of.
LAST_LINES = 12


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What happened and what to do next; `refused`: trying again is no use before somebody has done it."""

    code: str  # of an error in muxd.errors
    message: str
    remedy: str
    refused: bool = False

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


#: The kernel sent SIGKILL to a part of the engine, as the engine saw it.
_KILLED = re.compile(r"scheduler died during initialization \(exit code: -9\)|crashed with exit code -9\b")
_LAST_ERROR = re.compile(r"(?:\[rank\d+\]: ?)?[\w.]*(?:Error|Exception): .+")
_SECRETS = re.compile(r"\b(?:muxd-[0-9a-f]{32}|hf_\w+)")

#: What the engine has written by the time it goes on to another part of its start.
_PHASES = (
    ("Load weight begin", "loaded its weights"),
    ("Load weight end", "made its KV cache"),
    ("Memory pool end", "captured CUDA graphs"),
    ("The server is fired up", "served"),
)


def of_log(said: str, model: Model, doing: str | None = None) -> Diagnosis | None:
    """What the end of a log tells of the end of its process.

    `doing`: what the engine did since it was once ready, as "served"; None before.  What has been ready was
    not refused: another try can be of use.
    """
    found = [(match.start(), -place, match) for place, sign in enumerate(SIGNS) if (match := sign.find(said))]
    if not found:
        return None
    _, place, match = max(found, key=lambda each: each[:2])
    sign = SIGNS[-place]
    words = _words(match, model) | {"phase": doing or _phase(said)}
    message, remedy = sign.message.format_map(words), sign.remedy.format_map(words)
    return Diagnosis(sign.error.code, message, remedy, sign.refused and doing is None)


def of_living(said: str, model: Model) -> Diagnosis | None:
    """Why a server that still runs will never be ready.

    One whose port was taken meanwhile goes on asking whoever has it how it is: 150 s were not enough for 0.5.23
    to give up, whether that one answered 404 or nothing.
    """
    return of_log(said, model) if _NEVER_READY in said else None


_NEVER_READY = "error while attempting to bind on address"


@dataclass(frozen=True, slots=True)
class ProcessEnd:
    """How a process ended that nobody had asked to end, and what is known besides."""

    said: str  # the end of its log
    signal: int | None = None
    status: int | None = None
    oom_kills: int | None = None  # how often the kernel has killed for want of memory meanwhile; None: not known
    doing: str | None = None  # as for of_log

    @property
    def was_killed(self) -> bool:
        """By SIGKILL: itself, what its launch script waited for, or its scheduler."""
        killed = self.signal == SIGKILL or self.status == 128 + SIGKILL
        return killed or _KILLED.search(self.said) is not None


def of_end(ending: ProcessEnd, model: Model) -> Diagnosis | None:
    """SGLang's launcher sends SIGKILL to itself when its scheduler has failed: the log counts first."""
    known = of_log(ending.said, model, ending.doing)
    if known is not None or (ending.was_killed and ending.oom_kills):
        return known or _HOST_MEMORY
    last_error = _of_last_error(ending.said)
    return last_error or (_HOST_MEMORY if ending.was_killed and ending.oom_kills is None else None)


_HOST_MEMORY = Diagnosis(
    OutOfHostMemory.code,
    "it was killed by SIGKILL, which muxd did not send: probably by the kernel, for want of host memory",
    "see `dmesg`, and free host memory: sleep_level = 2 instead of 1 keeps no weights there",
)


def _of_last_error(said: str) -> Diagnosis | None:
    """Quote what the log ends with."""
    for line in reversed(said.splitlines()[-LAST_LINES:]):
        if _LAST_ERROR.match(line):
            return Diagnosis(EngineError.code, f"the engine failed: {quote(line)}", "see its log")
    return None


def of_answer(call: str, status: int, body: str) -> Diagnosis | None:
    """What a refused engine call tells."""
    if status in (404, 405):
        return Diagnosis(EngineTooOld.code, f"this engine knows no {call}: it is too old to sleep", OTHER_LEVEL)
    if status in (401, 403):
        message = f"the engine did not take muxd's key for {call}"
        return Diagnosis(
            EngineLocked.code, message, "take --api-key and --admin-api-key out of its args or launch script"
        )
    if call == "reload" and (said := _refusal(body)) is not None:
        return Diagnosis(ReloadRefused.code, f"the engine could not reload its weights: {quote(said)}", _NO_RELOAD)
    return None


def of_broken_call(call: str) -> Diagnosis | None:
    """What a call tells that the engine died of, or seems to have."""
    if call == "reload":
        return Diagnosis(ReloadRefused.code, "the engine died of reloading its weights", _NO_RELOAD)
    return None


_NO_RELOAD = "quantised checkpoints often cannot be reloaded: use sleep_level = 1 or 3"


def of_kept_memory(over: str, *, has_saver: bool | None) -> Diagnosis:
    """Its memory did not come back though it said that it sleeps; `over` says how much, `has_saver` what it says."""
    if has_saver is False:
        message = f"its sleep gives nothing up, for it was started without --enable-memory-saver: {over}"
        return Diagnosis(EngineTooOld.code, message, "add that flag to its launch script, or use sleep_level = 3")
    return Diagnosis(MemoryNotReleased.code, over, "raise gpu_release_timeout, or use sleep_level = 3")


def of_missing_memory(missing: str) -> Diagnosis:
    """The GPU had no room even before the engine was asked for anything; `missing` says what to do, too."""
    return Diagnosis(OutOfGpuMemory.code, missing, "")


def of_ended_script(said: str, left: Sequence[str], doing: str | None) -> Diagnosis | None:
    """What a launch script means that ended with status 0, and did not say why; `left`: programs that outlived it."""
    refused = doing is None
    if left:
        message = f"its launch script ended while {_listed(left)} still ran in the background, which muxd then ended"
        return Diagnosis(ScriptEnded.code, message, _FOREGROUND, refused)
    if not refused:
        return None
    if found := _CONTAINER.search(said):
        container = found[0][:12]
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

#: What an SGLang that crashed leaves for a moment: its schedulers and their like, not a server.
_PARTS = ("sglang::", "sim::")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]


def is_crash(left: Sequence[str]) -> bool:
    """The server itself was gone before the script, as below `| tee`."""
    return bool(left) and all(name.startswith(_PARTS) for name in left)


def of_changed_script(path: str) -> Diagnosis:
    message = f"{path} was changed after muxd read it, and may say another port or other GPUs"
    return Diagnosis(ScriptChanged.code, message, "take it over with `muxctl reload`", refused=True)


def of_taken_port(message: str) -> Diagnosis:
    return Diagnosis(PortTaken.code, message, FREE_IT)


def of_wrong_port(found: int, wanted: int) -> Diagnosis:
    message = f"its server listens on port {found}, and muxd waits for it on port {wanted}"
    remedy = f"write port = {found} into the model's table, or correct its launch script or args"
    return Diagnosis(WrongPort.code, message, remedy, refused=True)


def of_two_servers(ports: Sequence[int]) -> Diagnosis:
    listed = " and ".join(map(str, ports))
    message = f"its launch script runs {len(ports)} servers at a time, on ports {listed}"
    return Diagnosis(ScriptUnusable.code, message, "muxd runs one server with each script: split it", refused=True)


def of_stranger(program: str) -> Diagnosis:
    """`program`: what answers at its port, by its name."""
    message = f"its launch script starts {program or 'a server'}, which is not SGLang: it knows no /server_info"
    return Diagnosis(ScriptUnusable.code, message, "muxd runs SGLang servers: correct the script", refused=True)


def of_no_server(seconds: float) -> Diagnosis:
    message = f"its launch script has run for {seconds:g} s, and started no server that listens"
    return Diagnosis(ScriptUnusable.code, message, "see in its log what it does, or raise start_timeout")


def of_wrong_gpus(used: Sequence[int], granted: Sequence[int]) -> Diagnosis:
    listed, had = (", ".join(map(str, gpus)) for gpus in (used, granted))
    message = (
        f"its server uses GPU {listed}, and GPU {had} was set aside for it: it is ended before another model is hurt"
    )
    return Diagnosis(
        WrongGpus.code, message, f"from now on GPU {listed} is set aside for it; correct gpus, or the script"
    )


def of_start_timeout(seconds: float) -> Diagnosis:
    message = f"did not become ready in {seconds:g} s"
    return Diagnosis(StartTimeout.code, message, "see in its log what it waits for, or raise start_timeout")


def of_failed_exec(number: int | None, message: str) -> Diagnosis | None:
    """What the system refused before the engine ran: its program, a file, a folder."""
    for numbers, code, remedy in _ERRNOS:
        if number in numbers:
            return Diagnosis(code, message, remedy)
    return None


_ERRNOS = (
    ((errno.ENOENT, errno.ENOTDIR), EngineMissing.code, "correct the model's `python`, launch script or `cwd`"),
    ((errno.ENOEXEC,), EngineMissing.code, "it is no program; a launch script begins with a line like #!/bin/bash"),
    ((errno.EACCES, errno.EPERM), AccessDenied.code, "give muxd's user the right to it (chmod +x for a script)"),
    ((errno.ENOSPC, errno.EDQUOT), DiskFull.code, "free some room there"),
    ((errno.ENOMEM,), OutOfHostMemory.code, "free host memory"),
)


def _refusal(body: str) -> str | None:
    """SGLang's own words in the answer of a reload that it did not carry out."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(answer, dict) or answer.get("success") is not False:
        return None
    said = answer.get("message")
    return said if isinstance(said, str) and said else "it does not say why"


def _words(match: re.Match[str], model: Model) -> dict[str, str]:
    """What a sign's words may name."""
    words = {name: quote(text or "") for name, text in match.groupdict().items()}
    words["path"] = words.get("path") or "one of its files"
    words["flags"] = " ".join(_flags(match.groupdict().get("args") or ""))
    words["model"] = model.model_path or "the model"
    words["python"] = _python(model)
    if "gpu" in words:
        words["gpu"] = _physical(int(words["gpu"]), model)
    if found := words.get("found"):
        words["cuda"] = f"{int(found) // 1000}.{int(found) % 1000 // 10}"
    return words


def _python(model: Model) -> str:
    if model.script is not None:
        return "the Python of its launch script"
    return which(model.python, path=model.env.get("PATH")) or model.python


def _flags(args: str) -> Iterator[str]:
    """The flags in what argparse did not know, without their values: these can be secret."""
    words = args.split()
    flags = [word.partition("=")[0] for word in words if word.startswith("-")]
    yield from flags or words[:1]


def _phase(said: str) -> str:
    """What the engine did last, by its log."""
    reached = [(said.rfind(mark), doing) for mark, doing in _PHASES if mark in said]
    return max(reached)[1] if reached else "started"


def _physical(visible: int, model: Model) -> str:
    """A process counts only the GPUs that it sees."""
    return str(model.gpus[visible]) if visible < len(model.gpus) else f"{visible} of those it sees"


def quote(text: str) -> str:
    """One line of printable text without muxd's key in it, cut where it is long."""
    words = _SECRETS.sub("[secret]", text[:LONGEST_QUOTED]).split()
    line = "".join(c if c.isprintable() else "?" for c in " ".join(words))
    line = line.rstrip(".")
    return line if len(line) <= QUOTE else line[:QUOTE] + "..."
