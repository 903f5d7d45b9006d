"""Replicas that leave one by one where memory is short, and come back when there is room again."""

from math import inf

from msgspec.structs import replace

from muxd.core.commands import (
    DrainWorker,
    FailLease,
    FinishOrder,
    FinishSwitch,
    GrantLease,
    PersistHold,
    RecordScale,
    RevokeLease,
    SleepWorker,
    StartWorker,
    SyncRouter,
    WakeWorker,
)
from muxd.core.events import (
    DemandReported,
    HoldAsked,
    LeaseAsked,
    LeaseEnded,
    OrderGiven,
    Reconfigured,
    RouterSynced,
    TimerFired,
    Verb,
    WorkerAsleep,
    WorkerDrained,
    WorkerReady,
)
from muxd.core.spec import Scaling
from muxd.core.states import WorkerState

from .playbook import Playbook, replicas, single
from .scaled_pool import GPUS, LOAD, ONE, RULE, ZERO, pool, two

#: What a model is told that does not fit beside the group while that is held.
HELD = "model b cannot be loaded: q is held by an operator, and b does not fit beside it; `muxctl unhold q` makes room"


def one_gives_way_to_b() -> Playbook:
    """Two replicas are ready, of which one would do, and that on the GPU of b is on its way out."""
    return (
        two_of_which_one_would_do(single("b", gpus=GPUS[1]))
        >> DemandReported(40, 1, 0)
        >> LeaseAsked(50, 2, "b") << RecordScale("q", 2, 1, "q gives way to b with these alone")
        << SyncRouter("q", (ZERO,))
    )  # fmt: skip


def b_serves_beside_one() -> Playbook:
    """The same, and b has come; lease 2 is granted."""
    return (
        one_gives_way_to_b()
        >> RouterSynced(51, "q", (ZERO,)) << SleepWorker("q/1", 2)
        >> WorkerAsleep(52, "q/1") << StartWorker("b")
        >> WorkerReady(60, "b", "http://b") << GrantLease(2, "http://b", 1)
    )  # fmt: skip


def test_a_model_that_needs_the_gpu_of_one_replica_takes_that_alone():
    book = b_serves_beside_one()
    assert book
    assert book.state("q") is WorkerState.READY, "the other one serves on, and its leases are as good as before"


def test_a_hold_keeps_the_replicas_that_drain_for_another_model_and_calls_its_switch_off():
    book = (
        one_gives_way_to_b()
        >> HoldAsked(51, 9, "q") << PersistHold("q", inf) << FailLease(2, "pinned_in_the_way", HELD, None)
        << FinishSwitch(9, "http://q")
        << RecordScale("q", 1, 2, "q is held") << SyncRouter("q", (ZERO, ONE))
    )  # fmt: skip
    assert book
    assert not book.scheduler.switching.running
    assert all(worker.state is WorkerState.READY for worker in book.group("q").enlisted)


def test_it_is_back_once_the_other_model_has_left_and_the_load_asks_for_it():
    assert (
        b_serves_beside_one()
        >> LeaseEnded(70, 2)
        >> OrderGiven(71, 9, "b", Verb.SLEEP) << SleepWorker("b", 2)
        >> WorkerAsleep(72, "b") << FinishOrder(9, "asleep")
        >> DemandReported(80, 1, 9)
        >> TimerFired(83) << RecordScale("q", 1, 2, LOAD) << WakeWorker("q/1")
    )  # fmt: skip


def test_a_busy_replica_finishes_what_it_has_before_it_gives_way():
    book = (
        two_of_which_one_would_do(single("b", gpus=GPUS[1])) >> DemandReported(40, 1, 3)
        >> LeaseAsked(50, 2, "b")
    )  # fmt: skip
    at = book.timer
    assert at is not None, "its turn ends then"
    assert (
        book >> TimerFired(at) << RecordScale("q", 2, 1, "q gives way to b with these alone")
        << SyncRouter("q", (ZERO,))
        >> RouterSynced(at + 1, "q", (ZERO,)) << DrainWorker("q/1")
        >> WorkerDrained(at + 5, "q/1") << SleepWorker("q/1", 2)
        >> WorkerAsleep(at + 6, "q/1") << StartWorker("b")
    )  # fmt: skip


def test_where_none_would_be_left_the_whole_group_gives_way():
    book = two_of_which_one_would_do(single("b", gpus=GPUS[0] | GPUS[1])) >> DemandReported(40, 1, 0)
    assert book >> LeaseAsked(50, 2, "b") << RevokeLease(1, "switch", "q gives way to b", 350)


def test_replicas_of_a_fixed_number_give_way_together():
    book = two_serve(replicas("q", *GPUS[:2]), single("b", gpus=GPUS[1])) >> DemandReported(40, 1, 0)
    assert book >> LeaseAsked(50, 2, "b") << RevokeLease(1, "switch", "q gives way to b", 350)


def two_of_which_one_would_do(*others) -> Playbook:
    return two_serve(replicas("q", *GPUS[:2], at_first=2, scaling=Scaling(1, 4, 5, 3, 600)), *others)


def two_serve(*specs) -> Playbook:
    """Both replicas of q serve; lease 1 is granted."""
    return (
        Playbook(*specs)
        >> LeaseAsked(0, 1, "q") << StartWorker("q/0") << StartWorker("q/1") << StartWorker("q/router")
        >> WorkerReady(1, "q/router", "http://q") << SyncRouter("q", ())
        >> WorkerReady(10, "q/0", ZERO) << SyncRouter("q", (ZERO,))
        >> RouterSynced(10, "q", (ZERO,)) << GrantLease(1, "http://q", 3)
        >> WorkerReady(12, "q/1", ONE) << SyncRouter("q", (ZERO, ONE))
        >> RouterSynced(12, "q", (ZERO, ONE))
    )  # fmt: skip


def test_as_many_serve_as_before_where_a_configuration_has_one_of_these_no_more():
    spec = replicas("q", *GPUS, scaling=RULE, at_first=1)
    zero, _, last, router = spec.workers
    book = two() >> Reconfigured(40, (replace(spec, workers=(zero, last, router)),), frozenset(), 30.0)
    assert book << StartWorker("q/2") << SyncRouter("q", (ZERO,))
    assert [worker.name for worker in book.group("q").enlisted] == ["q/0", "q/2"]


def test_a_stopped_group_is_not_scaled_to_0_which_would_let_it_sleep():
    book = pool() >> OrderGiven(20, 7, "q", Verb.STOP)
    book.pending.clear()
    book >> OrderGiven(21, 8, "q", Verb.SCALE, replicas=0)
    (failed,) = book.pending
    assert (failed.ticket, failed.code) == (8, "model_stopped")
    book.pending.clear()
