"""A group of two replicas and a router: one lease, one switch, one order; each worker lives and dies by itself."""

import pytest

from muxd.core.commands import (
    EndLease,
    FailLease,
    FinishOrder,
    FinishShutdown,
    GrantLease,
    MeasureWorker,
    ReconfigureWorker,
    RecordMove,
    RecordScale,
    RemoveWorker,
    ReportCycle,
    RevokeLease,
    SleepWorker,
    StartWorker,
    StopWorker,
    SyncRouter,
    WakeWorker,
)
from muxd.core.events import (
    DemandReported,
    Failure,
    GpusMeasured,
    LeaseAsked,
    LeaseEnded,
    OrderGiven,
    Reconfigured,
    RouterSynced,
    ShutdownAsked,
    TimerFired,
    Verb,
    WorkerAsleep,
    WorkerDied,
    WorkerExited,
    WorkerMeasured,
    WorkerReady,
    WorkerStuck,
)
from muxd.core.progress import progress_of
from muxd.core.states import WorkerState

from .playbook import Playbook, order, replicas, single
from .serving_replicas import GPU_0, GPU_1, ONE, ZERO, coming, serving_q


def asleep_q(**of_worker):
    """An operator put q to sleep; its router runs on."""
    return (
        serving_q(**of_worker) >> LeaseEnded(20, 1)
        >> OrderGiven(21, 9, "q", Verb.SLEEP) << SleepWorker("q/0", 2) << SleepWorker("q/1", 2) << SyncRouter("q", ())
        >> WorkerAsleep(22, "q/0")
        >> WorkerAsleep(23, "q/1") << FinishOrder(9, "asleep")
    )  # fmt: skip


# Coming and going


def test_clients_are_sent_to_the_router_once_that_knows_a_replica():
    assert serving_q()


def test_a_router_that_knows_nobody_yet_keeps_everybody_waiting():
    book = coming() >> WorkerReady(10, "q/0", ZERO) << SyncRouter("q", (ZERO,))
    assert book >> RouterSynced(10, "q", ())
    assert book.state("q") is WorkerState.STARTING


def test_a_group_falls_asleep_and_wakes_whole_and_its_router_stays():
    assert (
        asleep_q()
        >> LeaseAsked(30, 2, "q") << WakeWorker("q/0") << WakeWorker("q/1")
        >> WorkerReady(31, "q/1", ONE) << SyncRouter("q", (ONE,))
        >> RouterSynced(31, "q", (ONE,)) << GrantLease(2, "http://q", 5)
    )  # fmt: skip


def test_a_switch_takes_the_memory_of_all_members():
    assert (
        serving_q("b") >> DemandReported(20, 1, 0)
        >> LeaseAsked(30, 2, "b") << RevokeLease(1, "switch", "q gives way to b", 330)
        >> LeaseEnded(31, 1) << SleepWorker("q/0", 2) << SleepWorker("q/1", 2) << SyncRouter("q", ())
        >> WorkerAsleep(32, "q/1")
        >> WorkerAsleep(33, "q/0") << StartWorker("b")
    )  # fmt: skip


def test_at_level_3_the_router_ends_with_the_last_replica():
    assert (
        serving_q(sleep_level=3) >> LeaseEnded(20, 1)
        >> OrderGiven(21, 9, "q", Verb.SLEEP) << StopWorker("q/0") << StopWorker("q/1") << SyncRouter("q", ())
        >> WorkerExited(22, "q/0")
        >> WorkerExited(23, "q/1") << StopWorker("q/router", kill=True)
        >> WorkerExited(24, "q/router") << FinishOrder(9, "unloaded")
    )  # fmt: skip


def test_replicas_on_one_gpu_load_and_fall_asleep_one_after_the_other():
    book = (
        Playbook(replicas("q", GPU_0, GPU_0, share=30)) >> GpusMeasured(0, {"0": 80})
        >> LeaseAsked(0, 1, "q") << StartWorker("q/0") << StartWorker("q/router")
        >> WorkerReady(1, "q/router", "http://q") << SyncRouter("q", ())
        >> WorkerReady(10, "q/0", ZERO) << StartWorker("q/1") << SyncRouter("q", (ZERO,))
        >> RouterSynced(11, "q", (ZERO,)) << GrantLease(1, "http://q", 3)
        >> WorkerReady(20, "q/1", ONE) << SyncRouter("q", (ZERO, ONE))
        >> LeaseEnded(30, 1)
        >> OrderGiven(31, 9, "q", Verb.SLEEP) << SleepWorker("q/0", 2) << SyncRouter("q", (ONE,))
        >> WorkerAsleep(32, "q/0") << SleepWorker("q/1", 2) << SyncRouter("q", ())
        >> WorkerAsleep(33, "q/1") << FinishOrder(9, "asleep")
    )  # fmt: skip
    assert book


