"""The GPUs that a command of a launch script leaves to its server, and the port that a container opens for it.

Whatever decides them and cannot be read makes them unknown: never GPU 0.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from muxd.config.devices import ORDER, VARIABLE, visible
from muxd.config.flags import Parallel

from .shell.state import Unknown, Value
from .shell.syntax import Place

CONTAINERS = ("docker", "podman", "nerdctl")

#: They hand their environment on to what they start.
WRAPPERS = frozenset(
    {
        *("env", "nohup", "setsid", "numactl", "taskset", "nice", "ionice", "chrt", "time", "timeout", "stdbuf"),
        *("sudo", "doas", "exec", "command", "uv", "conda", "mamba", "micromamba", "poetry", "sglang", "tini"),
        *("strace", "gdb", "nsys", "ncu", "perf", "py-spy", "unbuffer", "script", "flock", "dumb-init", "catatonit"),
        *("apptainer", "singularity", "prlimit", "ulimit"),
    }
)

_CLUSTER = re.compile("[ditPq]*")
_RAW_DEVICE = re.compile(r"/dev/(?:nvidia[0-9]|dri\b)")
_CLEAN = re.compile("--(cleanenv|containall|no-eval)|-[A-Za-z]*[eC][A-Za-z]*")
_KEPT = re.compile(rf"-[A-Za-z]*E[A-Za-z]*|--preserve-env(=.*\b{VARIABLE}\b.*)?")
_SET = re.compile(rf"(?:^|[=,]){VARIABLE}=(.*)", re.DOTALL)
_CDI = re.compile(r"nvidia\.com/gpu=(.+)")
_ELSEWHERE = re.compile(r"/(tcp|udp|sctp)$")


class CannotTell(Exception):
    """Nobody knows before the script runs; the text begins a sentence."""


class GpuUse(NamedTuple):
    """Of one command that starts the server.  `why` says why nobody knows."""

    place: Place
    visible: tuple[str, ...] | None = None  # what the server sees, by number or name; None: all
    given: bool = False  # the script itself says so, and does not have it from its environment
    needs: Parallel | None = None  # None: unknown
    why: str = ""
    contained: bool = False


class Start(NamedTuple):
    """A command up to the server's program: who starts it, and with what."""

    words: tuple[Value, ...]
    environment: dict[str, Value]
    inherited: bool  # VARIABLE is from the environment of the script

    @property
    def container(self) -> int | None:
        """Where the arguments of a container's program begin."""
        for number, word in enumerate(self.words):
            if isinstance(word, str) and os.path.basename(word) in CONTAINERS:
                return number + 1
        return None

    def visible(self) -> tuple[tuple[str, ...] | None, bool]:
        """What the server sees, and whether the script says so.  Raises CannotTell."""
        if self.container is not None:
            return self._in_container(self.words[self.container :])
        self._check_wrappers()
        text, given = self._variable()
        found = (_visible(text), given) if text is not None else (None, False)
        self._check_order()
        return found

    @property
    def _programs(self) -> set[str]:
        return {os.path.basename(word) for word in self.words if isinstance(word, str)}

    def _check_wrappers(self) -> None:
        first = self.words[0] if self.words else ""
        if isinstance(first, Unknown):
            if first.many:
                raise CannotTell(first.why)
            return
        name = os.path.basename(first)
        if name and name not in WRAPPERS and not name.startswith("python"):
            raise CannotTell(f"what {name} does about them is known only when it runs")
        for word in self.words:
            text = word.prefix if isinstance(word, Unknown) else word
            if text.partition("=")[0] == "--env-file":
                raise CannotTell("what its --env-file says is not read")
        self._check_images()

    def _check_images(self) -> None:
        """Apptainer has ways of its own to make the environment inside."""
        if not self._programs & {"apptainer", "singularity"}:
            return
        told = any(f"{kind}_{VARIABLE}" in self.environment for kind in ("APPTAINERENV", "SINGULARITYENV"))
        if told or any(isinstance(word, str) and _CLEAN.fullmatch(word) for word in self.words):
            raise CannotTell(f"which {VARIABLE} the image is given is not followed")

    def _check_order(self) -> None:
        """muxd counts GPUs as nvidia-smi does, and starts scripts so."""
        order = self.environment.get(ORDER, "PCI_BUS_ID")
        if isinstance(order, Unknown):
            raise CannotTell(order.why)
        if order != "PCI_BUS_ID":
            raise CannotTell(f"{ORDER} is not PCI_BUS_ID, so that their numbers are not those of nvidia-smi")

    def _variable(self) -> tuple[Value | None, bool]:
        found, given = self.environment.get(VARIABLE), not self.inherited
        programs = self._programs
        kept = any(_KEPT.fullmatch(word) for word in self.words if isinstance(word, str))
        if programs & {"sudo", "doas"} and not kept and found is not None:
            found, given = Unknown(f"whether sudo hands {VARIABLE} on is up to its settings", Place("", 0)), True
        before = ""
        for word in self.words:
            if isinstance(word, Unknown):
                if word.many or _SET.search(word.prefix):
                    raise CannotTell(word.why)
            elif match := _SET.search(word):
                found, given = match[1], True
            elif "env" in programs and _unsets(before, word):
                found, given = None, True
            before = word if isinstance(word, str) else ""
        return found, given

    def _in_container(self, words: Sequence[Value]) -> tuple[tuple[str, ...] | None, bool]:
        if not (words[:1] and words[0] in ("run", "create")) and words[:2] != ("container", "run"):
            raise CannotTell("the container is made elsewhere")
        if any(isinstance(word, Unknown) and word.many for word in words):
            raise CannotTell(next(word.why for word in words if isinstance(word, Unknown) and word.many))
        outer = self._of_container(words)
        inner = self._told(words, VARIABLE)
        if inner is None:
            return outer, True
        seen = _visible(inner) or ()
        if outer is None:
            return seen, True
        if not all(name.isdigit() and int(name) < len(outer) for name in seen):
            raise CannotTell(f"{VARIABLE}={','.join(seen)} in the container does not fit the GPUs that it is given")
        return tuple(outer[int(name)] for name in seen), True

    def _of_container(self, words: Sequence[Value]) -> tuple[str, ...] | None:
        """What it is given; None: all."""
        if list(options(words, "--env-file")):
            raise CannotTell("what its --env-file says is not read")
        asked = list(options(words, "--gpus"))
        if asked:
            return _of_gpus(_known(asked[-1]))
        given = [_known(value) for value in options(words, "--device")]
        if any(map(_RAW_DEVICE.match, given)):
            raise CannotTell("which GPUs its --device means is not followed")
        devices = [match[1] for value in given if (match := _CDI.fullmatch(value))]
        if devices:
            return None if "all" in devices else tuple(devices)
        told = self._told(words, "NVIDIA_VISIBLE_DEVICES")
        if told is None or _known(told) in ("all", ""):
            return None
        return _visible(told)

    def _told(self, words: Sequence[Value], name: str) -> Value | None:
        """A variable of `-e NAME=VALUE`, or of `-e NAME`, which hands it on."""
        found: Value | None = None
        for value in options(words, "--env", "e"):
            if isinstance(value, Unknown):
                if value.prefix.partition("=")[0] == name or "=" not in value.prefix:
                    raise CannotTell(value.why)
                continue
            said, equals, text = value.partition("=")
            if said == name:
                found = text if equals else self.environment.get(name)
        return found


