"""A group of two replicas and a router, on its way and serving, or of three."""

from muxd.core.commands import GrantLease, StartWorker, SyncRouter
from muxd.core.events import LeaseAsked, RouterSynced, WorkerReady
from muxd.core.spec import GroupSpec

from .playbook import Playbook, replicas

ZERO, ONE, TWO = "http://q/0", "http://q/1", "http://q/2"
GPU_0, GPU_1 = frozenset({"0"}), frozenset({"1"})


def coming(*others, **of_worker):
    """Both replicas of q and its router start, each replica on a GPU of its own, and lease 1 waits."""
    return (
        Playbook(replicas("q", GPU_0, GPU_1, **of_worker), *others)
        >> LeaseAsked(0, 1, "q") << StartWorker("q/0") << StartWorker("q/1") << StartWorker("q/router")
        >> WorkerReady(1, "q/router", "http://q") << SyncRouter("q", ())
        >> RouterSynced(1, "q", ())
    )  # fmt: skip


def serving_q(*others, **of_worker):
    """The router knows both replicas, and lease 1 is granted."""
    return (
        coming(*others, **of_worker)
        >> WorkerReady(10, "q/0", ZERO) << SyncRouter("q", (ZERO,))
        >> RouterSynced(10, "q", (ZERO,)) << GrantLease(1, "http://q", 3)
        >> WorkerReady(12, "q/1", ONE) << SyncRouter("q", (ZERO, ONE))
        >> RouterSynced(12, "q", (ZERO, ONE))
    )  # fmt: skip


def three() -> GroupSpec:
    """The same group with a third replica."""
    return replicas("q", GPU_0, GPU_1, frozenset({"2"}))
