"""What muxd's start costs: CPU until it is ready, and until its proxy is too.

    python bench/start.py [--quick] [RUNS]

Ready is when systemd is told (READY=1): the control socket answers and the proxy's port is
bound.  CPU is that of muxd and of all processes below it at that moment, by their CPU clocks;
two simulated models are configured, and none is loaded.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figures import Figure, show
from muxd_process import SIMULATED, running_muxd
from processes import below, cpu_seconds

GOAL = 400.0  # milliseconds


def cpu_ms_of_tree(pid: int) -> float:
    return 1000 * sum(cpu_seconds(one) for one in below(pid))


def a_start() -> tuple[float, float, float]:
    """CPU until ready, CPU until the proxy answers, wall time until ready; milliseconds."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        os.environ["NOTIFY_SOCKET"] = str(Path(folder) / "notify")
        systemd.bind(os.environ["NOTIFY_SOCKET"])
        systemd.settimeout(30)
        began, at_ready = time.monotonic(), []
        with running_muxd(SIMULATED, until_ready=lambda muxd: at_ready.extend(_at_ready(systemd, muxd.pid))) as muxd:
            return at_ready[1], cpu_ms_of_tree(muxd.muxd.pid), 1000 * (at_ready[0] - began)


def _at_ready(systemd: socket.socket, pid: int) -> tuple[float, float]:
    while b"READY=1" not in systemd.recv(4096):
        pass
    return time.monotonic(), cpu_ms_of_tree(pid)


def empty_ms() -> float:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0
    return 1000 * (usage.ru_utime + usage.ru_stime)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="only to see that it works")
    parser.add_argument("runs", nargs="?", type=int, default=15)
    options = parser.parse_args()
    runs = 1 if options.quick else options.runs
    ready, answering, wall = zip(*(a_start() for _ in range(runs)), strict=True)
    empty = [empty_ms() for _ in range(runs)]
    show(
        "muxd's start",
        [
            Figure("CPU until READY=1", ready, "ms", GOAL),
            Figure("CPU until the proxy answers, with the proxy's", answering, "ms"),
            Figure("wall time until READY=1", wall, "ms"),
            Figure("CPU of an empty Python", empty, "ms"),
        ],
    )


if __name__ == "__main__":
    main()