def _unsets(before: str, word: str) -> bool:
    return (
        word in ("-i", "-", "--ignore-environment", f"-u{VARIABLE}", f"--unset={VARIABLE}")
        or (before in ("-u", "--unset") and word == VARIABLE)
    )  # fmt: skip


def _known(value: Value) -> str:
    if isinstance(value, Unknown):
        raise CannotTell(value.why)
    return value


def _visible(value: Value) -> tuple[str, ...]:
    text = _known(value)
    try:
        return visible(text)
    except ValueError as error:
        raise CannotTell(f"{VARIABLE}: {error}") from None


def _of_gpus(text: str) -> tuple[str, ...] | None:
    """`--gpus` of docker: all, a count, or `device=0,1` among other settings."""
    plain = text.strip("\"'")
    if plain in ("all", "-1", "count=all", "count=-1"):
        return None
    if match := re.fullmatch("(?:count=)?([0-9]{1,3})", plain):
        return tuple(str(index) for index in range(int(match[1])))
    if match := re.search(r"device=([^=]*?)(?:,[a-z]+=.*)?$", plain):
        return None if match[1].strip("\"'") == "all" else _visible(match[1].strip("\"'"))
    raise CannotTell(f"--gpus {text} is not understood")


def options(words: Sequence[Value], long: str, short: str = "") -> Iterator[Value]:
    """The values of an option of docker's: `--env X`, `--env=X`, `-e X`, `-eX`, `-ite X`."""
    expected = False
    for word in words:
        text = word.prefix if isinstance(word, Unknown) else word
        if expected:
            yield word
            expected = False
        elif text.startswith(f"{long}="):
            yield _without(word, len(long) + 1)
        elif word == long:
            expected = True
        elif short and text.startswith("-") and not text.startswith("--") and short in text:
            cluster, _, rest = text[1:].partition(short)
            if _CLUSTER.fullmatch(cluster):
                if rest or isinstance(word, Unknown):
                    yield _without(word, len(cluster) + 2)
                else:
                    expected = True


def _without(word: Value, count: int) -> Value:
    return word[count:] if isinstance(word, str) else replace(word, prefix=word.prefix[count:])


def published(words: Sequence[Value], inside: str) -> Value | None:
    """The port outside of the container's port `inside`: None where nothing says it.  Raises CannotTell."""
    for value in options(words, "--publish", "p"):
        text = _ELSEWHERE.sub("", _known(value))
        parts = text.split(":")
        if len(parts) > 1 and parts[-1] == inside and re.fullmatch("[0-9]+", parts[-2]):
            return parts[-2]
        if not re.fullmatch(r"[0-9.:\[\]a-f]+", text):
            raise CannotTell(f"-p {text} is not followed")
    networks = [*options(words, "--network"), *options(words, "--net")]
    return inside if "host" in networks else None
