"""What programs print that scripts compute their paths and settings with; of all others nobody knows."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from .state import Unknown, Value
from .syntax import Assignment, Place, Simple
from .walk import Walk


class Call(NamedTuple):
    walk: Walk
    name: str
    arguments: list[Value]
    declared: list[Assignment]
    command: Simple

    @property
    def place(self) -> Place:
        return self.command.place

    @property
    def texts(self) -> list[str]:
        """The arguments that are known."""
        return [value for value in self.arguments if isinstance(value, str)]

    @property
    def all_known(self) -> bool:
        return len(self.texts) == len(self.arguments)

    def write(self, value: Value) -> None:
        if self.walk.output is not None:
            self.walk.output.append(value)


def echo(call: Call) -> None:
    arguments = list(call.arguments)
    while arguments and arguments[0] in ("-n", "-e", "-E"):
        arguments.pop(0)
    known = [value for value in arguments if isinstance(value, str)]
    clear = len(known) == len(arguments) and not any("\\" in text for text in known)
    call.write(" ".join(known) + "\n" if clear else Unknown("what echo says is known only when it runs", call.place))
    call.walk.state.status = 0


def printf(call: Call) -> None:
    if call.texts[:1] == ["-v"]:
        name = call.arguments[1] if len(call.arguments) > 1 else ""
        if isinstance(name, Unknown):
            call.walk.state.lose(name)
        else:
            call.walk.forget([name.partition("[")[0]], call.place)
        return
    plain = call.all_known and len(call.texts) == 2 and call.texts[0] in ("%s", "%s\\n")
    alone = call.all_known and len(call.texts) == 1 and not {"%", "\\"} & set(call.texts[0])
    unknown = Unknown("what printf says is known only when it runs", call.place)
    call.write(call.texts[-1] if plain or alone else unknown)
    call.walk.state.status = 0


def of_path(change: Callable[..., str], counts: tuple[int, ...] = (1,)) -> Callable[[Call], None]:
    """A program that makes a path of a path; how many arguments are understood."""

    def run(call: Call) -> None:
        state = call.walk.state
        known = call.all_known and len(call.texts) in counts and isinstance(state.folder, str)
        folder = state.folder if isinstance(state.folder, str) else ""
        result = change(folder, *call.texts) if known else None
        call.write(Unknown(f"the output of {call.name} is known only when it runs", call.place)
                   if result is None else result + "\n")  # fmt: skip
        state.status = 0 if known else None

    return run


def dirname(folder: str, path: str) -> str:
    stripped = path.rstrip("/")
    return os.path.dirname(stripped).rstrip("/") or ("/" if path.startswith("/") else ".")


def basename(folder: str, path: str, ending: str = "") -> str:
    name = os.path.basename(path.rstrip("/")) or path[:1]
    return name if name == ending else name.removesuffix(ending)


def realpath(folder: str, path: str) -> str:
    return os.path.realpath(os.path.join(folder, path))


def readlink(call: Call) -> None:
    options = [text for text in call.texts if text.startswith("-")]
    if options in (["-f"], ["-m"]):
        of_path(realpath)(call._replace(arguments=[v for v in call.arguments if v not in options]))
    else:
        call.walk.start([call.name, *call.arguments], call.command)


def unknown(call: Call) -> None:
    call.write(Unknown(f"the output of {call.name} is known only when it runs", call.place))
    call.walk.state.status = None


PROGRAMS: dict[str, Callable[[Call], None]] = {
    "echo": echo,
    "printf": printf,
    "dirname": of_path(dirname),
    "basename": of_path(basename, (1, 2)),
    "realpath": of_path(realpath),
    "readlink": readlink,
}
