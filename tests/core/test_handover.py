"""A handover: what has begun is finished, nothing else is begun, and whoever waits goes on waiting."""

from muxd.core.commands import (
    FinishHandover,
    GrantLease,
    RevokeLease,
    SleepWorker,
    StartWorker,
    SyncRouter,
    WakeWorker,
)
from muxd.core.events import (
    HandoverAsked,
    HandoverWithdrawn,
    LeaseAsked,
    LeaseEnded,
    SwitchAsked,
    WorkerAsleep,
    WorkerExited,
    WorkerReady,
)
from muxd.core.states import WorkerState

from .playbook import Playbook, replicas


def test_with_everybody_at_rest_it_is_over_at_once():
    book = Playbook("a", "b") >> LeaseAsked(1, 1, "a") << StartWorker("a")
    book >> WorkerReady(2, "a", "http://a") << GrantLease(1, "http://a", 1)
    assert book >> HandoverAsked(3) << FinishHandover()


def test_a_load_is_waited_for_and_who_waits_for_it_is_served_by_it():
    book = Playbook("a") >> LeaseAsked(1, 1, "a") << StartWorker("a")
    assert book >> HandoverAsked(2)
    book >> WorkerReady(3, "a", "http://a") << GrantLease(1, "http://a", 1)
    assert book << FinishHandover()


def test_a_sleep_is_waited_for_and_who_should_come_next_waits_for_the_next_muxd():
    book = Playbook("a", "b", wait_target=0.0) >> LeaseAsked(1, 1, "a") << StartWorker("a")
    book >> WorkerReady(2, "a", "http://a") << GrantLease(1, "http://a", 1)
    book >> SwitchAsked(3, 9, "b") << RevokeLease(1, "switch", "a gives way to b", 303.0)
    book >> LeaseEnded(4, 1) << SleepWorker("a", 2)
    assert book >> HandoverAsked(5)
    assert book >> WorkerAsleep(6, "a") << FinishHandover()
    assert book.state("b") is WorkerState.UNLOADED


def test_a_drain_is_left_as_it_is():
    book = Playbook("a", "b", wait_target=0.0) >> LeaseAsked(1, 1, "a") << StartWorker("a")
    book >> WorkerReady(2, "a", "http://a") << GrantLease(1, "http://a", 1)
    book >> SwitchAsked(3, 9, "b") << RevokeLease(1, "switch", "a gives way to b", 303.0)
    assert book >> HandoverAsked(4) << FinishHandover()
    assert book >> LeaseEnded(5, 1) << FinishHandover()


def test_nothing_is_begun_for_who_asks_meanwhile_until_it_is_dropped():
    book = Playbook("a", "b") >> LeaseAsked(1, 1, "a") << StartWorker("a")
    assert book >> HandoverAsked(2)
    assert book >> LeaseAsked(3, 2, "b")
    assert book >> WorkerExited(4, "a") << FinishHandover(), "one that died is not started again by this muxd"
    book >> HandoverWithdrawn(5)
    assert StartWorker("a") in book.pending


def test_of_a_group_nobody_is_brought_any_more():
    pair = replicas("pair", frozenset({"0"}), frozenset({"1"}))
    book = Playbook(pair) >> LeaseAsked(1, 1, "pair")
    for name in ("pair/0", "pair/1", "pair/router"):
        book << StartWorker(name)
    book >> HandoverAsked(2) >> WorkerReady(3, "pair/0", "http://0")
    book >> WorkerReady(4, "pair/router", "http://r") << SyncRouter("pair", ("http://0",))
    assert book >> WorkerExited(5, "pair/1") << FinishHandover()


def test_a_wake_is_waited_for():
    book = Playbook("a", "b", wait_target=0.0) >> LeaseAsked(1, 1, "a") << StartWorker("a")
    book >> WorkerReady(2, "a", "http://a") << GrantLease(1, "http://a", 1)
    book >> LeaseEnded(3, 1) >> LeaseAsked(4, 2, "b") << SleepWorker("a", 2)
    book >> WorkerAsleep(5, "a") << StartWorker("b")
    book >> WorkerReady(6, "b", "http://b") << GrantLease(2, "http://b", 1)
    book >> LeaseEnded(7, 2) >> LeaseAsked(8, 3, "a") << SleepWorker("b", 2)
    book >> WorkerAsleep(9, "b") << WakeWorker("a")
    assert book >> HandoverAsked(10)
    book >> WorkerReady(11, "a", "http://a") << GrantLease(3, "http://a", 2)
    assert book << FinishHandover()
