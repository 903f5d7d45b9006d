"""What a command line that starts an SGLang server says, with its environment: model, port, sleep level, keys, GPUs.

It may be that of a process, which is known to the last word, or one in a launch script, in which some words are not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from .devices import ORDER, VARIABLE, visible
from .flags import is_flag, parallel

#: What `python -m` starts a server with; the second is muxd's own stand-in.
MODULES = ("sglang.launch_server", "muxd.simulator")

CONTAINERS = ("docker", "podman", "nerdctl")

#: SGLang's own, without --port.
DEFAULT_PORT = 30000

MODEL = ("--model-path", "--model")

_PYTHON = re.compile(r"python[0-9.]*|sglang")
#: SGLang's flags that have no value: 167 of the 188 of 0.5.23.
_SWITCH = re.compile(
    r"--(\w+-)*(enable|disable|skip|trust|is|show|allow|use|no|keep|delete|only|return|idle|strip|grpc-mode)(-|$)"
    r"|--(log-requests|quantize-and-serve|pre-warm-nccl|debug-cuda-graph)$"
)
_RAW_DEVICE = re.compile(r"/dev/(?:nvidia[0-9]|dri\b)")
_OPTION_CLUSTER = re.compile("[ditPq]*")
_CDI = re.compile(r"nvidia\.com/gpu=(.+)")


class NotKnown(Exception):
    """It is known only when it runs; the text begins a sentence."""


@dataclass(frozen=True, slots=True)
class Hole:
    """A word of a script that is known only when it runs, or several; `prefix` is what is known of it."""

    prefix: str = ""
    many: bool = False


class Command(NamedTuple):
    """A process, by what started it."""

    pid: int
    parent: int
    words: Sequence[str]
    environ: Mapping[str, str] | None = None  # None: it cannot be read
    listens: bool = False  # at the port in question


Word = str | Hole
LookUp = Callable[[Sequence[str]], str | None]


def server_at(words: Sequence[Word]) -> int | None:
    """Where the flags of SGLang's server begin; None where the command line starts none."""
    names = [os.path.basename(word) if isinstance(word, str) else "" for word in words]
    if {"--help", "-h"} & set(names):
        return None
    for place, (name, following) in enumerate(pairwise([*names, ""])):
        if (name == "-m" and following in MODULES) or (name, following) == ("sglang", "serve"):
            return place + 2
        if name == "launch_server.py":
            return place + 1
    return None


def is_server(words: Sequence[str]) -> bool:
    """Whether the process with this command line is a server itself, or the client of a container with one."""
    name = os.path.basename(words[0]) if words else ""
    return bool(_PYTHON.fullmatch(name) or name in CONTAINERS) and server_at(words) is not None


def flag(words: Iterable[Word], names: Sequence[str]) -> Word | None:
    """The value of a flag, `--flag VALUE` or `--flag=VALUE`; of several the last, as argparse has it.

    Of one that has none it is whatever follows: that it is there.  A Hole where it may be there, or its value is one.
    """
    found: Word | None = None
    expected, before = False, ""
    for word in words:
        if expected:
            found, expected = word, False
        name, equals, value = (word.prefix if isinstance(word, Hole) else word).partition("=")
        if isinstance(word, Hole):
            is_value = before.startswith("--") and "=" not in before and not _SWITCH.match(before)
            if is_flag(name, names) if equals else not is_value:
                found = word
        elif is_flag(name, names):
            found, expected = value, not equals
        before = word if isinstance(word, str) else ""
    return found


