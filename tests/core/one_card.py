"""Models on one GPU of a known size."""

from muxd.core.commands import GrantLease, SleepWorker, StartWorker
from muxd.core.events import (
    DemandReported,
    GpusMeasured,
    LeaseAsked,
    LeaseEnded,
    WorkerAsleep,
    WorkerReady,
)
from muxd.core.spec import GroupSpec

from .playbook import Playbook, single

CARD = 80  # "bytes"


def sized(name: str, share: int, **more) -> GroupSpec:
    return single(name, share=share, **more)


def on_one_card(*specs: GroupSpec) -> Playbook:
    return Playbook(*specs, keep_turns=False) >> GpusMeasured(0, {"0": CARD})


def awake(book: Playbook, *names: str) -> Playbook:
    """Each of them is loaded and idle, with a lease of the number of its place."""
    for lease, name in enumerate(names, start=1):
        book = (
            book >> LeaseAsked(lease, lease, name) << StartWorker(name)
            >> WorkerReady(lease + 0.5, name, f"http://{name}") << GrantLease(lease, f"http://{name}", 1)
            >> DemandReported(lease + 0.6, lease, 0, ())
        )  # fmt: skip
    return book


def measured_awake(*sizes: int | None) -> Playbook:
    """Models a, b and c without sizes: each was loaded alone, was measured to have so much, and left for the next."""
    names = "abc"[: len(sizes)]
    book = on_one_card(*map(single, names))
    for number, name in enumerate(names):
        at = 10.0 * number
        book = book >> LeaseAsked(at + 1, number, name)
        if number:
            before = names[number - 1]
            book = book << SleepWorker(before, 2) >> WorkerAsleep(at + 2, before, 0, sizes[number - 1])
        book = (
            book << StartWorker(name)
            >> WorkerReady(at + 3, name, f"http://{name}") << GrantLease(number, f"http://{name}", 1)
            >> LeaseEnded(at + 4, number)
        )  # fmt: skip
    return book
