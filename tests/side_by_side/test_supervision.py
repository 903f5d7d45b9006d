"""What muxd does under the faults that supervisor and sglangmux are put to, and what those were seen to do."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.sglangmux.programs import MUXD, PEER_VERSION, Program
from bench.supervision.hosts import SUPERVISOR, Bench, programs
from bench.supervision.rows import ROWS, Row

#: Rows that they were seen not to hold, whatever else the machine has to do.
NOT_HELD = {
    "supervisor 4.3.0": (3, 4, 21, 28),
    f"sglangmux {PEER_VERSION}": (3, 4, 8, 9, 12, 20, 21),
}


@pytest.mark.parametrize("row", [pytest.param(each, id=f"{each.number} {each.fault}") for each in ROWS])
def test_muxd_holds_it(row: Row, tmp_path: Path) -> None:
    seen = row.run(Bench(MUXD, tmp_path / "bench"))
    assert seen.holds or (seen.holds is None and "not run" in seen.text), seen.text


@pytest.fixture(scope="session")
def peers() -> Sequence[Program]:
    try:
        return programs()
    except SystemExit as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize(
    ("name", "row"),
    [
        pytest.param(name, row, id=f"{name} {row.number}")
        for name, numbers in NOT_HELD.items()
        for row in ROWS
        if row.number in numbers
    ],
)
def test_a_peer_does_not(name: str, row: Row, peers: Sequence[Program], tmp_path: Path) -> None:
    (program,) = [each for each in peers if each.name == name]
    seen = row.run(Bench(program, tmp_path / "bench"))
    assert seen.holds is False, seen.text


def test_supervisor_keeps_a_worker_that_dies(peers: Sequence[Program], tmp_path: Path) -> None:
    (row,) = [each for each in ROWS if each.number == 1]
    assert SUPERVISOR in peers
    assert row.run(Bench(SUPERVISOR, tmp_path / "bench")).holds, "the comparison is fair"
