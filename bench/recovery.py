"""How long it takes from a fault until it serves again: the tests of faults, several times over, as a table.

    python -m bench.recovery [--times 9] [--write]

`tests/faults/test_recovery.py` measures; `--write` puts the table into docs/reliability.md.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .figures import Figure, between, machine

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
GOAL = 1.0  # seconds, of the median, for all rows but these:
APART = {4, 8}  # what hangs is known by its probes alone; what failed too often has its cool_down


def measured(times: int) -> list[dict[str, Any]]:
    """What the tests have recorded; ends where one of them fails."""
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "MUXD_RECOVERIES": f"{folder}/found", "MUXD_RECOVERY_TIMES": str(times)}
        argv = [sys.executable, "-m", "pytest", "-q", "tests/faults/test_recovery.py"]
        subprocess.run(argv, cwd=ROOT, env=env, check=True, stdout=sys.stderr)
        found = [json.loads(line) for line in Path(folder, "found").read_text().splitlines()]
    return sorted(found, key=lambda each: each["row"])


def line(found: dict[str, Any]) -> str:
    own = [took - load for took, load in zip(found["seconds"], found["loads"], strict=True)]
    figure = Figure(found["fault"], own, "s", None if found["row"] in APART else GOAL)
    _, median, spread, runs, goal = figure.row()
    in_hand = f", and {found['in_hand']} that the killed process had in hand" if found["in_hand"] else ""
    ends = f"{found['asked']} | {found['told']} | {found['lost']}{in_hand}"
    return f"| {found['row']} | {found['fault']} | {median} | {spread} | {runs} | {goal} | {ends} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.recovery", description=__doc__)
    parser.add_argument("--times", type=int, default=9, help="how often each fault is caused (default: 9)")
    parser.add_argument("--note", default="", help="what is to be known of the machine's other work")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    options = parser.parse_args()
    head = "| # | fault | median | middle 80 % | faults | goal | requests | ended with an error | lost |"
    table = "\n".join([head, "|" + "---|" * 9, *map(line, measured(options.times))])
    print(table)
    if options.write:
        PAGE.write_text(
            between(PAGE.read_text(), "recovery", f"\n{machine()}{options.note and f', {options.note}'}:\n\n{table}\n")
        )


if __name__ == "__main__":
    main()
