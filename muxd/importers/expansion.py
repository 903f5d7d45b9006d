"""The variables of a launch script, as far as they are known, and the words that bash makes with them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from muxd.config.flags import Hole, Word

from .lexer import ASSIGNMENT, NotPlain, Place, skip, tokens

#: What bash or muxd sets by itself, differently each time.
_VOLATILE = (
    "RANDOM SRANDOM SECONDS EPOCHSECONDS EPOCHREALTIME LINENO BASHPID PPID REPLY PWD PIPESTATUS HOSTNAME "
    "HOSTTYPE OSTYPE MACHTYPE BASH BASHOPTS BASH_VERSION SHELLOPTS BASH_VERSINFO FUNCNAME BASH_SOURCE GROUPS "
    "OPTIND OPTARG COLUMNS LINES SHLVL UID OLDPWD EUID TMPDIR MUXD_TOKEN _ DIRSTACK BASH_REMATCH"
)
VOLATILE = frozenset(_VOLATILE.split())

_NAMED = re.compile(r"(?<![\w$])(?<!\$\{)[A-Za-z_]\w*|(?<=\$\{)[A-Za-z_]\w*(?=:?=)")
_ARITHMETIC = re.compile(r"(?<![=!<>])=(?!=)|\+\+|--")
_PARAMETER = re.compile(r"([A-Za-z_]\w*|[0-9]+|[@*#?$!-])(\[[@*]\]|\[[0-9]+\])?(?:(:?[-=+?])(.*))?", re.DOTALL)
_NAME = re.compile(r"\$([A-Za-z_]\w*|[0-9@*#?$!-])")
_BRACES = re.compile(r"\{[^{}\s]*(?:,|\.\.)[^{}\s]*\}")
_SPECIAL = "\\'\"`$<>~{*?["

Value = str | Hole | list[Word]


#: Characters of a word, and words of an array, that are followed: a text that doubles itself has no end.
LONGEST, MOST_WORDS = 1 << 16, 4096


class Piece(NamedTuple):
    """Of a word; an array's elements are words of their own, and what `splits` is cut at its blanks."""

    text: Word | list[Word]
    splits: bool = False


