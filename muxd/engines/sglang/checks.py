"""Checks of a model's keys for SGLang: what its command line would refuse, or take as something else."""

import re
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from muxd.config.engine_options import SGLangOptions
from muxd.config.findings import SHELL_VARIABLE, Finding
from muxd.config.flag_advice import OWNED_FLAGS, why_foreign
from muxd.config.flags import (
    DATA,
    DEVICE,
    FRACTION,
    NODES,
    PIPELINE,
    TENSOR,
    TooManyGpus,
    flag_of,
    owned_flag,
    parallel,
    why_no_value,
)
from muxd.config.half_options import HALVES
from muxd.config.model_schema import Model
from muxd.config.units import shown
from muxd.engines.engine_packages import Interpreter
from muxd.engines.kind import ArgFault, no_interpreter

from .gate import GATE_FLAG, has_gate

# A flag and its value, or several flags, in one element of `args`.  A value behind "=" may have blanks, as JSON has.
_JOINED = re.compile(r"--?[A-Za-z][\w-]*(\s|=[^\s{\[\"']*\s+--?[A-Za-z])")

# Characters that word processors put in the place of "--".
_DASHES = re.compile("^[\u2010-\u2015\u2212]+-?(?=[a-z])")


#: Flags that muxd sets for a server of one half, each with what the user does instead.
HALF_FLAGS = {
    "--disaggregation-mode": "leave it out: prefill and decode say it",
    "--disaggregation-bootstrap-port": "leave it out: each server that prefills has a port of its own",
}

#: Flags of a server that muxd cannot drive, each with why.
UNUSABLE_FLAGS = {
    "--grpc-mode": "muxd asks servers on HTTP",
    "--smg-grpc-mode": "muxd asks servers on HTTP",
    "--ssl-keyfile": "muxd speaks plain HTTP to servers, which listen on loopback only",
    "--ssl-certfile": "muxd speaks plain HTTP to servers, which listen on loopback only",
}


def findings(model: Model, environ: Mapping[str, str] | None) -> Iterator[Finding]:
    """Yield what is wrong with a model that SGLang runs; see `EngineKind.findings`."""
    yield from args_findings(model)
    if not model.model_path:
        yield ("model_path",), "missing; give a local directory or a Hub id such as Qwen/Qwen3-14B"
    options = model.engine_options
    if environ is None or not isinstance(options, SGLangOptions):
        return
    if not shutil.which(options.python, path=model.env.get("PATH", environ.get("PATH"))):
        yield ("python",), no_interpreter(options.python, "SGLang", "sglang")


def args_findings(model: Model) -> Iterator[Finding]:
    """Yield what is wrong with `args`, of the model and of its halves."""
    halves = {half: options for half in HALVES if (options := getattr(model, half)) is not None}
    given: dict[tuple[str, ...], Sequence[str]] = {("args",): model.args}
    given |= {(half, "args"): options.args for half, options in halves.items()}
    for path, args in given.items():
        yield from ((path, why) for why in _words_findings(args))
        flags = {arg.partition("=")[0] for arg in args} if halves else set()
        yield from ((path, f"{flag} is muxd's own; {HALF_FLAGS[flag]}") for flag in HALF_FLAGS if flag in flags)
    if why := _why_no_share(model.args):
        yield ("args",), why
    with suppress(ValueError):  # SGLang itself refuses numbers that are invalid
        try:
            needs, count = parallel(flag_of(model.args)), model.gpus_each
        except TooManyGpus as error:
            yield ("args",), f"{error}; correct args"
            return
        if model.gpus and needs.seen > max(1, count):
            names = f"gpus names {count}" + f" for each of {model.most_replicas} replicas" * (model.most_replicas > 1)
            text = f"the server needs {needs}, and {names}; name as many there, or correct args"
            yield ("args",), text


def _words_findings(args: Sequence[str]) -> Iterator[str]:
    """Yield which words are flags that muxd itself sets, or would not be taken as they were meant."""
    for arg in args:
        flag = re.split(r"[=\s]", arg, maxsplit=1)[0]
        if owned := owned_flag(flag, OWNED_FLAGS):
            named = f" {owned}" if owned != flag else ""
            yield f"{flag} is muxd's own{named}; {OWNED_FLAGS[owned]}"
        elif unusable := owned_flag(flag, UNUSABLE_FLAGS):
            yield f"{flag}: {UNUSABLE_FLAGS[unusable]}; leave it out"
        elif _JOINED.match(arg):
            words = _shell_words(arg)
            if why := why_no_value(*words) if len(words) == 2 else "":
                yield f"{shown(arg)}: {why}"
                continue
            apart = ", ".join(map(shown, words))
            yield f"{shown(arg)} is one word to the engine, which knows no such flag; write {apart}"
        elif why := _no_flag(arg):
            yield f"{shown(arg)} {why}"
        elif (value := _value_in(arg))[:1] not in ("{", "[") and (wanted := SHELL_VARIABLE.search(value)):
            yield f"{wanted[0]} would be taken literally, nothing is expanded; write the value"
    if (first := "".join(args[:1])) and not (first[0] in "-$" or _no_flag(first)):
        yield f'{shown(first)} belongs to no flag; SGLang\'s flags begin with "--"'


