"""The scripts that measure still run; `bench/switch.py`, `idle.py` and `turns.py` take too long to be tried here."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"


@pytest.mark.parametrize("script", ["core_decision", "start", "muxctl_status"])
def test_a_quick_run_prints_a_table_with_every_figure_and_its_runs(script):
    argv = [sys.executable, str(BENCH / f"{script}.py"), "--quick"]
    printed = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout
    head, _, *rows = [line for line in printed.splitlines() if line.startswith("|")]
    assert head.split("|")[1].strip() == "figure"
    assert len(rows) >= 2
    assert all(float(row.split("|")[2].split()[0]) > 0 for row in rows)
