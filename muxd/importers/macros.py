"""Macros of llama-swap: `${NAME}`, `${env.NAME}`, and the three that llama-swap itself knows."""

import re
from collections.abc import Mapping
from typing import Any

from muxd.config.names import did_you_mean
from muxd.config.units import shown

_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}")
#: A text that is nothing but a variable of llama-swap's environment.
VARIABLE_MACRO = re.compile(r"\$\{env\.([A-Za-z_][A-Za-z0-9_]*)\}")

MACRO = re.compile(r"\$\{(env\.)?([A-Za-z0-9_-]+)\}")

#: Macros that nobody may define: llama-swap sets them for each model.
RESERVED = ("PORT", "MODEL_ID", "PID")

#: Variables that are no secret of anybody's.
PUBLIC = frozenset(f"${{env.{name}}}" for name in ("HOME", "USER", "LOGNAME", "PATH", "PWD", "HOSTNAME", "SHELL"))

#: The longest text that macros may make of one value: macros that double each other would make any length.
LONGEST = 64 * 1024


class Macros:
    """The macros that hold in one place: a model's own go before those of the file."""

    def __init__(self, values: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        self._values = values
        self._environ = environ
        self.used: set[str] = set()  # those that were put in: names, and variables as "${env.NAME}"

    def within(self, values: Mapping[str, Any]) -> "Macros":
        """Return these macros with others before them."""
        return Macros({**self._values, **values}, self._environ)

    def expanded(self, value: Any) -> Any:
        """Return a value with the macros in all its texts replaced; a text that is one macro alone gets its kind, too.

        Raise ValueError for a macro that is not known, or that leads to itself.
        """
        match value:
            case str():
                return self._text(value, ())
            case list():
                return [self.expanded(item) for item in value]
            case dict():
                return {str(self._text(key, ())): self.expanded(item) for key, item in value.items()}
        return value

    def _text(self, text: str, through: tuple[str, ...]) -> Any:
        if (alone := MACRO.fullmatch(text)) is not None:
            return self._value(alone, through)
        found = MACRO.sub(lambda match: _as_text(self._value(match, through)), text)
        if len(found) > LONGEST:
            raise ValueError(f"is longer than {LONGEST} characters once its macros are replaced; write less")
        return found

    def _value(self, match: re.Match[str], through: tuple[str, ...]) -> Any:
        name = match[2]
        if match[1]:
            if (found := self._environ.get(name)) is None:
                raise ValueError(f"{match[0]} is not set in this environment; set it, or write the value")
            self.used.add(match[0])
            return found
        if name in through:
            cycle = " -> ".join((*through[through.index(name) :], name))
            raise ValueError(f"macros lead to themselves: {cycle}; write one of them without the other")
        if name not in self._values:
            raise ValueError(f"{match[0]} is no macro; {did_you_mean(name, self._values)}")
        self.used.add(name)
        value = self._values[name]
        return self._text(value, (*through, name)) if isinstance(value, str) else value


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def why_no_macro(name: str, value: Any) -> str:
    """Return what is wrong with the definition of a macro, with advice; "" where nothing is."""
    if not _NAME.fullmatch(name):
        return f"{shown(name)} is no name of a macro; use letters, digits, _ and -, at most 63"
    if name in RESERVED:
        return f"{name} is llama-swap's own; give the macro another name"
    if isinstance(value, dict | list) or value is None:
        return "not a text or number; write one"
    return ""
