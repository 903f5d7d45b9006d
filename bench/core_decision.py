"""What one decision costs with many models waiting: the core alone, no I/O.

    python bench/core_decision.py [--quick] [--models N] [--world NAME]

N models, for each of which 100 requests wait, take turns on the GPUs of several worlds; time is virtual.  Measured is
the CPU of each event, by its kind: a report that changes nothing for anybody, which comes most; and those after which
everybody is looked at, as when a first request comes for a model, a lease is released or a worker is ready.  A look is
how each of those who wait fares, which follows every event where clients are told.

How fast this machine is at the moment is told by a loop of Python that is always the same, timed before and after.
"""

import argparse
import heapq
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median

from muxd.core.commands import (
    Command,
    GrantLease,
    RevokeLease,
    SetTimer,
    SleepWorker,
    StartWorker,
    StopWorker,
    WakeWorker,
)
from muxd.core.events import (
    DemandReported,
    Event,
    GpusMeasured,
    LeaseAsked,
    LeaseEnded,
    Started,
    TimerFired,
    Waiting,
    WorkerAsleep,
    WorkerExited,
    WorkerReady,
)
from muxd.core.ledger import WHOLE
from muxd.core.progress import progress_of
from muxd.core.scheduler import Scheduler
from muxd.core.spec import GroupSpec, WorkerSpec

#: GiB of each GPU.
GPU_SIZE = 80

EIGHT = frozenset(map(str, range(8)))

#: By name: the GPUs that a model may have, how many of them it needs (0: all), and what models take of each.
WORLDS: Mapping[str, tuple[frozenset[str], int, tuple[int, ...]]] = {
    "whole": (frozenset("0"), 0, (WHOLE,)),
    "sized": (frozenset("0"), 0, (25,)),
    "sizes": (frozenset("0"), 0, tuple(range(10, 60))),
    "auto": (EIGHT, 1, (WHOLE,)),
    "auto, sizes": (EIGHT, 1, (10, 20, 25, 30, 45, 70)),
    "auto:2": (EIGHT, 2, (WHOLE,)),
    "auto:2, sizes": (EIGHT, 2, (10, 20, 25, 30, 45, 70)),
}

#: Microseconds that a whole decision may take.
GOAL = 200


