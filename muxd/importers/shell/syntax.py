"""What a shell script consists of, as `grammar` reads it and `walk` follows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Place(NamedTuple):
    """Where something stands: a file as the user knows it, and a line from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


# Parts of a word.  `quoted`: not to be split, and no pattern.


@dataclass(frozen=True, slots=True)
class Text:
    text: str
    quoted: bool


@dataclass(frozen=True, slots=True)
class Parameter:
    """`$NAME`, `${NAME:-WORD}` and the like."""

    name: str
    quoted: bool
    source: str  # as it is written
    index: Word | None = None  # of an array; "@" and "*" stand for all of it
    operator: str = ""
    words: tuple[Word, ...] = ()  # what the operator needs
    length: bool = False  # ${#NAME}
    indirect: bool = False  # ${!NAME}


@dataclass(frozen=True, slots=True)
class Substitution:
    """`$(COMMANDS)`, `` `COMMANDS` ``; without commands: `<(...)`, whose name nobody knows."""

    commands: tuple[Command, ...] | None
    quoted: bool
    source: str


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """`$((EXPRESSION))`."""

    expression: Word
    quoted: bool
    source: str


Part = Text | Parameter | Substitution | Arithmetic


@dataclass(frozen=True, slots=True)
class Word:
    parts: tuple[Part, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Item:
    """One element of `NAME=(...)`."""

    word: Word
    key: Word | None = None  # of `[KEY]=WORD`


@dataclass(frozen=True, slots=True)
class Assignment:
    name: str
    value: Word | tuple[Item, ...]
    place: Place
    index: Word | None = None
    append: bool = False


# Commands.


@dataclass(frozen=True, slots=True)
class Simple:
    assignments: tuple[Assignment, ...]
    words: tuple[Word | Assignment, ...]  # assignments only after `export`, `local` and the like
    place: Place
    redirections: tuple[str, ...] = ()  # as "2>", without their files


@dataclass(frozen=True, slots=True)
class Pipeline:
    """More than one command, or one behind `!`."""

    commands: tuple[Command, ...]
    negated: bool


@dataclass(frozen=True, slots=True)
class Chain:
    """Commands with `&&` and `||` between them."""

    first: Command
    rest: tuple[tuple[str, Command], ...]


@dataclass(frozen=True, slots=True)
class Background:
    """`COMMAND &`."""

    command: Command


@dataclass(frozen=True, slots=True)
class Group:
    """`{ ...; }`, or `( ... )`, whose assignments end with it."""

    body: tuple[Command, ...]
    subshell: bool


@dataclass(frozen=True, slots=True)
class If:
    branches: tuple[tuple[tuple[Command, ...], tuple[Command, ...]], ...]  # condition and body
    otherwise: tuple[Command, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Loop:
    """`while`, `until`."""

    condition: tuple[Command, ...]
    until: bool
    body: tuple[Command, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class For:
    """`for NAME in WORDS`; without words: `"$@"`.  `select` and `for ((...))` have no known words."""

    name: str
    words: tuple[Word, ...] | None
    body: tuple[Command, ...]
    place: Place
    known: bool = True


@dataclass(frozen=True, slots=True)
class Case:
    subject: Word
    branches: tuple[tuple[tuple[Word, ...], tuple[Command, ...]], ...]  # patterns and body
    place: Place


@dataclass(frozen=True, slots=True)
class Function:
    name: str
    body: Command


@dataclass(frozen=True, slots=True)
class Condition:
    """`[[ ... ]]`: words and operators in between."""

    words: tuple[Word, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Calculation:
    """`((EXPRESSION))`."""

    expression: str
    place: Place


Command = (
    Simple | Pipeline | Chain | Background | Group | If | Loop | For | Case | Function | Condition | Calculation
)  # fmt: skip


class NotUnderstood(Exception):
    """Something in a script that this reader cannot follow."""

    def __init__(self, place: Place, text: str) -> None:
        super().__init__(f"{place}: {text}")
        self.place = place
        self.text = text
