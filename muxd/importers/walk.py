"""Follows a script as bash would run it, without running anything.

What it starts is noted as it would be started.  Where a decision is not known before,
every way is followed, and what they do not agree on is unknown from there on.  What
cannot be looked into (`eval "$(conda shell.bash hook)"`, a file that is not there) is
taken to leave the variables alone that the script itself sets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from .conditions import held
from .expansion import Ends, Expansion
from .patterns import NotKnown
from .state import State, Unknown, Value, Variable, merged
from .syntax import (
    Assignment,
    Background,
    Calculation,
    Case,
    Chain,
    Command,
    Condition,
    For,
    Function,
    Group,
    If,
    Item,
    Loop,
    NotUnderstood,
    Pipeline,
    Place,
    Simple,
    Substitution,
    Word,
)

#: A loop that goes on longer is one that keeps a server up.
ROUNDS = 50

#: Commands followed in one script, and how deep they may be in each other.
STEPS, DEPTH = 100_000, 60


@dataclass(frozen=True, slots=True)
class Run:
    """A command that the script starts: not a builtin, not a function."""

    arguments: tuple[Value, ...]
    environment: dict[str, Value]
    variables: dict[str, Variable]  # of the script, at that time
    place: Place


class Leave(Exception):
    """`exit`, `return`, `break` or `continue`."""

    def __init__(self, how: str, levels: int = 1) -> None:
        super().__init__(how)
        self.how = how
        self.levels = levels


class Walk:
    def __init__(self, state: State, *, builtins: Builtins, output: list[Value] | None = None, depth: int = 0) -> None:
        self.state = state
        self.runs: list[Run] = []
        self.output = output  # of a substitution; None: nobody reads it
        self._builtins = builtins
        self._conditional = 0  # how many conditions we are in: failures end nothing there
        self._frames: list[dict[str, Variable | None]] = []  # of each function that runs: what `local` has hidden
        self._depth = depth
        self._steps = 0

    @property
    def expansion(self) -> Expansion:
        return Expansion(self.state, self._substitute)

    def follow(self, commands: tuple[Command, ...]) -> None:
        for command in commands:
            self.command(command)

    def follow_to_end(self, commands: tuple[Command, ...]) -> None:
        """A whole script; an error that ends it comes out as Ends."""
        try:
            self.follow(commands)
        except Leave:
            return

    def command(self, command: Command) -> None:
        self._steps += 1
        self._depth += 1
        try:
            if self._steps > STEPS or self._depth > DEPTH:
                raise NotUnderstood(Place("", 0), "it goes on for too long to be followed")
            self._command(command)
        finally:
            self._depth -= 1

    def _command(self, command: Command) -> None:
        match command:
            case Simple():
                self._simple(command)
            case Pipeline(commands, negated):
                self._pipeline(commands, negated=negated)
            case Chain(first, rest):
                self._chain(first, rest)
            case Background(inner):
                self._aside((inner,))
                self.state.status = 0
            case Group(body, subshell):
                self._aside(body) if subshell else self.follow(body)
            case If(branches, otherwise, place):
                self._if(branches, otherwise, place)
            case Loop():
                self._loop(command)
            case For():
                self._for(command)
            case Case():
                self._case(command)
            case Function(name, inner):
                self.state.functions[name] = inner
                self.state.status = 0
            case Condition(words, _):
                self.settle(held(words, self.state, self.expansion))
            case Calculation(expression, place):
                self._calculate(expression, place)

    def settle(self, truth: bool | None) -> None:
        """The status of a command that is true, false, or nobody knows which; `set -e` ends on false."""
        self.state.status = None if truth is None else int(not truth)
        if truth is False and "errexit" in self.state.options and not self._conditional:
            raise Leave("exit")

    # Where it may go on in several ways

    def _maybe(self, place: Place, *ways: Callable[[], object]) -> None:
        """One of them is taken, and nobody knows which."""
        before, ends, left = self.state, list[State](), list[Exception]()
        if self.output is not None:
            self.output.append(Unknown("what is decided on the way", place))
        for way in ways:
            self.state = before.copy()
            try:
                way()
                ends.append(self.state)
            except (Leave, Ends) as error:
                left.append(error)
        if not ends:
            raise next((error for error in left if isinstance(error, Leave)), left[0])
        self.state = merged(ends, place)

    def _nothing(self) -> None:
        return

    def _set_status(self, status: int | None) -> Callable[[], None]:
        def change() -> None:
            self.state.status = status

        return change

    def _aside(self, body: tuple[Command, ...]) -> None:
        """In a shell of its own: only its status comes back."""
        outer, self.state = self.state, self.state.copy()
        try:
            self.follow(body)
            status = self.state.status
        except (Leave, Ends):
            status = None
        self.state = outer
        self.state.status = status

    @contextmanager
    def conditional(self) -> Iterator[None]:
        self._conditional += 1
        try:
            yield
        finally:
            self._conditional -= 1

    def _pipeline(self, commands: tuple[Command, ...], *, negated: bool) -> None:
        with self.conditional():
            if len(commands) == 1:
                self.command(commands[0])
            else:
                for command in commands:
                    self._aside((command,))
                self.state.status = None
        if negated and self.state.status is not None:
            self.state.status = int(not self.state.status)

    def _chain(self, first: Command, rest: tuple[tuple[str, Command], ...]) -> None:
        with self.conditional():
            self.command(first)
        for number, (operator, command) in enumerate(rest, 1):
            last = number == len(rest)
            status = self.state.status
            if status is None:
                skipped = self._set_status(0 if operator == "||" else None)
                self._maybe(_place_of(command), self._link(command, last=last), skipped)
            elif (status == 0) == (operator == "&&"):
                self._link(command, last=last)()

    def _link(self, command: Command, *, last: bool) -> Callable[[], None]:
        def run() -> None:
            if last:
                self.command(command)
                return
            with self.conditional():
                self.command(command)

        return run

    def _if(
        self,
        branches: tuple[tuple[tuple[Command, ...], tuple[Command, ...]], ...],
        otherwise: tuple[Command, ...],
        place: Place,
    ) -> None:
        if not branches:
            self.state.status = 0
            self.follow(otherwise)
            return
        (condition, body), *rest = branches
        with self.conditional():
            self.follow(condition)
        if self.state.status is None:
            self._maybe(place, lambda: self.follow(body), lambda: self._if(tuple(rest), otherwise, place))
        elif self.state.status == 0:
            self.follow(body)
        else:
            self._if(tuple(rest), otherwise, place)

    def _loop(self, loop: Loop) -> None:
        for _ in range(ROUNDS):
            with self.conditional():
                self.follow(loop.condition)
            status = self.state.status
            if status is None:
                self._maybe(loop.place, lambda: self._once(loop.body), self._nothing)
                break
            if (status == 0) == loop.until or not self._once(loop.body):
                break
        self.state.status = None

    def _once(self, body: tuple[Command, ...]) -> bool:
        """A round of a loop; whether there may be another."""
        try:
            self.follow(body)
        except Leave as leave:
            if leave.how not in ("break", "continue"):
                raise
            if leave.levels > 1:
                raise Leave(leave.how, leave.levels - 1) from None
            return leave.how == "continue"
        return True

    def _for(self, loop: For) -> None:
        values = list(self.state.arguments) if loop.words is None else self.expansion.fields(loop.words)
        if not loop.known or any(isinstance(value, Unknown) and value.many for value in values):
            if loop.name:
                unknown = Unknown(f"${loop.name} is known only when it runs", loop.place)
                self.state.assign(loop.name, unknown, loop.place)
            self._maybe(loop.place, lambda: self._once(loop.body), self._nothing)
            return
        for value in values[:ROUNDS]:
            self.state.assign(loop.name, value, loop.place)
            if not self._once(loop.body):
                return

    def _case(self, case: Case) -> None:
        self._cases(self.expansion.joined(case.subject), case.branches, case.place)

    def _cases(
        self, subject: Value, branches: tuple[tuple[tuple[Word, ...], tuple[Command, ...]], ...], place: Place
    ) -> None:
        for number, (patterns, body) in enumerate(branches):
            fits = self._fits(subject, patterns)
            if fits is None:
                rest = branches[number + 1 :]
                self._maybe(place, partial(self.follow, body), partial(self._cases, subject, rest, place))
                return
            if fits:
                self.follow(body)
                return
        self.state.status = 0

    def _fits(self, subject: Value, patterns: tuple[Word, ...]) -> bool | None:
        try:
            found = [self.expansion.pattern(pattern) for pattern in patterns]
        except NotKnown:
            return None
        if isinstance(subject, Unknown):
            return True if any(pattern.pattern == ".*" for pattern in found) else None
        return any(pattern.fullmatch(subject) for pattern in found)

    def _calculate(self, expression: str, place: Place) -> None:
        if names := assigned_in(expression):
            self.forget(names, place)
            return
        value = self.expansion.calculated(expression, place)
        self.settle(None if isinstance(value, Unknown) else value != "0")

    def forget(self, names: list[str], place: Place) -> None:
        """Variables that a command sets to nobody knows what."""
        for name in names:
            self.state.assign(name, Unknown(f"${name} is known only when it runs", place), place)
        self.state.status = None

    # Simple commands

    def _simple(self, command: Simple) -> None:
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
            with self._for_now(command.assignments):
                self._call(self.state.functions[name], arguments[1:])
        elif isinstance(name, str) and self._builtins.knows(name):
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
        self.runs.append(Run(tuple(arguments), self.state.exports(), dict(self.state.variables), place))

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
        return array

    # $(...)

    def _substitute(self, substitution: Substitution, place: Place) -> Value:
        unknown = Unknown(f"{_short(substitution.source)} is known only when it runs", place)
        if substitution.commands is None:
            return unknown
        output: list[Value] = []
        inner = Walk(self.state.copy(), builtins=self._builtins, output=output, depth=self._depth)
        inner._frames = [dict(frame) for frame in self._frames]
        with suppress(Leave, Ends):
            inner.follow(substitution.commands)
        if any(isinstance(part, Unknown) for part in output):
            return unknown
        return "".join(map(str, output)).rstrip("\n")


class Builtins(Protocol):
    """What the shell does itself; see `builtin`."""

    def knows(self, name: str) -> bool: ...

    def carry_out(
        self, walk: Walk, name: str, arguments: list[Value], declared: list[Assignment], command: Simple
    ) -> None: ...

    def look_inside(self, walk: Walk, arguments: list[Value], command: Simple) -> bool:
        """A program that starts another one: whether that was followed."""
        ...


def assigned_in(expression: str) -> list[str]:
    """The variables that an arithmetic expression changes."""
    found = re.findall(r"([A-Za-z_]\w*)\s*(?:\+\+|--|(?:<<|>>|[-+*/%&|^])?=(?!=))", expression)
    return [*found, *re.findall(r"(?:\+\+|--)\s*([A-Za-z_]\w*)", expression)]


def _as_array(variable: Variable | None) -> dict[str, Value]:
    if variable is None:
        return {}
    return variable.value if isinstance(variable.value, dict) else {"0": variable.value}


def _appended(before: Value, more: Value) -> Value:
    if isinstance(before, Unknown):
        return before
    return before + more if isinstance(more, str) else Unknown(more.why, more.place, before + more.prefix, more.many)


def _substitutes(assignment: Assignment) -> bool:
    words = [assignment.value] if isinstance(assignment.value, Word) else [item.word for item in assignment.value]
    return any(isinstance(part, Substitution) for word in words for part in word.parts)


def _goes_elsewhere(command: Simple) -> bool:
    return any(r.startswith((">", "1>", "&>")) for r in command.redirections)


def _place_of(command: Command) -> Place:
    match command:
        case Pipeline(commands, _) | Group(commands, _):
            return _place_of(commands[0]) if commands else Place("", 0)
        case Chain(inner, _) | Background(inner) | Function(_, inner):
            return _place_of(inner)
        case Case() | Calculation() | Condition() | For() | If() | Loop() | Simple():
            return command.place


def _short(source: str) -> str:
    line = " ".join(source.split())
    return line if len(line) <= 60 else line[:57] + "..."
