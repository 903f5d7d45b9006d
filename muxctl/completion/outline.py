"""Outline of a command line, taken from its parsers: the one source of every shell's completion."""

import argparse
from collections.abc import Callable, Mapping
from typing import NamedTuple

from muxctl.verbs import VERBS, parser_of, parser_of_all

FILES, DIRECTORIES, MODELS = "files", "directories", "models"

#: Stands for the program's name in the scripts; argparse leaves no such text in a help.
PROGRAM = "%PROG%"

_BY_METAVAR = {
    **dict.fromkeys(("PATH", "FILE", "SCRIPT"), FILES),
    **dict.fromkeys(("DIR", "FOLDER"), DIRECTORIES),
    "NAME": MODELS,
}


class Value(NamedTuple):
    """The value of an argument or of an option."""

    name: str  # as the help writes it
    source: str = ""  # FILES, DIRECTORIES, MODELS; "" if it has none that can be proposed
    words: dict[str, str] = {}  # noqa: RUF012  words that can be proposed, with their meanings
    optional: bool = False


class Option(NamedTuple):
    flags: tuple[str, ...]
    meaning: str
    value: Value | None


class Outline(NamedTuple):
    """The options and the argument of one verb, or of muxctl before the verb."""

    options: tuple[Option, ...]
    argument: Value | None

    def flags(self, *, optional: bool) -> list[str]:
        """Return the flags that must take a value or, with `optional`, those that may take one."""
        return [
            flag
            for option in self.options
            if option.value is not None and option.value.optional is optional
            for flag in option.flags
        ]


class Program(NamedTuple):
    """A program with verbs, each of which has a parser of its own."""

    name: str
    verbs: Mapping[str, str]  # with their meanings
    parser_of: Callable[[str], argparse.ArgumentParser]
    parser_of_all: Callable[[], argparse.ArgumentParser]  # of the options before a verb

    def outline(self, verb: str | None = None) -> Outline:
        """Return the outline of a verb, or of the program itself without one."""
        parser = self.parser_of_all() if verb is None else self.parser_of(verb)
        shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
        options = tuple(
            Option(tuple(action.option_strings), action.help or "", self._value(action))
            for action in shown
            if action.option_strings
        )
        arguments = [self._value(action) for action in shown if not action.option_strings]
        return Outline(options, arguments[0] if arguments else None)

    def _value(self, action: argparse.Action) -> Value | None:
        if action.nargs == 0:
            return None
        name = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
        words = dict(self.verbs) if name == "VERB" else dict.fromkeys(map(str, action.choices or ()), "")
        return Value(name, _BY_METAVAR.get(name, ""), words, action.nargs == "?")


MUXCTL = Program("muxctl", VERBS, parser_of, parser_of_all)
