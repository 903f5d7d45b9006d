"""What one decision costs with many models waiting: the core alone, no I/O.

    python bench/core_decision.py [--quick] [--models N] [--sized]

N models share one GPU; one of them is busy, and 100 requests wait for each of the others.  With --sized three fit
together, and each decision chooses who would leave.  Measured is the CPU of the event that comes most, a lease holder's
report of what waits for it; of a whole decision, which looks at every model, as when a first request comes for one; and
of one look at how each of those who wait fares, which follows every event.
"""

import argparse
import time
from collections.abc import Callable

from figures import Figure, show

from muxd.core.commands import StartWorker
from muxd.core.events import DemandReported, GpusMeasured, LeaseAsked, Started, Waiting, WorkerReady
from muxd.core.ledger import WHOLE
from muxd.core.progress import progress_of
from muxd.core.scheduler import Scheduler
from muxd.core.spec import GroupSpec, WorkerSpec


def crowded(models: int, share: int = WHOLE) -> Scheduler:
    """Return a scheduler in which everybody waits but the first, which was just loaded and is busy."""
    names = [f"model-{number:03}" for number in range(models + 1)]
    workers = [WorkerSpec(name, frozenset({"0"}), share=share) for name in names]
    scheduler = Scheduler([GroupSpec(worker.name, (worker,)) for worker in workers])
    scheduler.handle(GpusMeasured(0.0, {"0": 80}))
    scheduler.handle(Started(0.0))
    scheduler.handle(LeaseAsked(0.0, 0, names[0]))
    scheduler.handle(WorkerReady(10.0, names[0], "http://127.0.0.1:1"))
    scheduler.handle(DemandReported(10.0, 0, 5))
    for number, name in enumerate(names[1:], start=1):
        for command in scheduler.handle(LeaseAsked(10.0, number, name, (Waiting(100, number / 100),))):
            if isinstance(command, StartWorker):  # it fits beside the others
                scheduler.handle(WorkerReady(10.0, name, "http://127.0.0.1:1"))
                scheduler.handle(DemandReported(10.0, number, 5))
    return scheduler


def cpu_ms(act: Callable[[], object]) -> float:
    began = time.process_time_ns()
    act()
    return (time.process_time_ns() - began) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="only to see that it works")
    parser.add_argument("--models", type=int, default=50, metavar="N")
    parser.add_argument("--sized", action="store_true", help="a model takes 25 of 80, so that three fit together")
    options = parser.parse_args()
    runs = 3 if options.quick else 300
    scheduler, now = crowded(options.models, 25 if options.sized else WHOLE), 11.0
    host, switching = scheduler.host, scheduler.switching
    reports = [
        DemandReported(now + run / 1000, run % options.models + 1, 0, (Waiting(101, 1.0),)) for run in range(runs)
    ]
    events = [cpu_ms(lambda event=report: scheduler.handle(event)) for report in reports]
    name = f"model-{options.models:03}"
    asked = [LeaseAsked(now + 1, options.models + 1 + run, name, ()) for run in range(runs)]
    decisions = [cpu_ms(lambda event=ask: scheduler.handle(event)) for ask in asked]
    waiting = [group for group in host.groups.values() if group.wanted]
    looks = [cpu_ms(lambda: [progress_of(host, switching, group, now) for group in waiting]) for _ in range(runs)]
    assert len(waiting) >= options.models - 2
    show(
        f"The core with {options.models} models waiting",
        [
            Figure("a report", events, "ms", 0.3),
            Figure("a whole decision", decisions, "ms", 8.0),
            Figure("how all of them fare", looks, "ms", 4.0),
        ],
    )


if __name__ == "__main__":
    main()
