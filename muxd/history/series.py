"""Figures of every model over time: one for each second of a quarter of an hour, one for each 10 s of a day.

A ring has one slot for each step; what is not known is NaN.  A model has rings from the first second on in which it has
requests, tokens or GPU memory: they take 0.2 MB.
"""

from array import array
from bisect import insort
from collections.abc import Iterable, Mapping, Set
from math import floor, inf, isnan, nan
from typing import Any, NamedTuple

#: Seconds of a step, and how many steps are kept.
STEPS = {1: 900, 10: 8640}

#: What is kept of each step: tokens that were given in it, the greatest number of requests in flight and waiting, times
#: from a request's arrival to its first token (median, 95th percentile), and bytes of GPU memory.
FIELDS = ("tokens_per_s", "in_flight", "waiting", "first_token_p50_s", "first_token_p95_s", "gpu_bytes")
_TOKENS, _IN_FLIGHT, _WAITING, _MEDIAN, _WORST, _GPU = range(len(FIELDS))

#: Seconds until a step of one second is sure to have all of its tokens: proxies tell them so late.
_LATE = 2

#: Digits behind the point of a figure as it is told.
_DIGITS = (2, 0, 0, 4, 4, 0)


class SeriesQuery(NamedTuple):
    """What a reader wants to see; `begin` None: all that is kept.  Times are in seconds since the epoch."""

    step: int = 1
    begin: float | None = None
    end: float = inf
    fields: tuple[str, ...] = ()  # none: all
    model: str | None = None


class NotedModel(NamedTuple):
    """How a model is at one moment."""

    in_flight: int
    waiting: int
    gpu_bytes: int


class SeriesRow(NamedTuple):
    """One step of 10 s that is over, as it is kept on disk: `slot` is its beginning by the step's length."""

    slot: int
    model: str
    values: tuple[float, ...]  # by FIELDS, with the tokens of the whole step


