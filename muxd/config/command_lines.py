"""Parser for command lines that start an SGLang server: model, port, sleep level, keys and GPUs.

The command line may be that of a running process, of which every word is known, or that of a launch script, in which
some words are known only when the script runs (`Hole`).  The environment of the process says which GPUs it sees.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from .devices import ORDER, VARIABLE, visible
from .flags import Hole, Word, flag, parallel

#: Modules that start a server under `python -m`; the second is muxd's own simulator.
MODULES = ("sglang.launch_server", "muxd.simulator")

CONTAINERS = ("docker", "podman", "nerdctl")

#: The port at which SGLang listens without --port.
DEFAULT_PORT = 30000

MODEL = ("--model-path", "--model")

_PYTHON = re.compile(r"python[0-9.]*|sglang")
_RAW_DEVICE = re.compile(r"/dev/(?:nvidia[0-9]|dri\b)")
_OPTION_CLUSTER = re.compile("[ditPq]*")
_CDI = re.compile(r"nvidia\.com/gpu=(.+)")


class NotKnown(Exception):
    """A property of the server that its command line does not tell; the text is the first part of a message."""


class TooFewGpus(NotKnown):
    """The server needs more GPUs than it sees, and cannot be loaded."""


class Command(NamedTuple):
    """A running process with its command line."""

    pid: int
    parent: int
    words: Sequence[str]
    environ: Mapping[str, str] | None = None  # None: the environment cannot be read
    listens: bool = False  # whether the process listens at the port in question


#: Returns the value of a flag, given the flag's names; None where the flag is not there.
LookUp = Callable[[Sequence[str]], str | None]


def server_at(words: Sequence[Word]) -> int | None:
    """Return the index at which the flags of SGLang's server begin; None where the command line starts no server."""
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
    """Say whether the process with this command line is a server, or the `docker run` of a server's container."""
    name = os.path.basename(words[0]) if words else ""
    return bool(_PYTHON.fullmatch(name) or name in CONTAINERS) and server_at(words) is not None


class CommandLine:
    """A command line that starts a server.  The methods raise NotKnown for what only the running server can tell."""

    def __init__(self, words: Sequence[Word], environ: Mapping[str, str] | None = None) -> None:
        at = server_at(words)
        self._before = list(words[: at if at is not None else 0])
        self._flags = words[at:] if at is not None else words
        self._environ = environ

    def look_up(self, names: Sequence[str]) -> str | None:
        """Return a flag's value, None where the flag is not there; see `flag` for switches."""
        value = flag(self._flags, names)
        if isinstance(value, Hole):
            raise NotKnown("its flags are known only when it runs")
        if value is None and flag(self._flags, ("--config",)) is not None:
            raise NotKnown("what its --config file says is not read")
        return value

    def model(self) -> str | None:
        """Return the model's path or Hub id as written; `sglang serve` may take it as its first argument."""
        first = next(iter(self._flags), "")
        if self._before[-1:] == ["serve"] and isinstance(first, str) and first and not first.startswith("-"):
            return first
        return self.look_up(MODEL)

    def port(self) -> int:
        """Return the port at which the server is reached from outside its container, if it runs in one."""
        text = self.look_up(("--port",))
        inside = str(DEFAULT_PORT) if text is None else text
        outside = inside if self._container is None else _host_port(self._container, inside)
        if not (re.fullmatch("[0-9]{1,5}", outside) and 0 < int(outside) <= 65535):
            raise NotKnown(f'its port "{outside}" is none')
        return int(outside)

    def gpus(self, look_up: LookUp | None = None) -> tuple[str, ...]:
        """Return the GPUs that the server uses, by number or name.

        `look_up` replaces this object's own, for a caller that knows more about the flags.
        """
        try:
            needs = parallel(look_up or self.look_up)
            seen = self.visible()
        except ValueError as error:
            raise NotKnown(str(error)) from None
        if seen is None or not seen:
            # None: the server sees all GPUs.  Empty: it sees no GPU, and counts as a user of GPU 0, to be on the safe
            # side: such a model takes turns as others do.
            return tuple(map(str, range(needs.seen)))[needs.chosen] if seen is None else ("0",)
        if needs.seen > len(seen):
            raise TooFewGpus(f"it needs {needs}, and sees {VARIABLE}={','.join(seen)}")
        return seen[needs.chosen]

    def visible(self) -> tuple[str, ...] | None:
        """Return the GPUs that the server sees; None stands for all.

        Raise ValueError for a name that is no GPU's, and NotKnown.
        """
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
        """Return the arguments of the program (docker, podman) that starts the container; None without a container."""
        for place, word in enumerate(self._before):
            if isinstance(word, str) and os.path.basename(word) in CONTAINERS:
                return self._before[place + 1 :]
        return None

    def _in_container(self, words: list[Word]) -> tuple[str, ...] | None:
        """Return the host's GPUs that the server sees; None stands for all.

        CUDA_VISIBLE_DEVICES inside the container counts among the GPUs that the container was given.
        """
        if words[:1] not in (["run"], ["create"]) and words[:2] != ["container", "run"]:
            raise NotKnown("the container is made elsewhere")
        if any(_docker_options(words, "--env-file")):
            raise NotKnown("the container is told its GPUs elsewhere")
        outer = container_gpus(words)
        inner = self._container_variable(words, VARIABLE)
        if inner is None:
            return outer
        seen = visible(inner)
        if outer is None:
            return seen
        if not all(name.isdigit() and int(name) < len(outer) for name in seen):
            raise NotKnown(f"{VARIABLE}={inner} in the container does not fit the GPUs that it is given")
        return tuple(outer[int(name)] for name in seen)

    def _container_variable(self, words: Sequence[Word], name: str) -> str | None:
        """Return the value of a variable in the container.

        `-e NAME=VALUE` sets the variable, `-e NAME` passes the value on from the environment of docker itself.
        """
        found = None
        for text in _docker_options(words, "--env", "e"):
            said, equals, value = text.partition("=")
            if said == name:
                found = value if equals else (self._environ or {}).get(name)
        return found


