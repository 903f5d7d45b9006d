"""An order to validate a model, and the model before it."""

from muxd.core.commands import GrantLease, MeasureWorker, StartWorker
from muxd.core.events import LeaseAsked, LeaseEnded, OrderGiven, RouterSynced, Verb, WorkerReady

from .playbook import Playbook, replicas, single

DEEP = single("a", levels=frozenset({0, 2}), launchable=frozenset({1}))


def validate(time, *levels, model="a", cycles=1, ticket=9):
    return OrderGiven(time, ticket, model, Verb.VALIDATE, levels=levels, cycles=cycles)


def ready(*specs):
    """Worker a is ready, and nobody holds a lease."""
    return (
        Playbook(*specs)
        >> LeaseAsked(0, 1, "a") << StartWorker("a")
        >> WorkerReady(10, "a", "http://a") << GrantLease(1, "http://a", 1)
        >> LeaseEnded(11, 1)
    )  # fmt: skip


def ask(number, moment, worker="a"):
    return MeasureWorker(worker, number, moment)


def ready_replicas(spec=None):
    """Both replicas of r are ready, and nobody holds a lease."""
    book = Playbook(spec or replicas("r", frozenset({"0"}), frozenset({"1"})))
    events = [
        LeaseAsked(0, 1, "r"),
        *(WorkerReady(1, name, f"http://{name}") for name in ("r/0", "r/1", "r/router")),
        RouterSynced(2, "r", ("http://r/0", "http://r/1")),
        LeaseEnded(3, 1),
    ]
    for event in events:
        book >> event
        book.pending.clear()
    return book
