"""What an earlier muxd has left: workers that were found as it left them, and leases that go on."""

import pytest
from msgspec.structs import replace

from muxd.core.adoption import ADOPTED
from muxd.core.commands import (
    EndLease,
    FailLease,
    GrantLease,
    RecordMove,
    RevokeLease,
    SleepWorker,
    StartWorker,
    StopWorker,
    SyncRouter,
    WakeWorker,
)
from muxd.core.events import (
    AdoptedWorker,
    DemandReported,
    GpusMeasured,
    LeaseAsked,
    LeaseEnded,
    LeaseReclaimed,
    RouterSynced,
    ShutdownAsked,
    Started,
    SwitchAsked,
    TimerFired,
    WorkerAsleep,
    WorkerExited,
    WorkerReady,
)
from muxd.core.spec import DefaultGroup, GroupSpec, Troubles
from muxd.core.states import WorkerState

from .playbook import Playbook, anywhere, replicas, single

READY = AdoptedWorker("a", "http://a")
ASLEEP = AdoptedWorker("b", "http://b", level=2, kept=3)


def found(*adopted: AdoptedWorker, specs: tuple[str | GroupSpec, ...] = ("a", "b"), **more) -> Playbook:
    book = Playbook(*specs, wait_target=0.0, **more)
    return book >> GpusMeasured(0, {"0": 80}) >> Started(0, adopted=adopted)


def test_the_default_model_comes_by_itself_only_once_it_is_known_what_was_left():
    book = Playbook("a", "b", default=DefaultGroup("a")) >> GpusMeasured(0, {"0": 80})
    assert book >> Started(0, adopted=(READY,))
    book = Playbook("a", "b", default=DefaultGroup("a")) >> GpusMeasured(0, {"0": 80})
    assert book >> Started(0) << StartWorker("a")


def test_what_is_ready_serves_and_what_sleeps_wakes_without_a_start():
    book = found(READY, ASLEEP)
    assert book >> LeaseAsked(1, 1, "a") << GrantLease(1, "http://a", 1)
    book >> LeaseEnded(2, 1) >> LeaseAsked(3, 2, "b") << SleepWorker("a", 2)
    assert book >> WorkerAsleep(4, "a") << WakeWorker("b")
    assert book >> WorkerReady(5, "b", "http://b") << GrantLease(2, "http://b", 2)


def test_each_is_told_as_taken_over():
    book = found(READY, ASLEEP, moves=True)
    unloaded = WorkerState.UNLOADED
    book << RecordMove("a", unloaded, WorkerState.READY, ADOPTED)
    assert book << RecordMove("b", unloaded, WorkerState.ASLEEP, ADOPTED)


def test_a_lease_that_goes_on_is_granted_at_once_and_its_requests_are_waited_for():
    book = found(READY, ASLEEP)
    book.worker("b").return_cost.learn(4.0)
    book >> LeaseReclaimed(1, 1, "a", "http://a", in_flight=2) << GrantLease(1, "http://a", 1)
    assert book.group("a").in_flight == 2
    book >> SwitchAsked(2, 9, "b") << RevokeLease(1, "switch", "a gives way to b", 302.0)
    assert book >> LeaseEnded(3, 1) << SleepWorker("a", 2)


def test_a_model_whose_lease_is_re_claimed_with_requests_in_flight_is_busy():
    book = found(READY, ASLEEP)
    book.worker("b").return_cost.learn(4.0)
    book >> LeaseReclaimed(1, 1, "a", "http://a", in_flight=2) << GrantLease(1, "http://a", 1)
    assert book >> LeaseAsked(1.5, 2, "b"), "it keeps its turn, and does not give way at once as an idle one would"
    assert book >> DemandReported(3, 1, 2)
    assert not book.group("a").gaps, "nobody has returned to it: its clients were there all along"


@pytest.mark.parametrize(
    ("model", "url"),
    [("b", "http://b"), ("a", "http://another"), ("nobody", "http://a")],
    ids=["asleep", "moved", "gone"],
)
def test_a_lease_on_what_does_not_serve_there_any_more_is_over(model, url):
    book = found(READY, ASLEEP)
    assert book >> LeaseReclaimed(1, 1, model, url, in_flight=2) << EndLease(1)
    assert book.group("a").granted == {}


def test_a_lease_that_is_re_claimed_amid_a_shutdown_gets_the_time_that_is_left():
    book = found(READY)
    book >> LeaseReclaimed(1, 1, "a", "http://a", in_flight=1) << GrantLease(1, "http://a", 1)
    book >> ShutdownAsked(2, 31.0) << RevokeLease(1, "shutdown", "muxd is shutting down", 31.0)
    book >> LeaseReclaimed(3, 2, "a", "http://a", in_flight=1) << GrantLease(2, "http://a", 1)
    assert book << RevokeLease(2, "shutdown", "muxd is shutting down", 31.0)