def container_gpus(words: Sequence[Word]) -> tuple[str, ...] | None:
    """Return the GPUs that docker gives the container, by --gpus, --device or NVIDIA_VISIBLE_DEVICES; None for all.

    Raise NotKnown where the options are not understood, and ValueError for a name that is no GPU's.
    """
    if asked := list(_docker_options(words, "--gpus")):
        plain = asked[-1].strip("\"'")
        if plain in ("all", "-1", "count=all", "count=-1"):
            return None
        if match := re.fullmatch("(?:count=)?([0-9]{1,3})", plain):
            return tuple(map(str, range(int(match[1]))))
        if match := re.search(r"device=([^=]*?)(?:,[a-z]+=.*)?$", plain):
            return None if match[1].strip("\"'") == "all" else visible(match[1].strip("\"'"))
        raise NotKnown(f"--gpus {asked[-1]} is not understood")
    given = list(_docker_options(words, "--device"))
    if any(map(_RAW_DEVICE.match, given)):
        raise NotKnown("which GPUs its --device means is not followed")
    if devices := [match[1] for value in given if (match := _CDI.fullmatch(value))]:
        return None if "all" in devices else tuple(devices)
    variables = (value.partition("=") for value in _docker_options(words, "--env", "e"))
    names = [value for name, equals, value in variables if equals and name == "NVIDIA_VISIBLE_DEVICES"]
    return visible(names[-1]) if names and names[-1] not in ("all", "") else None


def _docker_options(words: Sequence[Word], long: str, short: str = "") -> Iterator[str]:
    """Yield the values of one of docker's options: `--env X`, `--env=X`, `-e X`, `-eX`, `-ite X`.

    Raise NotKnown where a word is a Hole.
    """
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


def _host_port(words: Sequence[Word], inside: str) -> str:
    """Return the port of the host that leads to the container's port `inside`.  Raise NotKnown where there is none."""
    for value in _docker_options(words, "--publish", "p"):
        parts = re.sub(r"/(tcp|udp|sctp)$", "", value).split(":")
        if len(parts) > 1 and parts[-1] == inside:
            return parts[-2]
    if "host" in (*_docker_options(words, "--network"), *_docker_options(words, "--net")):
        return inside
    raise NotKnown(f"the container does not publish its port {inside} (-p NUMBER:{inside})")


def sleep_level(look_up: LookUp) -> int:
    """Return the lightest sleep level that the server's flags allow, which is the fastest to wake from.

    SGLang sleeps only with --enable-memory-saver (else level 3, no process), and keeps its weights in host memory
    (level 1) only with --enable-weights-cpu-backup.
    """
    if look_up(("--enable-memory-saver",)) is None:
        return 3
    return 2 if look_up(("--enable-weights-cpu-backup",)) is None else 1
