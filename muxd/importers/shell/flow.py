"""Which commands of a script are run, and in what state: lists, conditions, loops, functions.

Where a decision is not known before, every way is followed, and what they do not agree on
is unknown from there on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from .conditions import held
from .expansion import Expansion
from .parameters import Ends
from .patterns import NotKnown, assigned_in
from .state import State, Unknown, Value, merged
from .syntax import (
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
    Loop,
    NotUnderstood,
    Pipeline,
    Place,
    Simple,
    Word,
)

#: A loop that goes on longer is one that keeps a server up.
ROUNDS = 50

#: Commands followed in one script, and how deep they may be in each other.
STEPS, DEPTH = 20_000, 60


class Leave(Exception):
    """`exit`, `return`, `break` or `continue`."""

    def __init__(self, how: str, levels: int = 1) -> None:
        super().__init__(how)
        self.how = how
        self.levels = levels


class Flow:
    """What is the same whatever simple commands do."""

    def __init__(self, state: State, output: list[Value] | None, depth: int) -> None:
        self.state = state
        self.output = output  # of a substitution; None: nobody reads it
        self._conditional = 0  # how many conditions we are in: failures end nothing there
        self._repeated = 0  # how many loops, of whose rounds only some are followed
        self._background = 0  # how many commands that nobody waits for
        self._depth = depth
        self._steps = 0

    @property
    def expansion(self) -> Expansion:
        raise NotImplementedError

    def simple(self, command: Simple) -> None:
        raise NotImplementedError

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
                self.simple(command)
            case Pipeline(commands, negated):
                self._pipeline(commands, negated=negated)
            case Chain(first, rest):
                self._chain(first, rest)
            case Background(inner):
                self._background += 1
                self._aside((inner,))
                self._background -= 1
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
                self._maybe(loop.place, lambda: self._some_round(loop.body), self._nothing)
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

    def _some_round(self, body: tuple[Command, ...]) -> None:
        """One that stands for all, of which nobody knows how many there are."""
        self._repeated += 1
        try:
            self._once(body)
        finally:
            self._repeated -= 1

    def _for(self, loop: For) -> None:
        values = list(self.state.arguments) if loop.words is None else self.expansion.fields(loop.words)
        if not loop.known or any(isinstance(value, Unknown) and value.many for value in values):
            if loop.name:
                unknown = Unknown(f"${loop.name} is known only when it runs", loop.place)
                self.state.assign(loop.name, unknown, loop.place)
            self._maybe(loop.place, lambda: self._some_round(loop.body), self._nothing)
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


def _place_of(command: Command) -> Place:
    match command:
        case Pipeline(commands, _) | Group(commands, _):
            return _place_of(commands[0]) if commands else Place("", 0)
        case Chain(inner, _) | Background(inner) | Function(_, inner):
            return _place_of(inner)
        case Case() | Calculation() | Condition() | For() | If() | Loop() | Simple():
            return command.place
