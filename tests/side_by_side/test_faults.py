"""What sglangmux was seen to do wrong, muxd does not; and the real sglangmux, where it is installed, still does."""

from pathlib import Path

import pytest

from bench.sglangmux.compare import EXPERIMENTS
from bench.sglangmux.kits import SIMULATION
from bench.sglangmux.lab import Experiment, Lab
from bench.sglangmux.programs import MUXD, Program

#: What muxd does not have yet either.
STILL_TO_COME = pytest.mark.xfail(reason="metrics are still to come", raises=AssertionError)

BOTH = [pytest.param(each, id=f"{each.number} {each.fault}") for each in EXPERIMENTS]
OURS = [
    pytest.param(each, id=f"{each.number} {each.fault}", marks=[STILL_TO_COME] if each.number == "7c" else [])
    for each in EXPERIMENTS
]


@pytest.mark.parametrize("experiment", OURS)
def test_muxd_does_not_have_it(experiment: Experiment, tmp_path: Path) -> None:
    seen = experiment.run(Lab(MUXD, SIMULATION, tmp_path / "lab"))
    assert not seen.fault, seen.text


@pytest.mark.parametrize("experiment", BOTH)
def test_sglangmux_has_it(experiment: Experiment, sglangmux: Program, tmp_path: Path) -> None:
    seen = experiment.run(Lab(sglangmux, SIMULATION, tmp_path / "lab"))
    assert seen.fault, seen.text