class Ring:
    """The slots of one step's length; `first` and `last` are the numbers of the oldest and the newest."""

    def __init__(self, step: int, size: int) -> None:
        self.step = step
        self.last = -1
        self._size = size
        self._values = [array("f", [nan]) * size for _ in FIELDS]
        self._first_tokens: tuple[int, list[float]] = (-1, [])  # of the slot that had the last one

    @property
    def first(self) -> int:
        return self.last - self._size + 1

    def advance(self, slot: int) -> None:
        """Begin the slots up to this one, empty."""
        for number in range(max(self.last + 1, slot - self._size + 1), slot + 1):
            for values in self._values:
                values[number % self._size] = nan
        self.last = max(self.last, slot)

    def add_tokens(self, begin: float, end: float, count: float) -> None:
        """Spread tokens evenly over a time; what lies before the oldest slot goes to that one."""
        self.advance(floor(end / self.step))
        begin = max(begin, self.first * self.step)
        per_second = count / max(end - begin, 1e-6)
        for slot in range(floor(begin / self.step), floor(end / self.step) + 1):
            share = min(end, (slot + 1) * self.step) - max(begin, slot * self.step)
            self._add(_TOKENS, slot, per_second * share)

    def add_first_tokens(self, at: float, times: Iterable[float]) -> None:
        slot = floor(at / self.step)
        self.advance(slot)
        if self._first_tokens[0] != slot:
            self._first_tokens = slot, []
        seen = self._first_tokens[1]
        for each in times:
            insort(seen, each)
        if seen:
            self._values[_MEDIAN][slot % self._size] = seen[len(seen) // 2]
            self._values[_WORST][slot % self._size] = seen[min(len(seen) - 1, len(seen) * 95 // 100)]

    def note(self, at: float, gauges: NotedModel) -> None:
        slot = floor(at / self.step)
        self.advance(slot)
        self._add(_TOKENS, slot, 0.0)
        for field, value in zip((_IN_FLIGHT, _WAITING, _GPU), gauges, strict=True):
            known = self._values[field][slot % self._size]
            self._values[field][slot % self._size] = value if isnan(known) else max(known, value)

    def _add(self, field: int, slot: int, value: float) -> None:
        known = self._values[field][slot % self._size]
        self._values[field][slot % self._size] = value if isnan(known) else known + value

    def put(self, slot: int, values: Iterable[float]) -> None:
        """Take over a slot of an earlier muxd, which is newer than all that the ring has."""
        self.advance(slot)
        for field, value in enumerate(values):
            self._values[field][slot % self._size] = value

    def at(self, slot: int) -> tuple[float, ...]:
        """Return the values of a slot; NaN for what is not known, or not kept."""
        if not self.first <= slot <= self.last:
            return (nan,) * len(FIELDS)
        return tuple(values[slot % self._size] for values in self._values)


class Series:
    """The rings of all models; times are in seconds since the epoch."""

    def __init__(self) -> None:
        self._rings: dict[str, dict[int, Ring]] = {}
        self._told = -1  # the last slot of 10 s that was handed over to be kept

    def give(self, now: float, seconds: float, model: str, tokens: int, first_tokens: Iterable[float]) -> None:
        """Take in what a model gave in the last `seconds`."""
        for ring in self._of(model).values():
            if tokens:
                ring.add_tokens(now - seconds, now, tokens)
            ring.add_first_tokens(now, first_tokens)

    def note(self, now: float, gauges: Mapping[str, NotedModel]) -> None:
        """Take in how all models are now."""
        for model, each in gauges.items():
            if model in self._rings or any(each):
                for ring in self._of(model).values():
                    ring.note(now, each)

    def _of(self, model: str) -> dict[int, Ring]:
        if model not in self._rings:
            self._rings[model] = {step: Ring(step, size) for step, size in STEPS.items()}
        return self._rings[model]

    def forget(self, models: Set[str]) -> None:
        """Forget the models that are none of these."""
        self._rings = {model: self._rings[model] for model in self._rings.keys() & models}

    def earliest(self, now: float, step: int) -> float:
        """Return from when on there can be figures for steps of this length."""
        return float((floor(now / step) - STEPS[step] + 1) * step)

    def read(
        self, now: float, begin: float, end: float, step: int, fields: Iterable[str], model: str | None = None
    ) -> dict[str, Any]:
        """Return the figures of some fields from `begin` to before `end`, by model; null for what is not known."""
        slots = range(max(floor(begin / step), floor(now / step) - STEPS[step] + 1), floor(min(end, now) / step) + 1)
        wanted = [FIELDS.index(field) for field in fields]
        models = {
            name: self._told_values(rings[step], slots, wanted)
            for name, rings in self._rings.items()
            if model in (None, name)
        }
        return {"step": step, "from": slots.start * step, "models": models}

    def _told_values(self, ring: Ring, slots: range, fields: list[int]) -> dict[str, list[float | None]]:
        rows = [ring.at(slot) for slot in slots]
        return {FIELDS[field]: [_told(field, row[field], ring.step) for row in rows] for field in fields}

    def rate(self, now: float, model: str) -> float | None:
        """Return a model's tokens a second by the last three seconds that are over; None where that is unknown."""
        rings = self._rings.get(model)
        if rings is None:
            return None
        last = floor(now) - _LATE
        known = [value for slot in range(last - 2, last + 1) if not isnan(value := rings[1].at(slot)[_TOKENS])]
        return round(sum(known) / len(known), 1) if known else None

    # What is kept over a restart

    def take_rows(self, now: float) -> list[SeriesRow]:
        """Return the steps of 10 s that are over and were not returned yet, without those in which nothing was."""
        last = floor(now / 10) - 2  # a proxy tells what it gave up to two seconds later
        begin, self._told = max(self._told + 1, last - STEPS[10] + 1), max(self._told, last)
        return self._rows(range(begin, last + 1) if begin > 0 else range(0))

    def rows(self) -> list[SeriesRow]:
        """Return all steps of 10 s that were returned so far and are kept still."""
        return self._rows(range(max(1, self._told - STEPS[10] + 1), self._told + 1))

    def _rows(self, slots: range) -> list[SeriesRow]:
        rows = (SeriesRow(slot, model, rings[10].at(slot)) for slot in slots for model, rings in self._rings.items())
        return [row for row in rows if any(value > 0 for value in row.values)]

    def restore(self, rows: Iterable[SeriesRow], now: float) -> None:
        """Take over what an earlier muxd kept, the oldest first."""
        earliest, latest = floor(now / 10) - STEPS[10], floor(now / 10)
        for slot, model, values in rows:
            if earliest < slot <= latest and len(values) == len(FIELDS):
                self._of(model)[10].put(slot, values)
        self._told = latest - 2


def _told(field: int, value: float, step: int) -> float | None:
    if isnan(value):
        return None
    if field == _TOKENS:
        value = max(0.0, value) / step
    return round(value, _DIGITS[field]) if _DIGITS[field] else int(value)
