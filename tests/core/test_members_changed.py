"""A configuration with other workers of a group: replicas come and go beside the others, and its router changes."""

from muxd.core.commands import (
    DrainWorker,
    EndLease,
    FailOrder,
    FailSwitch,
    GrantLease,
    ReconfigureWorker,
    RecordScale,
    RemoveWorker,
    RevokeLease,
    StartWorker,
    StopWorker,
    SyncRouter,
)
from muxd.core.events import (
    LeaseAsked,
    LeaseEnded,
    OrderGiven,
    Reconfigured,
    RouterSynced,
    SwitchAsked,
    TimerFired,
    Verb,
    WorkerDrained,
    WorkerExited,
    WorkerReady,
    WorkerStuck,
)
from muxd.core.states import WorkerState

from .playbook import Playbook, replicas, single
from .serving_replicas import GPU_0, GPU_1, ONE, TWO, ZERO, coming, serving_q, three


def test_a_replica_that_a_configuration_adds_comes_beside_the_others():
    book = serving_q() >> Reconfigured(20, (three(),), frozenset(), 30.0)
    assert book << RecordScale("q", 2, 3, "the configuration says so") << StartWorker("q/2")
    assert book >> WorkerReady(25, "q/2", TWO) << SyncRouter("q", (ZERO, ONE, TWO))
    assert [worker.generation for worker in book.group("q").serving] == [1, 1, 1]


def test_a_replica_that_a_configuration_has_no_more_finishes_what_it_has_and_ends():
    book = serving_q() >> Reconfigured(20, (three(),), frozenset(), 30.0)
    book = book << RecordScale("q", 2, 3, "the configuration says so") << StartWorker("q/2")
    book = book >> WorkerReady(25, "q/2", TWO) << SyncRouter("q", (ZERO, ONE, TWO))
    book = book >> RouterSynced(25, "q", (ZERO, ONE, TWO))
    book = book >> Reconfigured(30, (replicas("q", GPU_0, GPU_1),), frozenset(), 30.0)
    book = book << RecordScale("q", 3, 2, "the configuration says so") << SyncRouter("q", (ZERO, ONE))
    book = book >> RouterSynced(31, "q", (ZERO, ONE)) << DrainWorker("q/2")
    assert book >> WorkerDrained(33, "q/2") << StopWorker("q/2")
    assert book.state("q") is WorkerState.READY
    assert book >> WorkerExited(34, "q/2") << RemoveWorker("q/2")
    assert list(book.scheduler.host.workers) == ["q/0", "q/1", "q/router"]


def test_a_router_that_a_configuration_changes_ends_once_its_clients_have_nothing_and_the_replicas_stay():
    book = serving_q() >> Reconfigured(20, (replicas("q", GPU_0, GPU_1),), frozenset(), 30.0, routers=frozenset("q"))
    message = "the router of q is started anew, as the configuration has changed"
    book = book << RevokeLease(1, "renew", message, 320.0)
    assert book >> LeaseAsked(21, 2, "q")  # it waits
    book = book >> LeaseEnded(22, 1) << StopWorker("q/router")
    book = book >> WorkerExited(23, "q/router") << ReconfigureWorker("q/router") << StartWorker("q/router")
    book = book >> WorkerReady(24, "q/router", "http://q/new") << SyncRouter("q", (ZERO, ONE))
    assert book >> RouterSynced(25, "q", (ZERO, ONE)) << GrantLease(2, "http://q/new", 4)
    assert [worker.generation for worker in book.group("q").serving] == [1, 1]


def test_a_router_whose_clients_do_not_end_is_not_waited_for_beyond_the_drain_timeout():
    spec = replicas("q", GPU_0, GPU_1, drain_timeout=10)
    book = serving_q() >> Reconfigured(20, (spec,), frozenset(), 30.0, routers=frozenset("q"))
    message = "the router of q is started anew, as the configuration has changed"
    book = book << RevokeLease(1, "renew", message, 30.0)
    assert book.timer == 31.0
    assert book >> TimerFired(31) << EndLease(1) << StopWorker("q/router")


