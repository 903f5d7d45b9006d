"""Follows a script as bash would run it, without running anything.

What it starts is noted as it would be started.  What cannot be looked into
(`eval "$(conda shell.bash hook)"`, a file that is not there) is taken to leave the
variables alone that the script itself sets.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from .expansion import Expansion
from .flow import Flow, Leave
from .parameters import Ends, bounded
from .patterns import NotKnown
from .state import State, Unknown, Value, Variable
from .syntax import Assignment, Command, Item, NotUnderstood, Place, Simple, Substitution, Word

#: Builtins that carry out other text, with what is assigned before them.
READERS = ("eval", "source", ".")

#: The longest array.
ELEMENTS = 2000


@dataclass(frozen=True, slots=True)
class Run:
    """A command that the script starts: not a builtin, not a function."""

    arguments: tuple[Value, ...]
    environment: dict[str, Value]
    variables: dict[str, Variable]  # of the script, at that time
    place: Place
    unseen: Unknown | None = None  # what variables that are not there may have been set to
    repeated: bool = False  # in a loop, and nobody knows how often
    background: bool = False  # the script does not wait for it here


class Builtins(Protocol):
    """What the shell does itself; see `builtin`."""

    def knows(self, name: str) -> bool: ...

    def carry_out(
        self, walk: Walk, name: str, arguments: list[Value], declared: list[Assignment], command: Simple
    ) -> None: ...

    def look_inside(self, walk: Walk, arguments: list[Value], command: Simple) -> bool:
        """A program that starts another one: whether that was followed."""
        ...


class Walk(Flow):
    def __init__(self, state: State, *, builtins: Builtins, output: list[Value] | None = None, depth: int = 0) -> None:
        super().__init__(state, output, depth)
        self.runs: list[Run] = []
        self.sourced: dict[str, str] = {}  # texts of files, by path
        self.waited = 0  # how many of them there were when the script last waited for something
        self._builtins = builtins
        self._frames: list[dict[str, Variable | None]] = []  # of each function that runs: what `local` has hidden

    @property
    def expansion(self) -> Expansion:
        return Expansion(self.state, self._substitute)

    # Simple commands

    def simple(self, command: Simple) -> None:
        words = tuple(word for word in command.words if isinstance(word, Word))
        arguments = self.expansion.fields(words)
        declared = [word for word in command.words if isinstance(word, Assignment)]
        if not arguments:
            self._assign_all(command)
            return
        written, self.output = self.output, None if _goes_elsewhere(command) else self.output
        try:
            self._start(arguments, declared, command)
        finally:
            self.output = written

    def _assign_all(self, command: Simple) -> None:
        for assignment in command.assignments:
            self.assign(assignment)
        certain = not any(_substitutes(assignment) for assignment in command.assignments)
        self.state.status = 0 if certain else None
        if self.output is not None and command.redirections:
            self.output.append(Unknown("what is in a file", command.place))

    def _start(self, arguments: list[Value], declared: list[Assignment], command: Simple) -> None:
        name = arguments[0]
        if isinstance(name, str) and name in self.state.functions:
            with self._for_now(command.assignments, export=True):
                self._call(self.state.functions[name], arguments[1:])
        elif isinstance(name, str) and self._builtins.knows(name):
            with self._for_now(command.assignments if name in READERS else (), export=True):
                self._builtins.carry_out(self, name, arguments[1:], declared, command)
        else:
            self.start(arguments, command)

    def start(self, arguments: list[Value], command: Simple) -> None:
        """A program."""
        with self._for_now(command.assignments, export=True):
            if not self._builtins.look_inside(self, arguments, command):
                self._note(arguments, command.place)
        if self.output is not None:
            name = arguments[0] if isinstance(arguments[0], str) else "a command"
            self.output.append(Unknown(f"the output of {name} is known only when it runs", command.place))
        self.state.status = None

    def _note(self, arguments: list[Value], place: Place) -> None:
        self.runs.append(
            Run(
                tuple(arguments),
                self.state.exports(),
                dict(self.state.variables),
                place,
                self.state.unseen,
                repeated=self._repeated > 0,
                background=self._background > 0,
            )
        )

    @contextmanager
    def _for_now(self, assignments: tuple[Assignment, ...], *, export: bool = False) -> Iterator[None]:
        """`NAME=VALUE COMMAND`."""
        before = {a.name: self.state.variables.get(a.name) for a in assignments}
        for assignment in assignments:
            self.assign(assignment, export=export)
        try:
            yield
        finally:
            for name, old in before.items():
                self._restore(name, old)

    def _restore(self, name: str, old: Variable | None) -> None:
        if old is None:
            self.state.variables.pop(name, None)
        else:
            self.state.variables[name] = old

    def _call(self, body: Command, arguments: list[Value]) -> None:
        outer, self.state.arguments = self.state.arguments, arguments
        self._frames.append({})
        try:
            self.command(body)
        except Leave as leave:
            if leave.how != "return":
                raise
        finally:
            for name, old in self._frames.pop().items():
                self._restore(name, old)
            self.state.arguments = outer

    def hide(self, name: str) -> None:
        """`local NAME`: to be restored when the function ends."""
        if self._frames:
            self._frames[-1].setdefault(name, self.state.variables.get(name))

    @property
    def in_function(self) -> bool:
        return bool(self._frames)

    # Assignments

    def assign(self, assignment: Assignment, *, export: bool = False) -> None:
        old = self.state.variables.get(assignment.name)
        value = self._value(assignment, old)
        self.state.assign(assignment.name, value, assignment.place, export=export)

    def _value(self, assignment: Assignment, old: Variable | None) -> Value | dict[str, Value]:
        if isinstance(assignment.value, tuple):
            start = _as_array(old) if assignment.append else {}
            return self._array(start, assignment.value, by_name=old is not None and old.by_name)
        value = self.expansion.joined(assignment.value)
        if assignment.index is not None:
            return self._with_element(assignment, value, old)
        if not assignment.append:
            return value
        before = self.state.text(assignment.name) or ""
        if old is not None and old.changes:  # a sum
            return Unknown(f"${assignment.name} is known only when it runs", assignment.place)
        return _appended(before, value)

    def _with_element(self, assignment: Assignment, value: Value, old: Variable | None) -> Value | dict[str, Value]:
        assert assignment.index is not None
        array = _as_array(old)
        try:
            by_name = old is not None and old.by_name
            key = self.expansion.key(assignment.index, assignment.place, by_name=by_name, of=array)
        except NotKnown:
            return Unknown(f"${assignment.name} is known only when it runs", assignment.place)
        return array | {key: _appended(array.get(key, ""), value) if assignment.append else value}

    def _array(self, array: dict[str, Value], items: tuple[Item, ...], *, by_name: bool) -> Value | dict[str, Value]:
        array = dict(array)
        for item in items:
            if item.key is not None:
                try:
                    key = self.expansion.key(item.key, item.word.place, by_name=by_name, of=array)
                except NotKnown:
                    return Unknown("the array is known only when it runs", item.word.place)
                array[key] = self.expansion.joined(item.word)
                continue
            for value in self.expansion.fields((item.word,)):
                array[str(max(map(int, array), default=-1) + 1)] = value
            if len(array) > ELEMENTS:
                raise NotUnderstood(item.word.place, "an array grows too long to be followed")
        return array

    # $(...)

    def _substitute(self, substitution: Substitution, place: Place) -> Value:
        unknown = Unknown(f"{_short(substitution.source)} is known only when it runs", place)
        if substitution.commands is None:
            return unknown
        output: list[Value] = []
        inner = Walk(self.state.copy(), builtins=self._builtins, output=output, depth=self._depth)
        inner._steps = self._steps
        inner.sourced = self.sourced
        inner._frames = [dict(frame) for frame in self._frames]
        with suppress(Leave, Ends):
            inner.follow(substitution.commands)
        self._steps = inner._steps
        if any(isinstance(part, Unknown) for part in output):
            return unknown
        return "".join(map(str, output)).rstrip("\n")


def _as_array(variable: Variable | None) -> dict[str, Value]:
    if variable is None:
        return {}
    return variable.value if isinstance(variable.value, dict) else {"0": variable.value}


def _appended(before: Value, more: Value) -> Value:
    if isinstance(before, Unknown):
        return before
    return (
        bounded(before + more)
        if isinstance(more, str)
        else Unknown(more.why, more.place, before + more.prefix, more.many)
    )


def _substitutes(assignment: Assignment) -> bool:
    words = [assignment.value] if isinstance(assignment.value, Word) else [item.word for item in assignment.value]
    return any(isinstance(part, Substitution) for word in words for part in word.parts)


def _goes_elsewhere(command: Simple) -> bool:
    return any(r.startswith((">", "1>", "&>")) for r in command.redirections)


def _short(source: str) -> str:
    line = " ".join(source.split())
    return line if len(line) <= 60 else line[:57] + "..."
