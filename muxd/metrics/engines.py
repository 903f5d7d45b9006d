"""One round of requests for the awake engines' metrics, all sent at once, each with a deadline.

A sleeping engine is never asked: its metrics do not change, and muxd leaves it undisturbed.
"""

from collections.abc import Mapping

import trio

from muxd.core.states import WorkerState
from muxd.core.view import WorkerView
from muxd.engines.engine_client import EngineCallFailed
from muxd.workers import Runner

#: Seconds that one engine may take to answer; an idle SGLang server takes 12 ms.
PATIENCE = 2.0

#: States in which a worker has its GPU memory and answers requests.
AWAKE = frozenset({WorkerState.READY, WorkerState.DRAINING})


def awake(workers: Mapping[str, WorkerView], runners: Mapping[str, Runner]) -> dict[str, Runner]:
    return {name: runners[name] for name, worker in workers.items() if worker.state in AWAKE}


class ScrapeRound:
    """One round of requests: the pages by model, and for each model without a page the reason."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.failed: dict[str, str] = {}

    async def ask(self, runners: Mapping[str, Runner]) -> None:
        """Ask every engine for its page; return when each has answered or has used up PATIENCE."""
        async with trio.open_nursery() as nursery:
            for name, runner in runners.items():
                nursery.start_soon(self._ask_one, name, runner, name=f"metrics of {name}")
        self.pages = {name: self.pages[name] for name in runners if name in self.pages}  # in the runners' order

    async def _ask_one(self, name: str, runner: Runner) -> None:
        try:
            with trio.fail_after(PATIENCE):
                page = await runner.metrics()
        except (EngineCallFailed, trio.TooSlowError) as error:
            self.failed[name] = str(error) or f"no answer in {PATIENCE:g} s"
        else:
            if page is not None:
                self.pages[name] = page
