"""The variables of a launch script, as far as they are known, and the words that bash makes with them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from muxd.config.flags import Hole, Word

from .bash_syntax import NotPlain, Place, text_of

if TYPE_CHECKING:
    from tree_sitter import Node

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

#: Characters of a word that bash replaces by what it finds, outside of quotes and not behind "\\".
_PATTERN = re.compile(r"(?<!\\)[*?\[]|\{[^{}\s]*(?:,|\.\.)[^{}\s]*\}")
_HOME_INSIDE = re.compile(r"(?<=[=:])~")
_ESCAPED = re.compile(r"\\(.)|([^\\]+)", re.DOTALL)
_ESCAPED_IN_QUOTES = re.compile(r"\\(?:([$`\"\\])|\n)")

#: Nodes that are more than their text; the last two are so outside of quotes.
_EXPANDED = (
    *("simple_expansion", "expansion", "arithmetic_expansion", "command_substitution", "process_substitution"),
    *("string", "raw_string", "ansi_c_string"),
)

#: Characters of a word, and words of an array, that are followed: a text that doubles itself has no end.
LONGEST, MOST_WORDS = 1 << 16, 4096

Value = str | Hole | list[Word]

#: The words that a part of a word makes; what is beside it joins the first and the last, None is no text at all.
Fields = list[Word | None]


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
    _exports_all: bool = False  # what is set from here on is exported, as after `set -a`
    _is_sure: bool = True  # bash comes here, whatever it finds

    def _look_into(self, substitution: Node) -> None:
        """See what a command does whose output is asked for."""
        raise NotImplementedError

    def _assignment(self, assignment: Node) -> tuple[str, Value]:
        """Return what an assignment sets, and to what; to a Hole for a part of an array, and by names."""
        said, value = assignment.child_by_field_name("name"), assignment.child_by_field_name("value")
        name, index, _ = text_of(said).partition("[") if said is not None else ("", "", "")
        if index or value is None:
            return name, Hole() if index else ""
        if value.type != "array":
            return name, _one(self._expand([value], splits=False))
        elements = [element for element in value.named_children if element.type != "comment"]
        words = [word for element in elements for word in self._words([element])]
        return name, Hole() if any(text_of(element).startswith("[") for element in elements) else words

    def _set_variable(self, name: str, value: Value, place: Place, *, appends: bool = False) -> None:
        self.assigned[name] = place
        self.exported |= {name} if self._exports_all else set()
        old = self.variables.get(name, "") if appends else ""
        if isinstance(old, str) and isinstance(value, str):
            value = _joined(old, value) or ""
        elif isinstance(old, list) and isinstance(value, list) and len(old) + len(value) <= MOST_WORDS:
            value = [*old, *value]
        elif appends:
            value = Hole()
        is_known = self._is_sure and name not in self._lasting and not isinstance(value, Hole)
        self.variables[name] = value if is_known else Hole()

    def _forget(self, text: str) -> list[str]:
        """Make every variable that the text names unknown, and return the names."""
        names = _NAMED.findall(text)
        self.variables |= dict.fromkeys(names, Hole())
        return names

    def _lose(self) -> None:
        """Make every variable unknown: something unseen may have set any of them."""
        self._is_lost = True
        self.variables = dict.fromkeys(self.variables, Hole())

    # Words

    def _words(self, nodes: list[Node]) -> list[Word]:
        """Return the words that bash makes of one word of the script, which consists of these nodes."""
        return [word for word in self._expand(nodes) if word is not None]

    def _expand(self, nodes: list[Node], *, splits: bool = True) -> Fields:
        text = b"".join(node.text or b"" for node in nodes)
        return self._expand_text(text, nodes[0].start_byte, nodes, quoted=False, splits=splits)

    def _expand_text(self, text: bytes, start: int, nodes: Iterable[Node], *, quoted: bool, splits: bool) -> Fields:
        """Return the words of a text that begins at the byte `start` of the script, with these nodes in it."""
        fields: Fields = [None]
        at = 0
        for node in (part for each in nodes for part in _parts(each, quoted=quoted)):
            blanks = len(text_of(node)) - len(text_of(node).lstrip())  # before "${" they count as a part of it
            literal = text[at : node.start_byte - start + blanks].decode()
            literal = literal.removesuffix("$") if node.type == "string" else literal
            _glue(fields, self._literal(literal, begins=not at, quoted=quoted, splits=splits))
            _glue(fields, self._part(node, quoted=quoted, splits=splits))
            at = node.end_byte - start
        _glue(fields, self._literal(text[at:].decode(), begins=not at, quoted=quoted, splits=splits))
        return fields

    def _literal(self, text: str, *, begins: bool, quoted: bool, splits: bool) -> Fields:
        if quoted and text:
            return [_ESCAPED_IN_QUOTES.sub(lambda found: found[1] or "", text)]
        fields: Fields = [None]
        if begins and text.startswith("~"):
            home, (name, slash, text) = self._look("HOME"), text.partition("/")
            fields, text = [home if name == "~" and isinstance(home, str) else Hole()], slash + text
        unknown = (splits and _PATTERN.search(text)) or _HOME_INSIDE.search(text)
        for escaped, plain in _ESCAPED.findall(text[: unknown.start()] if unknown else text):
            _glue(fields, _cut(plain) if splits and plain else [plain or escaped.strip("\n")])
        if unknown:
            _glue(fields, [Hole(many=splits and text[unknown.start()] != "~")])
        return fields

    def _part(self, node: Node, *, quoted: bool, splits: bool) -> Fields:
        text = text_of(node).lstrip()
        match node.type:
            case "string":
                inner = (node.text or b"")[1:-1]
                fields = self._expand_text(inner, node.start_byte + 1, node.children[1:-1], quoted=True, splits=False)
                return fields if inner else [""]
            case "raw_string":
                return [text[1:-1]]
            case "ansi_c_string":
                return [Hole() if "\\" in text else text[2:-1]]
            case "simple_expansion":
                name = text[1:]
                value = self._look(name) if len(name) == 1 or not name.isdigit() else Hole()
                return self._value(value, quoted=quoted, splits=splits, each=name if name in "@*" else "")
            case "expansion":
                return self._parameter(node, text[2:-1], quoted=quoted, splits=splits)
            case "arithmetic_expansion":
                if _ARITHMETIC.search(text):
                    self._forget(text)
                return [Hole()]
        self._look_into(node)
        return [Hole(many=not quoted)]

    def _parameter(self, node: Node, text: str, *, quoted: bool, splits: bool) -> Fields:
        match = _PARAMETER.fullmatch(text)
        if match is None:
            return [Hole(many=not quoted or "@" in text)]
        name, index, operator, word = match.groups(default="")
        value = self._look(name)
        if index[1:-1].isdigit() and not isinstance(value, Hole):
            number, known = int(index[1:-1]), value if isinstance(value, list) else []
            value = known[number] if number < len(known) else None
        is_set = value is not None and value != [] and not (value == "" and operator.startswith(":"))
        if isinstance(value, Hole) or not operator or (is_set and operator[-1] in "-=?"):
            each = name if name in "@*" else index[1:-1].strip("0123456789")
            return self._value(value, quoted=quoted, splits=splits, each=each)
        if operator[-1] == "?":
            return [Hole()]
        if is_set is not (operator[-1] == "+"):
            return ["" if quoted else None]
        start = node.end_byte - 1 - len(word.encode())
        nodes = [child for child in node.children[:-1] if child.start_byte >= start]
        if operator[-1] == "=":
            default = _one(self._expand_text(word.encode(), start, nodes, quoted=quoted, splits=False))
            self.variables[name] = default if self._is_sure else Hole()
            self.assigned.setdefault(name, Place(self.file, 0))
            self.exported |= {name} if self._exports_all else set()
        made = self._expand_text(word.encode(), start, nodes, quoted=quoted, splits=splits)
        return made if word or not quoted else [""]

    def _value(self, value: Value | None, *, quoted: bool, splits: bool, each: str) -> Fields:
        """Return the words of a value; `each` is "@" or "*" where all elements of an array are asked for."""
        if each == "@" and quoted and (value is None or isinstance(value, list)):
            return [*(value or ())] or [None]
        if isinstance(value, list):
            plain = [word for word in value if isinstance(word, str)]
            value = next(iter(value), None) if not each else " ".join(plain) if plain == value else Hole()
        if isinstance(value, Hole):
            return [Hole(many=not quoted or each == "@")]
        if quoted or not splits:
            return [value or ""]
        if value and ("IFS" in self.variables or re.search(r"[*?\[]", value)):
            return [Hole(many=True)]
        return _cut(value or "")

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


def appends(assignment: Node) -> bool:
    return any(child.type == "+=" for child in assignment.children)


def _parts(node: Node, *, quoted: bool) -> Iterator[Node]:
    """Yield what of a node is more than its text: expansions and quotations."""
    if node.type in (_EXPANDED[:-2] if quoted else _EXPANDED):
        yield node
        return
    for child in node.children:
        yield from _parts(child, quoted=quoted)


def _glue(fields: Fields, more: Fields) -> None:
    """Put words behind words, of which the last and the first are one."""
    fields[-1:] = [_joined(fields[-1], more[0]), *more[1:]]
    if len(fields) > MOST_WORDS:
        raise NotPlain("it makes too many words")


def _one(fields: Fields) -> Word:
    """Return what bash assigns: words with blanks between them."""
    whole: Word | None = ""
    for number, word in enumerate(fields):
        whole = _joined(_joined(whole, " " if number else ""), word)
    return whole or ""


def _joined(before: Word | None, more: Word | None) -> Word | None:
    if before is None or more is None:
        return more if before is None else before
    if isinstance(before, Hole):
        return Hole(before.prefix, before.many or (isinstance(more, Hole) and more.many))
    if isinstance(more, Hole):
        return Hole(before + more.prefix, more.many)
    return before + more if len(before) + len(more) <= LONGEST else Hole(many=True)


def _cut(text: str) -> Fields:
    """Cut a text at its blanks; one at an end parts the text from what is beside it."""
    begins, ends = text[:1].isspace(), text[-1:].isspace() or not text
    return [*([None] if begins else []), *text.split(), *([None] if ends else [])]
