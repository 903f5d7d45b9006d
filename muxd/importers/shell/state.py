"""What a shell knows while it runs a script, and what nobody can know before."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from .syntax import Command, Place


@dataclass(frozen=True, slots=True)
class Unknown:
    """Text that is known only when the script runs; `why` begins a sentence."""

    why: str
    place: Place
    prefix: str = ""  # what is known of its beginning
    many: bool = False  # it may be several words, or none


Value = str | Unknown


@dataclass(frozen=True, slots=True)
class Variable:
    """An array is a dict, whether its keys are numbers or names."""

    value: Value | dict[str, Value]
    exported: bool = False
    place: Place | None = None  # of its assignment; None: from the environment
    by_name: bool = False  # declare -A
    changes: bool = False  # declare -i, -l, -u: it takes another value than what is written, where that is no number

    @property
    def in_order(self) -> dict[str, Value]:
        """The elements, of an array by their numbers; of one with names nobody knows the order."""
        if not isinstance(self.value, dict):
            return {"0": self.value}
        return self.value if self.by_name else dict(sorted(self.value.items(), key=lambda item: int(item[0])))


_PLAIN_NUMBER = re.compile("0|[1-9][0-9]*")

#: What bash sets by itself, differently each time or on each machine.
VOLATILE = frozenset(
    {
        *("RANDOM", "SRANDOM", "SECONDS", "EPOCHSECONDS", "EPOCHREALTIME", "LINENO", "BASHPID", "PPID"),
        *("BASH_REMATCH", "PIPESTATUS", "REPLY", "HOSTNAME", "HOSTTYPE", "OSTYPE", "MACHTYPE", "BASH", "BASHOPTS"),
        *("BASH_VERSION", "BASH_VERSINFO", "SHELLOPTS", "FUNCNAME", "DIRSTACK", "GROUPS", "OPTIND", "COLUMNS", "LINES"),
        *("SHLVL", "OLDPWD"),
    }
)


#: What no file of settings is taken to change.
LEFT_ALONE = ("PATH", "HOME", "PWD", "IFS", "UID", "EUID", "USER", "SHELL", "BASH_SOURCE")


@dataclass(slots=True)
class State:
    variables: dict[str, Variable]
    folder: Value
    script: str  # $0
    arguments: list[Value] = field(default_factory=list)
    functions: dict[str, Command] = field(default_factory=dict)
    options: frozenset[str] = frozenset()  # errexit, nounset, allexport
    unseen: Unknown | None = None  # what any variable may have been set to, where nobody can see it
    status: int | None = 0  # of the last command; None: nobody knows

    @classmethod
    def at_start(cls, environ: Mapping[str, str], unknown: Iterable[str], folder: str, script: str) -> State:
        """As bash begins; `unknown` are variables of its environment whose values nobody knows yet."""
        variables = {name: Variable(value, exported=True) for name, value in environ.items()}
        for name in unknown:
            variables[name] = Variable(Unknown(f"${name} is known only when it runs", Place(script, 1)), exported=True)
        variables["PWD"] = Variable(folder, exported=True)
        own = {"UID": str(os.getuid()), "EUID": str(os.geteuid()), "IFS": " \t\n"}
        variables |= {name: Variable(value) for name, value in own.items()}
        variables["BASH_SOURCE"] = Variable({"0": script})
        return cls(variables, folder, script)

    def copy(self) -> State:
        return replace(
            self,
            variables=dict(self.variables),
            arguments=list(self.arguments),
            functions=dict(self.functions),
        )

    def text(self, name: str) -> Value | None:
        """A variable's value, of an array its first; None where it is not set."""
        variable = self.variables.get(name)
        if variable is None:
            return None if name in VOLATILE else self.unseen
        return variable.value.get("0") if isinstance(variable.value, dict) else variable.value

    def assign(self, name: str, value: Value | dict[str, Value], place: Place, *, export: bool = False) -> None:
        old = self.variables.get(name)
        exported = export or "allexport" in self.options or (old is not None and old.exported)
        by_name, changes = (old.by_name, old.changes) if old is not None else (False, False)
        if changes and not (isinstance(value, str) and _PLAIN_NUMBER.fullmatch(value)):
            value = Unknown(f"${name} is known only when it runs", place)
        self.variables[name] = Variable(value, exported, place, by_name, changes)

    def lose(self, unseen: Unknown) -> None:
        """Variables have been set, and nobody knows which; what the shell and its folders go by is left alone."""
        self.unseen = unseen
        for name, variable in self.variables.items():
            if name not in (*VOLATILE, *LEFT_ALONE):
                self.variables[name] = replace(variable, value=unseen, place=unseen.place)

    def exports(self) -> dict[str, Value]:
        """The environment of a command that is started now."""
        texts = {name: self.text(name) for name, variable in self.variables.items() if variable.exported}
        return {name: value for name, value in texts.items() if value is not None}


def merged(states: list[State], place: Place) -> State:
    """Where any of them may be the one: what they do not agree on is unknown."""
    first, *others = states
    result = first.copy()
    names = {name: None for state in states for name in state.variables}
    for name in names:
        found = [state.variables.get(name) for state in states]
        if any(one != found[0] for one in found):
            result.variables[name] = _undecided(name, found, place)
    for state in others:
        result.functions |= state.functions
        if state.folder != result.folder:
            result.folder = _undecided_text("the folder", place)
        if state.arguments != result.arguments:
            result.arguments = [_undecided_text("$@", place, many=True)]
        result.options &= state.options
        if state.status != result.status:
            result.status = None
        result.unseen = result.unseen or state.unseen
    return result


def _undecided(name: str, found: list[Variable | None], place: Place) -> Variable:
    exported = any(one is not None and one.exported for one in found)
    return Variable(_undecided_text(f"${name}", place), exported, place)


def _undecided_text(what: str, place: Place, *, many: bool = False) -> Unknown:
    return Unknown(f"{what} depends on what line {place.line} finds when it runs", place, many=many)
