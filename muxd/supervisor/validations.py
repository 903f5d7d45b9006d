"""What is measured of the workers of models that are validated, and what who ordered it is told."""

from collections.abc import Callable, Mapping
from typing import Any

import trio

from muxd.core.commands import MeasureWorker, Moment, ReportCycle
from muxd.core.events import Event, WorkerMeasured
from muxd.core.spec import group_of
from muxd.engines.wake_proof import ProofAnswer, difference
from muxd.protocol import seconds
from muxd.workers import Runner, WorkerFigures

MIB = 1 << 20

Figures = dict[Moment, WorkerFigures]


class CycleFigures:
    """The figures of the cycles that are under way, and what each worker answered first in its validation."""

    def __init__(self, runners: Mapping[str, Runner], tell: Callable[[Event], None]) -> None:
        self._runners = runners
        self._tell = tell
        self._figures: dict[str, Figures] = {}
        self._first: dict[str, ProofAnswer] = {}
        self._unproven: dict[str, str] = {}  # by worker: why it gives no answer that could be compared

    def begin(self, model: str) -> None:
        """Forget what an earlier validation of the model found."""
        for known in (self._figures, self._first, self._unproven):
            for worker in [worker for worker in known if group_of(worker) == model]:
                del known[worker]

    async def measure(self, command: MeasureWorker) -> None:
        """Measure a worker, and tell the core whether its answer is what it was."""
        name = command.worker
        figures = await self._runners[name].measure(awake=command.moment is not Moment.ASLEEP)
        self._figures.setdefault(name, {})[command.moment] = figures
        self._tell(WorkerMeasured(trio.current_time(), name, command.number, self._fault_of(name, figures)))

    def _fault_of(self, worker: str, figures: WorkerFigures) -> str:
        """Return what is wrong with what a worker said, or ""; what cannot give an answer at first need not later."""
        if figures.error:
            if worker not in self._first and figures.is_refused:
                self._unproven[worker] = figures.error
                return ""
            return figures.error
        if figures.answer is None:
            return ""
        return difference(self._first.setdefault(worker, figures.answer), figures.answer) or ""

    def line(self, report: ReportCycle) -> dict[str, Any]:
        """Return what is told of a worker's cycle; the figures after it are those before the next."""
        name = report.worker
        figures = self._figures.get(name, {})
        awake = figures.get(Moment.AWAKE, WorkerFigures())
        is_compared = report.wake is not None and name in self._first and (awake.answer is not None or awake.error)
        self._figures[name] = {Moment.BEFORE: awake}
        return {
            "type": "cycle",
            "worker": name,
            "level": report.level,
            "cycle": report.cycle,
            "sleep_s": seconds(report.sleep),
            "wake_s": seconds(report.wake),
            "first_token_s": seconds(awake.first_token),
            "gpu_mib": {moment.value: _mib(figures[moment].gpu) if moment in figures else None for moment in Moment},
            "host_mib": {moment.value: _mib(figures[moment].host) if moment in figures else None for moment in Moment},
            "identical": not self._fault_of(name, awake) if is_compared else None,
            "unproven": self._unproven.get(name),
            "passed": not report.error,
            "error": report.error or None,
        }


def _mib(size: int | None) -> int | None:
    return None if size is None else size // MIB