def test_a_switch_costs_what_its_slowest_member_does():
    book = serving_q()
    assert book.worker("q/0").cost(WorkerState.STARTING).seconds == 10
    assert book.group("q").cost(WorkerState.STARTING).seconds == 12
    sleeping = asleep_q()
    sleeping >> LeaseAsked(30, 2, "q")
    host, switching = sleeping.scheduler.host, sleeping.scheduler.switching
    sleeping.pending.clear()
    assert progress_of(host, switching, sleeping.group("q"), 30).eta is None, "no wake was measured yet"


# Deaths


def test_a_replica_that_dies_costs_nobody_a_lease_and_comes_back_beside_the_other():
    assert (
        serving_q()
        >> WorkerDied(20, "q/0", "killed by SIGKILL") << SyncRouter("q", (ONE,))
        >> RouterSynced(20, "q", (ONE,))
        >> WorkerExited(21, "q/0", Failure.EXITED, "killed by SIGKILL") << StartWorker("q/0")
        >> WorkerReady(30, "q/0", ZERO) << SyncRouter("q", (ZERO, ONE))
    )  # fmt: skip


def test_a_replica_that_dies_again_waits_for_its_own_backoff():
    book = (
        serving_q()
        >> WorkerExited(20, "q/0") << StartWorker("q/0") << SyncRouter("q", (ONE,))
        >> WorkerExited(25, "q/0")
    )  # fmt: skip
    assert book.state("q") is WorkerState.READY
    assert 26 <= book.timer <= 26.1
    assert book >> TimerFired(book.timer) << StartWorker("q/0")


def test_the_memory_of_a_replica_that_died_is_kept_for_it():
    book = serving_q(single("b", GPU_0)) >> WorkerExited(20, "q/0") << StartWorker("q/0") << SyncRouter("q", (ONE,))
    book >> WorkerExited(25, "q/0")
    assert book >> LeaseAsked(25.1, 2, "b")
    assert book.scheduler.host.ledger.is_awake("q/0")


def test_the_last_replica_takes_the_leases_with_it():
    assert (
        serving_q()
        >> WorkerExited(20, "q/0") << StartWorker("q/0") << SyncRouter("q", (ONE,))
        >> WorkerDied(21, "q/1", "killed by SIGKILL")
        << RevokeLease(1, "worker_exited", "the worker of q/1 killed by SIGKILL", 21) << EndLease(1)
        << SyncRouter("q", ())
        >> LeaseAsked(22, 2, "q")
        >> WorkerReady(30, "q/0", ZERO) << SyncRouter("q", (ZERO,))
        >> RouterSynced(30, "q", (ZERO,)) << GrantLease(2, "http://q", 4)
    )  # fmt: skip


def test_a_router_that_dies_takes_its_streams_with_it_and_is_started_at_once():
    assert (
        serving_q()
        >> WorkerExited(20, "q/router", Failure.EXITED, "exited with status 1")
        << RevokeLease(1, "worker_exited", "the worker of q/router exited with status 1", 20) << EndLease(1)
        << StartWorker("q/router")
        >> LeaseAsked(20.1, 2, "q")
        >> WorkerReady(21, "q/router", "http://q") << SyncRouter("q", (ZERO, ONE))
        >> RouterSynced(21, "q", (ZERO, ONE)) << GrantLease(2, "http://q", 4)
    )  # fmt: skip


