"""What muxd takes when nothing happens: CPU and memory of each of its processes.

    python bench/idle.py [--quick] [--seconds S]

Two simulated models, one awake and one asleep, and no request.  CPU is by the processes' CPU
clocks, over six stretches of S seconds; memory is PSS: its own, and its share of what it shares.
"""

import argparse
import time
from collections.abc import Iterator

from figures import Figure, show
from muxd_process import MuxdProcess, running_muxd, until
from processes import below, command_line, cpu_seconds, pss_mb

CPU_GOAL = 0.2  # per cent of a core
PSS_GOALS = {"supervisor": 45.0, "proxy": 35.0, "shim": 8.0}  # MB


def role(pid: int) -> str | None:
    """Of muxd's own processes."""
    line = command_line(pid)
    for mark, name in (("muxd/shim/", "shim"), ("-m muxd proxy", "proxy"), ("-m muxd start", "supervisor")):
        if mark in line:
            return name
    return None


def own_processes(muxd: MuxdProcess) -> Iterator[tuple[str, int]]:
    for pid in below(muxd.muxd.pid):
        name = role(pid)
        if name is not None:
            yield name, pid


def used(processes: list[tuple[str, int]], seconds: float) -> list[float]:
    """Per cent of a core, of each."""
    before, began = [cpu_seconds(pid) for _, pid in processes], time.monotonic()
    time.sleep(seconds)
    span = time.monotonic() - began
    return [100 * (cpu_seconds(pid) - at) / span for (_, pid), at in zip(processes, before, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="only to see that it works")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S")
    options = parser.parse_args()
    stretches, seconds = (1, 0.2) if options.quick else (6, options.seconds)
    with running_muxd() as muxd:
        for model in ("a", "b", "a", "b"):
            muxd.ask(model, max_tokens=4)
        until(lambda: muxd.states() == {"a": "asleep", "b": "ready"}, 10)
        time.sleep(min(seconds, 3.0))  # what the last request left to do
        processes = list(own_processes(muxd))
        cpu = [used(processes, seconds) for _ in range(stretches)]
        memory = [(name, pss_mb(pid)) for name, pid in processes]
    figures = []
    for name, goal in PSS_GOALS.items():
        columns = [number for number, (other, _) in enumerate(processes) if other == name]
        shares = [stretch[number] for stretch in cpu for number in columns]
        each = " (each)" if len(columns) > 1 else ""
        figures.append(Figure(f"{name}: CPU{each}", shares, "%", CPU_GOAL))
        figures.append(Figure(f"{name}: PSS{each}", [size for other, size in memory if other == name], "MB", goal))
    show("muxd idle, one model awake and one asleep", figures)


if __name__ == "__main__":
    main()
