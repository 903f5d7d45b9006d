"""Simple commands: assignments, words, redirections; and the blanks and comments between all commands."""

from __future__ import annotations

import re

from .syntax import Assignment, Command, Item, Simple, Text, Word
from .words import META, Words

#: Builtins whose arguments may be assignments, arrays included.
DECLARING = frozenset({"export", "declare", "local", "readonly", "typeset"})

_REDIRECTION = re.compile(r"(?:[0-9]+|\{[A-Za-z_]\w*\})?(<<<|<<-|<<|<&|<>|<(?!\()|>>|>&|>\||>(?!\()|&>>|&>)")
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(\[|\+?=)")


class SimpleCommands(Words):
    def __init__(self, text: str, file: str, first_line: int = 1) -> None:
        super().__init__(text, file, first_line)
        self._documents: list[tuple[str, bool]] = []  # ends of here-documents that begin at the next line

    # Blanks

    def _skip_blanks(self) -> None:
        while True:
            if self.next and self.next in " \t":
                self.at += 1
            elif self.sees("\\\n"):
                self.at += 2
            elif self.next == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            else:
                return

    def _skip_lines(self) -> None:
        self._skip_blanks()
        while self.next == "\n":
            self._end_line()
            self._skip_blanks()

    def _end_line(self) -> None:
        self.at += 1
        for delimiter, tabs in self._documents:
            self._skip_document(delimiter, tabs)
        self._documents.clear()

    def _skip_document(self, delimiter: str, tabs: bool) -> None:
        while self.next:
            end = self.text.find("\n", self.at)
            end = len(self.text) if end < 0 else end
            line, self.at = self.text[self.at : end], min(end + 1, len(self.text))
            if (line.lstrip("\t") if tabs else line) == delimiter:
                return

    # Commands

    def _simple(self) -> Command:
        place = self.place()
        assignments: list[Assignment] = []
        words: list[Word | Assignment] = []
        redirections: list[str] = []
        start = self.at
        while True:
            self._skip_blanks()
            if _REDIRECTION.match(self.text, self.at):
                redirections.append(self._redirection())
            elif not self.next or (self.next in META and not self._sees_process()):
                break
            elif not words and (assignment := self._assignment()):
                assignments.append(assignment)
            elif words and self._declares(words[0]) and (assignment := self._assignment()):
                words.append(assignment)
            else:
                words.append(self.word())
        if self.at == start:
            raise self.wrong(f"this {self.next} is not understood" if self.next else "the file ends too early")
        return Simple(tuple(assignments), tuple(words), place, tuple(redirections))

    def _declares(self, word: Word | Assignment) -> bool:
        return isinstance(word, Word) and literal(word) in DECLARING

    def _assignment(self) -> Assignment | None:
        start, place = self.at, self.place()
        match = _ASSIGNMENT.match(self.text, self.at)
        if match is None:
            return None
        index = None
        self.at = match.end()
        if match[2] == "[":
            self.at -= 1
            index = self._index()
            if not (self.sees("=") or self.sees("+=")):
                self.at = start
                return None
        append = match[2] == "+=" or (index is not None and self.take("+"))
        if index is not None:
            self.at += 1
        value = self._array() if self.take("(") else self.word()
        return Assignment(match[1], value, place, index, append)

    def _array(self) -> tuple[Item, ...]:
        items: list[Item] = []
        while True:
            self._skip_lines()
            if self.take(")"):
                return tuple(items)
            if not self.next or self.next in META:
                raise self.wrong("there is no closing ) of the array")
            items.append(self._item())

    def _item(self) -> Item:
        start = self.at
        if key := self._index():
            if self.take("="):
                return Item(self.word(), key)
            self.at = start
        return Item(self.word())

    def _skip_redirections(self) -> None:
        while _REDIRECTION.match(self.text, self.at):
            self._redirection()
            self._skip_blanks()

    def _redirection(self) -> str:
        match = _REDIRECTION.match(self.text, self.at)
        assert match
        self.at = match.end()
        self._skip_blanks()
        target = self._some_word()
        if match[1] in ("<<", "<<-"):
            self._documents.append((literal(target) or "", match[1] == "<<-"))
        return match[0]

    def _some_word(self, ends: str = META) -> Word:
        """Raises NotUnderstood where there is none."""
        start = self.at
        word = self.word(ends)
        if self.at == start:
            raise self.wrong(f"this {self.next or 'end'} is not understood")
        return word


def literal(word: Word) -> str | None:
    """What a word without parameters says."""
    texts = [part.text for part in word.parts if isinstance(part, Text)]
    return "".join(texts) if len(texts) == len(word.parts) else None
