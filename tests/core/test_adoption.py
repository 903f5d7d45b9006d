"""What an earlier muxd has left: workers that were found as it left them, and leases that go on."""

from dataclasses import replace

import pytest

from muxd.core.commands import (
    EndLease,
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
    GpusMeasured,
    LeaseAsked,
    LeaseEnded,
    LeaseReclaimed,
    RouterSynced,
    ShutdownAsked,
    Started,
    SwitchAsked,
    WorkerAsleep,
    WorkerExited,
    WorkerReady,
)
from muxd.core.host_state import ADOPTED
from muxd.core.spec import GroupSpec
from muxd.core.states import WorkerState

from .playbook import Playbook, anywhere, replicas, single

READY = AdoptedWorker("a", "http://a")
ASLEEP = AdoptedWorker("b", "http://b", level=2, kept=3)


def found(*adopted: AdoptedWorker, specs: tuple[str | GroupSpec, ...] = ("a", "b"), **more) -> Playbook:
    book = Playbook(*specs, wait_target=0.0, **more)
    return book >> GpusMeasured(0, {"0": 80}) >> Started(0, adopted=adopted)


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
    book >> LeaseReclaimed(1, 1, "a", "http://a", in_flight=2) << GrantLease(1, "http://a", 1)
    assert book.group("a").in_flight == 2
    book >> SwitchAsked(2, 9, "b") << RevokeLease(1, "switch", "a gives way to b", 302.0)
    assert book >> LeaseEnded(3, 1) << SleepWorker("a", 2)


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
