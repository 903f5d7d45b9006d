"""How many replicas serve: by load, with hysteresis and room, and by an operator's order; each step has its reason."""

from math import inf

import pytest
from msgspec.structs import replace

from muxd.core.commands import (
    DrainWorker,
    FailLease,
    FailOrder,
    FinishOrder,
    FinishSwitch,
    GrantLease,
    PersistHold,
    PersistStopped,
    RecordScale,
    RevokeLease,
    SetTimer,
    SleepWorker,
    StartWorker,
    SyncRouter,
    WakeWorker,
)
from muxd.core.events import (
    AdoptedWorker,
    DemandReported,
    GpusMeasured,
    HoldAsked,
    HoldEnded,
    LeaseAsked,
    LeaseEnded,
    LoanAsked,
    OrderGiven,
    Reconfigured,
    RouterSynced,
    ShutdownAsked,
    Started,
    TimerFired,
    Verb,
    Waiting,
    WorkerAsleep,
    WorkerDrained,
    WorkerExited,
    WorkerReady,
)
from muxd.core.spec import LoanTerms, Scaling
from muxd.core.states import WorkerState

from .playbook import Playbook, replicas, single

ZERO, ONE, TWO = "http://q/0", "http://q/1", "http://q/2"
GPUS = tuple(frozenset({gpu}) for gpu in "012")

#: Four requests for each replica; up after 3 s, down after 60.
RULE = Scaling(least=0, load=4, queue_wait=5, up_after=3, down_after=60)

#: What a model is told that does not fit beside the group while that is held.
HELD = "model b cannot be loaded: q is held by an operator, and b does not fit beside it; `muxctl unhold q` makes room"

LOAD = "9 requests run or wait, 4 are for each replica"


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


def test_it_begins_with_so_many_as_are_configured():
    assert pool().group("q").gpus == frozenset({"0"})


def test_a_load_that_lasts_brings_as_many_as_it_needs_at_once():
    assert (
        pool() >> DemandReported(20, 1, 9)
        >> TimerFired(23) << RecordScale("q", 1, 3, LOAD) << StartWorker("q/1") << StartWorker("q/2")
    )  # fmt: skip


def test_a_load_that_passes_brings_nobody():
    book = pool() >> DemandReported(20, 1, 9) >> DemandReported(22, 1, 2)
    assert book >> TimerFired(23)


def test_the_core_looks_again_when_a_load_will_have_lasted():
    assert (
        pool(of_playbook={"timers": True}, scaling=Scaling(1, 4, 5, 3, 60)) >> DemandReported(20, 1, 9) << SetTimer(23)
    )


def test_a_request_that_waits_behind_the_limit_of_its_proxy_brings_one_more():
    assert (
        pool() >> DemandReported(20, 1, 2, (Waiting(1, 0.0),))
        >> TimerFired(25)
        >> TimerFired(28) << RecordScale("q", 1, 2, "a request has waited for 8.0 s") << StartWorker("q/1")
    )  # fmt: skip


def test_there_are_never_more_than_are_configured():
    assert (
        pool() >> DemandReported(20, 1, 900)
        >> TimerFired(23) << RecordScale("q", 1, 3, LOAD.replace("9", "900"))
        << StartWorker("q/1") << StartWorker("q/2")
        >> DemandReported(30, 1, 901)
        >> TimerFired(90)
    )  # fmt: skip


def test_one_more_comes_only_where_there_is_room_and_that_is_said_once():
    no_room = "there is no room for 3: GPU 1 has no room: b (ready)"
    book = (
        pool(single("b", gpus=GPUS[1]))
        >> LeaseAsked(11, 2, "b") << StartWorker("b")
        >> WorkerReady(12, "b", "http://b") << GrantLease(2, "http://b", 1)
        >> DemandReported(20, 1, 9)
        >> TimerFired(23) << RecordScale("q", 1, 2, LOAD) << StartWorker("q/2")
        << RecordScale("q", 2, 2, f"{LOAD}; {no_room}")
        >> DemandReported(30, 1, 10)
        >> TimerFired(33)
    )  # fmt: skip
    assert book
    assert book.scheduler.scaler.lacks("q") == no_room
    assert book.state("b") is WorkerState.READY, "nobody leaves for a further replica"


