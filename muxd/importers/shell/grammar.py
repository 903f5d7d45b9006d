"""The commands of a shell script: lists, pipelines, conditions, loops, functions.

As much of bash's grammar as launch scripts use; what is not understood raises NotUnderstood.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from .simple import SimpleCommands, literal
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
    Pipeline,
    Text,
    Word,
)
from .words import META

_KEYWORD = re.compile(r"[a-z]+|[{}!]|\[\[")
_BARE = re.compile(r"[^\s;&|<>()$`'\"\\]+")
_FUNCTION = re.compile(r"([^\s;&|<>()$`'\"\\=]+)[ \t]*\([ \t]*\)")
_ENDINGS = (";;&", ";;", ";&")


def read_commands(text: str, file: str, first_line: int = 1) -> tuple[Command, ...]:
    """All of a script.  Raises NotUnderstood."""
    return Grammar(text, file, first_line).commands_until()


class Grammar(SimpleCommands):
    def _keyword(self) -> str:
        """The bare word here, when it could be a reserved one."""
        match = _KEYWORD.match(self.text, self.at)
        if match is None:
            return ""
        after = self.text[match.end() : match.end() + 1]
        return match[0] if not after or after in META else ""

    def _take_keyword(self, *words: str) -> str:
        self._skip_lines()
        word = self._keyword()
        if word not in words:
            raise self.wrong(f"expected {' or '.join(words)}")
        self.at += len(word)
        return word

    # Lists

    def commands_until(self, *ends: str) -> tuple[Command, ...]:
        """Up to one of the reserved words, or to ")", which is taken, or to what ends a branch of `case`."""
        found: list[Command] = []
        while True:
            self._skip_lines()
            if self._at_end(ends):
                return tuple(found)
            command = self._chain()
            self._skip_blanks()
            if self.next == "&" and not self.sees("&&"):
                self.at += 1
                command = Background(command)
            elif self.next == ";" and not any(map(self.sees, _ENDINGS)):
                self.at += 1
            elif self.next not in ("", "\n", ")", ";"):
                raise self.wrong(f"this {self.next} is not understood")
            found.append(command)

    def _at_end(self, ends: tuple[str, ...]) -> bool:
        if not self.next:
            if ends:
                raise self.wrong(f"the file ends, and {ends[0]} is missing")
            return True
        if ")" in ends and self.take(")"):
            return True
        if ";;" in ends and any(map(self.sees, _ENDINGS)):
            return True
        return self._keyword() in ends

    def _chain(self) -> Command:
        first = self._pipeline()
        rest: list[tuple[str, Command]] = []
        while True:
            self._skip_blanks()
            operator = next((o for o in ("&&", "||") if self.take(o)), None)
            if operator is None:
                return Chain(first, tuple(rest)) if rest else first
            self._skip_lines()
            rest.append((operator, self._pipeline()))

    def _pipeline(self) -> Command:
        negated = False
        self._skip_blanks()
        while (word := self._keyword()) in ("!", "time"):
            negated ^= word == "!"
            self.at += len(word)
            self._skip_blanks()
            if word == "time" and self.take("-p"):
                self._skip_blanks()
        commands = [self._command()]
        self._skip_blanks()
        while self.next == "|" and not self.sees("||"):
            self.at += 2 if self.sees("|&") else 1
            self._skip_lines()
            commands.append(self._command())
            self._skip_blanks()
        return commands[0] if len(commands) == 1 and not negated else Pipeline(tuple(commands), negated)

    # Commands

    def _command(self) -> Command:
        self._skip_blanks()
        command = self._compound()
        if command is None:
            return self._simple()
        self._skip_blanks()
        self._skip_redirections()
        return command

    def _compound(self) -> Command | None:
        start = self.at
        if self.take("(("):
            if (expression := self.balanced(self.at)) is not None:
                return Calculation(expression, self.place(start))
            self.at = start
        if self.take("("):
            return Group(self.commands_until(")"), True)
        if (read := self._by_keyword().get(keyword := self._keyword())) is not None:
            self.at += len(keyword)
            return read()
        if match := _FUNCTION.match(self.text, self.at):
            self.at = match.end()
            return self._function_body(match[1])
        return None

    def _by_keyword(self) -> dict[str, Callable[[], Command]]:
        return {
            "{": self._group,
            "[[": self._condition,
            "if": self._if,
            "while": lambda: self._loop(until=False),
            "until": lambda: self._loop(until=True),
            "for": lambda: self._for(known=True),
            "select": lambda: self._for(known=False),
            "case": self._case,
            "function": self._function,
        }

    def _group(self) -> Command:
        body = self.commands_until("}")
        self._take_keyword("}")
        return Group(body, False)

    def _condition(self) -> Command:
        place = self.place()
        words: list[Word] = []
        while True:
            self._skip_lines()
            if self.take("]]"):
                return Condition(tuple(words), place)
            if not self.next:
                raise self.wrong("]] is missing")
            words.append(self._condition_word(after=literal(words[-1]) if words else None))

    def _condition_word(self, after: str | None) -> Word:
        """An operator is a word of its own; a pattern and a regular expression may have brackets in them."""
        place = self.place()
        is_pattern = after in ("=~", "==", "!=", "=")
        if not is_pattern:
            for operator in ("&&", "||", "(", ")", "<", ">"):
                if self.take(operator):
                    return Word((Text(operator, False),), place)
        return self._some_word(" \t\n" if is_pattern else META)

    def _if(self) -> Command:
        place = self.place()
        branches: list[tuple[tuple[Command, ...], tuple[Command, ...]]] = []
        otherwise: tuple[Command, ...] = ()
        keyword = "if"
        while keyword in ("if", "elif"):
            condition = self.commands_until("then")
            self._take_keyword("then")
            body = self.commands_until("elif", "else", "fi")
            branches.append((condition, body))
            keyword = self._take_keyword("elif", "else", "fi")
        if keyword == "else":
            otherwise = self.commands_until("fi")
            self._take_keyword("fi")
        return If(tuple(branches), otherwise, place)

    def _loop(self, *, until: bool) -> Command:
        place = self.place()
        condition = self.commands_until("do")
        return Loop(condition, until, self._do(), place)

    def _do(self) -> tuple[Command, ...]:
        self._take_keyword("do")
        body = self.commands_until("done")
        self._take_keyword("done")
        return body

    def _for(self, *, known: bool) -> Command:
        place = self.place()
        self._skip_blanks()
        if self.take("(("):
            self.balanced(self.at)
            self._end_of_head()
            return For("", (), self._do(), place, known=False)
        name = self._bare("a name")
        self._skip_lines()
        words: list[Word] | None = None
        if self._keyword() == "in":
            self.at += 2
            words = []
            self._skip_blanks()
            while self.next not in ("", "\n", ";"):
                words.append(self._some_word())
                self._skip_blanks()
        self._end_of_head()
        return For(name, tuple(words) if words is not None else None, self._do(), place, known)

    def _end_of_head(self) -> None:
        self._skip_blanks()
        self.take(";")
        self._skip_lines()

    def _case(self) -> Command:
        place = self.place()
        self._skip_blanks()
        subject = self.word()
        self._take_keyword("in")
        branches: list[tuple[tuple[Word, ...], tuple[Command, ...]]] = []
        while True:
            self._skip_lines()
            if self._keyword() == "esac":
                self.at += len("esac")
                return Case(subject, tuple(branches), place)
            branches.append((self._patterns(), self.commands_until(";;", "esac")))
            if self.sees(";;&") or self.sees(";&"):
                raise self.wrong("a branch that goes on in the next one is not followed")
            next((ending for ending in _ENDINGS if self.take(ending)), None)

    def _patterns(self) -> tuple[Word, ...]:
        self.take("(")
        patterns: list[Word] = []
        while True:
            self._skip_blanks()
            patterns.append(self.word())
            self._skip_blanks()
            if self.take(")"):
                return tuple(patterns)
            if not self.take("|"):
                raise self.wrong("this pattern of case is not understood")

    def _function(self) -> Command:
        self._skip_blanks()
        name = self._bare("a name")
        self._skip_blanks()
        if self.take("("):
            self._skip_blanks()
            self.take(")")
        return self._function_body(name)

    def _function_body(self, name: str) -> Command:
        self._skip_lines()
        return Function(name, self._command())

    def _bare(self, what: str) -> str:
        match = _BARE.match(self.text, self.at)
        if match is None:
            raise self.wrong(f"expected {what}")
        self.at = match.end()
        return match[0]
