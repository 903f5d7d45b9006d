"""CPU of one plain `muxctl status`, muxctl's and muxd's, beside an empty Python.

    python bench/muxctl_status.py [--quick] [--clients N] [RUNS]

So many other clients hold connections to the control socket meanwhile, every second one with half a request, and each
comes again once muxd has ended it.  Every run is a process of its own, measured by the kernel (wait4); the two
alternate.  What muxd takes for a status is read off its CPU clock, with what it has to do for the other clients then.
"""

import argparse
import os
import resource
import socket
import subprocess
import sys
import time

from figures import Figure, show
from muxd_process import MuxdProcess, running_muxd
from processes import cpu_seconds

GOAL = 60.0  # milliseconds of muxctl's CPU
WALL_GOAL = 200.0  # milliseconds from its exec to its end, beside a thousand other clients


def cpu_ms(argv: list[str]) -> float:
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, argv
    return 1000 * (usage.ru_utime + usage.ru_stime)


class OtherClients:
    """Connections that are held, idle or half-open."""

    def __init__(self, muxd: MuxdProcess, count: int) -> None:
        self._muxd = muxd
        self._held = [self._connected(number) for number in range(count)]

    def _connected(self, number: int) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self._muxd.socket))
        if number % 2:
            connection.send(b"GET /v1/status HTTP/1.1\r\nHost: m")
        connection.setblocking(False)
        return connection

    def come_again(self) -> None:
        """Connect anew in place of each that muxd has ended."""
        for number, connection in enumerate(self._held):
            try:
                while connection.recv(4096):
                    pass
            except BlockingIOError:
                continue
            except OSError:
                pass
            connection.close()
            self._held[number] = self._connected(number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="only to see that it works")
    parser.add_argument("--clients", type=int, default=0, metavar="N", help="that hold connections; default: none")
    parser.add_argument("runs", nargs="?", type=int, default=31)
    options = parser.parse_args()
    runs = 1 if options.quick else options.runs
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    of_status, of_muxd, of_nothing, walls = [], [], [], []
    with running_muxd() as muxd:
        others = OtherClients(muxd, options.clients)
        for _ in range(runs):
            others.come_again()
            before, began = cpu_seconds(muxd.muxd.pid), time.monotonic()
            of_status.append(cpu_ms([sys.executable, "-m", "muxctl", "--socket", str(muxd.socket), "status"]))
            walls.append((time.monotonic() - began) * 1000)
            of_muxd.append((cpu_seconds(muxd.muxd.pid) - before) * 1000)
            of_nothing.append(cpu_ms([sys.executable, "-c", "pass"]))
    show(
        f"muxctl status, {options.clients} other clients",
        [
            Figure("CPU of muxctl status", of_status, "ms", GOAL),
            Figure("CPU of muxd meanwhile", of_muxd, "ms"),
            Figure("CPU of an empty Python", of_nothing, "ms"),
            Figure("from its exec to its end", walls, "ms", WALL_GOAL),
        ],
    )


if __name__ == "__main__":
    main()