def test_one_that_goes_is_passed_over_first_then_finishes_what_it_has_and_sleeps():
    book = (
        two() >> DemandReported(40, 1, 2)
        >> TimerFired(100) << RecordScale("q", 2, 1, "1 would have done for 60 s") << SyncRouter("q", (ZERO,))
        >> RouterSynced(101, "q", (ZERO, ONE))  # it is listed still
        >> RouterSynced(102, "q", (ZERO,)) << DrainWorker("q/1")
        >> DemandReported(103, 1, 3)
        >> WorkerDrained(110, "q/1") << SleepWorker("q/1", 2)
        >> WorkerAsleep(111, "q/1")
    )  # fmt: skip
    assert book
    assert book.state("q") is WorkerState.READY
    assert not book.scheduler.host.ledger.holders(["1"])


def test_where_nobody_has_anything_in_flight_it_need_not_be_asked():
    rule = Scaling(least=1, load=4, queue_wait=5, up_after=3, down_after=60)
    assert (
        two(scaling=rule) >> DemandReported(40, 1, 0)
        >> TimerFired(100) << RecordScale("q", 2, 1, "1 would have done for 60 s") << SyncRouter("q", (ZERO,))
        >> RouterSynced(102, "q", (ZERO,)) << SleepWorker("q/1", 2)
    )  # fmt: skip


def test_what_does_not_end_in_time_is_cut_off():
    assert (
        two() >> DemandReported(40, 1, 2)
        >> TimerFired(100) << RecordScale("q", 2, 1, "1 would have done for 60 s") << SyncRouter("q", (ZERO,))
        >> RouterSynced(102, "q", (ZERO,)) << DrainWorker("q/1")
        >> TimerFired(400) << SleepWorker("q/1", 2)
    )  # fmt: skip


def test_a_load_that_needs_most_of_them_keeps_them():
    book = two() >> DemandReported(40, 1, 4)  # more than three quarters of what one is for
    assert book >> TimerFired(200)
    assert len(book.group("q").enlisted) == 2


def test_the_most_that_was_needed_meanwhile_stays():
    rule = Scaling(least=0, load=4, queue_wait=5, up_after=3, down_after=60)
    book = (
        pool(scaling=rule) >> DemandReported(20, 1, 9)
        >> TimerFired(23) << RecordScale("q", 1, 3, LOAD) << StartWorker("q/1") << StartWorker("q/2")
        >> WorkerReady(30, "q/1", ONE) << SyncRouter("q", (ZERO, ONE))
        >> WorkerReady(30, "q/2", TWO) << SyncRouter("q", (ZERO, ONE, TWO))
        >> RouterSynced(30, "q", (ZERO, ONE, TWO))
        >> DemandReported(40, 1, 1)
        >> DemandReported(50, 1, 5)
        >> DemandReported(60, 1, 1)
        >> TimerFired(100) << RecordScale("q", 3, 2, "2 would have done for 60 s") << SyncRouter("q", (ZERO, ONE))
    )  # fmt: skip
    assert book


def test_one_that_sleeps_is_woken_when_it_is_needed_again():
    assert (
        two() >> DemandReported(40, 1, 2)
        >> TimerFired(100) << RecordScale("q", 2, 1, "1 would have done for 60 s") << SyncRouter("q", (ZERO,))
        >> RouterSynced(102, "q", (ZERO,)) << DrainWorker("q/1")
        >> WorkerDrained(110, "q/1") << SleepWorker("q/1", 2)
        >> WorkerAsleep(111, "q/1")
        >> DemandReported(120, 1, 5)
        >> TimerFired(123)
        << RecordScale("q", 1, 2, "5 requests run or wait, 4 are for each replica") << WakeWorker("q/1")
    )  # fmt: skip


def test_one_that_is_needed_again_while_it_drains_serves_on():
    book = (
        two() >> DemandReported(40, 1, 2)
        >> TimerFired(100) << RecordScale("q", 2, 1, "1 would have done for 60 s") << SyncRouter("q", (ZERO,))
        >> RouterSynced(102, "q", (ZERO,)) << DrainWorker("q/1")
        >> DemandReported(103, 1, 5)
        >> TimerFired(106) << RecordScale("q", 1, 2, "5 requests run or wait, 4 are for each replica")
        << SyncRouter("q", (ZERO, ONE))
        >> WorkerDrained(107, "q/1")
    )  # fmt: skip
    assert book
    assert book.worker("q/1").state is WorkerState.READY


