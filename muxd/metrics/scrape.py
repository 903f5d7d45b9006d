"""One page of metrics for everybody who asks while it is made.

The supervisor's loop only copies what it knows; reading the engines' pages and writing
the answer is the work of a thread, which stops and lets the loop run every millisecond.
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

#: Seconds from the question to the last line that is read of an engine's page; what is then unread is left out.
DEADLINE = 2.5

#: Seconds that the thread sleeps for the loop to run.  Only asking for the lock anew, the loop would get it after 5 ms.
PAUSE = 0.00005


class SupervisorMetrics:
    """Of one supervisor, which tells `switches` of every move."""

    def __init__(self, awake: Callable[[], Mapping[str, Runner]], facts: Callable[[], Facts]) -> None:
        """`awake`: the runners of the workers that may be asked now; `facts`: what holds now."""
        self.switches = Switches()
        self.scrape_failures: Counter[str] = Counter()  # by model
        self._awake = awake
        self._facts = facts
        self.page = SharedPage(self._make)  # takes at most about DEADLINE seconds

    async def _make(self) -> bytes:
        until = time.monotonic() + DEADLINE
        asked = ScrapeRound()
        await asked.ask(self._awake())
        # A shutdown does not wait for either.
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
