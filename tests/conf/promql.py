"""The metrics that a PromQL expression asks for, with the labels that it looks at.

Reads what muxd's rules and dashboard are written in, not all of PromQL: promtool is what checks the grammar.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
RANGE = re.compile(r"\[[^\]]*\]")
MATCHER = re.compile(r'([a-zA-Z_]\w*)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|(?P<name>[a-zA-Z_:][\w:]*)\s*(?P<labels>\{[^}]*\})?(?P<call>\s*\()?|\d[\w.]*')
WORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan"}


@dataclass(frozen=True, slots=True)
class Selector:
    """`name{label="value"}`; of each label the values it is compared with."""

    name: str
    labels: dict[str, tuple[str, ...]]


def selectors(expr: str) -> Iterator[Selector]:
    plain = RANGE.sub("", GROUPING.sub("", expr))
    for token in TOKEN.finditer(plain):
        name = token["name"]
        if name is not None and token["call"] is None and name.lower() not in WORDS:
            matchers = MATCHER.findall(token["labels"] or "")
            yield Selector(name, {label: tuple(value.split("|")) for label, _, value in matchers})


def grouping_labels(expr: str) -> set[str]:
    """What `by`, `without`, `on` ... name."""
    return {label.strip() for names in GROUPING.findall(expr) for label in names.split(",") if label.strip()}
