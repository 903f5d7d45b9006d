"""Groups of replicas of which more or fewer may serve."""

from muxd.core.commands import GrantLease, RecordScale, StartWorker, SyncRouter
from muxd.core.events import (
    DemandReported,
    LeaseAsked,
    OrderGiven,
    RouterSynced,
    TimerFired,
    Verb,
    WorkerReady,
)
from muxd.core.spec import Scaling

from .playbook import Playbook, replicas

ZERO, ONE, TWO = "http://q/0", "http://q/1", "http://q/2"
GPUS = tuple(frozenset({gpu}) for gpu in "012")

#: Four requests for each replica; up after 3 s, down after 60.
RULE = Scaling(least=0, load=4, queue_wait=5, up_after=3, down_after=60)


def pool(*others, scaling: Scaling | None = RULE, at_first=1, of_playbook=None, **of_worker) -> Playbook:
    """One of three replicas serves, and lease 1 is granted."""
    spec = replicas("q", *GPUS, scaling=scaling, at_first=at_first, **of_worker)
    return (
        Playbook(spec, *others, **(of_playbook or {}))
        >> LeaseAsked(0, 1, "q") << StartWorker("q/0") << StartWorker("q/router")
        >> WorkerReady(1, "q/router", "http://q") << SyncRouter("q", ())
        >> WorkerReady(10, "q/0", ZERO) << SyncRouter("q", (ZERO,))
        >> RouterSynced(10, "q", (ZERO,)) << GrantLease(1, "http://q", 2)
    )  # fmt: skip


def two(*others, **more) -> Playbook:
    """A load has brought a second one."""
    return (
        pool(*others, **more) >> DemandReported(20, 1, 5)
        >> TimerFired(23)
        << RecordScale("q", 1, 2, "5 requests run or wait, 4 are for each replica") << StartWorker("q/1")
        >> WorkerReady(30, "q/1", ONE) << SyncRouter("q", (ZERO, ONE))
        >> RouterSynced(30, "q", (ZERO, ONE))
    )  # fmt: skip


def scale(time, count, ticket=9) -> OrderGiven:
    return OrderGiven(time, ticket, "q", Verb.SCALE, replicas=count)


LOAD = "9 requests run or wait, 4 are for each replica"