def test_a_router_that_cannot_start_lets_go_of_the_memory_and_is_named():
    book = (
        serving_q() >> LeaseEnded(15, 1)
        >> WorkerExited(20, "q/router") << StartWorker("q/router")
        >> WorkerExited(21, "q/router", Failure.REFUSED, "no such program")
        << SleepWorker("q/0", 2) << SleepWorker("q/1", 2)
        >> LeaseAsked(22, 2, "q")
    )  # fmt: skip
    refusal = "model q failed: no such program; see `muxctl logs q/router`; tried again in 59 s"
    assert book << FailLease(2, "model_failed", refusal, 59)
    assert book >> WorkerAsleep(23, "q/0") >> WorkerAsleep(24, "q/1")
    assert book >> LeaseAsked(82, 3, "q") << WakeWorker("q/0") << WakeWorker("q/1") << StartWorker("q/router")


def test_a_stuck_replica_leaves_the_other_one_serving():
    book = serving_q() >> WorkerStuck(20, "q/0", "survived SIGKILL") << SyncRouter("q", (ONE,))
    assert book.state("q") is WorkerState.READY


def test_who_is_in_the_way_is_found_anew_once_a_stuck_replica_is_gone():
    """Its memory was given back when it fell asleep: nothing but its state says that it comes again."""
    book = Playbook(replicas("r", GPU_0, GPU_1, share=50), single("a", share=40))
    events = [
        GpusMeasured(0, {"0": 80, "1": 80}),
        LeaseAsked(0, 1, "r"),
        *(WorkerReady(1, name, f"http://{name}") for name in ("r/0", "r/1", "r/router")),
        RouterSynced(2, "r", ("http://r/0", "http://r/1")),
        LeaseEnded(3, 1),
        OrderGiven(4, 2, "r", Verb.SLEEP),
        *(WorkerAsleep(5, name, 0) for name in ("r/0", "r/1")),
        OrderGiven(7, 3, "r", Verb.RESTART),
        WorkerStuck(8, "r/0", "survived SIGKILL"),
        *(WorkerExited(9, name) for name in ("r/1", "r/router")),
        OrderGiven(10, 4, "a", Verb.START),
        WorkerReady(11, "a", "http://a"),
    ]
    for event in events:
        book.pending.clear()
        book >> event
    group, placement = book.group("r"), book.scheduler.host.placement
    assert not placement.evictions(group), "r/1 alone would come, and that is found and kept"
    book.worker("r/0").move(WorkerState.UNLOADED, 12)
    assert [leaving.group.name for leaving in placement.evictions(group)] == ["a"]


def test_a_replica_that_still_loads_is_ended_when_its_group_gives_way():
    book = (
        coming("b")
        >> WorkerReady(10, "q/0", ZERO) << SyncRouter("q", (ZERO,))
        >> RouterSynced(10, "q", (ZERO,)) << GrantLease(1, "http://q", 3)
        >> DemandReported(11, 1, 0)
        >> LeaseAsked(80, 2, "b") << StopWorker("q/1", kill=True) << RevokeLease(1, "switch", "q gives way to b", 380)
        >> WorkerExited(81, "q/1")
        >> LeaseEnded(82, 1) << SleepWorker("q/0", 2) << SyncRouter("q", ())
        >> WorkerAsleep(83, "q/0") << StartWorker("b")
    )  # fmt: skip
    assert book


# Orders, shutdown, configuration


def test_a_stop_ends_every_member():
    assert (
        asleep_q() >> OrderGiven(30, 8, "q", Verb.RESTART)
        << StopWorker("q/0", kill=True) << StopWorker("q/1", kill=True) << StopWorker("q/router", kill=True)
        >> WorkerExited(31, "q/router") >> WorkerExited(32, "q/0")
        >> WorkerExited(33, "q/1") << StartWorker("q/0") << StartWorker("q/1") << StartWorker("q/router")
    )  # fmt: skip


def test_a_shutdown_ends_every_member():
    book = serving_q() >> LeaseEnded(20, 1) >> ShutdownAsked(21, 51)
    assert book << StopWorker("q/0") << StopWorker("q/1") << StopWorker("q/router")
    assert book >> WorkerExited(22, "q/0") >> WorkerExited(23, "q/router")
    assert book >> WorkerExited(24, "q/1") << FinishShutdown()


def test_a_group_gets_other_members_when_the_old_ones_are_gone():
    book = (
        asleep_q() >> Reconfigured(40, (single("q"),), frozenset({"q"}), 30.0)
        << StopWorker("q/0", kill=True) << StopWorker("q/1", kill=True) << StopWorker("q/router", kill=True)
        >> WorkerExited(41, "q/0") >> WorkerExited(42, "q/1")
        >> WorkerExited(43, "q/router")
        << RemoveWorker("q/0") << RemoveWorker("q/1") << RemoveWorker("q/router") << ReconfigureWorker("q")
    )  # fmt: skip
    assert book
    assert list(book.scheduler.host.workers) == ["q"]
    assert book >> LeaseAsked(50, 2, "q") << StartWorker("q")