class Turns:
    """Models take turns: workers and clients answer the core's commands after so many seconds of virtual time."""

    def __init__(self, models: int, gpus: frozenset[str], count: int, shares: tuple[int, ...]) -> None:
        self.names = [f"model-{number:03}" for number in range(models)]
        self.scheduler = Scheduler(
            GroupSpec(name, (WorkerSpec(name, gpus, count, shares[number % len(shares)]),))
            for number, name in enumerate(self.names)
        )
        self.now = 0.0
        self.timer: float | None = None
        self.group_of: dict[int, str] = {}
        self.ahead: list[tuple[float, int, Event]] = []
        self.told = 0
        self.took: dict[str, list[float]] = defaultdict(list)  # microseconds, by kind of event
        self.tell(GpusMeasured(0.0, dict.fromkeys(gpus, GPU_SIZE)), "")
        self.tell(Started(0.0), "")
        for number, name in enumerate(self.names):
            self.ask(name, at=number / 1000)

    def ask(self, name: str, at: float) -> None:
        lease = len(self.group_of)
        self.group_of[lease] = name
        self.later(LeaseAsked(at, lease, name, (Waiting(100, 0.0),)))

    def later(self, event: Event) -> None:
        self.told += 1
        heapq.heappush(self.ahead, (event.time, self.told, event))

    def tell(self, event: Event, kind: str) -> None:
        began = time.thread_time_ns()
        commands = self.scheduler.handle(event)
        self.took[kind].append((time.thread_time_ns() - began) / 1e3)
        for command in commands:
            self.obey(command)

    def obey(self, command: Command) -> None:
        now = self.now
        match command:
            case SetTimer(at):
                self.timer = at
            case StartWorker(worker):
                self.later(WorkerReady(now + 20.0, worker, "http://127.0.0.1:1"))
            case WakeWorker(worker):
                self.later(WorkerReady(now + 2.0, worker, "http://127.0.0.1:1"))
            case SleepWorker(worker):
                self.later(WorkerAsleep(now + 1.0, worker, 0))
            case StopWorker(worker):
                self.later(WorkerExited(now + 1.0, worker))
            case GrantLease(lease):
                self.later(DemandReported(now + 1.5, lease, 0))
            case RevokeLease(lease):
                self.later(LeaseEnded(now + 0.5, lease))
                self.ask(self.group_of[lease], now + 0.7)

    def step(self) -> None:
        """Let the next thing happen."""
        if self.timer is not None and (not self.ahead or self.timer <= self.ahead[0][0]):
            self.now, self.timer = max(self.now, self.timer), None
            self.tell(TimerFired(self.now), "TimerFired")
            return
        self.now, _, event = heapq.heappop(self.ahead)
        self.tell(event, type(event).__name__)

    def report(self, runs: int) -> None:
        """Tell again and again what waits for somebody."""
        leases = [lease for group in self.scheduler.host.groups.values() for lease in group.waiting]
        for run in range(runs):
            self.now += 0.0001
            self.tell(DemandReported(self.now, leases[run % len(leases)], 0, (Waiting(101, 1.0),)), "(a report)")

    def look(self, runs: int) -> None:
        """See how all who wait fare."""
        scheduler = self.scheduler
        waiting = [group for group in scheduler.host.groups.values() if group.wanted]
        assert len(waiting) > 0.6 * len(self.names)
        for _ in range(runs):
            began = time.thread_time_ns()
            for group in waiting:
                progress_of(scheduler.host, scheduler.switching, group, self.now)
            self.took["(a look at all)"].append((time.thread_time_ns() - began) / 1e3)


def show(world: str, took: Mapping[str, list[float]]) -> None:
    decisions = [each for kind, values in took.items() if kind.isalpha() for each in values]
    for kind, values in [("a whole decision", decisions), *sorted(took.items())]:
        if kind:
            cut = sorted(values)
            p99 = cut[min(len(cut) - 1, len(cut) * 99 // 100)]
            print(f"| {f'{world}: {kind}':32} | {median(cut):6.0f} us | {p99:6.0f} us | {len(cut):5} |")


def loop() -> float:
    """Return the microseconds of CPU that a thousand additions take in a loop, the median of many."""
    took = []
    for _ in range(200):
        began, total = time.thread_time_ns(), 0
        for number in range(1000):
            total += number
        took.append((time.thread_time_ns() - began) / 1e3)
    return median(took)


def processor() -> str:
    """Return what the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def measure(worlds: Iterable[str], models: int, steps: int) -> None:
    print(f"\nPython {sys.version.split()[0]} on {processor()}; a loop of 1000 additions takes {loop():.0f} us of CPU")
    print(f"{models} models wait, with 100 requests each; goal of a whole decision: {GOAL} us\n")
    print(f"| {'figure':32} | {'median':9} | {'p99':9} | runs  |")
    print(f"|{'-' * 34}|{'-' * 11}|{'-' * 11}|-------|")
    for world in worlds:
        turns = Turns(models, *WORLDS[world])
        for _ in range(models + steps):
            turns.step()
        turns.report(steps)
        turns.look(max(3, steps // 50))
        show(world, turns.took)
    print(f"\nThe loop takes {loop():.0f} us now.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="only to see that it works")
    parser.add_argument("--models", type=int, default=100, metavar="N")
    parser.add_argument("--world", choices=list(WORLDS), help="only this one")
    options = parser.parse_args()
    measure([options.world] if options.world else WORLDS, options.models, 20 if options.quick else 1500)


if __name__ == "__main__":
    main()
