"""All that is remembered, in memory."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from muxd.journal import Journal
from muxd.protocol import ActivityReport

from .series import NotedModel, Series
from .usage_book import UsageBook

#: Requests and switches that are over which are kept.
REQUESTS, SWITCHES = 1000, 200


@dataclass(frozen=True, slots=True)
class History:
    events: Journal = field(default_factory=Journal)
    requests: Journal = field(default_factory=lambda: Journal(REQUESTS))  # that have ended
    switches: Journal = field(default_factory=lambda: Journal(SWITCHES))  # that are over
    series: Series = field(default_factory=Series)
    usage: UsageBook = field(default_factory=UsageBook)

    def report(self, report: ActivityReport) -> None:
        """Count what a proxy did."""
        now = time.time()
        for each in report.models:
            self.series.give(now, report.seconds, each.model, each.tokens, each.first_tokens_s)
        for usage in report.keys:
            self.usage.add(now, usage)

    def note(self, gauges: Mapping[str, NotedModel]) -> None:
        """Take in how all models are now."""
        self.series.note(time.time(), gauges)

    def close(self) -> None:
        for journal in (self.events, self.requests, self.switches):
            journal.close()
