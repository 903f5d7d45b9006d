"""What each API key took of each model, by day in UTC."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from muxd.protocol import KeyUsage

#: Days that are kept.
KEPT_DAYS = 400

#: What is counted, in this order.
COUNTS = ("requests", "refused", "prompt_tokens", "cached_tokens", "completion_tokens", "event_tokens")


class UsageRow(NamedTuple):
    """The counts of one key ("": without a key) and model on one day, such as "2026-11-29"."""

    day: str
    key: str
    model: str
    counts: tuple[int, ...]  # by COUNTS


class UsageBook:
    """All counts that are kept; `total` has those since muxd started."""

    def __init__(self) -> None:
        self.total: dict[tuple[str, str], list[int]] = {}  # by key and model
        self._counts: dict[tuple[str, str, str], list[int]] = {}  # by day, key and model
        self._changed: set[tuple[str, str, str]] = set()

    def add(self, now: float, usage: KeyUsage) -> None:
        """Count what a key took until now, in seconds since the epoch."""
        name = day_of(now), usage.key, usage.model
        values = [getattr(usage, count) for count in COUNTS]
        for counts in (
            self._counts.setdefault(name, [0] * len(COUNTS)),
            self.total.setdefault(name[1:], [0] * len(COUNTS)),
        ):
            for place, value in enumerate(values):
                counts[place] += value
        self._changed.add(name)

    def read(self, now: float, days: int, key: str | None, model: str | None) -> list[dict[str, Any]]:
        """Return the counts of the last days, today's included, the oldest first."""
        since = day_of(now, days - 1)
        return [
            {"day": day, "key": its_key, "model": its_model, **dict(zip(COUNTS, counts, strict=True))}
            for (day, its_key, its_model), counts in sorted(self._counts.items())
            if day >= since and key in (None, its_key) and model in (None, its_model)
        ]

    # What is kept over a restart

    def take_rows(self) -> list[UsageRow]:
        """Return the rows that have changed since they were last returned."""
        changed, self._changed = self._changed, set()
        return [UsageRow(*name, tuple(self._counts[name])) for name in sorted(changed) if name in self._counts]

    def note_changed(self, rows: Iterable[UsageRow]) -> None:
        """Return these rows again with the next ones: they could not be kept."""
        self._changed |= {row[:3] for row in rows}

    def restore(self, rows: Iterable[UsageRow]) -> None:
        for day, key, model, counts in rows:
            if len(counts) == len(COUNTS):
                self._counts[day, key, model] = list(counts)

    def prune(self, now: float) -> None:
        """Forget the days that are over for long."""
        oldest = day_of(now, KEPT_DAYS)
        for name in [name for name in self._counts if name[0] < oldest]:
            del self._counts[name]

    def __iter__(self) -> Iterator[UsageRow]:
        return (UsageRow(*name, tuple(counts)) for name, counts in sorted(self._counts.items()))


def day_of(now: float, days_before: int = 0) -> str:
    """Return the day, or so many days before, as "2026-11-29"."""
    return (datetime.fromtimestamp(now, UTC) - timedelta(days=days_before)).date().isoformat()