def test_a_lease_that_is_re_claimed_amid_a_switch_has_as_long_as_the_drain_and_is_waited_for():
    book = found(READY, ASLEEP)
    book >> LeaseReclaimed(1, 1, "a", "http://a", in_flight=1) << GrantLease(1, "http://a", 1)
    book >> SwitchAsked(2, 9, "b") << RevokeLease(1, "switch", "a gives way to b", 302.0)
    book >> LeaseReclaimed(3, 2, "a", "http://a", in_flight=1) << GrantLease(2, "http://a", 1)
    book << RevokeLease(2, "switch", "a gives way to b", 302.0)
    book >> LeaseEnded(4, 1)
    assert book >> LeaseEnded(5, 2) << SleepWorker("a", 2)


def test_what_dies_is_started_again_like_any_other():
    book = found(READY)
    book >> LeaseAsked(1, 1, "a") << GrantLease(1, "http://a", 1)
    (
        book
        >> WorkerExited(2, "a", reason="killed")
        << RevokeLease(1, "worker_exited", "the worker of a killed", 2.0)
        << EndLease(1)
    )
    assert book << StartWorker("a")


def test_a_preloaded_model_that_sleeps_is_left_asleep():
    assert found(READY, ASLEEP, specs=("a", single("b", preload=True)))


def test_what_is_on_gpus_that_were_chosen_stays_there():
    on_two = AdoptedWorker("a", "http://a", gpus=("2",))
    book = found(on_two, specs=(anywhere("a", 1), single("b", frozenset({"2"}))))
    assert book.worker("a").gpus == frozenset({"2"})
    assert book.scheduler.host.ledger.holders({"2"}) == ["a"]


def test_a_worker_whose_gpu_is_another_ones_by_now_is_ended():
    book = found(READY, AdoptedWorker("b", "http://b"))
    assert book << StopWorker("b", kill=True)
    assert book >> WorkerExited(1, "b")
    assert book.worker("b").state is WorkerState.UNLOADED


def test_one_that_was_launched_for_another_level_sleeps_at_that():
    book = found(AdoptedWorker("a", "http://a", launched=2), specs=(single("a", sleep_level=1), "b"))
    assert book >> LeaseAsked(1, 1, "b") << SleepWorker("a", 2)


PAIR = replicas("pair", frozenset({"0"}), frozenset({"1"}))
FIRST, SECOND = AdoptedWorker("pair/0", "http://0"), AdoptedWorker("pair/1", "http://1")
ROUTER = AdoptedWorker("pair/router", "http://r", routed=("http://0", "http://1"))


def test_a_group_serves_at_once_by_the_router_that_knows_its_workers():
    book = found(FIRST, SECOND, ROUTER, specs=(PAIR,)) << SyncRouter("pair", ("http://0", "http://1"))
    book >> LeaseReclaimed(1, 1, "pair", "http://r", in_flight=3) << GrantLease(1, "http://r", 3)
    assert book.state("pair") is WorkerState.READY
    assert book.scheduler.host.ledger.holders({"0", "1"}) == ["pair/0", "pair/1"]


def test_one_move_is_told_of_a_group_however_many_workers_it_has():
    book = found(FIRST, SECOND, ROUTER, specs=(PAIR,), moves=True)
    for name in ("pair/0", "pair/1", "pair/router", "pair"):
        book << RecordMove(name, WorkerState.UNLOADED, WorkerState.READY, ADOPTED)
    assert book << SyncRouter("pair", ("http://0", "http://1"))


def test_a_group_whose_router_is_lost_gets_another_and_keeps_its_workers():
    book = found(FIRST, SECOND, specs=(PAIR,)) << StartWorker("pair/router")
    book >> LeaseReclaimed(1, 1, "pair", "http://r", in_flight=3) << EndLease(1)
    assert book >> WorkerReady(2, "pair/router", "http://r2") << SyncRouter("pair", ("http://0", "http://1"))
    assert book >> RouterSynced(3, "pair", ("http://0",))
    assert book.state("pair") is WorkerState.READY


def test_a_worker_that_is_lost_of_several_is_started_beside_those_that_serve():
    book = found(FIRST, replace(ROUTER, routed=("http://0",)), specs=(PAIR,)) << StartWorker("pair/1")
    assert book << SyncRouter("pair", ("http://0",))
    assert book.state("pair") is WorkerState.READY


