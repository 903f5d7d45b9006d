"""The syntax tree of a launch script, as tree-sitter's grammar of bash makes it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tree_sitter import Node, Parser

#: What tree-sitter-bash 0.25 stumbles over, and means the same here without: "<<" of "<<<", comments in backquotes, and
#: here-documents, of which the rest of the first line is kept.
_STUMBLES = re.compile(r"(?<=<)<<|`#[^`\n]*`")
_HERE_DOCUMENT = re.compile(r"<<(-)?[ \t]*[\"'\\]?(\w+)[\"']?([^\n]*)(\n(?:.*\n)*?(?(1)\t*)\2(?=\n|$))")


class NotPlain(Exception):
    """It is more than is read here, or no shell's text at all."""


class Place(NamedTuple):
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@cache
def _parser() -> Parser:
    from tree_sitter import Language, Parser  # imported where a script is read, and nowhere else
    from tree_sitter_bash import language

    return Parser(Language(language()))


def tree(text: str) -> Node:
    """Return the tree of a script, which is not plain where the script is not understood."""
    root = _parser().parse(text.encode(errors="replace")).root_node
    if not is_plain(root, text):
        text = _HERE_DOCUMENT.sub(lambda found: found[3] + "\n" * found[4].count("\n"), _STUMBLES.sub(" ", text))
        root = _parser().parse(text.encode(errors="replace")).root_node
    return _parted(root, text.encode(errors="replace"))


def _parted(root: Node, source: bytes) -> Node:
    """Return the tree with commands of their own for assignments that it has joined to the command of the next line."""
    joints = (joint for node in walk(root) if node.type == "command" for joint in pairwise(node.children))
    ends = {
        before.start_byte if before.type == "comment" else before.end_byte
        for before, after in joints
        if b"\n" in source[before.end_byte : after.start_byte].replace(b"\\\n", b"")
    }
    for end in sorted(ends, reverse=True):
        source = source[:end] + b";" + source[end:]
    return _parser().parse(source).root_node if ends else root


def is_plain(root: Node, text: str) -> bool:
    """Say whether a script is understood: no errors, and no here-document ends at a line that resembles its end."""
    lines = text.split("\n")
    marks = pairwise(node for node in walk(root) if node.type in ("<<", "<<-", "heredoc_end"))
    ends = ((lines[end.start_point[0]], start, end) for start, end in marks if end.type == "heredoc_end")
    return not root.has_error and all(
        line.lstrip("\t" if start.type == "<<-" else "") == text_of(end) for line, start, end in ends
    )


def plain_tree(text: str) -> Node:
    """Return the tree of a script that is understood; raise NotPlain."""
    root = tree(text)
    if not is_plain(root, text):
        raise NotPlain("it is not understood")
    return root


def text_of(node: Node) -> str:
    return (node.text or b"").decode()


def walk(node: Node) -> Iterator[Node]:
    """Yield a node and all below it, in the text's order."""
    yield node
    for child in node.children:
        yield from walk(child)


def code(node: Node) -> str:
    """Return the text of a node without its comments and here-documents."""
    if node.type in ("comment", "heredoc_body"):
        return ""
    parts, at = [] if node.children else [text_of(node)], node.start_byte
    for child in node.children:
        parts += [" " * (child.start_byte > at), code(child)]
        at = child.end_byte
    return "".join(parts)


def command_words(node: Node, more: Sequence[Node]) -> tuple[list[Node], list[list[Node]]]:
    """Return the assignments and the words of a command, and `more` words; each word is its adjacent nodes.

    Raise NotPlain.
    """
    assignments: list[Node] = []
    words: list[list[Node]] = []
    text, at = node.text or b"", node.start_byte
    for child in [node] if node.type == "variable_assignment" else node.children:
        if text[at - node.start_byte : child.start_byte - node.start_byte].replace(b"\\\n", b"").strip():
            raise NotPlain("a word is left out")
        if child.type == "variable_assignment" and not text_of(child).startswith("-"):  # --flag=value is so, too
            assignments.append(child)
        elif child.type == "command_name":
            words.append(child.children)
        elif child.type.endswith("_redirect"):
            words += [[word] for word in words_behind(child)]
        elif words and child.start_byte == words[-1][-1].end_byte:
            words[-1] = [*words[-1], child]
        else:
            words.append([child])
        at = child.end_byte
    return assignments, [*words, *([word] for word in more)]


def words_behind(redirection: Node) -> list[Node]:
    """Return words of the command that stand behind a redirection, of which tree-sitter-bash takes them for a part."""
    inner = [word for child in redirection.children_by_field_name("redirect") for word in words_behind(child)]
    targets = redirection.children_by_field_name("destination")[1:]
    return [*redirection.children_by_field_name("argument"), *targets, *inner]
