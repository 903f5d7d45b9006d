"""Tables of docs/how-to/coming-from.md: what each flag and key of sglangmux, llmux and llama-swap is in muxd.

They are made of what the importers themselves go by.  After a change run `python -m muxd.importers.coming_from FILE`,
which writes them into the page anew (`make reference`); a test holds the two equal.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from . import drop_in, llmux, swap_keys
from .translations import Translations, rows

_MARK = "<!-- {} -->"


def tables() -> dict[str, str]:
    """Return the tables in Markdown, by the names with which the page marks their places."""
    return {
        "sglangmux": _table("sglangmux", drop_in.FLAGS.items()),
        "llmux flags": _table("llmux", llmux.FLAGS.items()),
        "llmux keys": _table("llmux", _keys(llmux.KEYS)),
        "llama-swap flags": _table("llama-swap", swap_keys.FLAGS.items()),
        "llama-swap keys": _table("llama-swap", _keys(swap_keys.KEYS)),
    }


def with_tables(page: str) -> str:
    """Return the page with every table in its place, between a mark with its name and the next blank line."""
    for name, table in tables().items():
        mark = _MARK.format(name)
        if mark not in page:
            raise ValueError(f"the page has no {mark}")
        page = re.sub(rf"{re.escape(mark)}\n(?:\|.*\n)*", lambda _, text=f"{mark}\n{table}": text, page)  # type: ignore[misc]
    return page


def _table(program: str, said: Iterable[tuple[str, str]]) -> str:
    lines = "".join(f"| {name} | {becomes} |\n" for name, becomes in _joined(said))
    return f"| {program} | muxd |\n|---|---|\n{lines}"


def _keys(translations: Translations) -> Iterator[tuple[str, str]]:
    yield from ((f"`{key}`", becomes) for key, becomes in rows(translations))


def _joined(said: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield the rows, neighbours of which the same is said in one."""
    names: list[str] = []
    text = ""
    for name, becomes in said:
        if names and becomes != text:
            yield ", ".join(names), text
            names = []
        names, text = [*names, name], becomes
    yield ", ".join(names), text


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_tables(path.read_text()))
