"""Faults: what the simulator can be made to do wrong, on purpose.

`--fault NAME` and `--fault NAME=VALUE` may be given any number of times.  `,once=FILE` at the end makes a fault apply
to one start only: the start that finds FILE missing, and makes it.  So a worker can fail at first and come up well
after its restart.  `,while=FILE` makes it apply to each start that finds FILE.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from .crashes import ENDINGS


class EngineCall(StrEnum):
    """The engine calls that hang-on, fail-on and die-on can name."""

    RELEASE = "release"
    RESUME = "resume"
    RELOAD = "reload"
    PAUSE = "pause"
    CONTINUE = "continue"


class LackingFeature(StrEnum):
    """The features of SGLang that the fault `lacks` can name."""

    MEMORY_SAVER = "memory-saver"  # the flag --enable-memory-saver
    CPU_BACKUP = "cpu-backup"  # the flag --enable-weights-cpu-backup
    SLEEP_ROUTES = "sleep-routes"  # pause, release, resume and continue
    EFFECT = "effect"  # as without --enable-memory-saver: every release is answered with 200 and frees nothing


class FaultValue(StrEnum):
    """The kind of value that a fault takes."""

    NONE = "no value"
    SECONDS = "seconds"
    SECONDS_OR_NONE = "seconds, 0 where none are given"
    STATUS = "an exit status"
    BYTES = "bytes per second"
    COUNT = "a number"
    CALL = "one of " + ", ".join(EngineCall)
    PART = "one of " + ", ".join(LackingFeature)
    ENDING = "one of " + ", ".join(ENDINGS)


# name: (its value, what happens)
FAULTS: dict[str, tuple[FaultValue, str]] = {
    "load-time": (FaultValue.SECONDS, "loading takes this long, whatever --load-time says"),
    "die-while-loading": (
        FaultValue.SECONDS_OR_NONE,
        "the main process ends after so long; its children stay as orphans",
    ),
    "oom-text": (FaultValue.NONE, "loading ends in CUDA's out-of-memory text and death, whatever is free"),
    "cannot-start": (
        FaultValue.ENDING,
        "its start ends at once, with what SGLang says and how it ends for that reason",
    ),
    "lacks": (FaultValue.PART, "it is a SGLang that has no such part"),
    "die-after": (FaultValue.SECONDS, "the main process ends so long after it was ready"),
    "exit-code": (FaultValue.STATUS, "the status that die-while-loading, die-after and die-on end with; 1 without it"),
    "hang": (FaultValue.SECONDS_OR_NONE, "from so long after ready it takes connections and requests and answers none"),
    "sigstop-self": (FaultValue.SECONDS_OR_NONE, "the main process stops itself (SIGSTOP) so long after it was ready"),
    "log-flood": (FaultValue.BYTES, "numbered lines of 100 bytes on stdout from the start on, for ever"),
    "ignore-term": (FaultValue.NONE, "SIGTERM is ignored from the start on"),
    "slow-term": (FaultValue.SECONDS, "from SIGTERM to the exit it takes this long"),
    "hang-on": (FaultValue.CALL, "the call is carried out and never answered"),
    "fail-on": (
        FaultValue.CALL,
        "the call is not carried out; its answer is 500, that of reload 400 with SGLang's words",
    ),
    "die-on": (FaultValue.CALL, "the main process ends instead of an answer"),
    "wake-wrong": (FaultValue.NONE, "weights that come back with a wake or a reload are garbage, and no call says so"),
    "setsid-grandchild": (
        FaultValue.NONE,
        "a descendant in a session of its own ignores SIGTERM and keeps stdout open",
    ),
    "stubborn-memory": (FaultValue.SECONDS, "GPU memory stays taken for so long after the processes are dead"),
    "garbage-chunk": (FaultValue.NONE, "a stream's third part is not an event and not UTF-8"),
    "close-early": (FaultValue.COUNT, "an answer's connection is closed after so many tokens"),
}


@dataclass(frozen=True, slots=True)
class Faults:
    """The faults of this start: name -> the values given for it."""

    given: dict[str, tuple[str, ...]]

    def has(self, name: str, value: str | None = None) -> bool:
        assert name in FAULTS, name
        return name in self.given if value is None else value in self.given.get(name, ())

    def number(self, name: str) -> float | None:
        """Return the value given last, 0 for a fault without value; None where the fault was not asked for."""
        assert name in FAULTS, name
        return float(self.given[name][-1] or 0) if name in self.given else None

    def ending(self) -> str | None:
        """Return how the start is to end (a key of ENDINGS); None where it is to succeed."""
        return self.given["cannot-start"][-1] if "cannot-start" in self.given else None

    @property
    def exit_code(self) -> int:
        """Return the status with which a fault ends the main process."""
        status = self.number("exit-code")
        return 1 if status is None else int(status)


def parse_faults(texts: Iterable[str]) -> Faults:
    """Read the `--fault` flags and make the marker files of `once`; raise ValueError for a bad flag."""
    given: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, value, only, marker = _split(text)
        _check(name, value)
        if not only or (_first(marker) if only == "once" else os.path.exists(marker)):
            given[name] = (*given.get(name, ()), value)
    return Faults(given)


def check_fault(text: str) -> None:
    """Raise ValueError where one `--fault` is bad; make no marker file."""
    _check(*_split(text)[:2])


def _split(text: str) -> tuple[str, str, str, str]:
    """Return a fault's name and value, "once", "while" or "", and the file that this is about."""
    fault, only, marker = text, "", ""
    for word in ("once", "while"):
        if f",{word}=" in text:
            fault, _, marker = text.partition(f",{word}=")
            only = word
    name, _, value = fault.partition("=")
    return name, value, only, marker


def _check(name: str, value: str) -> None:
    if name not in FAULTS:
        raise ValueError(f"there is no fault {name!r}; there are {', '.join(FAULTS)}")
    kind, _ = FAULTS[name]
    if kind is FaultValue.NONE:
        good = not value
    elif kind in _NAMES:
        good = value in _NAMES[kind]
    else:
        good = _is_number(value) or (kind is FaultValue.SECONDS_OR_NONE and not value)
    if not good:
        raise ValueError(f"the fault {name} takes {kind}, not {value!r}")


_NAMES: dict[FaultValue, set[str]] = {
    FaultValue.CALL: set(EngineCall),
    FaultValue.PART: set(LackingFeature),
    FaultValue.ENDING: set(ENDINGS),
}


def _is_number(value: str) -> bool:
    try:
        return float(value) >= 0
    except ValueError:
        return False


def _first(marker: str) -> bool:
    """Make the marker file; return False when it is there already."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return False
    return True
