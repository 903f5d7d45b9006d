"""CPU of one plain `muxctl status` against a running muxd, beside an empty Python.

    python bench/muxctl_status.py [--quick] [RUNS]

Every run is a process of its own, measured by the kernel (wait4); the two alternate.
"""

import argparse
import os
import subprocess
import sys

from figures import Figure, show
from muxd_process import running_muxd

GOAL = 60.0  # milliseconds


def cpu_ms(argv: list[str]) -> float:
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, argv
    return 1000 * (usage.ru_utime + usage.ru_stime)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="only to see that it works")
    parser.add_argument("runs", nargs="?", type=int, default=31)
    options = parser.parse_args()
    runs = 1 if options.quick else options.runs
    with running_muxd() as muxd:
        status = [sys.executable, "-m", "muxctl", "--socket", str(muxd.socket), "status"]
        empty = [sys.executable, "-c", "pass"]
        pairs = [(cpu_ms(status), cpu_ms(empty)) for _ in range(runs)]
    of_status, of_nothing = zip(*pairs, strict=True)
    show(
        "muxctl status",
        [Figure("CPU of muxctl status", of_status, "ms", GOAL), Figure("CPU of an empty Python", of_nothing, "ms")],
    )


if __name__ == "__main__":
    main()
