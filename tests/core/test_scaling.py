"""How many replicas serve: by load, with hysteresis and room, and by an operator's order; each step has its reason."""

from math import inf

import pytest

from muxd.core.commands import (
    DrainWorker,
    FinishOrder,
    FinishSwitch,
    GrantLease,
    PersistHold,
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
    HoldAsked,
    HoldEnded,
    LeaseAsked,
    LeaseEnded,
    Reconfigured,
    RouterSynced,
    ShutdownAsked,
    Started,
    TimerFired,
    Waiting,
    WorkerAsleep,
    WorkerDrained,
    WorkerReady,
)
from muxd.core.spec import Scaling
from muxd.core.states import WorkerState

from .playbook import Playbook, replicas, single
from .scaled_pool import GPUS, LOAD, ONE, RULE, TWO, ZERO, pool, scale, two


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
