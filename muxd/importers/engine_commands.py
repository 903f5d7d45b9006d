"""Command lines as other programs' configurations have them: split into words, and what they plainly start."""

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from muxd.config.command_lines import CONTAINERS
from muxd.config.devices import VARIABLE
from muxd.config.flags import flag_of, parallel
from muxd.config.readers import Base, weights

from .owned_flags import without_owned
from .programs import interpreter_of

_PYTHON = re.compile(r"python[0-9.]*")
_VLLM_MODULE = "vllm.entrypoints.openai.api_server"
_SGLANG_MODULE = "sglang.launch_server"

#: Flags by which llama.cpp's server is told which GPUs it uses, of those that it sees.
_DEVICE, _SPLIT, _MAIN = ("--device", "-dev"), ("--tensor-split", "-ts"), ("--main-gpu", "-mg")

#: Options of a container that give it all GPUs.
_ALL_GPUS = re.compile(r"--gpus(=.*)?|.*\bnvidia\.com/gpu=all|.*\bNVIDIA_VISIBLE_DEVICES=all")

#: Flags that say a port.
_PORT_FLAGS = ("--port", "--listen-port", "--http-port")
_PUBLISH_FLAGS = ("-p", "--publish")


@dataclass(frozen=True, slots=True)
class EngineCommand:
    """A command line that starts vLLM or SGLang and does nothing else."""

    engine: str
    python: str  # the interpreter; "": whatever python3 is
    model_path: str
    args: tuple[str, ...]
    names: tuple[str, ...]  # what it is asked for, where the command says it
    left_out: tuple[str, ...]  # flags that muxd gives itself


def words_of(command: str) -> list[str]:
    """Return the words of a command as llama-swap splits it: lines that begin with "#" are left out, as in a shell.

    Raise ValueError for a quotation mark without its end, or where no word is left.
    """
    lines = (line for line in command.split("\n") if not line.lstrip().startswith("#"))
    text = "\n".join(f"{line.rstrip()[:-1]} " if line.rstrip().endswith("\\") else line for line in lines)
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"cannot be split into words: {error}; close the quotation mark") from None
    if not words:
        raise ValueError("is empty; write the command that starts the server")
    return words


def gpus_by_env(words: Sequence[str]) -> tuple[list[str], str | None]:
    """Return a command without the GPUs that its own `env` lets it see, and these as said; None where it says none."""
    if os.path.basename(words[0]) != "env":
        return list(words), None
    variables = list(takewhile(lambda word: "=" in word and not word.startswith("-"), words[1:]))
    said = [word for word in variables if word.startswith(f"{VARIABLE}=")]
    rest = words[1 + len(variables) :]
    if not said or not rest:
        return list(words), None
    others = [word for word in variables if word not in said]
    return [*([words[0], *others] if others else []), *rest], said[-1].partition("=")[2]


def engine_command(words: Sequence[str], base: Base) -> EngineCommand | None:
    """Return what a command line starts, where that is plainly vLLM or SGLang; None for any other."""
    program = os.path.basename(words[0])
    if program in ("vllm", "sglang") and words[1:2] == ["serve"]:
        engine, python, rest = program, interpreter_of(words[0], os.environ), list(words[2:])
    elif _PYTHON.fullmatch(program) and list(words[1:3]) in (["-m", _VLLM_MODULE], ["-m", _SGLANG_MODULE]):
        engine = "vllm" if words[2] == _VLLM_MODULE else "sglang"
        python, rest = words[0], list(words[3:])
    else:
        return None
    model = rest.pop(0) if rest and not rest[0].startswith("-") else ""
    if flag_of(rest)(("--config",)) is not None:
        return None
    args, owned = without_owned(rest)
    model = model or next((owned[flag][0] for flag in ("--model", "--model-path") if owned.get(flag)), "")
    try:
        weights(model, base)
    except ValueError:
        return None
    if any("{port}" in word for word in args):
        return None
    return EngineCommand(engine, python, model, tuple(args), tuple(owned.get("--served-model-name", ())), tuple(owned))


def gpus_of(words: Sequence[str]) -> int:
    """Return how many GPUs, from the first on, a server must see by flags of llama.cpp, vLLM or SGLang.

    Return 0 where they do not say.  Raise ValueError for more than a host can have.
    """
    look_up = flag_of(words)
    most = parallel(look_up).seen
    most = most if most > 1 else 0
    for name in (look_up(_DEVICE) or "").split(","):
        if match := re.fullmatch(r"CUDA(\d{1,2})", name):
            most = max(most, int(match[1]) + 1)
    split = re.split(r"[,/]", look_up(_SPLIT) or "")
    most = max(most, len(split) if len(split) > 1 else 0)
    main = look_up(_MAIN) or ""
    return max(most, int(main) + 1 if re.fullmatch(r"[1-9]\d?", main) else 0)


def in_container(words: Sequence[str]) -> bool:
    """Say whether a command starts a container."""
    return os.path.basename(words[0]) in CONTAINERS


def asks_for_gpus(words: Sequence[str]) -> bool:
    """Say whether a command that starts a container gives it GPUs."""
    return any(map(_ALL_GPUS.fullmatch, words))


def repeated_flag(words: Sequence[str]) -> str:
    """Return a flag for the port that stands in a command twice; "" where none does."""
    said = [word.partition("=")[0] for word in words if word.partition("=")[0] in _PORT_FLAGS]
    return next((flag for flag in said if said.count(flag) > 1), "")


def with_placeholder(words: Sequence[str], port: int) -> list[str] | None:
    """Return a command in which {port} stands wherever it is told this port; None where it is not plainly told it."""
    found = list(words)
    for place, (word, before) in enumerate(zip(words, ["", *words], strict=False)):
        flag, equals, value = word.partition("=")
        if before in _PORT_FLAGS and word == str(port):
            found[place] = "{port}"
        elif equals and flag in _PORT_FLAGS and value == str(port):
            found[place] = f"{flag}={{port}}"
        elif before in _PUBLISH_FLAGS and (match := re.fullmatch(rf"(.*:)?{port}(:\d+)", word)):
            found[place] = f"{match[1] or ''}{{port}}{match[2]}"
    return found if found != list(words) else None