def odd_args(args: Sequence[str], in_script: bool = False) -> Iterator[ArgFault]:
    """Yield each argument that is likely a mistake and is not checked elsewhere.

    SGLang's own parser either accepts such an argument or refuses it without a hint.
    """
    for word, following in zip(args, [*args[1:], ""], strict=False):
        flag, equals, value = word.partition("=")
        if why := why_foreign(flag, in_script=in_script):
            yield ArgFault(frozenset({flag}), f"{flag} is not SGLang's; {why}")
        elif why := why_no_value(flag, value if equals else following):
            yield ArgFault(frozenset({flag} if equals else {flag, following}), why)
    look_up = flag_of(args)
    if (device := look_up(DEVICE)) is not None and ":" in device:
        kind = device.partition(":")[0]
        text = f"--device {device}: which GPU it is, gpus says; write --device {kind}, or leave it out"
        yield ArgFault(frozenset(DEVICE), text)
    if in_script and (why := _why_no_share(args)):  # of others it is an error already
        yield ArgFault(frozenset(FRACTION), why)
    if (nodes := look_up(NODES)) is not None and nodes != "1":
        text = f"--nnodes {nodes}: muxd starts a server on this host alone; it waits for others until start_timeout"
        yield ArgFault(frozenset(NODES), text)


def unfit(model: Model, interpreter: Interpreter) -> Iterator[Finding]:
    """Yield what this SGLang cannot do for a model, each by its path within the model's table."""
    if model.standby and interpreter.folder and not has_gate(Path(interpreter.folder)):
        why = f"SGLang {interpreter.version} has no gate at which a process could wait: it knows no {GATE_FLAG}"
        yield ("standby",), f"{why}; install a newer one (0.5.23 has it), or leave standby out"


def share_in(args: Sequence[str]) -> float | None:
    """Return the share of a GPU's memory that flags give weights and KV cache; None where they say none that can be."""
    try:
        share = float(flag_of(args)(FRACTION) or "")
    except ValueError:
        return None
    return share if 0 < share < 1 else None


def _why_no_share(args: Sequence[str]) -> str:
    share = flag_of(args)(FRACTION)
    if share is None or share_in(args) is not None:
        return ""
    return f"--mem-fraction-static {share} is no share of a GPU's memory; write one between 0 and 1, such as 0.85"


#: The ends of the names of SGLang's flags whose values are files or folders that it reads.
_READ = ("-path", "-paths", "-template", "-file", "-config", "-model", "-certfile", "-keyfile", "-token-map")
#: Of these, those that are checked elsewhere, and those that SGLang writes.
_NOT_HERE = (
    "--model",
    "--model-path",
    "--file-storage-path",
    "--modelopt-checkpoint-save-path",
    "--modelopt-export-path",
)


def paths_read(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield flag and path for each absolute path in `args` that SGLang is to read."""
    flag = ""
    for word in args:
        flag, _, value = word.partition("=") if word.startswith("--") else (flag, "", word)
        path = value.partition("=")[2] if "=/" in value else value  # --lora-paths takes NAME=PATH
        if flag.endswith(_READ) and flag not in _NOT_HERE and path.startswith("/"):
            yield flag, path


def _no_flag(arg: str) -> str:
    """Return why `arg` is not the flag that it looks like; "" where it looks like no flag, or may be one."""
    if _DASHES.match(arg):
        return f'begins with a dash that is no "-"; write {shown(_DASHES.sub("--", arg))}'
    if (plain := arg.strip()) != arg and plain.startswith("--"):
        return f"has a blank around it; write {shown(plain)}"
    if "-" + arg.partition("=")[0] in (*TENSOR, *PIPELINE, *DATA):
        return f"has one dash; write {shown('-' + arg)}"
    return ""


def _value_in(arg: str) -> str:
    """Return the value in `arg`: behind "=" in a flag, else the whole word."""
    return arg.partition("=")[2] if arg.startswith("-") else arg


def _shell_words(arg: str) -> list[str]:
    """Return the words into which a shell would split `arg`."""
    try:
        return shlex.split(arg)
    except ValueError:  # an unpaired quotation mark
        return arg.split()
