"""The scripts that measure still run; `bench/switch.py`, `idle.py` and `turns.py` take too long to be tried here."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.seeds import thorough

BENCH = Path(__file__).parents[1] / "bench"


@pytest.mark.parametrize("script", ["core_decision", *thorough("start", "muxctl_status", "prefetch", "standby")])
def test_a_quick_run_prints_a_table_with_every_figure_and_its_runs(script):
    argv = [sys.executable, str(BENCH / f"{script}.py"), "--quick"]
    printed = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout
    head, _, *rows = [line for line in printed.splitlines() if line.startswith("|")]
    assert head.split("|")[1].strip() == "figure"
    assert len(rows) >= 2
    assert all(float(row.split("|")[2].split()[0]) > 0 for row in rows)


def hardware(page: Path, minutes: str) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, str(BENCH / "hardware.py"), "--simulated", "--minutes", minutes, "--page", str(page)]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(
    ("python", "told"),
    [
        ("/nonexistent/python", "/nonexistent/python is no interpreter that can be run: "),
        ("made here", "muxd sees no GPU here, see muxd check; take --cpu or --simulated"),
    ],
)
def test_what_cannot_be_tried_on_a_gpu_is_told_and_writes_nothing(tmp_path, python, told):
    page = tmp_path / "hardware.md"
    if python == "made here":  # it names a version of vLLM, and no more
        if Path("/proc/driver/nvidia").exists():
            pytest.skip("there is a GPU here")
        python = str(tmp_path / "python")
        Path(python).write_text("#!/bin/sh\necho vllm 0.32.0\n")
        Path(python).chmod(0o755)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    models = (str(tmp_path / "a"), str(tmp_path / "b"))
    argv = [sys.executable, str(BENCH / "hardware.py"), "--vllm", python, "--models", *models, "--page", str(page)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr.startswith(told), page.exists()) == (1, True, False), done.stderr


@pytest.mark.thorough
def test_what_the_hardware_shows_is_written_between_its_marks(tmp_path):
    page = tmp_path / "hardware.md"
    mark, end = "<!-- simulated: written by bench/hardware.py -->", "<!-- end of simulated -->"
    page.write_text(f"# Page\n\n{mark}\nof yesterday\n{end}\n\nother words\n")
    done = hardware(page, "10")
    assert done.returncode == 0, done.stdout + done.stderr
    text = page.read_text()
    assert text.startswith(f"# Page\n\n{mark}\n\n## simulated servers\n")
    assert text.endswith(f"{end}\n\nother words\n")
    assert "of yesterday" not in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    cycles = [row for row in rows if row[-1] == "ok"]
    assert [(row[1], row[2], row[-2]) for row in cycles] == [
        (model, level, "yes") for model in ("a", "b") for level in ("0", "2", "1", "3")
    ]
    kills = [row for row in rows if row[-1] == "the same"]
    assert [row[1] for row in kills] == ["a"] * 4 + ["b"] * 4
    assert "with every model stopped the GPUs have what they had before any was loaded: 0 MiB" in text
    assert "- engines: the servers, their memory and their times are pretend" in text


def test_what_there_is_no_time_for_is_named(tmp_path):
    page = tmp_path / "hardware.md"
    assert hardware(page, "0.1").returncode == 0
    text = page.read_text()
    assert "Not seen, for want of time: validate of a; sweep of a; validate of b; sweep of b." in text