def test_the_journal_is_told_of_each_worker_and_of_their_group():
    book = Playbook(replicas("q", GPU_0, GPU_1), moves=True) >> LeaseAsked(0, 1, "q")
    moved = [c.worker for c in book.pending if isinstance(c, RecordMove)]
    book.pending.clear()
    assert moved == ["q/0", "q", "q/1", "q/router"]


def test_a_group_that_waits_for_another_start_once_the_last_of_it_has_ended_says_of_whom():
    book = serving_q() >> LeaseEnded(15, 1) >> WorkerExited(20, "q/0") << StartWorker("q/0") << SyncRouter("q", (ONE,))
    events = (
        WorkerExited(25, "q/0", Failure.EXITED, "killed by SIGKILL"),
        order(25.1, Verb.SLEEP, "q", level=3),
        WorkerExited(25.2, "q/1"),
        WorkerExited(25.3, "q/router"),
    )
    moves = [c for e in events for c in book.scheduler.handle(e) if isinstance(c, RecordMove) and c.worker == "q"]
    (reason,) = (move.reason for move in moves if move.after is WorkerState.BACKOFF)
    assert reason == "q/0 is backoff: killed by SIGKILL"


@pytest.mark.parametrize("gpus", [(GPU_0, GPU_0), (GPU_0, GPU_0, GPU_1)])
def test_what_can_never_fit_together_is_refused_at_once(gpus):
    book = Playbook(replicas("q", *gpus, share=50 << 30)) >> GpusMeasured(0, {"0": 80 << 30, "1": 80 << 30})
    never = (
        "2 workers on GPU 0 need 100.0 GiB, and GPU 0 has 80.0 GiB in all: 1 of them fit; give each a GPU of its own"
    )
    assert book >> LeaseAsked(0, 1, "q") << FailLease(1, "model_too_large", f"model q can never be loaded: {never}")


def test_a_replica_whose_gpu_strangers_have_taken_meanwhile_waits_until_they_leave():
    taken = GpusMeasured(15, {"0": 80, "1": 80}, strangers={"1": "python3 (pid 7)"}, left={"1": 20})
    book = (
        serving_q(share=50)
        >> GpusMeasured(13, {"0": 80, "1": 80})
        >> WorkerDied(14, "q/1", "died") << SyncRouter("q", (ZERO,))
        >> RouterSynced(14, "q", (ZERO,))
        >> taken
        >> WorkerExited(16, "q/1")
        >> TimerFired(17)
    )  # fmt: skip
    assert book >> GpusMeasured(20, {"0": 80, "1": 80}, strangers={}, left={}) << StartWorker("q/1")


def test_a_replica_that_others_keep_out_fails_its_cycles_and_the_validation_ends():
    """A configuration has added it, and its GPU is another model's."""
    three = replicas("q", GPU_0, GPU_1, frozenset({"2"}))
    book = serving_q(single("a", frozenset({"2"})))
    book = book >> OrderGiven(13, 5, "a", Verb.START) << StartWorker("a")
    book = book >> WorkerReady(14, "a", "http://a") << FinishOrder(5, "ready")
    book = book >> Reconfigured(20, (three, single("a", frozenset({"2"}))), frozenset(), 30.0)
    book = book << RecordScale("q", 2, 3, "the configuration says so")
    book >> OrderGiven(30, 7, "q", Verb.VALIDATE, levels=(2,))
    assert [type(each) for each in book.pending] == [RevokeLease]
    book.pending.clear()
    book >> LeaseEnded(31, 1)
    asked = [each for each in book.pending if isinstance(each, MeasureWorker)]
    assert [each.worker for each in asked] == ["q/0", "q/1"]
    for each in asked:
        book.pending.clear()
        book >> WorkerMeasured(32, each.worker, each.number, "")
    errors = {each.worker: each.error for each in book.pending if isinstance(each, ReportCycle)}
    assert errors["q/2"] == "unloaded: others have its GPU"
    assert FinishOrder(7, "ready") in book.pending
