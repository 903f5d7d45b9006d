"""SGLang's flags as argparse takes them, and how many GPUs they make a server use."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

TENSOR = ("--tp", "--tp-size", "--tensor-parallel-size")
PIPELINE = ("--pp", "--pp-size", "--pipeline-parallel-size")
DATA = ("--dp", "--dp-size", "--data-parallel-size")
ATTENTION = ("--enable-dp-attention",)
NODES = ("--nnodes",)
FIRST = ("--base-gpu-id",)
STEP = ("--gpu-id-step",)
DEVICE = ("--device",)
FRACTION = ("--mem-fraction-static",)

#: What vLLM and llama.cpp call flags that SGLang has by another name.
ELSEWHERE = {
    "--max-model-len": "--context-length",
    "--ctx-size": "--context-length",
    "--gpu-memory-utilization": "--mem-fraction-static",
    "--max-num-seqs": "--max-running-requests",
    "--max-num-batched-tokens": "--chunked-prefill-size",
    "--enable-auto-tool-choice": "--tool-call-parser",
    "--hf-overrides": "--json-model-override-args",
    "--swap-space": "--cpu-offload-gb",
    "--enforce-eager": "--disable-cuda-graph",
    "--no-enable-prefix-caching": "--disable-radix-cache",
    "--n-gpu-layers": "",
}

#: Shorter abbreviations are never the only flag of SGLang that begins so.
SHORTEST = len("--por")


@dataclass(frozen=True, slots=True)
class Parallel:
    """The GPUs that a server uses: `count` of those that it sees, from `first` on, each `step` further."""

    count: int = 1
    first: int = 0
    step: int = 1
    said: str = ""  # the flags that say so

    @property
    def seen(self) -> int:
        """How many it has to see."""
        return self.first + (self.count - 1) * self.step + 1

    @property
    def chosen(self) -> slice:
        """Those that it uses, of all that it sees."""
        return slice(self.first, self.seen, self.step)

    def __str__(self) -> str:
        return f"{self.seen} GPU{'s' if self.seen != 1 else ''}" + (f" ({self.said})" if self.said else "")


def is_flag(word: str, names: Sequence[str]) -> bool:
    """One of `names`, or an abbreviation of it; `word` without its value."""
    return word in names or (len(word) >= SHORTEST and any(name.startswith(word) for name in names))


def flag_of(args: Sequence[str]) -> Callable[[Sequence[str]], str | None]:
    """What looks up a flag's value in `args`: "" for a switch, None where it is not there."""

    def look_up(names: Sequence[str]) -> str | None:
        found = None
        for word, following in zip(args, [*args[1:], ""], strict=False):
            name, equals, value = word.partition("=")
            if is_flag(name, names):
                found = value if equals else following
        return found

    return look_up


def runs_on_cpu(args: Sequence[str]) -> bool:
    """SGLang needs no GPU, where its arguments say so."""
    return flag_of(args)(DEVICE) == "cpu"


def odd_args(args: Sequence[str]) -> Iterator[str]:
    """What SGLang's own parser takes or only stumbles over, and what to do."""
    for word in args:
        if (flag := word.partition("=")[0]) in ELSEWHERE:
            meant = ELSEWHERE[flag]
            yield f"{flag} is not SGLang's; {f'it has {meant}' if meant else 'remove it'}"
    look_up = flag_of(args)
    if (device := look_up(DEVICE)) is not None and ":" in device:
        kind = device.partition(":")[0]
        yield f"--device {device}: which GPU it is, gpus says; write --device {kind}, or leave it out"
    if (share := look_up(FRACTION)) is not None and not _is_share(share):
        yield f"--mem-fraction-static {share} is no share of a GPU's memory; write one between 0 and 1, such as 0.85"
    if (nodes := look_up(NODES)) is not None and nodes != "1":
        yield f"--nnodes {nodes}: muxd starts a server on this host alone; it waits for others until start_timeout"


def _is_share(text: str) -> bool:
    try:
        return 0 < float(text) < 1
    except ValueError:
        return False


def parallel(value: Callable[[Sequence[str]], str | None]) -> Parallel:
    """As SGLang spreads its processes; ValueError for a number that is none.

    Replicas (dp) multiply, but with data-parallel attention they are within tp.  Of several nodes this is one.
    """
    tensor, pipeline, data = (_number(value, names) for names in (TENSOR, PIPELINE, DATA))
    if value(ATTENTION) is not None:
        data = 1
    first = _number(value, FIRST, 0)
    factors = {"tp": tensor, "pp": pipeline, "dp": data}
    said = " x ".join(f"{name} {factor}" for name, factor in factors.items() if factor > 1)
    if first:
        said += f"{', ' if said else ''}from --base-gpu-id {first} on"
    count = math.ceil(tensor * pipeline / _number(value, NODES)) * data
    return Parallel(count, first, _number(value, STEP), said)


def _number(value: Callable[[Sequence[str]], str | None], names: Sequence[str], default: int = 1) -> int:
    text = value(names)
    if text is None:
        return default
    if not re.fullmatch("[0-9]{1,4}", text) or int(text) < min(default, 1):
        raise ValueError(f"{names[-1]}: {text!r} is no number that can be")
    return int(text)
