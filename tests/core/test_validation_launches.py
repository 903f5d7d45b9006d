"""A process that is launched for the level that is validated: it cannot be, or dies, or others sleep on beside it."""

import pytest

from muxd.core.commands import (
    FailOrder,
    FinishOrder,
    GrantLease,
    Moment,
    RecordScale,
    ReportCycle,
    SleepWorker,
    StartWorker,
    StopWorker,
    SyncRouter,
    WakeWorker,
)
from muxd.core.events import (
    Failure,
    LeaseAsked,
    OrderGiven,
    RouterSynced,
    Verb,
    WorkerAsleep,
    WorkerDied,
    WorkerExited,
    WorkerMeasured,
    WorkerReady,
)
from muxd.core.states import WorkerState

from .playbook import replicas, single
from .validated import ask, ready, ready_replicas, validate

ENDING = single("a", sleep_level=3, launchable=frozenset({0, 1, 2}), restart_limit=1)


@pytest.mark.parametrize("failure", Failure)
def test_a_level_that_it_cannot_be_launched_for_fails_and_the_next_ones_turn_comes(failure):
    book = ready(ENDING) >> validate(20, 0, 2, 3, cycles=2) << StopWorker("a")
    book >> WorkerExited(22, "a") << StartWorker("a", 0)
    book >> WorkerExited(23, "a", failure, "no such flag")
    book << ReportCycle(9, "a", 0, 1, None, None, "no such flag") << StartWorker("a", 2)
    book >> WorkerExited(24, "a", failure, "no such flag either")
    book << ReportCycle(9, "a", 2, 1, None, None, "no such flag either") << StartWorker("a")
    book >> WorkerReady(30, "a", "http://a") << ask(1, Moment.BEFORE)
    assert book >> WorkerMeasured(31, "a", 1) << StopWorker("a")
    assert not book.worker("a").failures
    assert book.worker("a").restarts == 0


def test_in_the_end_it_is_launched_as_configured_where_it_could_not_be_for_the_last_level():
    book = ready(ENDING) >> validate(20, 1) << StopWorker("a") >> WorkerExited(22, "a") << StartWorker("a", 1)
    book >> LeaseAsked(22, 2, "a")
    book >> WorkerExited(23, "a", Failure.REFUSED, "no") << ReportCycle(9, "a", 1, 1, None, None, "no")
    book << StartWorker("a")
    assert book >> WorkerReady(30, "a", "http://a") << FinishOrder(9, "ready") << GrantLease(2, "http://a", 3)


def test_one_that_cannot_be_launched_as_configured_has_failed_whatever_is_validated():
    book = ready(ENDING) >> validate(20, 1) << StopWorker("a") >> WorkerExited(22, "a") << StartWorker("a", 1)
    book >> WorkerExited(23, "a", Failure.REFUSED, "no") << ReportCycle(9, "a", 1, 1, None, None, "no")
    book << StartWorker("a") >> WorkerExited(24, "a", Failure.REFUSED, "no")
    assert isinstance(book.pending.pop(), FailOrder)
    assert book.state("a") is WorkerState.FAILED


def test_one_that_was_launched_for_a_level_and_dies_in_its_cycle_fails_the_level():
    book = ready(ENDING) >> validate(20, 1, 3, cycles=2) << StopWorker("a")
    book >> WorkerExited(22, "a") << StartWorker("a", 1) >> WorkerReady(30, "a", "http://a") << ask(1, Moment.BEFORE)
    book >> WorkerMeasured(31, "a", 1) << SleepWorker("a", 1) >> WorkerAsleep(32, "a") << ask(2, Moment.ASLEEP)
    book >> WorkerMeasured(33, "a", 2) << WakeWorker("a") >> WorkerDied(34, "a", "killed by signal 9")
    book >> WorkerExited(35, "a", reason="killed by signal 9")
    book << ReportCycle(9, "a", 1, 1, 1, None, "killed by signal 9") << StartWorker("a")
    assert book >> WorkerReady(40, "a", "http://a") << ask(3, Moment.BEFORE)


def test_one_that_dies_after_its_level_has_failed_is_launched_for_the_next():
    book = ready(ENDING) >> validate(20, 1, 2) << StopWorker("a")
    book >> WorkerExited(22, "a") << StartWorker("a", 1) >> WorkerReady(30, "a", "http://a") << ask(1, Moment.BEFORE)
    book >> WorkerDied(31, "a", "killed by signal 9")
    book >> WorkerMeasured(32, "a", 1, "no answer") << ReportCycle(9, "a", 1, 1, None, None, "no answer")
    assert book >> WorkerExited(33, "a", reason="killed by signal 9") << StartWorker("a", 2)


def test_a_replica_beside_one_that_cannot_be_launched_ends():
    gpus = frozenset({"0"}), frozenset({"1"})
    book = ready_replicas(replicas("r", *gpus, sleep_level=3, launchable=frozenset({1})))
    events = [validate(20, 1, model="r"), *(WorkerExited(22, name) for name in ("r/0", "r/1", "r/router"))]
    for event in events:
        book >> event
        started = {(command.worker, command.level) for command in book.pending if isinstance(command, StartWorker)}
        book.pending.clear()
    assert started >= {("r/0", 1), ("r/1", 1)}
    book >> WorkerExited(23, "r/0", Failure.REFUSED, "no such flag")
    assert ReportCycle(9, "r/0", 1, 1, None, None, "no such flag") in book.pending
    assert ReportCycle(9, "r/1", 1, 1, None, None, "it was not tried") in book.pending
    assert StopWorker("r/1", kill=True) in book.pending
    for name in ("r/1", "r/router"):
        book.pending.clear()
        book >> WorkerExited(24, name)
    assert {StartWorker("r/0"), StartWorker("r/1")} <= set(book.pending)


def one_of_two_serves(*, unproved=False):
    """An operator has scaled r to one replica; the other sleeps on, at level 2."""
    spec = replicas("r", frozenset("0"), frozenset("1"), levels=frozenset({0, 2}), launchable=frozenset({1}))
    book = ready_replicas(spec)
    book.worker("r/1").unproved = unproved
    return (
        book >> OrderGiven(14, 8, "r", Verb.SCALE, replicas=1) << RecordScale("r", 2, 1, "an operator ordered it")
        << SyncRouter("r", ("http://r/0",))
        >> RouterSynced(15, "r", ("http://r/0",)) << SleepWorker("r/1", 2)
        >> WorkerAsleep(16, "r/1") << FinishOrder(8, "ready")
    )  # fmt: skip


def test_those_that_serve_are_launched_for_a_level_while_those_that_are_spare_sleep_on():
    book = one_of_two_serves() >> validate(20, 1, model="r") << StopWorker("r/0") << SyncRouter("r", ())
    assert book >> WorkerExited(21, "r/0") << StartWorker("r/0", 1)
    assert book.state("r") is WorkerState.STARTING


def test_a_spare_one_that_nobody_has_proved_has_nobody_relaunched():
    assert one_of_two_serves(unproved=True) >> validate(20, 2, model="r") << ask(1, Moment.BEFORE, "r/0")
