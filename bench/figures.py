"""Figures of many runs as a Markdown table: the median, how far runs lie apart, and the goal beside it."""

import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

HEAD = ("figure", "median", "middle 80 %", "runs", "goal")


@dataclass(frozen=True, slots=True)
class Figure:
    name: str
    values: Sequence[float]
    unit: str
    goal: float | None = None  # at most so much; None: only for the profile

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def row(self) -> tuple[str, ...]:
        spread = sorted(self.values)
        low, high = (spread[round(part * (len(spread) - 1))] for part in (0.1, 0.9))
        unit = self.unit
        return self.name, f"{self.median:.3g} {unit}", f"{low:.3g} to {high:.3g} {unit}", str(len(spread)), self._goal()

    def _goal(self) -> str:
        if self.goal is None:
            return ""
        return f"< {self.goal:g} {self.unit}" + ("" if self.median < self.goal else " (missed)")


def show(title: str, figures: Sequence[Figure]) -> None:
    load = os.getloadavg()[0]
    print(f"\n{title} ({os.cpu_count()} cores, load {load:.1f})\n")
    rows = [HEAD, *(figure.row() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    for number, row in enumerate(rows):
        print(f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |")
        if number == 0:
            print(f"|{'|'.join('-' * (width + 2) for width in widths)}|")


def machine() -> str:
    """When and on what: for a page of figures."""
    load = os.getloadavg()[0]
    return f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores (load {load:.1f}), Linux {platform.release()}"


def between(page: str, mark: str, text: str) -> str:
    """Return the page with this text, and no other, between `<!-- mark: ... -->` and `<!-- end of mark -->`."""
    before, begin, rest = page.partition(f"<!-- {mark}:")
    head, _, rest = rest.partition("-->\n")
    _, end, rest = rest.partition(f"<!-- end of {mark} -->")
    if not begin or not end:
        raise SystemExit(f"there is no place for {mark} in the page")
    return f"{before}{begin}{head}-->\n{text}\n{end}{rest}"
