"""What a validation makes of levels that went wrong before, and what its own answers are held against."""

import pytest

from muxd.core.commands import (
    FinishOrder,
    Moment,
    PersistStopped,
    ReportCycle,
    SleepWorker,
    StartWorker,
    StopWorker,
    WakeWorker,
)
from muxd.core.events import (
    OrderGiven,
    ValidationEnded,
    Verb,
    WakeFailed,
    WorkerAsleep,
    WorkerExited,
    WorkerMeasured,
    WorkerReady,
)

from .validated import DEEP, ask, ready, validate


def distrusting(*levels):
    """Worker a is ready, and wakes from these levels were wrong too often."""
    book = ready(DEEP)
    book.worker("a").distrusted = frozenset(levels)
    return book


def test_a_level_that_is_distrusted_is_tried_again_and_trusted_if_it_does_well():
    book = (
        distrusting(0) >> validate(20, 0) << ask(1, Moment.BEFORE) >> WorkerMeasured(21, "a", 1) << SleepWorker("a", 0)
    )
    book >> WorkerAsleep(22, "a") << ask(2, Moment.ASLEEP) >> WorkerMeasured(23, "a", 2) << WakeWorker("a")
    book >> WorkerReady(24, "a", "http://a") << ask(3, Moment.AWAKE)
    assert book >> WorkerMeasured(25, "a", 3) << ReportCycle(9, "a", 0, 1, 1, 1) << FinishOrder(9, "ready")
    assert book.worker("a").distrusted == frozenset()


def test_a_level_that_does_no_better_stays_distrusted_and_the_process_is_one_for_another():
    book = ready(DEEP) >> OrderGiven(20, 5, "a", Verb.STOP, now=True) << PersistStopped("a", True) << StopWorker("a")
    book >> WorkerExited(21, "a") << FinishOrder(5, "stopped")
    book.worker("a").distrusted = frozenset({2})
    book >> OrderGiven(22, 6, "a", Verb.START) << PersistStopped("a", False) << StartWorker("a", 1)
    book >> WorkerReady(30, "a", "http://a") << FinishOrder(6, "ready")
    book >> validate(40, 2) << StopWorker("a") >> WorkerExited(41, "a") << StartWorker("a", 2)
    (
        book
        >> WorkerReady(50, "a", "http://a")
        << ask(1, Moment.BEFORE)
        >> WorkerMeasured(51, "a", 1)
        << SleepWorker("a", 2)
    )
    book >> WorkerAsleep(52, "a") << ask(2, Moment.ASLEEP) >> WorkerMeasured(53, "a", 2) << WakeWorker("a")
    book >> WakeFailed(54, "a", "it says else", is_wrong=True) << StopWorker("a", kill=True)
    book >> WorkerExited(55, "a") << StartWorker("a", 2)
    book >> WorkerReady(65, "a", "http://a") << ask(3, Moment.AWAKE) >> WorkerMeasured(66, "a", 3)
    wrong = "its wake from level 2 was wrong: it says else"
    book << ReportCycle(9, "a", 2, 1, 1, None, wrong) << StopWorker("a")
    book >> WorkerExited(67, "a") << StartWorker("a", 1) >> WorkerReady(77, "a", "http://a")
    assert book << FinishOrder(9, "ready")
    assert book.worker("a").distrusted == {2}


def test_a_wrong_wake_in_a_validation_is_not_held_against_the_level():
    book = ready(DEEP)
    book.worker("a").wrong_wakes = (2,)
    book >> validate(40, 2) << ask(1, Moment.BEFORE) >> WorkerMeasured(41, "a", 1) << SleepWorker("a", 2)
    book >> WorkerAsleep(42, "a") << ask(2, Moment.ASLEEP) >> WorkerMeasured(43, "a", 2) << WakeWorker("a")
    book >> WakeFailed(44, "a", "it says else", is_wrong=True) << StopWorker("a", kill=True)
    book >> WorkerExited(45, "a") << StartWorker("a") >> WorkerReady(55, "a", "http://a") << ask(3, Moment.AWAKE)
    wrong = "its wake from level 2 was wrong: it says else"
    assert book >> WorkerMeasured(56, "a", 3) << ReportCycle(9, "a", 2, 1, 1, None, wrong) << FinishOrder(9, "ready")
    assert (book.worker("a").distrusted, book.worker("a").wrong_wakes) == (frozenset(), (2,))


def test_what_later_answers_are_held_against_is_said_by_one_that_was_loaded_or_proved():
    """One that woke without a proof may say anything: it is loaded anew before its validation asks it."""
    book = ready(DEEP) >> OrderGiven(12, 5, "a", Verb.SLEEP) << SleepWorker("a", 2)
    book >> WorkerAsleep(13, "a") << FinishOrder(5, "asleep")
    book >> validate(20, 0) << WakeWorker("a")
    book >> WorkerReady(22, "a", "http://a", unproved=True) << StopWorker("a")
    book >> WorkerExited(23, "a") << StartWorker("a") >> WorkerReady(30, "a", "http://a") << ask(1, Moment.BEFORE)
    book >> WorkerMeasured(31, "a", 1) << SleepWorker("a", 0) >> WorkerAsleep(32, "a") << ask(2, Moment.ASLEEP)
    book >> WorkerMeasured(32, "a", 2) << WakeWorker("a")
    book >> WorkerReady(33, "a", "http://a", unproved=True) << ask(3, Moment.AWAKE)
    assert book >> WorkerMeasured(34, "a", 3) << ReportCycle(9, "a", 0, 1, 1, 1) << FinishOrder(9, "ready")


def test_one_whose_last_wake_was_proved_is_asked_as_it_is():
    book = ready(DEEP) >> OrderGiven(12, 5, "a", Verb.SLEEP) << SleepWorker("a", 2)
    book >> WorkerAsleep(13, "a") << FinishOrder(5, "asleep") >> validate(20, 0) << WakeWorker("a")
    assert book >> WorkerReady(22, "a", "http://a") << ask(1, Moment.BEFORE)


@pytest.mark.parametrize("end", [ValidationEnded(22, 9, "a"), OrderGiven(22, 5, "a", Verb.SLEEP)])
def test_a_validation_that_is_cut_short_trusts_nothing(end):
    book = distrusting(0) >> validate(20, 0) << ask(1, Moment.BEFORE)
    assert book.worker("a").distrusted == frozenset()
    book >> end
    assert book.worker("a").distrusted == {0}


def test_a_level_is_tried_whatever_went_wrong_before():
    book = ready(DEEP)
    book.worker("a").bad_levels = 2
    book >> validate(20, 0) << ask(1, Moment.BEFORE)
    assert book >> WorkerMeasured(21, "a", 1) << SleepWorker("a", 0)


def test_what_ended_it_before_is_not_held_against_a_cycle():
    book = ready(DEEP) >> WorkerExited(12, "a", reason="killed by signal 9") << StartWorker("a")
    book >> WorkerReady(15, "a", "http://a") >> validate(20, 0) << ask(1, Moment.BEFORE)
    book >> WorkerMeasured(21, "a", 1) << SleepWorker("a", 0) >> WorkerAsleep(22, "a") << ask(2, Moment.ASLEEP)
    book >> WorkerMeasured(22, "a", 2) << WakeWorker("a") >> WorkerReady(23, "a", "http://a") << ask(3, Moment.AWAKE)
    assert book >> WorkerMeasured(24, "a", 3) << ReportCycle(9, "a", 0, 1, 1, 1) << FinishOrder(9, "ready")