def test_nothing_to_do_for_long_is_none_and_the_next_request_waits_and_brings_one_back():
    why = "nothing was asked of it for 60 s"
    assert (
        two() >> DemandReported(40, 1, 0)
        >> TimerFired(100) << RecordScale("q", 2, 0, why)
        << RevokeLease(1, "unload", f"q is scaled to 0: {why}", 400)
        >> LeaseEnded(101, 1) << SleepWorker("q/0", 2) << SleepWorker("q/1", 2) << SyncRouter("q", ())
        >> WorkerAsleep(102, "q/0")
        >> WorkerAsleep(102, "q/1")
        >> LeaseAsked(200, 2, "q") << RecordScale("q", 2, 1, "off its GPUs, it begins anew with 1")
        << WakeWorker("q/0")
    )  # fmt: skip


def test_a_request_that_comes_while_it_drains_to_none_calls_that_off():
    book = (
        pool() >> DemandReported(20, 1, 0)
        >> TimerFired(80) << RecordScale("q", 1, 0, "nothing was asked of it for 60 s")
        << RevokeLease(1, "unload", "q is scaled to 0: nothing was asked of it for 60 s", 380)
    )  # fmt: skip
    book >> LeaseAsked(81, 2, "q")
    book.pending.clear()
    assert book.state("q") is WorkerState.READY


def test_a_held_group_is_let_have_fewer_for_lack_of_load_but_never_none_until_it_is_held_no_more():
    book = (
        two() >> DemandReported(40, 1, 0)
        >> HoldAsked(50, 9, "q") << PersistHold("q", inf) << FinishSwitch(9, "http://q")
        >> TimerFired(100) << RecordScale("q", 2, 1, "1 would have done for 60 s") << SyncRouter("q", (ZERO,))
        >> RouterSynced(101, "q", (ZERO,)) << SleepWorker("q/1", 2)
        >> WorkerAsleep(102, "q/1")
    )  # fmt: skip
    assert book.timer is None, "nothing more is to come of it"
    assert book >> HoldEnded(500, "q") << PersistHold("q", None)
    assert book.timer == 560
    why = "nothing was asked of it for 60 s"
    book = book >> TimerFired(560) << RecordScale("q", 1, 0, why)
    assert book << RevokeLease(1, "unload", f"q is scaled to 0: {why}", 860)


def test_at_least_so_many_stay():
    rule = Scaling(least=2, load=4, queue_wait=5, up_after=3, down_after=60)
    book = pool(scaling=rule)
    assert book >> TimerFired(13) << RecordScale("q", 1, 2, "at least 2, by min_replicas") << StartWorker("q/1")


def scale(time, count, ticket=9) -> OrderGiven:
    return OrderGiven(time, ticket, "q", Verb.SCALE, replicas=count)


def test_an_operators_scale_ends_when_all_of_them_serve():
    assert (
        pool(scaling=None) >> scale(20, 3) << RecordScale("q", 1, 3, "an operator ordered it")
        << StartWorker("q/1") << StartWorker("q/2")
        >> WorkerReady(30, "q/1", ONE) << SyncRouter("q", (ZERO, ONE))
        >> RouterSynced(30, "q", (ZERO, ONE))
        >> WorkerReady(31, "q/2", TWO) << SyncRouter("q", (ZERO, ONE, TWO))
        >> RouterSynced(32, "q", (ZERO, ONE, TWO)) << FinishOrder(9, "ready")
    )  # fmt: skip


def test_an_operators_scale_brings_a_model_that_is_stopped():
    spec = replicas("q", *GPUS, at_first=1)
    assert (
        Playbook(spec) >> OrderGiven(0, 8, "q", Verb.STOP) << PersistStopped("q", True) << FinishOrder(8, "stopped")
        >> scale(1, 2) << PersistStopped("q", False) << RecordScale("q", 1, 2, "an operator ordered it")
        << StartWorker("q/0") << StartWorker("q/1") << StartWorker("q/router")
    )  # fmt: skip


def test_an_operators_scale_to_none_brings_back_one_at_the_next_request():
    book = (
        two(scaling=RULE) >> DemandReported(40, 1, 0)
        >> scale(41, 0) << RecordScale("q", 2, 0, "an operator ordered it")
        << RevokeLease(1, "sleep", "q is scaled to 0 by an operator", 341)
        >> LeaseEnded(42, 1) << SleepWorker("q/0", 2) << SleepWorker("q/1", 2) << SyncRouter("q", ())
        >> WorkerAsleep(43, "q/0")
        >> WorkerAsleep(44, "q/1") << RecordScale("q", 2, 1, "q is scaled to 0 by an operator")
        << FinishOrder(9, "asleep")
        >> LeaseAsked(50, 2, "q") << WakeWorker("q/0")
    )  # fmt: skip
    assert book


