"""The variables of a launch script, as far as they are known, and the words that bash makes with them.

Words and values are flat texts, in which some characters stand for more than themselves.  An array is END and its
words, each of which begins with EMPTY, with END between them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from muxd.config.flags import Hole, Word

from .bash_syntax import Place, text_of

if TYPE_CHECKING:
    from tree_sitter import Node

#: In a flat text: the end of a word, a word that is there though it is empty, what is not known of a word, and words of
#: which nothing is known.  Then the blanks outside of quotes, at which bash cuts words.
END, EMPTY, PART, MANY, CUTS = "\0", "\1", "\2", "\3", "\4\5\6"
MARKS, _UNKNOWN = re.compile(r"[\0-\6]"), re.compile(f"[{PART}{MANY}]")
_CUT = str.maketrans(" \t\n", CUTS)
_UNCUT = str.maketrans(END + MANY + CUTS, f" {PART} \t\n", EMPTY)

#: What bash or muxd sets by itself, differently each time.
VOLATILE = re.compile(
    r"BASH\w*|EPOCH\w+|S?RANDOM|SECONDS|LINENO|PPID|REPLY|(OLD)?PWD|PIPESTATUS|(HOST|OS|MACH)TYPE|HOSTNAME|SHELLOPTS|"
    r"FUNCNAME|GROUPS|OPT(IND|ARG)|COLUMNS|LINES|SHLVL|E?UID|TMPDIR|MUXD_TOKEN|_|DIRSTACK|IFS"
)

#: The variables that a text may set.
NAMED = re.compile(r"(?<![\w$])(?<!\$\{)[A-Za-z_]\w*|(?<=\$\{)[A-Za-z_]\w*(?=:?=)")
_SETS = re.compile(r"(?<![=!<>])=(?!=)|\+\+|--")
_PARAMETER = re.compile(r"\$(?:\{([A-Za-z_]\w*|[0-9]+|@)(\[@\])?(?:(:?[-=+?])(.*))?\}|(\w|@|[A-Za-z_]\w*))", re.DOTALL)

#: Outside of quotes: what is escaped, blanks, and what bash replaces by what it finds.
_SPECIAL = re.compile(r"\\(\n|.)|([ \t\n]+)|[*?\[{~$]", re.DOTALL)
_ESCAPED_IN_QUOTES = re.compile(r"\\(?:([$`\"\\])|\n)")

#: Nodes that are more than their text, by the ends of their types; those with other quotes only outside of quotes.
_EXPANDED, _QUOTED = ("expansion", "substitution", "string"), ("raw_string", "ansi_c_string")

#: Characters of a flat text that are followed: a text that doubles itself has no end.
LONGEST = 1 << 16


@dataclass
class ScriptVariables:
    """What is known of a script's variables at one place in it; its arguments are the array "@"."""

    place: Place
    variables: dict[str, str]
    assigned: dict[str, Place] = field(default_factory=dict)  # by the script itself
    _is_sure: bool = True  # bash comes here, whatever it finds
    _is_lost: bool = False  # any variable may have been set
    _lasting: set[str] = field(default_factory=set)  # variables that may be set to something else at any time

    def _assign(self, assignments: Sequence[Node]) -> None:
        """Set variables; bash expands all that stands in one command before it sets any."""
        for name, value in list(map(self._assignment, assignments)):
            self._set_variable(name, value)

    def _assignment(self, assignment: Node) -> tuple[str, str]:
        """Return what an assignment sets, and to what."""
        said, value = assignment.child_by_field_name("name"), assignment.child_by_field_name("value")
        name, index, _ = text_of(said).partition("[") if said is not None else ("", "", "")
        if value is not None and value.type == "array":
            elements = [element for element in value.named_children if element.type != "comment"]
            index = index or next((text_of(element) for element in elements if text_of(element)[0] == "["), "")
            made = array(word for element in elements for word in self._words([element]))
        else:
            made = self._flat([value]).translate(_UNCUT) if value is not None else ""
        if any(child.type == "+=" for child in assignment.children):
            old = self._look(name) or END[: made.startswith(END)]
            made = old + made if old.startswith(END) is made.startswith(END) else PART
        return name, PART if index else made

    def _set_variable(self, name: str, value: str) -> None:
        self.variables[name] = value if self._is_sure and name not in self._lasting and len(value) <= LONGEST else PART
        self.assigned[name] = self.place

    def _forget(self, text: str) -> list[str]:
        """Make every variable that the text names unknown, and return the names."""
        names = NAMED.findall(text)
        self.variables |= dict.fromkeys(names, PART)
        return names

    def _lose(self) -> None:
        """Make every variable unknown: something unseen may have set any of them."""
        self._is_lost = True
        self.variables = dict.fromkeys(self.variables, PART)

    def _words(self, nodes: Sequence[Node]) -> list[str]:
        """Return the words that bash makes of one word of the script, which consists of these nodes."""
        return [word for word in re.split(f"[{END}{CUTS}]+", self._flat(nodes)) if word]

    def _flat(self, nodes: Sequence[Node]) -> str:
        return self._flat_text(b"".join(node.text or b"" for node in nodes), nodes[0].start_byte, nodes, quoted=False)

    def _flat_text(self, text: bytes, start: int, nodes: Iterable[Node], *, quoted: bool) -> str:
        """Return the flat text of what begins at the byte `start` of the script, with these nodes in it."""
        made, at = "", 0
        for node in (part for each in nodes for part in _parts(each, quoted=quoted)):
            blanks = len(text_of(node)) - len(text_of(node).lstrip())  # before "${" they count as a part of it
            made += self._literal(text[at : node.start_byte - start + blanks].decode(), begins=not at, quoted=quoted)
            made += self._part(node, quoted=quoted)
            at = node.end_byte - start
            if len(made) > LONGEST:
                return MANY
        return made + self._literal(text[at:].decode(), begins=not at, quoted=quoted)

    def _literal(self, text: str, *, begins: bool, quoted: bool) -> str:
        if quoted:
            return _ESCAPED_IN_QUOTES.sub(lambda found: found[1] or "", text)
        home = begins and re.match("~(?=/|$)", text)
        known = EMPTY + self._value(self._look("HOME"), quoted=True) if home else ""
        return known + _SPECIAL.sub(_outside_quotes, text[1:] if home else text)

    def _part(self, node: Node, *, quoted: bool) -> str:
        text = text_of(node).lstrip()
        if node.type == "string":
            inner = self._flat_text((node.text or b"")[1:-1], node.start_byte + 1, node.children[1:-1], quoted=True)
            return inner if not inner and "@" in text else EMPTY + inner  # "${A[@]}" may be no word
        if node.type == "raw_string":
            return EMPTY + text[1:-1]
        if node.type.endswith("expansion") and (found := _PARAMETER.fullmatch(text)) is not None:
            return self._parameter(node, found, quoted=quoted)
        if node.type.endswith("expansion") and _SETS.search(text):
            self._forget(text)
        return PART if quoted and "@" not in text else MANY

    def _parameter(self, node: Node, found: re.Match[str], *, quoted: bool) -> str:
        name, index, operator, default, plain = found.groups(default="")
        value = self._look(name or plain)
        is_set = any(word != EMPTY for word in _elements(value)) if ":" in operator else value not in (None, END)
        if operator and _UNKNOWN.search(value or ""):
            return PART if quoted else MANY
        if not operator or (is_set and operator[-1] != "+"):
            return self._value(value, quoted=quoted, each="@" in (index or name or plain))
        if operator[-1] == "?" or (operator[-1] == "+" and not is_set):
            return ""
        start = node.end_byte - 1 - len(default.encode())
        nodes = [child for child in node.children[:-1] if child.start_byte >= start]
        made = self._flat_text(default.encode(), start, nodes, quoted=quoted)
        if operator[-1] == "=":
            self._set_variable(name, made.translate(_UNCUT))
        return made

    def _value(self, value: str | None, *, quoted: bool, each: bool = False) -> str:
        """Return the flat text of a value, or of `each` element of an array."""
        words = _elements(value)[: None if each else 1]
        if each and words == [value] and _UNKNOWN.search(words[0]):  # no array, as far as is known
            return MANY
        if quoted:
            return END.join(EMPTY * each + word for word in words)
        made = END.join(words).replace(EMPTY, "")
        is_known = not (re.search(rf"[*?\[{PART}{MANY}]", made) or "IFS" in self.variables)
        return made.translate(_CUT) if is_known or not made else MANY

    def _look(self, name: str) -> str | None:
        if name.isdigit():
            arguments = self._look("@")
            is_known = name != "0" and not _UNKNOWN.search(arguments or "")
            return next(iter(_elements(arguments)[int(name) - 1 :]), None) if is_known else PART
        return self.variables.get(name, PART if VOLATILE.fullmatch(name) or self._is_lost else None)


def array(words: Iterable[str]) -> str:
    return END + END.join(EMPTY + word for word in words)


def _elements(value: str | None) -> list[str]:
    """Return the words of an array; of another value that alone, where it is not empty."""
    return [word for word in (value or "").split(END) if word]


def word_of(flat: str) -> Word:
    known = _UNKNOWN.split(flat.replace(EMPTY, ""))
    return Hole(known[0], MANY in flat) if len(known) > 1 else known[0]


def _outside_quotes(found: re.Match[str]) -> str:
    if found[1] is not None:
        return "" if found[1] == "\n" else EMPTY + found[1]
    return found[2].translate(_CUT) if found[2] else MANY


def _parts(node: Node, *, quoted: bool) -> Iterator[Node]:
    """Yield what of a node is more than its text: expansions and quotations."""
    if node.type.endswith(_EXPANDED) and not (quoted and node.type in _QUOTED):
        yield node
        return
    for child in node.children:
        yield from _parts(child, quoted=quoted)
