"""Figures of many rounds as one table: medians, ratios round by round, and muxd's goals beside them."""

import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from .rows import Experiment, Goal, Row
from .targets import ON_BOTH

OURS = "muxd"


@dataclass(slots=True)
class Results:
    """What was measured so far."""

    values: dict[tuple[str, str], dict[int, float]] = field(default_factory=lambda: defaultdict(dict))
    """(row's key, target) -> by round."""
    failures: dict[tuple[str, str], str] = field(default_factory=dict)
    """(experiment's name, target) -> what it did instead, last."""

    def median(self, key: str, target: str) -> float | None:
        values = self.values.get((key, target))
        return statistics.median(values.values()) if values else None

    def ratios(self, key: str, peer: str) -> list[float]:
        """Ours to the peer's in the same round: what slows all of a round down is not in it."""
        return _pairs(self, key, OURS, peer)

    def as_json(self) -> dict[str, Any]:
        figures: dict[str, dict[str, list[float]]] = defaultdict(dict)
        for (key, target), values in self.values.items():
            figures[key][target] = [values[number] for number in sorted(values)]
        failures = {f"{name} {target}": text for (name, target), text in self.failures.items()}
        return {"figures": figures, "failures": failures}


def lines(results: Results, experiments: Sequence[Experiment], targets: Sequence[str]) -> list[str]:
    """Markdown.  A row with two goals takes two lines."""
    head = ("figure", *targets, "goal", "ratio (lowest to highest)", "met")
    rows = [head, *(row for each in experiments for row in _rows(results, each, targets))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    printed = [f"| {' | '.join(map(str.ljust, row, widths))} |" for row in rows]
    return [printed[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *printed[1:]]


def scaling(results: Results) -> Iterator[str]:
    """What two cores bring each target that was measured on one and on both, and what is added to a router's cost.

    Round by round.
    """
    if added := _pairs(results, "request.cpu", "muxd-router", "sglang-router"):
        yield f"muxd-router: {_spread(added)} times the CPU per request of sglang-router alone; goal <= 1.35"
    for both, one in ON_BOTH.items():
        if limited := _pairs(results, "quota.rate", both, one):
            yield (
                f"{both}: {_spread(limited)} times the requests/s of {one} where each process of the proxy has the "
                f"same small share of a core for itself and uses it up; goal >= 1.8"
            )
        rates = _pairs(results, "request.rate", both, one)
        costs = _pairs(results, "request.cpu", both, one)
        share = results.median("request.core", both)
        if rates and costs and share is not None:
            yield (
                f"{both}: {_spread(rates)} times the requests/s of {one}, at {_spread(costs)} times the CPU; it got "
                f"{share:.0f} % of two cores' 200 %, as load and server are on one of them; with two cores for itself, "
                f"by its CPU: {2 / statistics.median(costs):.2f} times"
            )


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _pairs(results: Results, key: str, target: str, peer: str) -> list[float]:
    ours, theirs = results.values.get((key, target), {}), results.values.get((key, peer), {})
    return [ours[number] / theirs[number] for number in sorted(ours.keys() & theirs.keys()) if theirs[number]]


def _rows(results: Results, experiment: Experiment, targets: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for row in experiment.rows:
        cells = [_cell(results, experiment, row, target) for target in targets]
        if not any(cells):
            continue
        name = f"{row.name}, {row.unit}" if row.unit else row.name
        for goal in row.goals if OURS in targets else ():
            yield name, *cells, *judged(results, row.key, goal)
            name, cells = "", [""] * len(targets)
        if name:
            yield name, *cells, "", "", ""


def _cell(results: Results, experiment: Experiment, row: Row, target: str) -> str:
    """A round that failed is told, whatever the others were."""
    value = results.median(row.key, target)
    failure = results.failures.get((experiment.name, target), "") if row is experiment.rows[0] else ""
    if value is None:
        return failure
    return f"{number(value)} (once: {failure})" if failure else number(value)


def judged(results: Results, key: str, goal: Goal) -> tuple[str, str, str]:
    """The goal, the ratio with its extremes, and whether and by how much it is met."""
    sign = ">=" if goal.at_least else "<="
    stretch = f" (stretch {goal.stretch:g})" if goal.stretch is not None else ""
    text = f"{sign} {goal.limit:g}" + (f" x {goal.of}{stretch}" if goal.of else "")
    if goal.of is None:
        value, shown = results.median(key, OURS), ""
    else:
        ratios = results.ratios(key, goal.of)
        value = statistics.median(ratios) if ratios else None
        shown = f"{value:.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if value is not None else ""
    if value is None:
        return text, shown, "not measured"
    met = _met(value, goal.limit, goal.at_least)
    if goal.stretch is not None:
        met += f"; stretch: {_met(value, goal.stretch, goal.at_least)}"
    return text, shown, met


def _met(value: float, limit: float, at_least: bool) -> str:
    is_met = value >= limit if at_least else value <= limit
    return f"{'yes' if is_met else 'no'}, by {100 * abs(value / limit - 1):.0f} %"


def number(value: float) -> str:
    """To three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
