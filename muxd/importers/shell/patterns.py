"""Shell patterns, and what `${X#...}`, `${X/...}` and arithmetic make of known text."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Sequence

#: A pattern in pieces: text, and whether it is quoted and so means itself.
Pieces = Sequence[tuple[str, bool]]


class NotKnown(Exception):
    """The text is known, but not what bash would make of it."""


_EXTENDED = re.compile(r"[@?*+!]\(")


def compiled(pieces: Pieces) -> re.Pattern[str]:
    """A shell pattern as a regular expression for `fullmatch`."""
    if any(_EXTENDED.search(text) for text, quoted in pieces if not quoted):
        raise NotKnown
    parts = [re.escape(text) if quoted else _translated(text) for text, quoted in pieces]
    try:
        return re.compile("".join(parts), re.DOTALL)
    except re.error:
        raise NotKnown from None


def _translated(text: str) -> str:
    found = re.compile(r"\*|\?|\[(!|\^)?(\]?[^\]]*)\]|.", re.DOTALL)
    return "".join(_translated_piece(match) for match in found.finditer(text))


def _translated_piece(match: re.Match[str]) -> str:
    if match[0] in "*?":
        return {"*": ".*", "?": "."}[match[0]]
    if match[2] is None:
        return re.escape(match[0])
    if "[:" in match[0]:
        raise NotKnown
    members = match[2].replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace("^", "\\^")
    return f"[{'^' if match[1] else ''}{members}]"


def trimmed(text: str, how: str, pattern: re.Pattern[str]) -> str:
    """`#` and `##` take a beginning off, `%` and `%%` an end; doubled: the longest that fits."""
    _check_length(text)
    lengths = range(len(text) + 1)
    for length in reversed(lengths) if len(how) == 2 else lengths:
        rest = len(text) - length
        if how[0] == "#" and pattern.fullmatch(text[:length]):
            return text[length:]
        if how[0] == "%" and pattern.fullmatch(text[rest:]):
            return text[:rest]
    return text


def replaced(text: str, how: str, pattern: re.Pattern[str], by: str) -> str:
    """`/` the first, `//` every one, `/#` at the beginning, `/%` at the end; always the longest that fits."""
    _check_length(text)
    if how == "/%":
        starts = [start for start in range(len(text) + 1) if pattern.fullmatch(text[start:])]
        return text[: starts[0]] + by if starts else text
    result, at = [], 0
    while at <= len(text):
        ends = (end for end in range(len(text), at - 1, -1) if pattern.fullmatch(text[at:end]))
        end = next(ends, None)
        if end is not None and (end > at or how == "/#"):
            result.append(by)
            if how != "//":
                return "".join(result) + text[end:]
            at = end
        else:
            if how == "/#":
                return text
            result.append(text[at : at + 1])
            at += 1
    return "".join(result)


def _check_length(text: str) -> None:
    """Longer ones would take long: every part of the text is tried."""
    if len(text) > 512:
        raise NotKnown


def recased(text: str, how: str) -> str:
    change = str.upper if how[0] == "^" else str.lower
    return change(text) if len(how) == 2 else change(text[:1]) + text[1:]


def section(text: str, start: int, length: int | None) -> str:
    """`${X:START:LENGTH}`."""
    start = max(0, len(text) + start) if start < 0 else start
    if length is None:
        return text[start:]
    return text[start : len(text) + length] if length < 0 else text[start : start + length]


_NAME = re.compile(r"\$?\b[A-Za-z_]\w*")
_OCTAL = re.compile(r"(?<![\w.])0([0-7]+)\b")
_BINARY: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
}
_COMPARED: dict[type[ast.cmpop], Callable[[int, int], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def calculated(expression: str, value: Callable[[str], str]) -> int:
    """What `$((EXPRESSION))` is; `value` gives the text of a variable.  Raises NotKnown."""
    numbers = _NAME.sub(lambda match: f"({calculated(value(match[0].lstrip('$')), value)})", expression)
    if re.search(r"(?<![=!<>])=(?!=)|\+\+|--|[`'\"#?:,.~^]|\*\*", numbers) or len(numbers) > 200:
        raise NotKnown
    numbers = re.sub(r"!(?!=)", " not ", numbers.replace("&&", " and ").replace("||", " or "))
    try:
        tree = ast.parse(_OCTAL.sub(r"0o\1", numbers.strip()) or "0", mode="eval")
    except SyntaxError:
        raise NotKnown from None
    return _in_range(_evaluated(tree.body))


def _in_range(number: int) -> int:
    """bash counts in 64 bits, and around when they are full."""
    if not -(2**63) <= number < 2**63:
        raise NotKnown
    return number


def _evaluated(node: ast.expr) -> int:
    match node:
        case ast.Constant(value=int(number)):
            return int(number)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() | ast.Not() as sign, operand=operand):
            number = _evaluated(operand)
            return -number if isinstance(sign, ast.USub) else int(not number) if isinstance(sign, ast.Not) else number
        case ast.BinOp(left=left, op=ast.Div() | ast.Mod() as how, right=right):
            return _divided(_evaluated(left), _evaluated(right), rest=isinstance(how, ast.Mod))
        case ast.BinOp(left=left, op=how, right=right) if type(how) in _BINARY:
            if isinstance(how, ast.LShift | ast.RShift) and not 0 <= _evaluated(right) < 64:
                raise NotKnown
            return _BINARY[type(how)](_evaluated(left), _evaluated(right))
        case ast.Compare(left=left, ops=[how], comparators=[right]) if type(how) in _COMPARED:
            return int(_COMPARED[type(how)](_evaluated(left), _evaluated(right)))
        case ast.BoolOp(op=how, values=values):
            truths = [bool(_evaluated(value)) for value in values]
            return int(all(truths) if isinstance(how, ast.And) else any(truths))
    raise NotKnown


def _divided(left: int, right: int, *, rest: bool) -> int:
    """Towards zero, as in C."""
    if right == 0:
        raise NotKnown
    quotient = abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1)
    return left - quotient * right if rest else quotient


def assigned_in(expression: str) -> list[str]:
    """The variables that an arithmetic expression changes."""
    found = re.findall(r"([A-Za-z_]\w*)\s*(?:\+\+|--|(?:<<|>>|[-+*/%&|^])?=(?!=))", expression)
    return [*found, *re.findall(r"(?:\+\+|--)\s*([A-Za-z_]\w*)", expression)]
