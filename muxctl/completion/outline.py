"""Outline of muxctl's command line, taken from the parsers: the one source of every shell's completion."""

import argparse
from typing import NamedTuple

from muxctl.verbs import VERBS, parser_of, parser_of_all

FILES, DIRECTORIES, MODELS = "files", "directories", "models"

_BY_METAVAR = {"PATH": FILES, "DIR": DIRECTORIES, "NAME": MODELS}


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


def outline(verb: str | None = None) -> Outline:
    """Return the outline of a verb, or of muxctl itself without one."""
    parser = parser_of_all() if verb is None else parser_of(verb)
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    options = tuple(
        Option(tuple(action.option_strings), action.help or "", _value(action))
        for action in shown
        if action.option_strings
    )
    arguments = [_value(action) for action in shown if not action.option_strings]
    return Outline(options, arguments[0] if arguments else None)


def _value(action: argparse.Action) -> Value | None:
    if action.nargs == 0:
        return None
    name = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    words = VERBS if name == "VERB" else dict.fromkeys(map(str, action.choices or ()), "")
    return Value(name, _BY_METAVAR.get(name, ""), words, action.nargs == "?")
