"""The words and operators of a launch script, with quotes still around them; here-documents are passed over."""

from __future__ import annotations

import re
from bisect import bisect_left
from typing import NamedTuple

ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\[[^]]*\])?(\+)?=(.*)", re.DOTALL)

_BLANK = re.compile(r"(?:[ \t\r]|\\\n)+|#[^\n]*")
_REDIRECT = re.compile(r"[0-9]*(?:<<<|<<-?|<>|<&|>>|>&|>\||<(?!\()|>(?!\())|&>>?")
_OPERATOR = re.compile(r"&&|\|\||;;&|;&|;;|\|&|[;&|()\n]")
_BACKQUOTED = re.compile(r"`(?:[^`\\]|\\.)*`", re.DOTALL)
_ANSI = re.compile(r"\$'(?:[^'\\]|\\.)*'", re.DOTALL)
_ARRAY = re.compile(r"[A-Za-z_]\w*\+?=$")
_CASE = re.compile(r"\bcase\b")


class NotPlain(Exception):
    """It is more than is read here, or no shell's text at all."""


class Place(NamedTuple):
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Token(NamedTuple):
    kind: str  # "word", "operator", "redirect"
    text: str
    line: int


def tokens(text: str) -> list[Token]:
    """Part a script into words, operators and redirections; raise NotPlain."""
    try:
        return _tokens(text)
    except (ValueError, IndexError, RecursionError):
        raise NotPlain("a quote or a bracket is not closed") from None


def _tokens(text: str) -> list[Token]:
    found: list[Token] = []
    lines = [at for at, c in enumerate(text) if c == "\n"]
    documents: list[tuple[str, str]] = []
    at = 0
    while at < len(text):
        line = bisect_left(lines, at) + 1
        if blank := _BLANK.match(text, at):
            at = blank.end()
        elif redirect := _REDIRECT.match(text, at):
            found.append(Token("redirect", redirect[0], line))
            at = redirect.end()
        elif text.startswith("((", at):
            end = skip(text, at)
            found.append(Token("word", text[at:end], line))
            at = end
        elif operator := _OPERATOR.match(text, at):
            found.append(Token("operator", operator[0], line))
            at = operator.end()
            if operator[0] == "\n":
                at = _past_documents(text, at, documents)
        else:
            end = _word_end(text, at)
            if found and found[-1].kind == "redirect" and found[-1].text.lstrip("0123456789") in ("<<", "<<-"):
                documents.append((found[-1].text, re.sub(r"[\"'\\]", "", text[at:end])))
            found.append(Token("word", text[at:end], line))
            at = end
    return found


def _past_documents(text: str, at: int, documents: list[tuple[str, str]]) -> int:
    while documents:
        kind, last = documents.pop(0)
        while at < len(text):
            end = text.find("\n", at) % (len(text) + 1)
            line, at = text[at:end], end + 1
            if (line.lstrip("\t") if kind.endswith("-") else line) == last:
                break
    return min(at, len(text))


def _word_end(text: str, start: int) -> int:
    at = start
    while at < len(text) and text[at] not in " \t\n\r;&|)":
        if text[at] == "(" and _ARRAY.match(text[start:at]):
            at = _array_end(text, at + 1)
        elif text[at] in "(<>" and not text.startswith(("<(", ">("), at):
            break
        else:
            at = skip(text, at)
    if at == start or at > len(text):
        raise ValueError
    return at


def _array_end(text: str, at: int) -> int:
    while text[at] != ")":
        blank = re.compile(r"\n|" + _BLANK.pattern).match(text, at)
        at = blank.end() if blank else _word_end(text, at)
    return at + 1


def skip(text: str, at: int) -> int:
    """Return where the quotation, expansion or character ends that begins at `at`; raise ValueError, IndexError."""
    c = text[at]
    if c == "\\":
        return at + 2
    if c == "'":
        return text.index("'", at + 1) + 1
    if c == '"':
        return _balanced(text, at + 1, '"')
    if c == "`" or text.startswith("$'", at):
        found = (_BACKQUOTED if c == "`" else _ANSI).match(text, at)
        if found is None:
            raise ValueError
        return found.end()
    if text.startswith(("$(", "<(", ">("), at):
        end = _balanced(text, at + 2, ")")
        if _CASE.search(text, at, end):  # its patterns have brackets that are never opened
            raise ValueError
        return end
    if text.startswith("${", at):
        return _balanced(text, at + 2, "}")
    return _balanced(text, at + 1, ")") if c == "(" else at + 1


def _balanced(text: str, at: int, close: str) -> int:
    while text[at] != close:
        is_plain = close == '"' and (text[at] not in "\\`$" or text.startswith("$'", at))
        at = at + 1 if is_plain else skip(text, at)
    return at + 1
