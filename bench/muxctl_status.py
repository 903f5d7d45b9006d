"""CPU of one plain `muxctl status` against a running muxd: median, beside an empty Python.

    python bench/muxctl_status.py [RUNS]

Every run is a process of its own, measured by the kernel (wait4); the two alternate.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from muxd.demo import write_demo_config

STATUS = [sys.executable, "-m", "muxctl", "--socket"]
EMPTY = [sys.executable, "-c", "pass"]


def cpu_ms(argv: list[str]) -> float:
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, argv
    return 1000 * (usage.ru_utime + usage.ru_stime)


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 31
    with tempfile.TemporaryDirectory() as folder:
        config = write_demo_config(Path(folder), port=0)
        daemon = subprocess.Popen([sys.executable, "-m", "muxd", "start", "--config", str(config)])
        try:
            socket = Path(folder) / "muxd.sock"
            while not socket.exists():
                time.sleep(0.05)
            figures = [(cpu_ms([*STATUS, str(socket), "status"]), cpu_ms(EMPTY)) for _ in range(runs)]
        finally:
            daemon.terminate()
            daemon.wait()
    status, empty = (statistics.median(column) for column in zip(*figures, strict=True))
    print(f"muxctl status  {status:5.1f} ms of CPU (median of {runs})")
    print(f"empty Python   {empty:5.1f} ms")
    print(f"ratio          {status / empty:5.2f}")


if __name__ == "__main__":
    main()
