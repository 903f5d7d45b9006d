"""The syntax tree of a launch script, as tree-sitter's grammar of bash makes it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tree_sitter import Node, Parser


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
    """Return the tree of a script, which is not plain where the script is not understood.

    An assignment that tree-sitter joins to the command of the next line gets a ";", and is a command of its own.
    """
    source = text.encode(errors="replace")
    root = _parser().parse(source).root_node
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
    lines, ends = text.split("\n"), [node for node in walk(root) if node.type == "heredoc_end"]
    return not root.has_error and all(lines[end.start_point[0]] == text_of(end) for end in ends)


def text_of(node: Node) -> str:
    return (node.text or b"").decode()


def walk(node: Node) -> Iterator[Node]:
    """Yield a node and all below it, in the text's order."""
    waiting = [node]
    while waiting:
        waiting += reversed((node := waiting.pop()).children)
        yield node


def words_of(command: Node) -> tuple[list[Node], list[list[Node]]]:
    """Return the assignments and the words of a command; each word is its adjacent nodes.  Raise NotPlain."""
    assignments: list[Node] = []
    words: list[list[Node]] = []
    text, at = command.text or b"", command.start_byte
    for child in [command] if command.type == "variable_assignment" else command.children:
        between = text[at - command.start_byte : child.start_byte - command.start_byte].replace(b"\\\n", b"")
        if between.strip() or has_words_behind(child):
            raise NotPlain("a word is left out")
        if child.type == "variable_assignment" and not text_of(child).startswith("-"):  # --flag=value is so, too
            assignments.append(child)
        elif words and child.start_byte == words[-1][-1].end_byte:
            words[-1].append(child)
        elif child.type != "comment" and not child.type.endswith("_redirect"):
            words.append(child.children if child.type == "command_name" else [child])
        at = child.end_byte
    return assignments, words


def has_words_behind(redirection: Node) -> bool:
    """Say whether a redirection has more of its command, which tree-sitter-bash takes for a part of it."""
    named = [child for child in redirection.named_children if not child.type.startswith(("heredoc_", "file_desc"))]
    return len(named) > (redirection.type != "heredoc_redirect") and redirection.type.endswith("_redirect")
