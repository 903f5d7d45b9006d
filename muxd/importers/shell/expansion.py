"""From the words of a script to what a command is given: parameters, splitting, patterns, in bash's order.

What is not known stays in its place as `Unknown`, with the reason.
"""

from __future__ import annotations

import glob
import os
import pwd
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from . import patterns
from .parameters import BREAK, Chunk, Parameters, concatenated
from .patterns import NotKnown
from .state import State, Unknown, Value
from .syntax import Arithmetic, Parameter, Part, Place, Substitution, Text, Word

#: How many parts of a path may be patterns, lest a whole disk is looked through.
PATTERNS = 2

_PATTERN = re.compile(r"[*?\[]")
_NAMED = re.compile(r"[A-Za-z_]\w*=")
_BRACES = re.compile(r"\{[^{}\s]*(?:,|\.\.)[^{}\s]*\}")


class Expansion(Parameters):
    """In one state, which `${X:=...}` changes.  `run` gives the output of a substitution."""

    def __init__(self, state: State, run: Callable[[Substitution, Place], Value]) -> None:
        super().__init__(state)
        self._run = run

    # Words

    def fields(self, words: tuple[Word, ...]) -> list[Value]:
        """The arguments that the words become."""
        return [field for word in words for field in self._fields(word)]

    def joined(self, word: Word) -> Value:
        """One text, as in an assignment: nothing is split, and no pattern means a file."""
        chunks = self.chunks(word, assigning=True)
        return concatenated([" " if chunk is BREAK else chunk.value for chunk in chunks])

    def pattern(self, word: Word) -> re.Pattern[str]:
        """Raises NotKnown."""
        pieces = []
        for chunk in self.chunks(word):
            if isinstance(chunk.value, Unknown):
                raise NotKnown
            pieces.append((chunk.value, chunk.quoted))
        return patterns.compiled(pieces)

    def _fields(self, word: Word) -> Iterator[Value]:
        field: list[Chunk] = []
        for chunk in self.chunks(word):
            if chunk is BREAK:
                yield from self._finished(field, word.place)
                field = []
            elif chunk.split and isinstance(chunk.value, str):
                for number, text in enumerate(self._split(chunk.value)):
                    if number:
                        yield from self._finished(field, word.place)
                        field = []
                    if text:
                        field.append(Chunk(text, False))
            elif chunk.quoted or chunk.value != "":
                field.append(chunk)
        yield from self._finished(field, word.place)

    def _finished(self, field: list[Chunk], place: Place) -> Iterator[Value]:
        """None for nothing, several for a pattern that files match."""
        if not field:
            return
        unknown = next((chunk for chunk in field if isinstance(chunk.value, Unknown)), None)
        if unknown is not None:
            value = concatenated([chunk.value for chunk in field])
            yield replace(value, many=unknown.split or value.many) if isinstance(value, Unknown) else value
            return
        texts = [(str(chunk.value), chunk.quoted) for chunk in field]
        text = "".join(text for text, _ in texts)
        if not any(_PATTERN.search(text) for text, quoted in texts if not quoted):
            yield text
            return
        pattern = "".join(glob.escape(text) if quoted else text for text, quoted in texts)
        if len([part for part in pattern.split("/") if _PATTERN.search(part)]) > PATTERNS:
            yield Unknown(f"what {pattern} matches is known only when it runs", place, many=True)
        else:
            yield from self._files(pattern) or [text]

    def _files(self, pattern: str) -> list[str]:
        return sorted(glob.glob(pattern, root_dir=self._state.folder)) if isinstance(self._state.folder, str) else []

    def _split(self, text: str) -> list[str]:
        """At $IFS; an empty piece at either end says that the field there ends, or begins."""
        separators = self._state.text("IFS")
        if separators is None or separators == " \t\n":
            return re.split(r"[ \t\n]+", text)
        if isinstance(separators, Unknown) or not separators:
            return [text]
        blank = "".join(c for c in separators if c in " \t\n")
        around = f"[{re.escape(blank)}]*" if blank else ""
        hard = "".join(c for c in separators if c not in " \t\n")
        cut = f"{around}[{re.escape(hard)}]{around}" if hard else f"[{re.escape(blank)}]+"
        return re.split(f"{cut}|[{re.escape(blank)}]+" if hard and blank else cut, text)

    def chunks(self, word: Word, *, assigning: bool = False) -> list[Chunk]:
        if not assigning and _BRACES.search("".join(_shape(part) for part in word.parts)):
            return [Chunk(Unknown("what the braces stand for is known only to bash", word.place), False, True)]
        chunks: list[Chunk] = []
        for number, part in enumerate(word.parts):
            if isinstance(part, Text):
                alone = number + 1 == len(word.parts)
                text = self._with_home(part, alone, assigning) if number == 0 or assigning else part.text
                chunks.append(Chunk(text, part.quoted))
            else:
                chunks += self._part(part, word.place)
        return chunks

    def _with_home(self, part: Text, alone: bool, assigning: bool) -> str:
        """`~` and `~USER` at the beginning; in an assignment behind a colon too."""
        if part.quoted:
            return part.text
        if not assigning and (named := _NAMED.match(part.text)):  # bash takes X=~ for an assignment anywhere
            return named[0] + self._with_home(Text(part.text[named.end() :], False), alone, True)
        pieces = part.text.split(":") if assigning else [part.text]
        last = len(pieces) - 1
        whole = (self._home(piece, alone or number < last) for number, piece in enumerate(pieces))
        return ":".join(whole)

    def _home(self, text: str, alone: bool) -> str:
        user, slash, rest = text.partition("/")
        if not user.startswith("~") or not (slash or alone):
            return text
        home = self._state.text("HOME") if user == "~" else None
        if isinstance(home, str):
            return home + slash + rest
        try:
            found = pwd.getpwuid(os.getuid()) if user == "~" else pwd.getpwnam(user[1:])
        except KeyError:
            return text
        return found.pw_dir + slash + rest

    def _part(self, part: Part, place: Place) -> list[Chunk]:
        match part:
            case Parameter():
                return self.parameter(part, place)
            case Arithmetic():
                return [Chunk(self.calculated(self.joined(part.expression), place), part.quoted, not part.quoted)]
            case Substitution():
                return [Chunk(self._run(part, place), part.quoted, not part.quoted)]
            case Text():
                return [Chunk(part.text, part.quoted)]


def _shape(part: Part) -> str:
    """A part as brace expansion sees it: what is quoted or a parameter is any other character."""
    return part.text if isinstance(part, Text) and not part.quoted else "\0"
