"""What is told of the cycles of a validation, by what was measured of the workers."""

from types import SimpleNamespace

import pytest

from muxd.core.commands import MeasureWorker, Moment, ReportCycle
from muxd.engines.wake_proof import ProofAnswer
from muxd.supervisor.validations import CycleFigures
from muxd.workers import WorkerFigures

SAME = ProofAnswer((-1.0,), (((7, -0.5), (9, -2.0)),))
OTHER = ProofAnswer((-4.0,), (((8, -0.5), (9, -2.0)),))
DIFFERS = "logprobs of the prompt differ by up to 3.00"
MIB = 1 << 20


class Validated:
    """One worker, which is measured as a validation has it."""

    def __init__(self) -> None:
        self.told = []
        self.figures = WorkerFigures()
        self.cycles = CycleFigures({"a": SimpleNamespace(measure=self._measure)}, self.told.append)

    async def _measure(self, *, awake):
        return self.figures

    async def at(self, moment, **figures):
        """Return the fault that the core is told of."""
        self.figures = WorkerFigures(**figures)
        await self.cycles.measure(MeasureWorker("a", 1, moment))
        return self.told[-1].error

    def report(self, *, wake=2.0, error=""):
        line = self.cycles.line(ReportCycle(9, "a", 2, 1, 1.0, wake, error))
        return line["identical"], line["passed"], line["unproven"]


@pytest.fixture
def validated():
    return Validated()


async def test_an_answer_is_compared_with_the_first_one(validated):
    assert await validated.at(Moment.BEFORE, answer=SAME) == ""
    assert await validated.at(Moment.AWAKE, answer=SAME) == ""
    assert validated.report() == (True, True, None)
    assert await validated.at(Moment.AWAKE, answer=OTHER) == DIFFERS
    assert validated.report(error=DIFFERS) == (False, False, None)
    assert await validated.at(Moment.BEFORE, answer=OTHER) == DIFFERS, "the first one of all is what counts"
    validated.cycles.begin("a")
    assert await validated.at(Moment.BEFORE, answer=OTHER) == ""


async def test_one_that_did_not_wake_has_nothing_to_compare(validated):
    await validated.at(Moment.BEFORE, answer=SAME)
    await validated.at(Moment.AWAKE, answer=SAME)
    assert validated.report(wake=None, error="its wake failed") == (None, False, None)


async def test_a_model_that_cannot_give_an_answer_is_validated_without_one(validated):
    refused = {"error": "proof: 400", "is_refused": True}
    assert await validated.at(Moment.BEFORE, **refused) == ""
    assert await validated.at(Moment.AWAKE, **refused) == ""
    assert validated.report() == (None, True, "proof: 400")


async def test_a_refusal_after_a_wake_counts_where_there_was_an_answer_before(validated):
    await validated.at(Moment.BEFORE, answer=SAME)
    assert await validated.at(Moment.AWAKE, error="proof: 400", is_refused=True) == "proof: 400"
    assert validated.report(error="proof: 400") == (False, False, None)


async def test_one_that_does_not_answer_at_all_is_at_fault(validated):
    assert await validated.at(Moment.BEFORE, error="proof: no answer in 2 s") == "proof: no answer in 2 s"
    assert validated.report(wake=None, error="proof: no answer in 2 s") == (None, False, None)


async def test_an_engine_without_weights_has_nothing_to_prove(validated):
    assert await validated.at(Moment.BEFORE) == ""
    assert await validated.at(Moment.AWAKE) == ""
    assert validated.report() == (None, True, None)


async def test_memory_is_told_in_mib_and_after_a_cycle_is_that_before_the_next(validated):
    await validated.at(Moment.BEFORE, gpu=5 * MIB + 1, host=None)
    await validated.at(Moment.ASLEEP, gpu=MIB, host=2 * MIB)
    await validated.at(Moment.AWAKE, gpu=6 * MIB, host=3 * MIB, first_token=0.01234)
    line = validated.cycles.line(ReportCycle(9, "a", 2, 1, 1.0004, 2.0, ""))
    assert line["gpu_mib"] == {"before": 5, "asleep": 1, "awake": 6}
    assert line["host_mib"] == {"before": None, "asleep": 2, "awake": 3}
    assert (line["sleep_s"], line["wake_s"], line["first_token_s"]) == (1.0, 2.0, 0.012)
    line = validated.cycles.line(ReportCycle(9, "a", 2, 2, 1.0, 2.0, ""))
    assert line["gpu_mib"] == {"before": 6, "asleep": None, "awake": None}
