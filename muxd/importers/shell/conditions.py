"""`[ ... ]` and `[[ ... ]]` where what they ask is known: True, False, or None for "nobody knows"."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from .expansion import Expansion
from .patterns import NotKnown
from .state import State, Unknown, Value
from .syntax import Text, Word

_FILES: dict[str, Callable[[str], bool]] = {
    "-e": os.path.exists,
    "-a": os.path.exists,
    "-f": os.path.isfile,
    "-d": os.path.isdir,
    "-L": os.path.islink,
    "-h": os.path.islink,
    "-r": lambda path: os.access(path, os.R_OK),
    "-w": lambda path: os.access(path, os.W_OK),
    "-x": lambda path: os.access(path, os.X_OK),
    "-s": lambda path: os.path.isfile(path) and os.path.getsize(path) > 0,
}
_NUMBERS: dict[str, Callable[[int, int], bool]] = {
    "-eq": lambda a, b: a == b,
    "-ne": lambda a, b: a != b,
    "-lt": lambda a, b: a < b,
    "-le": lambda a, b: a <= b,
    "-gt": lambda a, b: a > b,
    "-ge": lambda a, b: a >= b,
}


def tested(arguments: list[Value], state: State) -> bool | None:
    """`test ARGUMENTS`, by the number of arguments as POSIX has it."""
    match arguments:
        case []:
            return False
        case [value]:
            return None if isinstance(value, Unknown) else value != ""
        case ["!", *rest]:
            return _not(tested(rest, state))
        case [str() as question, value]:
            return _of_one(question, value, state)
        case [left, str() as comparison, right] if comparison not in ("-a", "-o"):
            return _of_two(left, comparison, right)
    return None


def held(words: tuple[Word, ...], state: State, expansion: Expansion) -> bool | None:
    """`[[ WORDS ]]`."""
    return _Brackets(words, state, expansion).whole()


class _Brackets:
    """Reads the words from the left; what bash would not look at is passed over."""

    def __init__(self, words: tuple[Word, ...], state: State, expansion: Expansion) -> None:
        self._words = list(words)
        self._state = state
        self._expansion = expansion
        self._passing = False

    def whole(self) -> bool | None:
        result = self._either()
        return None if self._words else result

    def _next(self) -> str:
        """The next word where it could be an operator."""
        parts = self._words[0].parts if self._words else ()
        return parts[0].text if len(parts) == 1 and isinstance(parts[0], Text) and not parts[0].quoted else ""

    def _either(self) -> bool | None:
        result = self._both()
        while self._next() == "||":
            self._words.pop(0)
            other = self._pass_over(self._both) if result else self._both()
            result = True if result or other else None if result is None or other is None else False
        return result

    def _both(self) -> bool | None:
        result = self._one()
        while self._next() == "&&":
            self._words.pop(0)
            other = self._pass_over(self._one) if result is False else self._one()
            result = False if result is False or other is False else None if result is None or other is None else True
        return result

    def _pass_over(self, read: Callable[[], bool | None]) -> bool | None:
        before, self._passing = self._passing, True
        result = read()
        self._passing = before
        return result

    def _one(self) -> bool | None:
        if self._next() == "!":
            self._words.pop(0)
            return _not(self._one())
        if self._next() == "(":
            self._words.pop(0)
            result = self._either()
            if self._next() == ")":
                self._words.pop(0)
            return result
        return self._question()

    def _question(self) -> bool | None:
        taken: list[Word] = []
        while self._words and self._next() not in ("&&", "||", ")"):
            taken.append(self._words.pop(0))
        if self._passing:
            return None
        match taken:
            case [left, how, right] if _operator(how) in ("=", "==", "!="):
                return self._alike(left, right, wanted=_operator(how) != "!=")
            case [_, how, _] if _operator(how) == "=~":
                return None
            case [left, how, right] if _operator(how) in _NUMBERS:
                values = [self._expansion.calculated(self._expansion.joined(w), w.place) for w in (left, right)]
                return _of_two(values[0], _operator(how), values[1])
        return tested([self._expansion.joined(word) for word in taken], self._state)

    def _alike(self, left: Word, right: Word, *, wanted: bool) -> bool | None:
        text = self._expansion.joined(left)
        if isinstance(text, Unknown):
            return None
        try:
            return (self._expansion.pattern(right).fullmatch(text) is not None) == wanted
        except NotKnown:
            return None


def _operator(word: Word) -> str:
    part = word.parts[0] if len(word.parts) == 1 else None
    return part.text if isinstance(part, Text) and not part.quoted else ""


def _not(truth: bool | None) -> bool | None:
    return None if truth is None else not truth


def _of_one(question: str, value: Value, state: State) -> bool | None:
    if isinstance(value, Unknown):
        known = bool(value.prefix)
        return {"-n": True, "-z": False}.get(question) if known else None
    if question in ("-n", "-z"):
        return (value != "") == (question == "-n")
    if question == "-v":
        return value in state.variables
    if question == "-t":
        return False  # a worker's output is a log file, its input nothing
    if question not in _FILES or not value or not (os.path.isabs(value) or isinstance(state.folder, str)):
        return False if question in _FILES and not value else None
    return _FILES[question](os.path.join(str(state.folder), value))


def _of_two(left: Value, comparison: str, right: Value) -> bool | None:
    if isinstance(left, Unknown) or isinstance(right, Unknown):
        return None
    if comparison in ("=", "=="):
        return left == right
    if comparison == "!=":
        return left != right
    if comparison in _NUMBERS and all(re.fullmatch(r"\s*[+-]?\d+\s*", text) for text in (left, right)):
        return _NUMBERS[comparison](int(left), int(right))
    return None
