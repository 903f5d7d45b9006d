"""The words of a shell script: quotes, `$` and what may stand in braces behind it.

`grammar` is built on this and lends it, as `commands_until`, what it takes to read `$(...)`.
"""

from __future__ import annotations

import re
from bisect import bisect_right

from .syntax import Arithmetic, Command, NotUnderstood, Parameter, Part, Place, Substitution, Text, Word

#: What ends a word that is not quoted.
META = " \t\n;&|<>()"

_PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]+|[@*#?$!_-]")
#: What may follow the name in `${...}`; the longer ones first.
_OPERATORS = (":-", ":=", ":+", ":?", "##", "%%", "//", "/#", "/%", "^^", ",,", *"-=+?#%/^,:@")
_ANSI = re.compile(r"\\(?:([0-7]{1,3})|x([0-9A-Fa-f]{1,2})|u([0-9A-Fa-f]{1,4})|(.))", re.DOTALL)
_ANSI_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "e": "\x1b", "E": "\x1b", "f": "\f", "v": "\v"}


class Words:
    """A text, and how far it has been read."""

    def __init__(self, text: str, file: str, first_line: int = 1) -> None:
        self.text = text
        self.file = file
        self.at = 0
        self._first_line = first_line
        self._ends = [match.start() for match in re.finditer("\n", text)]

    def commands_until(self, *ends: str) -> tuple[Command, ...]:
        raise NotImplementedError

    def place(self, at: int | None = None) -> Place:
        position = self.at if at is None else at
        return Place(self.file, self._first_line + bisect_right(self._ends, position - 1))

    def wrong(self, text: str, at: int | None = None) -> NotUnderstood:
        return NotUnderstood(self.place(at), text)

    @property
    def next(self) -> str:
        return self.text[self.at : self.at + 1]

    def sees(self, text: str) -> bool:
        return self.text.startswith(text, self.at)

    def take(self, text: str) -> bool:
        if self.sees(text):
            self.at += len(text)
            return True
        return False

    # Words

    def word(self, ends: str = META, *, quoted: bool = False) -> Word:
        """The parts up to one of `ends`; inside `"${X:-...}"` all of it is quoted and `'` means itself."""
        start = self.at
        parts: list[Part] = []
        while self.next and (self.next not in ends or self._sees_process()):
            parts += self._part(quoted)
        return Word(_joined(parts), self.place(start))

    def _part(self, quoted: bool) -> list[Part]:
        if self.take("\\\n"):
            return []
        if self.take("\\"):
            return [self._escaped(quoted)]
        if self.next == "'" and not quoted:
            return [Text(self._until("'", self.at + 1), True)]
        if self.sees('$"') and not quoted:
            self.at += 1  # to be translated: in the C locale what it says
        if self.take('"'):
            return self._double() or [Text("", True)]
        if self.next in "$`":
            return [self.dollar(quoted)]
        if self._sees_process() and not quoted:
            return [self._process()]
        self.at += 1
        return [Text(self.text[self.at - 1], quoted)]

    def _escaped(self, quoted: bool) -> Part:
        character = self.next
        self.at += 1
        return Text(character if not quoted or character in '$`"\\}' else f"\\{character}", True)

    def _until(self, end: str, start: int) -> str:
        """The text from `start` to `end`, which is taken too."""
        found = self.text.find(end, start)
        if found < 0:
            raise self.wrong(f"there is no closing {end}")
        self.at = found + len(end)
        return self.text[start:found]

    def _double(self) -> list[Part]:
        """Behind an opening `"`, to the closing one."""
        start = self.at - 1
        parts: list[Part] = []
        while not self.take('"'):
            if not self.next:
                raise self.wrong('there is no closing "', start)
            if self.take("\\\n"):
                continue
            if self.take("\\"):
                character, self.at = self.next, self.at + 1
                parts.append(Text(character if character in '$`"\\' else f"\\{character}", True))
            elif self.next in "$`":
                parts.append(self.dollar(True))
            else:
                parts.append(Text(self.next, True))
                self.at += 1
        return parts

    # What begins with $

    def dollar(self, quoted: bool) -> Part:
        start = self.at
        if self.take("`"):
            return self._backquoted(start, quoted)
        if self.sees("$((") and (part := self._arithmetic(start, quoted)):
            return part
        if self.take("$("):
            commands = self.commands_until(")")
            return Substitution(commands, quoted, self.text[start : self.at])
        if self.take("${"):
            return self._braced(start, quoted)
        if self.sees("$'") and not quoted:
            return Text(self._ansi(), True)
        self.at += 1
        if match := _PARAMETER.match(self.text, self.at):
            name = match[0][0] if match[0][0].isdigit() else match[0]
            self.at += len(name)
            return Parameter(name, quoted, f"${name}")
        return Text("$", True)

    def _ansi(self) -> str:
        start = self.at + 2
        self.at = start
        while self.next and self.next != "'":
            self.at += 2 if self.next == "\\" else 1
        content = self.text[start : self.at]
        if not self.take("'"):
            raise self.wrong("there is no closing '", start)
        return _ANSI.sub(_ansi_character, content)

    def _backquoted(self, start: int, quoted: bool) -> Part:
        while self.next and self.next != "`":
            self.at += 2 if self.next == "\\" else 1
        content = self.text[start + 1 : self.at]
        if not self.take("`"):
            raise self.wrong("there is no closing `", start)
        inner = type(self)(re.sub(r"\\([$`\\])", r"\1", content), self.file, self.place(start).line)
        return Substitution(inner.commands_until(), quoted, self.text[start : self.at])

    def _sees_process(self) -> bool:
        return self.sees("<(") or self.sees(">(")

    def _process(self) -> Part:
        start = self.at
        self.at += 2
        self.commands_until(")")
        return Substitution(None, False, self.text[start : self.at])

    def _arithmetic(self, start: int, quoted: bool) -> Part | None:
        """None where it is a subshell in a substitution after all: `$((a); b)`."""
        expression = self.balanced(start + 3)
        if expression is None:
            return None
        inner = type(self)(expression, self.file, self.place(start).line)
        return Arithmetic(inner.word("", quoted=True), quoted, self.text[start : self.at])

    def balanced(self, start: int) -> str | None:
        """The text from `start` to the `))` that fits; None, and nothing is taken, where there is none."""
        depth, at = 0, start
        while at < len(self.text):
            if self.text[at] == ")" and depth == 0:
                if not self.text.startswith("))", at):
                    return None
                self.at = at + 2
                return self.text[start:at]
            depth += (self.text[at] == "(") - (self.text[at] == ")")
            at += 1
        return None

    # ${...}

    def _braced(self, start: int, quoted: bool) -> Part:
        length = self.next == "#" and self.text[self.at + 1 : self.at + 2] not in ("}", ":", "-", "=", "+", "?", "%")
        indirect = self.next == "!"
        self.at += length or indirect
        match = _PARAMETER.match(self.text, self.at)
        if match is None:
            raise self.wrong("this ${...} is not understood", start)
        self.at = match.end()
        index = self._index()
        operator = next((o for o in _OPERATORS if self.take(o)), "")
        words = self._operands(operator, quoted)
        if not self.take("}"):
            raise self.wrong("this ${...} is not understood", start)
        source = self.text[start : self.at]
        return Parameter(match[0], quoted, source, index, operator, words, length, indirect)

    def _index(self) -> Word | None:
        if not self.take("["):
            return None
        index = self.word("]")
        self.take("]")
        return index

    def _operands(self, operator: str, quoted: bool) -> tuple[Word, ...]:
        """Up to the closing brace: one word, two for a replacement or a section."""
        if not operator:
            return ()
        pattern = operator[0] in "#%/^,"  # quotes mean something in it, also inside double quotes
        ends = "/}" if operator[0] == "/" else ":}" if operator == ":" else "}"
        first = self.word(ends, quoted=quoted and not pattern)
        if operator[0] == "/" and self.take("/"):
            return first, self.word("}", quoted=quoted)
        if operator == ":" and self.take(":"):
            return first, self.word("}", quoted=quoted)
        return (first,)


def _joined(parts: list[Part]) -> tuple[Part, ...]:
    """Neighbouring texts of one kind made one."""
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(part, Text) and isinstance(last, Text) and part.quoted == last.quoted:
            joined[-1] = Text(last.text + part.text, part.quoted)
        else:
            joined.append(part)
    return tuple(joined)


def _ansi_character(match: re.Match[str]) -> str:
    octal, hexadecimal, unicode, letter = match.groups()
    if octal:
        return chr(int(octal, 8))
    if hexadecimal or unicode:
        return chr(int(hexadecimal or unicode, 16))
    return _ANSI_LETTERS.get(letter, letter if letter in "\\'\"?" else f"\\{letter}")
