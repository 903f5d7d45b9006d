"""What stands for a parameter: `$X`, `${X:-...}`, `${A[@]}` and the rest of what braces can hold."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from . import patterns
from .patterns import NotKnown
from .state import VOLATILE, State, Unknown, Value
from .syntax import NotUnderstood, Parameter, Place, Text, Word

#: The longest text that is followed.
LONGEST = 1 << 17


class Ends(Exception):
    """bash would end the script here; `problem` says why, where that is an error."""

    def __init__(self, place: Place, problem: str | None = None) -> None:
        super().__init__(problem)
        self.place = place
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a field.  `split`: it came from a parameter that was not quoted."""

    value: Value
    quoted: bool
    split: bool = False


#: Between two fields.
BREAK = Chunk("", False)


class Parameters:
    """In one state, which `${X:=...}` changes."""

    def __init__(self, state: State) -> None:
        self._state = state

    def joined(self, word: Word) -> Value:
        raise NotImplementedError

    def pattern(self, word: Word) -> re.Pattern[str]:
        raise NotImplementedError

    def chunks(self, word: Word, *, assigning: bool = False) -> list[Chunk]:
        raise NotImplementedError

    def parameter(self, parameter: Parameter, place: Place) -> list[Chunk]:
        try:
            if parameter.indirect:
                return self._indirect(parameter, place)
            whole = self._whole(parameter, place)
            if whole is not None:
                return self._of_list(parameter, whole, place)
            value = self._scalar(parameter, place)
            return self._of_scalar(parameter, value, place)
        except NotKnown:
            return [self._chunk(Unknown(f"{parameter.source} is known only when it runs", place), parameter)]

    def _indirect(self, parameter: Parameter, place: Place) -> list[Chunk]:
        if parameter.index is not None:
            return self._keys(parameter)
        name = self._state.text(parameter.name)
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_]\w*|\d", name):
            raise NotKnown
        return self.parameter(replace(parameter, name=name, indirect=False), place)

    def _keys(self, parameter: Parameter) -> list[Chunk]:
        variable = self._state.variables.get(parameter.name)
        if variable is None or not isinstance(variable.value, dict) or parameter.operator:
            raise NotKnown
        return _separated([Chunk(key, parameter.quoted, not parameter.quoted) for key in variable.in_order])

    def _chunk(self, value: Value, parameter: Parameter) -> Chunk:
        return Chunk(value, parameter.quoted, not parameter.quoted)

    def _whole(self, parameter: Parameter, place: Place) -> list[Value] | None:
        """All values of `$@` or of an array; None for what is a single value."""
        if parameter.name in ("@", "*"):
            return list(self._state.arguments)
        if parameter.index is None or self._literal(parameter.index) not in ("@", "*"):
            return None
        variable = self._state.variables.get(parameter.name)
        if variable is None:
            if parameter.name in VOLATILE:
                raise NotKnown
            return []
        if isinstance(variable.value, Unknown):
            return [replace(variable.value, many=True)]
        return list(variable.in_order.values())

    def _literal(self, word: Word) -> str:
        return "".join(part.text for part in word.parts if isinstance(part, Text))

    def _scalar(self, parameter: Parameter, place: Place) -> Value | None:
        """None where it is not set."""
        name, state = parameter.name, self._state
        if name == "#":
            if any(isinstance(value, Unknown) for value in state.arguments):
                raise NotKnown
            return str(len(state.arguments))
        if name == "?" and state.status is not None:
            return str(state.status)
        if name == "0":
            return state.script
        if name.isdigit():
            return state.arguments[int(name) - 1] if int(name) <= len(state.arguments) else None
        if name == "_" or not (name[0].isalpha() or name[0] == "_"):
            raise NotKnown
        if parameter.index is not None:
            return self._element(parameter, place)
        value = state.text(name)
        if value is None and name in VOLATILE and name not in state.variables:
            raise NotKnown
        return value

    def _element(self, parameter: Parameter, place: Place) -> Value | None:
        assert parameter.index is not None
        variable = self._state.variables.get(parameter.name)
        if variable is None:
            if parameter.name in VOLATILE:
                raise NotKnown
            return None
        if isinstance(variable.value, Unknown):
            return variable.value
        value: dict[str, Value] = variable.value if isinstance(variable.value, dict) else {"0": variable.value}
        return value.get(self.key(parameter.index, place, by_name=variable.by_name, of=value))

    def key(self, index: Word, place: Place, *, by_name: bool, of: dict[str, Value]) -> str:
        """The key that an index means.  Raises NotKnown."""
        text = self.joined(index)
        number = text if by_name else self.calculated(text, place)
        if isinstance(number, Unknown):
            raise NotKnown
        if not by_name and number.startswith("-"):
            return str(max(map(int, of), default=-1) + 1 + int(number))
        return number

    def _of_scalar(self, parameter: Parameter, value: Value | None, place: Place) -> list[Chunk]:
        how = parameter.operator
        if how in ("-", ":-", "=", ":=", "+", ":+", "?", ":?"):
            return self._of_default(parameter, value, place)
        if value is None:
            if "nounset" in self._state.options:
                raise Ends(place, f"${parameter.name} is not set; set it where muxd is started, or write a default: "
                                  f"${{{parameter.name}:-VALUE}}")  # fmt: skip
            value = ""
        if isinstance(value, Unknown):
            return [self._chunk(replace(value, prefix="") if how or parameter.length else value, parameter)]
        if parameter.length:
            return [self._chunk(str(len(value)), parameter)]
        return [self._chunk(self._changed(value, parameter, place), parameter)]

    def _of_default(self, parameter: Parameter, value: Value | None, place: Place) -> list[Chunk]:
        """`-`, `=`, `+`, `?`; with a colon an empty value counts as none."""
        how, word = parameter.operator[-1], parameter.words[0]
        if isinstance(value, Unknown):
            return [self._chunk(value, parameter)]
        is_there = value is not None and (value != "" or len(parameter.operator) == 1)
        if is_there != (how == "+"):
            return [self._chunk(value or "" if how != "+" else "", parameter)]
        if how == "?":
            said = self.joined(word)
            reason = f": {said}" if isinstance(said, str) and said else ""
            raise Ends(place, f"${parameter.name} is not set{reason}; set it where muxd is started")
        if how == "=":
            assigned = self.joined(word)
            self._state.assign(parameter.name, assigned, place)
            return [self._chunk(assigned, parameter)]
        return self._of_word(word, parameter)

    def _of_word(self, word: Word, parameter: Parameter) -> list[Chunk]:
        """The word behind `:-`: what is not quoted in it is split."""
        chunks = self.chunks(word, assigning=parameter.quoted)
        if parameter.quoted:
            return [chunk if chunk is BREAK else Chunk(chunk.value, True) for chunk in chunks] or [Chunk("", True)]
        return [chunk if chunk is BREAK or chunk.quoted else Chunk(chunk.value, False, True) for chunk in chunks]

    def _of_list(self, parameter: Parameter, values: list[Value], place: Place) -> list[Chunk]:
        how = parameter.operator
        if parameter.length:
            if any(isinstance(value, Unknown) and value.many for value in values):
                raise NotKnown
            return [self._chunk(str(len(values)), parameter)]
        if how in ("-", ":-", "+", ":+"):
            is_there = bool(values) and (any(values) or len(how) == 1)
            if is_there == (how[-1] == "+"):
                return self._of_word(parameter.words[0], parameter)
            values = [] if how[-1] == "+" else values
        elif how == ":":
            values = self._slice(parameter, values, place)
        elif how:
            values = [
                value if isinstance(value, Unknown) else self._changed(value, parameter, place) for value in values
            ]
        return self._spread(parameter, values)

    def _spread(self, parameter: Parameter, values: list[Value]) -> list[Chunk]:
        index = self._literal(parameter.index) if parameter.index is not None else parameter.name
        if parameter.quoted and index == "*":
            return [Chunk(concatenated([part for value in values for part in (self._joint(), value)][1:]), True)]
        return _separated([self._chunk(value, parameter) for value in values])

    def _joint(self) -> str:
        """What "$*" has between the arguments."""
        separators = self._state.text("IFS")
        if isinstance(separators, Unknown):
            raise NotKnown
        return " " if separators is None else separators[:1]

    def _slice(self, parameter: Parameter, values: list[Value], place: Place) -> list[Value]:
        bounds = [self._bound(word, place) for word in parameter.words]
        array = self._state.variables.get(parameter.name)
        if parameter.name in ("@", "*"):
            values = [self._state.script, *values]
        elif array is not None and list(array.in_order) != [str(number) for number in range(len(values))]:
            raise NotKnown  # it counts keys, not elements
        start = bounds[0] if bounds[0] >= 0 else len(values) + bounds[0]
        if start == 0 or len(bounds) == 1:
            return values[start:][: bounds[1] if len(bounds) > 1 else None]
        return values[start : start + bounds[1]]

    def _bound(self, word: Word, place: Place) -> int:
        value = self.calculated(self.joined(word), place)
        if isinstance(value, Unknown):
            raise NotKnown
        return int(value)

    def _changed(self, text: str, parameter: Parameter, place: Place) -> Value:
        """A known text after `#`, `%`, `/`, `^`, `,` or `:`."""
        how, words = parameter.operator, parameter.words
        if not how:
            return text
        if how == ":":
            bounds = [self._bound(word, place) for word in words]
            return patterns.section(text, bounds[0], bounds[1] if len(bounds) > 1 else None)
        if how[0] in "#%":
            return patterns.trimmed(text, how, self.pattern(words[0]))
        if how[0] in "^,":
            if words[0].parts:
                raise NotKnown
            return patterns.recased(text, how)
        if how[0] == "/":
            by = self.joined(words[1]) if len(words) > 1 else ""
            if isinstance(by, Unknown):
                raise NotKnown
            return patterns.replaced(text, how, self.pattern(words[0]), by)
        raise NotKnown

    # Numbers

    def calculated(self, expression: Value, place: Place) -> Value:
        if isinstance(expression, Unknown):
            return expression
        for name in patterns.assigned_in(expression):
            self._state.assign(name, Unknown(f"${name} is known only when it runs", place), place)
        try:
            return str(patterns.calculated(expression, self._number))
        except (NotKnown, RecursionError):
            return Unknown(f"$(({expression})) is not calculated here", place)

    def _number(self, name: str) -> str:
        value = self._state.text(name)
        if isinstance(value, Unknown) or (value is None and name in VOLATILE):
            raise NotKnown
        return value or "0"


def _separated(chunks: list[Chunk]) -> list[Chunk]:
    """`"$@"` without arguments is no field at all."""
    return [part for chunk in chunks for part in (BREAK, chunk)][1:]


def concatenated(values: list[Value]) -> Value:
    """Known texts to the first that is not; an unknown one keeps what is known before it."""
    known = ""
    for value in values:
        if isinstance(value, Unknown):
            return replace(value, prefix=known + value.prefix)
        known += value
    return bounded(known)


def bounded(text: str) -> str:
    """A loop that doubles a text must not take the machine's memory."""
    if len(text) > LONGEST:
        raise NotUnderstood(Place("", 0), "a text grows too long to be followed")
    return text