def test_a_switch_that_is_called_off_lets_nobody_back_to_a_router_that_is_started_anew():
    specs = (replicas("q", GPU_0, GPU_1), single("b"))
    book = serving_q() >> Reconfigured(20, specs, frozenset(), 30.0, routers=frozenset("q"))
    message = "the router of q is started anew, as the configuration has changed"
    book = book << RevokeLease(1, "renew", message, 320.0)
    book = book >> SwitchAsked(21, 8, "b") << RevokeLease(1, "switch", "q gives way to b", 321.0)
    book = book >> SwitchAsked(22, 9, "q") << FailSwitch(8, "superseded", "a newer switch, to q, took its place")
    assert book.state("q") is WorkerState.READY
    assert book >> LeaseEnded(23, 1) << StopWorker("q/router")


def test_a_router_is_changed_where_nothing_of_its_group_runs():
    book = Playbook("a", replicas("q", GPU_0, GPU_1))
    specs = (single("a"), replicas("q", GPU_0, GPU_1))
    book = book >> Reconfigured(20, specs, frozenset(), 30.0, routers=frozenset("q"))
    assert book << ReconfigureWorker("q/0") << ReconfigureWorker("q/1") << ReconfigureWorker("q/router")


def test_a_stopped_group_stays_down_once_its_router_is_stuck_no_more():
    """Its replicas waited for another start when the operator stopped it."""
    book = coming() >> WorkerExited(10, "q/0") << StartWorker("q/0") >> WorkerExited(11, "q/1") << StartWorker("q/1")
    book = book >> WorkerExited(12, "q/0") >> WorkerExited(12, "q/1") << StopWorker("q/router", kill=True)
    book >> WorkerStuck(13, "q/router", "survived SIGKILL")
    book.pending.clear()
    assert book.state("q") is WorkerState.STUCK
    book >> OrderGiven(14, 7, "q", Verb.STOP)
    assert any(isinstance(each, FailOrder) and each.code == "worker_stuck" for each in book.pending)
    book.pending.clear()
    assert book >> WorkerExited(15, "q/router") >> TimerFired(60)
    assert (book.state("q"), book.group("q").shown_state) == (WorkerState.UNLOADED, "stopped")


def without_router_soon() -> Playbook:
    """The router of q, whose configuration has changed, ends."""
    book = serving_q() >> LeaseEnded(15, 1)
    book = book >> Reconfigured(20, (replicas("q", GPU_0, GPU_1),), frozenset(), 30.0, routers=frozenset("q"))
    return book << StopWorker("q/router")


def test_a_group_that_is_removed_while_its_router_changes_is_gone():
    book = without_router_soon() >> Reconfigured(21, (single("a"),), frozenset(), 30.0)
    book = book << StopWorker("q/0", kill=True) << StopWorker("q/1", kill=True)
    book = book >> WorkerExited(22, "q/0") >> WorkerExited(22, "q/1")
    book >> WorkerExited(23, "q/router")
    assert [each.worker for each in book.pending if isinstance(each, RemoveWorker)] == ["q/0", "q/1", "q/router"]
    assert not any(isinstance(each, ReconfigureWorker) for each in book.pending), "there is nothing to start anew"
    assert list(book.scheduler.host.groups) == ["a"]


def test_a_group_that_changes_whole_while_its_router_changes_is_what_is_configured_last():
    other = replicas("q", GPU_0, GPU_1, sleep_level=3)
    book = without_router_soon() >> Reconfigured(21, (other,), frozenset("q"), 30.0)
    for worker in ("q/router", "q/0", "q/1"):
        book.pending.clear()
        book >> WorkerExited(22, worker)
    assert book.group("q").spec == other
    assert [each.worker for each in book.pending if isinstance(each, StartWorker)] == ["q/0", "q/1", "q/router"]


def test_one_that_drains_is_not_done_without_before_one_that_is_being_ended():
    """Its leases are out still, and end with its requests."""
    book = coming(single("f", frozenset({"0", "1"}))) >> WorkerReady(10, "q/1", ONE) << SyncRouter("q", (ONE,))
    book = book >> RouterSynced(10, "q", (ONE,)) << GrantLease(1, "http://q", 3)
    book >> SwitchAsked(20, 9, "f")
    assert StopWorker("q/0", kill=True) in book.pending
    book.pending.clear()
    book >> OrderGiven(21, 7, "q", Verb.SCALE, replicas=1)
    assert [worker.name for worker in book.group("q").enlisted] == ["q/1"]
    assert book.state("q") is WorkerState.DRAINING
    book.pending.clear()
