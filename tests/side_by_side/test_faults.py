"""What sglangmux was seen to do wrong, muxd does not; and the real sglangmux, where it is installed, still does."""

from pathlib import Path

import pytest

from bench.sglangmux.compare import EXPERIMENTS
from bench.sglangmux.kits import SIMULATION
from bench.sglangmux.lab import Experiment, Lab
from bench.sglangmux.programs import MUXD, Program

ALL = [pytest.param(each, id=f"{each.number} {each.fault}") for each in EXPERIMENTS]


@pytest.mark.parametrize("experiment", ALL)
def test_muxd_does_not_have_it(experiment: Experiment, tmp_path: Path) -> None:
    seen = experiment.run(Lab(MUXD, SIMULATION, tmp_path / "lab"))
    assert not seen.fault, seen.text


@pytest.mark.parametrize("experiment", ALL)
def test_sglangmux_has_it(experiment: Experiment, sglangmux: Program, tmp_path: Path) -> None:
    seen = experiment.run(Lab(sglangmux, SIMULATION, tmp_path / "lab"))
    assert seen.fault, seen.text
