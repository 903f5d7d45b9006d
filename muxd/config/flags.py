"""SGLang's flags, looked up as argparse does, and the GPUs that they make a server use."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import cast

from msgspec import Struct

TENSOR = ("--tp", "--tp-size", "--tensor-parallel-size")
PIPELINE = ("--pp", "--pp-size", "--pipeline-parallel-size")
DATA = ("--dp", "--dp-size", "--data-parallel-size")

#: vLLM's short names of these.
SHORT: dict[tuple[str, ...], tuple[str, ...]] = {TENSOR: ("-tp",), PIPELINE: ("-pp",), DATA: ("-dp",)}

ATTENTION = ("--enable-dp-attention",)
NODES = ("--nnodes",)
FIRST = ("--base-gpu-id",)
STEP = ("--gpu-id-step",)
DEVICE = ("--device",)
FRACTION = ("--mem-fraction-static",)

#: Flags that say what a model can do: of those of a launch script no others are kept.
CAPABILITY_FLAGS = frozenset({"--is-embedding"})

#: GPUs of one host, at most: the largest have 16.
MOST_GPUS = 1024

#: SGLang's flags that take no value: the pattern knows 167 of the 188 such flags of SGLang 0.5.23.
SWITCH = re.compile(
    r"--(\w+-)*(enable|disable|skip|trust|is|show|allow|use|no|keep|delete|only|return|idle|strip|grpc-mode)(-|$)"
    r"|--(log-requests|quantize-and-serve|pre-warm-nccl|debug-cuda-graph)$"
)

_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")

#: Length of the shortest abbreviation that is considered: argparse takes an abbreviation only if one flag alone begins
#: with it, and with a shorter one several of SGLang's flags begin.
SHORTEST = len("--por")

#: Length of the shortest abbreviation of a flag of muxd's own that is considered: vLLM takes --ho, --ud and --mi.
SHORTEST_OWNED = len("--ho")


class TooManyGpus(ValueError):
    """Flags ask for more GPUs than a host can have; the text says how many."""


class Parallel(Struct, frozen=True):
    """GPUs that a server uses: `count` of the GPUs that it sees, from position `first` on, `step` positions apart."""

    count: int = 1
    first: int = 0
    step: int = 1
    said: str = ""  # the flags that this follows from, for messages

    @property
    def seen(self) -> int:
        """Return the number of GPUs that the server has to see."""
        return self.first + (self.count - 1) * self.step + 1

    @property
    def chosen(self) -> slice:
        """Return the positions of the GPUs that the server uses among those that it sees."""
        return slice(self.first, self.seen, self.step)

    def __str__(self) -> str:
        return f"{self.seen} GPU{'s' if self.seen != 1 else ''}" + (f" ({self.said})" if self.said else "")


def is_flag(word: str, names: Sequence[str]) -> bool:
    """Say whether `word`, a flag without its value, is one of `names` or an abbreviation of one; "_" stands for "-"."""
    word = word.replace("_", "-")  # so vLLM
    return word in names or (len(word) >= SHORTEST and any(name.startswith(word) for name in names))


def owned_flag(word: str, owned: Collection[str]) -> str | None:
    """Return the flag among `owned` that an engine may take `word` for, a flag without its value; None for no such.

    vLLM takes "_" for "-".  argparse takes an abbreviation only where one flag alone begins with it, and refuses any
    other: nothing that an engine would take for another flag is found here, as none of `owned` begins with the whole
    name of another flag (so for the flags of vLLM 0.32.0 and SGLang 0.5.23).
    """
    name = word.replace("_", "-")
    if name in owned:
        return name
    is_short_for = name.startswith("--") and len(name) >= SHORTEST_OWNED
    return next((flag for flag in owned if is_short_for and flag.startswith(name)), None)


class Hole(Struct, frozen=True):
    """A word of a script that is known only when the script runs.

    `prefix` is the part of the word that is known; with `many`, any number of words may stand in this place.
    """

    prefix: str = ""
    many: bool = False


Word = str | Hole


def flag(words: Iterable[Word], names: Sequence[str]) -> Word | None:
    """Return the value of a flag, `--flag VALUE` or `--flag=VALUE`; None where the flag is not there.

    Of several values the last counts, as in argparse.  For a switch, which takes no value, the word behind the switch
    is returned, or "" at the end: callers only compare with None.  A Hole is returned where the flag may be there, or
    where its value is a Hole.
    """
    found: Word | None = None
    expected, before = False, ""
    for word in words:
        if expected:
            found, expected = word, False
        name, equals, value = (word.prefix if isinstance(word, Hole) else word).partition("=")
        if isinstance(word, Hole):
            is_value = before.startswith("--") and "=" not in before and not SWITCH.match(before)
            if is_flag(name, names) if equals else not is_value:
                found = word
        elif is_flag(name, names):
            found, expected = value, not equals
        before = word if isinstance(word, str) else ""
    return found


def flag_of(args: Sequence[str]) -> Callable[[Sequence[str]], str | None]:
    """Return a function that looks up a flag's value in `args`, by the flag's names, as `flag` does."""
    return lambda names: cast("str | None", flag(args, names))  # no word is a Hole


def number_in(args: Sequence[str], names: Sequence[str]) -> int | None:
    """Return the whole number that a flag in `args` has, of at most nine digits; None where there is none."""
    said = flag_of(args)(names) or ""
    return int(said) if said.isascii() and said.isdigit() and len(said) < 10 else None


def runs_on_cpu(args: Sequence[str]) -> bool:
    """Say whether SGLang's arguments let it run without a GPU."""
    return flag_of(args)(DEVICE) == "cpu"


def why_no_value(word: str, value: str) -> str:
    """Return what is wrong with a truth value behind a switch, with advice; "" for anything else."""
    if not SWITCH.match(word) or value.lower() not in (*_TRUE, *_FALSE):
        return ""
    remedy = f'write "{word}" alone' if value.lower() in _TRUE else "leave both out"
    return f"{word} takes no value, and {value} is one; {remedy}"


def parallel(value: Callable[[Sequence[str]], str | None]) -> Parallel:
    """Return the GPUs that SGLang or vLLM spreads its processes over; `value` looks up a flag.

    The number of GPUs is tp * pp * dp: each replica (dp) has GPUs of its own, except with data-parallel attention,
    whose replicas share the GPUs of tp.  With several nodes, tp * pp is divided by their number: muxd counts one node.
    Raise ValueError for a number that cannot be.
    """
    tensor, pipeline, data = (_number(value, (*SHORT[names], *names)) for names in (TENSOR, PIPELINE, DATA))
    if value(ATTENTION) is not None:
        data = 1
    first = _number(value, FIRST, 0)
    factors = {"tp": tensor, "pp": pipeline, "dp": data}
    said = " x ".join(f"{name} {factor}" for name, factor in factors.items() if factor > 1)
    if first:
        said += f"{', ' if said else ''}from --base-gpu-id {first} on"
    count = math.ceil(tensor * pipeline / _number(value, NODES)) * data
    found = Parallel(count, first, _number(value, STEP), said)
    if found.seen > MOST_GPUS:
        raise TooManyGpus(f"{said or STEP[-1]}: {found.seen} GPUs are more than a host has")
    return found


def _number(value: Callable[[Sequence[str]], str | None], names: Sequence[str], default: int = 1) -> int:
    text = value(names)
    if text is None:
        return default
    if not re.fullmatch("[0-9]{1,4}", text) or int(text) < min(default, 1):
        raise ValueError(f"{names[-1]}: {text!r} is no number that can be")
    return int(text)
