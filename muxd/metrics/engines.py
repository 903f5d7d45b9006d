"""Asking the engines that are awake for their metrics, all at once and not for long.

One that sleeps is never asked: it has nothing new to tell, and muxd leaves it alone.
"""

from collections.abc import Mapping

import trio

from muxd.core.states import WorkerState
from muxd.core.worker import Worker
from muxd.engines import EngineCallFailed
from muxd.workers import Runner

#: Seconds that one engine may take; SGLang's answer takes 12 ms of an idle server.
PATIENCE = 2.0

#: States in which a worker has its memory, and serves what it was sent.
AWAKE = frozenset({WorkerState.READY, WorkerState.DRAINING})


def awake(workers: Mapping[str, Worker], runners: Mapping[str, Runner]) -> dict[str, Runner]:
    return {name: runners[name] for name, worker in workers.items() if worker.state in AWAKE}


class ScrapeRound:
    """One round of questions: the pages that came, and why others did not."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.failed: dict[str, str] = {}

    async def ask(self, runners: Mapping[str, Runner]) -> None:
        """Returns when every engine has answered, or has had its time."""
        async with trio.open_nursery() as nursery:
            for name, runner in runners.items():
                nursery.start_soon(self._ask_one, name, runner, name=f"metrics of {name}")
        self.pages = {name: self.pages[name] for name in runners if name in self.pages}  # not as they came

    async def _ask_one(self, name: str, runner: Runner) -> None:
        try:
            with trio.fail_after(PATIENCE):
                page = await runner.metrics()
        except (EngineCallFailed, trio.TooSlowError) as error:
            self.failed[name] = str(error) or f"no answer in {PATIENCE:g} s"
        else:
            if page is not None:
                self.pages[name] = page