def test_a_router_without_workers_is_ended():
    assert found(ROUTER, specs=(PAIR,)) << StopWorker("pair/router", kill=True)


def test_a_group_sleeps_on_behind_its_router():
    asleep = (AdoptedWorker(f"pair/{number}", f"http://{number}", level=1, kept=2) for number in range(2))
    book = found(*asleep, replace(ROUTER, routed=()), specs=(PAIR,)) << SyncRouter("pair", ())
    assert book.state("pair") is WorkerState.ASLEEP
    assert book >> LeaseAsked(1, 1, "pair") << WakeWorker("pair/0") << WakeWorker("pair/1")


# What went wrong under the earlier muxd


def in_trouble(*specs: str | GroupSpec, adopted: tuple[AdoptedWorker, ...] = (), stopped=frozenset(), **troubles):
    book = Playbook(*specs, wait_target=0.0)
    return book >> Started(100.0, stopped, troubles=troubles, adopted=adopted)


def test_one_that_waited_for_another_start_waits_on_and_is_started_when_it_was_due():
    book = in_trouble("a", a=Troubles("backoff", "it died", 104.0, failures=(99.0,), in_a_row=3, restarts=2))
    assert (book.state("a"), book.worker("a").reason) == (WorkerState.BACKOFF, "it died")
    assert book >> LeaseAsked(101.0, 1, "a")
    assert book >> TimerFired(104.0) << StartWorker("a")
    book >> WorkerExited(105.0, "a", reason="it died again")
    assert book.worker("a").retry_at > 105.0 + 4.0, "the fourth wait is longer than the third"
    assert book.worker("a").restarts == 3


def test_one_that_had_failed_is_refused_until_its_cool_down_is_over():
    book = in_trouble("a", a=Troubles("failed", "it cannot be executed", 150.0, failures=(99.0,), ended="no such file"))
    book >> LeaseAsked(101.0, 1, "a")
    (refused,) = book.pending
    assert isinstance(refused, FailLease)
    assert "model a failed: it cannot be executed" in refused.message
    book.pending.clear()
    assert book >> LeaseAsked(150.0, 2, "a") << StartWorker("a")
    assert book.worker("a").trial


def test_failures_count_on_for_the_restart_limit():
    book = in_trouble(single("a", restart_limit=3), a=Troubles(failures=(98.0, 99.0), in_a_row=2), adopted=(READY,))
    book >> WorkerExited(101.0, "a")
    assert book.state("a") is WorkerState.FAILED


def test_a_level_from_which_it_woke_wrong_is_not_slept_at_again():
    book = in_trouble("a", "b", a=Troubles(distrusted=frozenset({2}), woke_wrong_count=2), adopted=(READY,))
    assert book >> LeaseAsked(101.0, 1, "b") << StopWorker("a", kill=False)
    assert book.worker("a").distrust == "sleeps at 3: 2 wakes in a row from level 2 were wrong"


def test_one_that_lives_or_was_stopped_does_not_wait_for_another_start():
    late = Troubles("backoff", "it died", 104.0, failures=(99.0,), in_a_row=1)
    assert in_trouble("a", a=late, adopted=(READY,)).state("a") is WorkerState.READY
    assert in_trouble("a", a=late, stopped=frozenset({"a"})).state("a") is WorkerState.UNLOADED


def test_a_worker_of_several_waits_while_the_others_serve():
    routed = replace(ROUTER, routed=("http://0",))
    late = {"pair/1": Troubles("backoff", "it died", 104.0, failures=(99.0,), in_a_row=1)}
    book = in_trouble(PAIR, adopted=(FIRST, routed), **late) << SyncRouter("pair", ("http://0",))
    assert book.state("pair") is WorkerState.READY
    assert book >> TimerFired(104.0) << StartWorker("pair/1")


def test_a_group_has_as_many_replicas_as_it_was_scaled_to_and_those_that_live():
    three = replicas("pair", *(frozenset({gpu}) for gpu in "012"))
    routed = replace(ROUTER, routed=("http://1",))
    book = Playbook(three) >> Started(0.0, adopted=(SECOND, routed), scaled={"pair": 1})
    assert book << SyncRouter("pair", ("http://1",)), "nobody is started beside it"
    assert [worker.name for worker in book.group("pair").enlisted] == ["pair/1"]
    book = Playbook(three) >> Started(0.0, adopted=(SECOND, routed), scaled={"pair": 2}) << StartWorker("pair/0")
    assert book << SyncRouter("pair", ("http://1",))
