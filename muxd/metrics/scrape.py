"""One page of metrics, shared by all scrapes that come while it is made.

The supervisor's loop only copies its state.  A thread parses the engines' pages and
writes the answer, and pauses every millisecond so that the loop can run.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from muxd.http.shared_page import SharedPage
from muxd.threads import in_thread
from muxd.workers import Runner

from .engines import ScrapeRound
from .facts import Facts
from .switches import Switches

if TYPE_CHECKING:
    from .merging import Merged

log = logging.getLogger(__name__)

#: Seconds from the start of a scrape until pages that are not yet parsed are left out.
DEADLINE = 2.5

#: Seconds that the thread sleeps for the loop to run.  Without a sleep the loop would get the GIL only after 5 ms.
PAUSE = 0.00005


class SupervisorMetrics:
    """The metrics of one supervisor, which notes every move in `switches`."""

    def __init__(self, awake: Callable[[], Mapping[str, Runner]], facts: Callable[[], Facts]) -> None:
        """Take two functions that give the present state.

        `awake` returns the runners of the workers that may be asked now, and `facts` the supervisor's own figures.
        """
        self.switches = Switches()
        self.scrape_failures: Counter[str] = Counter()  # by model
        self.scalings: Counter[tuple[str, str]] = Counter()  # by model and direction
        self._awake = awake
        self._facts = facts
        self.page = SharedPage(self._make)  # takes at most about DEADLINE seconds

    def note_scaling(self, model: str, before: int, after: int) -> None:
        """Note a step to more or fewer replicas; one to as many is none."""
        if before != after:
            self.scalings[model, "up" if after > before else "down"] += 1

    async def _make(self) -> bytes:
        until = time.monotonic() + DEADLINE
        asked = ScrapeRound()
        await asked.ask(self._awake())
        # A shutdown waits for neither of the two threads.
        merged = await in_thread(partial(_merge, asked.pages, until), abandon_on_cancel=True)
        for model, reason in (asked.failed | dict(merged.refused)).items():
            self.scrape_failures[model] += 1
            log.debug("the metrics of %s are left out: %s", model, reason)
        return await in_thread(partial(_write, self._facts(), merged), abandon_on_cancel=True)


def _merge(pages: Mapping[str, bytes], until: float) -> "Merged":
    from .merging import PageRefused, merge

    def breathe() -> None:
        _pause()
        if time.monotonic() > until:
            raise PageRefused("it could not be read in time")

    return merge(pages, breathe)


def _write(facts: Facts, merged: "Merged") -> bytes:
    from .families import write

    return write(facts, merged.families, _pause)


def _pause() -> None:
    time.sleep(PAUSE)