class CommandLine:
    """One that starts a server.  Its methods raise NotKnown."""

    def __init__(self, words: Sequence[Word], environ: Mapping[str, str] | None = None) -> None:
        at = server_at(words)
        self._before = list(words[: at if at is not None else 0])
        self._flags = words[at:] if at is not None else words
        self._environ = environ

    def look_up(self, names: Sequence[str]) -> str | None:
        """A flag's value: "" for a switch, None where it is not there."""
        value = flag(self._flags, names)
        if isinstance(value, Hole):
            raise NotKnown("its flags are known only when it runs")
        if value is None and flag(self._flags, ("--config",)) is not None:
            raise NotKnown("what its --config file says is not read")
        return value

    def model(self) -> str | None:
        first = next(iter(self._flags), "")
        if self._before[-1:] == ["serve"] and isinstance(first, str) and first and not first.startswith("-"):
            return first
        return self.look_up(MODEL)

    def port(self) -> int:
        """Where it is reached from outside."""
        text = self.look_up(("--port",))
        inside = str(DEFAULT_PORT) if text is None else text
        outside = inside if self._container is None else _published(self._container, inside)
        if not (re.fullmatch("[0-9]{1,5}", outside) and 0 < int(outside) <= 65535):
            raise NotKnown(f'its port "{outside}" is none')
        return int(outside)

    def gpus(self, look_up: LookUp | None = None) -> tuple[str, ...]:
        """The GPUs that it uses, by number or name; `look_up` knows better what its flags are."""
        try:
            needs = parallel(look_up or self.look_up)
            seen = self._visible()
        except ValueError as error:
            raise NotKnown(str(error)) from None
        if seen is None or not seen:  # all; or none: to be on the safe side it takes turns as others do
            return tuple(map(str, range(needs.seen)))[needs.chosen] if seen is None else ("0",)
        if needs.seen > len(seen):
            raise NotKnown(f"it needs {needs}, and sees {VARIABLE}={','.join(seen)}")
        return seen[needs.chosen]

    def _visible(self) -> tuple[str, ...] | None:
        """What it sees; None: all.  Raises ValueError."""
        if self._container is not None:
            return self._in_container(self._container)
        if self._environ is None:
            raise NotKnown("its environment cannot be read")
        if self._environ.get(ORDER, "PCI_BUS_ID") != "PCI_BUS_ID":
            raise NotKnown(f"{ORDER} is not PCI_BUS_ID: its numbers are not those of nvidia-smi")
        text = self._environ.get(VARIABLE)
        return visible(text) if text is not None else None

    @property
    def _container(self) -> list[Word] | None:
        """The arguments of the program that starts its container."""
        for place, word in enumerate(self._before):
            if isinstance(word, str) and os.path.basename(word) in CONTAINERS:
                return self._before[place + 1 :]
        return None

    def _in_container(self, words: list[Word]) -> tuple[str, ...] | None:
        if words[:1] not in (["run"], ["create"]) and words[:2] != ["container", "run"]:
            raise NotKnown("the container is made elsewhere")
        if any(_options(words, "--env-file")):
            raise NotKnown("the container is told its GPUs elsewhere")
        outer = _given_to_container(words)
        inner = self._told(words, VARIABLE)
        if inner is None:
            return outer
        seen = visible(inner)
        if outer is None:
            return seen
        if not all(name.isdigit() and int(name) < len(outer) for name in seen):
            raise NotKnown(f"{VARIABLE}={inner} in the container does not fit the GPUs that it is given")
        return tuple(outer[int(name)] for name in seen)

    def _told(self, words: Sequence[Word], name: str) -> str | None:
        """A variable of `-e NAME=VALUE`, or of `-e NAME`, which hands it on."""
        found = None
        for text in _options(words, "--env", "e"):
            said, equals, value = text.partition("=")
            if said == name:
                found = value if equals else (self._environ or {}).get(name)
        return found


def _given_to_container(words: Sequence[Word]) -> tuple[str, ...] | None:
    """The GPUs; None: all.  Raises ValueError."""
    if asked := list(_options(words, "--gpus")):
        plain = asked[-1].strip("\"'")
        if plain in ("all", "-1", "count=all", "count=-1"):
            return None
        if match := re.fullmatch("(?:count=)?([0-9]{1,3})", plain):
            return tuple(map(str, range(int(match[1]))))
        if match := re.search(r"device=([^=]*?)(?:,[a-z]+=.*)?$", plain):
            return None if match[1].strip("\"'") == "all" else visible(match[1].strip("\"'"))
        raise NotKnown(f"--gpus {asked[-1]} is not understood")
    given = list(_options(words, "--device"))
    if any(map(_RAW_DEVICE.match, given)):
        raise NotKnown("which GPUs its --device means is not followed")
    if devices := [match[1] for value in given if (match := _CDI.fullmatch(value))]:
        return None if "all" in devices else tuple(devices)
    told = [v.partition("=")[2] for v in _options(words, "--env", "e") if v.startswith("NVIDIA_VISIBLE_DEVICES=")]
    return visible(told[-1]) if told and told[-1] not in ("all", "") else None


def _options(words: Sequence[Word], long: str, short: str = "") -> Iterator[str]:
    """The values of an option of docker's: `--env X`, `--env=X`, `-e X`, `-eX`, `-ite X`.  Raises NotKnown."""
    expected = False
    for word in words:
        if isinstance(word, Hole):
            raise NotKnown("its container's options are known only when it runs")
        if expected:
            yield word
            expected = False
        elif word.startswith(f"{long}="):
            yield word[len(long) + 1 :]
        elif word == long:
            expected = True
        elif short and word.startswith("-") and not word.startswith("--") and short in word:
            cluster, _, rest = word[1:].partition(short)
            if _OPTION_CLUSTER.fullmatch(cluster):
                if rest:
                    yield rest
                else:
                    expected = True


def _published(words: Sequence[Word], inside: str) -> str:
    """The port outside of the container's port `inside`."""
    for value in _options(words, "--publish", "p"):
        parts = re.sub(r"/(tcp|udp|sctp)$", "", value).split(":")
        if len(parts) > 1 and parts[-1] == inside:
            return parts[-2]
    if "host" in (*_options(words, "--network"), *_options(words, "--net")):
        return inside
    raise NotKnown(f"the container does not publish its port {inside} (-p NUMBER:{inside})")


def sleep_level(look_up: LookUp) -> int:
    """By the flags that it has."""
    if look_up(("--enable-memory-saver",)) is None:
        return 3
    return 2 if look_up(("--enable-weights-cpu-backup",)) is None else 1