def test_more_than_fit_are_refused_with_how_many_do_and_who_is_there():
    refusal = (
        "2 of 3 replicas of q fit now; there is no room for 3: GPU 1 has no room: b (starting); "
        "ask for fewer, or make room"
    )
    assert (
        pool(single("b", gpus=GPUS[1])) >> LeaseAsked(11, 2, "b") << StartWorker("b")
        >> scale(20, 3) << FailOrder(9, "no_room", refusal)
        >> scale(21, 2) << RecordScale("q", 1, 2, "an operator ordered it") << StartWorker("q/2")
    )  # fmt: skip


def test_an_operators_scale_brings_nobody_to_gpus_that_are_lent():
    refusal = "2 of 3 replicas of q fit now; there is no room for 3: GPU 2 is lent; ask for fewer, or make room"
    book = pool() >> GpusMeasured(11, {"0": 80, "1": 80, "2": 80}) >> LoanAsked(12, 5, LoanTerms(frozenset({"2"})))
    book.pending.clear()
    assert book >> scale(20, 3) << FailOrder(9, "no_room", refusal)
    assert book >> scale(21, 2) << RecordScale("q", 1, 2, "an operator ordered it") << StartWorker("q/1")


def test_replicas_on_one_gpu_fit_by_their_sizes():
    spec = replicas("q", GPUS[0], GPUS[0], GPUS[0], share=30, at_first=1)
    book = Playbook(spec) >> GpusMeasured(0, {"0": 80}) >> scale(1, 3)
    assert book.pending[0].message.startswith("2 of 3 replicas of q fit now")


def test_fewer_of_those_that_never_fit_together_come():
    book = Playbook(replicas("q", GPUS[0], GPUS[0], share=50)) >> GpusMeasured(0, {"0": 80})
    book >> OrderGiven(1, 8, "q", Verb.START)
    assert "1 of them fit" in book.pending.pop().message
    book >> scale(2, 1) << RecordScale("q", 2, 1, "an operator ordered it")
    assert book << StartWorker("q/0") << StartWorker("q/router")


@pytest.mark.parametrize(
    ("count", "why"),
    [
        (4, "q has at most 3 replicas, not 4: see its max_replicas"),
        (1, "q has at least 2 replicas: see its min_replicas"),
    ],
)
def test_what_the_configuration_does_not_allow_is_refused(count, why):
    rule = Scaling(least=2, load=4, queue_wait=5, up_after=30, down_after=60)
    assert pool(scaling=rule) >> scale(20, count) << FailOrder(9, "scale_refused", why)


def test_a_model_of_one_worker_has_no_replicas():
    why = "q has one worker, and no replicas; give it max_replicas, and reload"
    assert Playbook("q") >> scale(1, 2) << FailOrder(9, "scale_refused", why)


def test_a_scale_whose_room_others_take_meanwhile_ends_with_who_did():
    book = (
        pool(single("b", gpus=GPUS[1]), scaling=None)
        >> scale(20, 2) << RecordScale("q", 1, 2, "an operator ordered it") << StartWorker("q/1")
        >> WorkerExited(21, "q/1", reason="exited with status 1") << StartWorker("q/1")
    )  # fmt: skip
    assert book, "its memory is kept for it, as it died"


def test_a_replica_that_is_spare_is_not_the_models_state():
    book = two() >> scale(40, 1) << RecordScale("q", 2, 1, "an operator ordered it") << SyncRouter("q", (ZERO,))
    assert book.worker("q/1").state is WorkerState.DRAINING
    assert book.state("q") is WorkerState.READY
    assert (
        book >> RouterSynced(41, "q", (ZERO,)) << DrainWorker("q/1")
        >> WorkerDrained(42, "q/1") << SleepWorker("q/1", 2)
        >> WorkerAsleep(43, "q/1") << FinishOrder(9, "ready")
    )  # fmt: skip


@pytest.mark.parametrize(("scaling", "serving"), [(RULE, ["q/0", "q/2"]), (None, ["q/0", "q/2"])])
def test_the_next_muxd_goes_on_with_those_that_serve(scaling, serving):
    found = (
        AdoptedWorker("q/0", ZERO),
        AdoptedWorker("q/1", ONE, level=2),
        AdoptedWorker("q/2", TWO),
        AdoptedWorker("q/router", "http://q", routed=(ZERO, TWO)),
    )
    book = Playbook(replicas("q", *GPUS, scaling=scaling, at_first=1)) >> Started(0, adopted=found, scaled={"q": 2})
    book.pending.clear()
    assert book.state("q") is WorkerState.READY
    assert [worker.name for worker in book.group("q").enlisted] == serving