@dataclass
class ScriptVariables:
    """What is known of a script at one place in it: variables, arguments, folder."""

    file: str  # as messages call it
    variables: dict[str, Value]
    folder: Word
    script: Word  # $0
    arguments: list[Word] | None  # None: unknown
    exported: set[str]
    assigned: dict[str, Place] = field(default_factory=dict)  # by the script itself
    _is_lost: bool = False  # any variable may have been set
    _lasting: set[str] = field(default_factory=set)  # variables that a function may set at any time
    _is_sure: bool = True  # bash comes here, whatever it finds

    def _look_into(self, substitution: str) -> None:
        """See what a command does whose output is asked for."""
        raise NotImplementedError

    def _assign(self, raw: str, place: Place) -> None:
        match = ASSIGNMENT.fullmatch(raw)
        if match is None:
            return
        name, index, appends, text = match.groups()
        self.assigned[name] = place
        value: Value = Hole()
        if text.startswith("("):
            elements = [t.text for t in tokens(text[1:-1]) if t.kind == "word"]
            value = [word for element in elements for word in self._words(element)]
            value = Hole() if any(ASSIGNMENT.fullmatch(e) or e.startswith("[") for e in elements) else value
        else:
            value = self._text(text)
        if appends:
            old = self.variables.get(name, "")
            if isinstance(old, list) and isinstance(value, list):
                value = [*old, *value] if len(old) + len(value) <= MOST_WORDS else Hole()
            else:
                value = _joined(old, value) if isinstance(old, str) and isinstance(value, str) else Hole()
        is_known = self._is_sure and not index and name not in self._lasting
        self.variables[name] = value if is_known else Hole()

    def _forget(self, text: str) -> list[str]:
        """Make every variable that the text names unknown, and return the names."""
        names = _NAMED.findall(text)
        for name in names:
            self.variables[name] = Hole()
        return names

    def _lose(self) -> None:
        """Make every variable unknown: something unseen may have set any of them."""
        self._is_lost = True
        self.variables = {name: Hole() for name in self.variables}

    # Words

    def _words(self, raw: str) -> list[Word]:
        """Return the words that bash makes of one word of the script."""
        words: list[Word] = []
        current: Word | None = None
        for piece in self._pieces(raw):
            if isinstance(piece.text, list):
                for number, element in enumerate(piece.text):
                    if number and current is not None:
                        words.append(current)
                        current = None
                    current = _joined(current, element)
                continue
            parts = _split(piece.text) if piece.splits and isinstance(piece.text, str) else [piece.text]
            for number, part in enumerate(parts):
                if number and current is not None:
                    words.append(current)
                    current = None
                if part != "" or not piece.splits:
                    current = _joined(current, part)
        words += [current] if current is not None else []
        if len(words) > MOST_WORDS:
            raise NotPlain("it makes too many words")
        return words

    def _text(self, raw: str) -> str | Hole:
        """Return what bash assigns: nothing is split at blanks."""
        whole: Word = ""
        for piece in self._pieces(raw, tilde=True):
            parts = piece.text if isinstance(piece.text, list) else [piece.text]
            for number, part in enumerate(parts):
                whole = _joined(whole, " " if number else "")
                whole = _joined(whole, part)
        return whole

    def _pieces(self, raw: str, *, quoted: bool = False, splits: bool = False, tilde: bool = False) -> Iterator[Piece]:
        at = 0
        while at < len(raw):
            c, end = (
                raw[at],
                skip(raw, at) if raw[at] in "\\'\"`$<>" and not (quoted and raw[at] in "'\"<>") else at + 1,
            )
            part = raw[at:end]
            if c == "\\":
                kept = quoted and part[1:] not in ("$", "`", '"', "\\", "\n")
                yield Piece(part if kept else part[1:].replace("\n", ""))
            elif c == "'" and not quoted:
                yield Piece(part[1:-1])
            elif c == '"' and not quoted:
                inner = list(self._pieces(part[1:-1], quoted=True))
                yield from inner if any(isinstance(piece.text, list) for piece in inner) else [Piece(""), *inner]
            elif c == '"':  # in the default of a quoted parameter
                pass
            elif part.startswith("$'") and not quoted:
                yield Piece(Hole() if "\\" in part else part[2:-1])
            elif part.startswith("$(("):
                if _ARITHMETIC.search(part):
                    self._forget(part)
                yield Piece(Hole())
            elif c == "`" or part.startswith(("$(", "<(", ">(")):
                self._look_into(part)
                yield Piece(Hole(many=not quoted))
            elif part.startswith("${"):
                yield from self._parameter(part[2:-1], quoted=quoted)
            elif c == "$" and (name := _NAME.match(raw, at)):
                end = name.end()
                yield from self._value(self._look(name[1]), quoted=quoted, each=name[1] if name[1] in "@*" else "")
            elif c == "$" and not quoted and raw[at + 1 : at + 2] == '"':
                pass
            elif c == "~" and raw[at - 1 : at] in ("=", ":") and not quoted:
                yield Piece(Hole())
            elif c == "~" and at == 0 and not quoted:
                home, whole = self._look("HOME"), raw[1:2] in ("", "/")
                yield Piece(home if whole and isinstance(home, str) else Hole())
            elif not quoted and not tilde and (braces := _BRACES.match(raw, at)):
                end = braces.end()
                yield Piece(Hole(many=True))
            elif not quoted and not tilde and c in "*?[" and raw not in ("[", "?", "*"):
                yield Piece(Hole(many=True))
            else:
                if not splits:
                    yield Piece(part)
                else:  # whole, for its blanks
                    end = next((n for n in range(at, len(raw)) if raw[n] in _SPECIAL), len(raw))
                    yield Piece(raw[at : max(end, at + 1)], splits=True)
                    end = max(end, at + 1)
            at = end

    def _parameter(self, text: str, *, quoted: bool) -> Iterator[Piece]:
        match = _PARAMETER.fullmatch(text)
        if match is None:
            yield Piece(Hole(many=not quoted or "@" in text))
            return
        name, index, operator, word = match.groups()
        value = self._look(name)
        if index and index[1:-1].isdigit():
            known = value if isinstance(value, list) else Hole() if isinstance(value, Hole) else []
            number = int(index[1:-1])
            value = known if isinstance(known, Hole) else known[number] if number < len(known) else None
        is_set = value is not None and value != [] and not (value == "" and operator and operator[0] == ":")
        each = name if name in "@*" else (index or "").strip("[]") if (index or "")[1:2] in ("@", "*") else ""
        if isinstance(value, Hole) or operator is None or (is_set and operator[-1] in "-=?"):
            yield from self._value(value, quoted=quoted, each=each)
        elif operator[-1] == "?":
            yield Piece(Hole())
        elif is_set is (operator[-1] == "+"):
            if operator[-1] == "=":
                self.variables[name] = self._text(word) if self._is_sure else Hole()
                self.assigned.setdefault(name, Place(self.file, 0))
            yield from self._pieces(word, quoted=quoted, splits=not quoted)

    def _value(self, value: Value | None, *, quoted: bool, each: str) -> Iterator[Piece]:
        """Yield the pieces of a value; `each` is "@" or "*" where all elements of an array are asked for."""
        if isinstance(value, list):
            if each == "@" and quoted:
                yield Piece(value)
                return
            plain = [word for word in value if isinstance(word, str)]
            value = next(iter(value), None) if not each else " ".join(plain) if plain == value else Hole()
        if isinstance(value, Hole):
            yield Piece(Hole(many=not quoted or each == "@"))
        elif quoted:
            yield Piece(value or "")
        elif value and ("IFS" in self.variables or re.search(r"[*?\[]", value)):
            yield Piece(Hole(many=True))
        else:
            yield Piece(value or "", splits=True)

    def _look(self, name: str) -> Value | None:
        if name in ("@", "*"):
            return self.arguments if self.arguments is not None else Hole()
        if name == "0":
            return self.script
        if name.isdigit() or name == "#":
            if self.arguments is None:
                return Hole()
            number = len(self.arguments) if name == "#" else int(name)
            return str(number) if name == "#" else self.arguments[number - 1] if number <= len(self.arguments) else None
        if name in self.variables:
            return self.variables[name]
        return Hole() if name in VOLATILE or self._is_lost or not name.isidentifier() else None


def _joined(before: Word | None, more: Word) -> Word:
    if before is None:
        return more
    if isinstance(before, Hole):
        return Hole(before.prefix, before.many or (isinstance(more, Hole) and more.many))
    if isinstance(more, Hole):
        return Hole(before + more.prefix, more.many)
    return before + more if len(before) + len(more) <= LONGEST else Hole(many=True)


def _split(text: str) -> list[str]:
    """Cut a text at its blanks; one at an end parts the text from what is beside it."""
    parts = text.split()
    return [*([""] if text[:1].isspace() else []), *parts, *([""] if text[-1:].isspace() else [])]
