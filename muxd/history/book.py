"""All that is remembered, in memory, and what of it is to be kept on disk."""

import time
from collections import deque
from collections.abc import Iterable, Mapping
from functools import partial
from typing import NamedTuple

from muxd.protocol import ActivityReport

from .journal import KEPT, Entry, Journal
from .request_rates import RequestRates
from .series import NotedModel, Series, SeriesRow
from .usage_book import UsageBook, UsageRow

#: Entries that each journal keeps: events; requests that have ended; switches that are over.
MOST = {"events": KEPT, "requests": 1000, "switches": 200}

#: Entries that wait to be written, at most: while the disk takes none, older ones are dropped.
_MOST_WAITING = 5000


class KeptRows(NamedTuple):
    """What is to be written: entries, each with the name of its journal, and rows."""

    entries: list[tuple[str, Entry]]
    series: list[SeriesRow]
    usage: list[UsageRow]


class History:
    """Journals of events, of requests that have ended and of switches that are over; series; usage."""

    def __init__(self, kept: KeptRows | None = None) -> None:
        """Go on from what an earlier muxd kept."""
        self._waiting: deque[tuple[str, Entry]] = deque(maxlen=_MOST_WAITING)
        entries: dict[str, list[Entry]] = {name: [] for name in MOST}
        for name, entry in kept.entries if kept is not None else ():
            entries[name].append(entry)
        self._journals = {name: Journal(most, entries[name], partial(self._wait, name)) for name, most in MOST.items()}
        self.events, self.requests, self.switches = self._journals.values()
        self.series = Series()
        self.usage = UsageBook()
        self._rates = RequestRates()
        self._models: frozenset[str] | None = None  # those of the configuration, once that was told
        if kept is not None:
            self.series.restore(kept.series, time.time())
            self.usage.restore(kept.usage)

    def _wait(self, journal: str, entry: Entry) -> None:
        self._waiting.append((journal, entry))

    def report(self, report: ActivityReport) -> None:
        """Count what a proxy did."""
        now = time.time()
        for each in report.models:
            if self._has(each.model):
                self.series.give(now, report.seconds, each.model, each.tokens, each.first_tokens_s)
        for usage in report.keys:
            self.usage.add(now, usage)
            if self._has(usage.model):
                self._rates.add(time.monotonic(), usage.model, usage.requests)

    def requests_per_minute(self, model: str) -> int | None:
        """Return how many of a model's requests ended in the last minute; None where none has ended so far."""
        return self._rates.per_minute(time.monotonic(), model)

    def note(self, gauges: Mapping[str, NotedModel]) -> None:
        """Take in how all models are now."""
        self.series.note(time.time(), {model: each for model, each in gauges.items() if self._has(model)})

    def keep_models(self, models: Iterable[str]) -> None:
        """Keep series and rates of these models alone, those of the configuration; journals and usage keep all."""
        self._models = frozenset(models)
        self.series.forget(self._models)
        self._rates.forget(self._models)

    def _has(self, model: str) -> bool:
        """Say whether the configuration has a model: one that is gone may still finish its last requests."""
        return self._models is None or model in self._models

    def take(self) -> KeptRows:
        """Return what was not returned yet."""
        waiting, self._waiting = list(self._waiting), deque(maxlen=_MOST_WAITING)
        now = time.time()
        self.usage.prune(now)
        return KeptRows(waiting, self.series.take_rows(now), self.usage.take_rows())

    def put_back(self, batch: KeptRows) -> None:
        """Take a batch again that could not be written."""
        self._waiting = deque((*batch.entries, *self._waiting), maxlen=_MOST_WAITING)
        self.usage.note_changed(batch.usage)

    def everything(self) -> KeptRows:
        """Return all that is in memory, for a file that has nothing."""
        entries = [(name, entry) for name, journal in self._journals.items() for entry in journal]
        return KeptRows(entries, self.series.rows(), list(self.usage))

    def close(self) -> None:
        for journal in self._journals.values():
            journal.close()