def test_other_bounds_hold_without_a_restart():
    book = two()
    spec = replicas("q", *GPUS, scaling=Scaling(3, 4, 5, 0, 60), at_first=3)
    said = book >> Reconfigured(40, (spec,), frozenset(), 30.0)
    assert said << RecordScale("q", 2, 3, "at least 3, by min_replicas") << StartWorker("q/2")


def test_a_shutdown_looks_at_no_load_any_more():
    book = pool(of_playbook={"timers": True}, scaling=Scaling(1, 4, 5, 3, 60)) >> DemandReported(20, 1, 9)
    assert book << SetTimer(23)
    book >> ShutdownAsked(21, 51)
    assert book.timer == 52, "the grace of its leases"


# By replica, where memory is short


def test_a_model_that_needs_the_gpu_of_one_replica_takes_that_alone():
    book = (
        two_of_which_one_would_do(single("b", gpus=GPUS[1]))
        >> DemandReported(40, 1, 0)
        >> LeaseAsked(50, 2, "b") << RecordScale("q", 2, 1, "q gives way to b with these alone")
        << SyncRouter("q", (ZERO,))
        >> RouterSynced(51, "q", (ZERO,)) << SleepWorker("q/1", 2)
        >> WorkerAsleep(52, "q/1") << StartWorker("b")
        >> WorkerReady(60, "b", "http://b") << GrantLease(2, "http://b", 1)
    )  # fmt: skip
    assert book
    assert book.state("q") is WorkerState.READY, "the other one serves on, and its leases are as good as before"


def test_a_hold_keeps_the_replicas_that_drain_for_another_model_and_calls_its_switch_off():
    book = (
        two_of_which_one_would_do(single("b", gpus=GPUS[1]))
        >> DemandReported(40, 1, 0)
        >> LeaseAsked(50, 2, "b") << RecordScale("q", 2, 1, "q gives way to b with these alone")
        << SyncRouter("q", (ZERO,))
        >> HoldAsked(51, 9, "q") << PersistHold("q", inf) << FailLease(2, "pinned_in_the_way", HELD, None)
        << FinishSwitch(9, "http://q")
        << RecordScale("q", 1, 2, "q is held") << SyncRouter("q", (ZERO, ONE))
    )  # fmt: skip
    assert book
    assert not book.scheduler.switching.running
    assert all(worker.state is WorkerState.READY for worker in book.group("q").enlisted)


def test_it_is_back_once_the_other_model_has_left_and_the_load_asks_for_it():
    assert (
        two_of_which_one_would_do(single("b", gpus=GPUS[1])) >> DemandReported(40, 1, 0)
        >> LeaseAsked(50, 2, "b") << RecordScale("q", 2, 1, "q gives way to b with these alone")
        << SyncRouter("q", (ZERO,))
        >> RouterSynced(51, "q", (ZERO,)) << SleepWorker("q/1", 2)
        >> WorkerAsleep(52, "q/1") << StartWorker("b")
        >> WorkerReady(60, "b", "http://b") << GrantLease(2, "http://b", 1)
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
    book = (
        Playbook(replicas("q", *GPUS[:2]), single("b", gpus=GPUS[1]))
        >> LeaseAsked(0, 1, "q") << StartWorker("q/0") << StartWorker("q/1") << StartWorker("q/router")
        >> WorkerReady(1, "q/router", "http://q") << SyncRouter("q", ())
        >> WorkerReady(10, "q/0", ZERO) << SyncRouter("q", (ZERO,))
        >> RouterSynced(10, "q", (ZERO,)) << GrantLease(1, "http://q", 3)
        >> WorkerReady(12, "q/1", ONE) << SyncRouter("q", (ZERO, ONE))
        >> RouterSynced(12, "q", (ZERO, ONE))
        >> DemandReported(40, 1, 0)
        >> LeaseAsked(50, 2, "b") << RevokeLease(1, "switch", "q gives way to b", 350)
    )  # fmt: skip
    assert book


def two_of_which_one_would_do(*others) -> Playbook:
    """Two replicas serve, of which one would do; lease 1 is granted."""
    return (
        Playbook(replicas("q", *GPUS[:2], at_first=2, scaling=Scaling(1, 4, 5, 3, 600)), *others)
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
