"""Several models awake on one GPU: what fits stays, and who leaves is a choice."""

import pytest

from muxd.core.commands import (
    FinishOrder,
    GrantLease,
    RevokeLease,
    SleepWorker,
    StartWorker,
    StopWorker,
)
from muxd.core.events import (
    DemandReported,
    GpusMeasured,
    LeaseAsked,
    LeaseEnded,
    OrderGiven,
    Started,
    Verb,
    WorkerAsleep,
    WorkerExited,
    WorkerReady,
)
from muxd.core.progress import next_step, progress_of
from muxd.core.states import WorkerState

from .one_card import CARD, awake, on_one_card, sized
from .playbook import Playbook, single


def test_what_fits_beside_an_awake_model_is_loaded_beside_it():
    book = awake(on_one_card(sized("a", 40), sized("b", 30)), "a", "b")
    assert (book.state("a"), book.state("b")) == (WorkerState.READY, WorkerState.READY)


def test_of_three_that_do_not_fit_together_one_leaves_for_the_third_and_the_other_serves_on():
    book = awake(on_one_card(sized("a", 40), sized("b", 30), sized("c", 30)), "a", "b")
    book.worker("a").costs[WorkerState.WAKING, 2].learn(20.0)
    assert (
        book
        >> LeaseAsked(9, 3, "c") << RevokeLease(2, "switch", "b gives way to c", 309)
        >> LeaseEnded(9.1, 2) << SleepWorker("b", 2)
        >> WorkerAsleep(9.2, "b") << StartWorker("c")
    )  # fmt: skip
    assert book.state("a") is WorkerState.READY


@pytest.mark.parametrize("sleep", [None, 0.2])
def test_nobody_is_ended_for_a_guess(sleep):
    """A cold start of half a second, and an end of none: before its sleep and its wake are known, a sleeps."""
    book = awake(on_one_card(sized("a", 40), sized("b", 60)), "a")
    book.worker("a").costs[WorkerState.STOPPING, None].learn(0.1)
    book.worker("a").kept[2] = 10
    if sleep is not None:
        book.worker("a").costs[WorkerState.FALLING_ASLEEP, 2].learn(sleep)
    assert book >> LeaseAsked(9, 3, "b") << RevokeLease(1, "switch", "a gives way to b", 309)
    assert book >> LeaseEnded(9.1, 1) << SleepWorker("a", 2)


def test_who_was_measured_to_come_back_sooner_from_its_end_is_ended():
    book = awake(on_one_card(sized("a", 40), sized("b", 60)), "a")
    book.worker("a").kept[2] = 10
    for state, level, seconds in [("stopping", None, 0.1), ("falling_asleep", 2, 0.2), ("waking", 2, 0.6)]:
        book.worker("a").costs[WorkerState(state), level].learn(seconds)
    assert book >> LeaseAsked(9, 3, "b") << RevokeLease(1, "switch", "a gives way to b", 309)
    assert book >> LeaseEnded(9.1, 1) << StopWorker("a", kill=False)


def test_an_unmeasured_wake_is_not_guessed_dearer_than_the_measured_start():
    worker = awake(on_one_card(sized("a", 40)), "a").worker("a")
    assert worker.comeback_cost(2).seconds == 0.5
    assert not worker.comeback_cost(2).measured
    worker.costs[WorkerState.WAKING, 2].learn(2.0)
    assert worker.comeback_cost(2).seconds == 2.0


def test_who_is_wanted_often_stays_though_its_leaving_would_take_less_time():
    book = awake(on_one_card(sized("a", 40), sized("b", 40), sized("c", 40)), "a", "b")
    book.worker("a").costs[WorkerState.WAKING, 2].learn(20.0)
    book.worker("b").costs[WorkerState.WAKING, 2].learn(5.0)
    for second in range(4):
        book = book >> DemandReported(10 + second, 2, 1, ()) >> DemandReported(10.5 + second, 2, 0, ())
    assert book >> LeaseAsked(20, 3, "c") << RevokeLease(1, "switch", "a gives way to c", 320)


def test_an_idle_one_leaves_rather_than_a_busy_one_that_costs_less():
    book = awake(on_one_card(sized("a", 40), sized("b", 30), sized("c", 30)), "a", "b")
    book.worker("a").costs[WorkerState.WAKING, 2].learn(20.0)
    assert (
        book >> DemandReported(8, 2, 1, ())
        >> LeaseAsked(9, 3, "c") << RevokeLease(1, "switch", "a gives way to c", 309)
    )  # fmt: skip


def test_both_leave_where_one_is_not_enough_one_after_the_other():
    book = awake(on_one_card(sized("a", 40), sized("b", 30), sized("c", 70)), "a", "b")
    assert (
        book
        >> LeaseAsked(9, 3, "c")
        << RevokeLease(1, "switch", "a gives way to c", 309)
        << RevokeLease(2, "switch", "b gives way to c", 309)
        >> LeaseEnded(9.1, 1) << SleepWorker("a", 2)
        >> LeaseEnded(9.2, 2)
        >> WorkerAsleep(9.5, "a") << SleepWorker("b", 2)
        >> WorkerAsleep(9.9, "b") << StartWorker("c")
    )  # fmt: skip


def test_a_model_of_unknown_size_is_alone():
    book = awake(on_one_card(sized("a", 10), single("b")), "a")
    assert book >> LeaseAsked(9, 3, "b") << RevokeLease(1, "switch", "a gives way to b", 309)


def test_on_a_card_of_unknown_size_every_model_is_alone():
    book = Playbook(sized("a", 10), sized("b", 10), keep_turns=False)
    book = (
        book >> LeaseAsked(1, 1, "a") << StartWorker("a")
        >> WorkerReady(2, "a", "http://a") << GrantLease(1, "http://a", 1)
        >> DemandReported(3, 1, 0, ())
    )  # fmt: skip
    assert book >> LeaseAsked(9, 3, "b") << RevokeLease(1, "switch", "a gives way to b", 309)


def test_what_a_sleeper_keeps_is_counted_and_it_ends_where_nothing_else_frees_enough():
    book = awake(on_one_card(sized("a", 40), sized("b", 78)), "a")
    assert (
        book
        >> LeaseAsked(9, 3, "b") << RevokeLease(1, "switch", "a gives way to b", 309)
        >> LeaseEnded(9.1, 1) << SleepWorker("a", 2)
        >> WorkerAsleep(9.5, "a", kept=5) << StopWorker("a", kill=True)
        >> WorkerExited(9.9, "a") << StartWorker("b")
    )  # fmt: skip


def test_a_wake_waits_until_another_ones_sleep_on_its_gpu_is_over():
    book = awake(on_one_card(sized("a", 40), sized("b", 30), sized("c", 10)), "a", "b")
    book = book >> OrderGiven(5, 1, "a", Verb.SLEEP)
    book.pending.clear()
    assert (
        book >> LeaseEnded(5.1, 1) << SleepWorker("a", 2)
        >> LeaseAsked(6, 3, "c")
        >> WorkerAsleep(6.5, "a") << FinishOrder(1, WorkerState.ASLEEP) << StartWorker("c")
    )  # fmt: skip


def test_of_two_that_were_never_wanted_only_one_leaves():
    book = Playbook(sized("a", 40, preload=True), sized("b", 40, preload=True), sized("c", 30), keep_turns=False)
    book = (
        book >> GpusMeasured(0, {"0": CARD}) >> Started(0) << StartWorker("a")
        >> WorkerReady(1, "a", "http://a") << StartWorker("b")
        >> WorkerReady(2, "b", "http://b")
        >> LeaseAsked(9, 3, "c") << SleepWorker("a", 2)
    )  # fmt: skip
    assert book.state("b") is WorkerState.READY


def test_an_ordered_sleep_waits_until_another_ones_load_on_its_gpu_is_over():
    book = awake(on_one_card(sized("a", 40), sized("b", 30), sized("c", 10)), "a", "b")
    book = book >> LeaseAsked(6, 3, "c") << StartWorker("c") >> OrderGiven(7, 1, "a", Verb.SLEEP)
    book.pending.clear()
    book = book >> LeaseEnded(7.1, 1)
    assert (
        book >> WorkerReady(8, "c", "http://c") << GrantLease(3, "http://c", 1) << SleepWorker("a", 2)
        >> WorkerAsleep(8.5, "a") << FinishOrder(1, WorkerState.ASLEEP)
    )  # fmt: skip


def test_an_ordered_start_waits_for_another_ones_load_where_both_fit():
    book = awake(on_one_card(sized("a", 40), sized("b", 30), sized("c", 10)), "a")
    assert (
        book >> LeaseAsked(6, 3, "b") << StartWorker("b")
        >> OrderGiven(7, 1, "c", Verb.START)
        >> WorkerReady(8, "b", "http://b") << GrantLease(3, "http://b", 1) << StartWorker("c")
        >> WorkerReady(9, "c", "http://c") << FinishOrder(1, WorkerState.READY)
    )  # fmt: skip


def test_of_two_busy_ones_the_one_that_never_rests_stays():
    book = awake(on_one_card(sized("a", 40), sized("b", 40), sized("c", 40)), "a", "b")
    for second in range(5, 200):
        book = book >> DemandReported(second, 1, 3, ()) >> DemandReported(second, 2, int(second % 20 == 19), ())
    book = book >> LeaseAsked(200, 3, "c")
    assert [b.group.name for b in book.scheduler.switching.in_the_way(book.group("c"))] == ["b"]


def test_one_that_waits_for_another_ones_load_says_so():
    book = awake(on_one_card(sized("a", 40), sized("b", 30), sized("c", 10)), "a")
    book = book >> LeaseAsked(6, 3, "b") << StartWorker("b") >> LeaseAsked(7, 4, "c")
    scheduler = book.scheduler
    said = next_step(scheduler.host, scheduler.switching, scheduler.idling, book.group("c"), 8)
    assert said == "waits until b has come: one at a time comes to a GPU"


def measured(book: Playbook, name: str, start: float) -> Playbook:
    book.worker(name).cost(WorkerState.STARTING).learn(start)
    return book


def test_one_that_waits_for_another_ones_load_alone_knows_when_that_will_be():
    book = awake(on_one_card(sized("a", 40), sized("b", 30), sized("c", 10)), "a")
    book = measured(measured(book, "b", 20.0), "c", 5.0)
    book = book >> LeaseAsked(6, 3, "b") << StartWorker("b") >> LeaseAsked(7, 4, "c")
    scheduler = book.scheduler
    assert progress_of(scheduler.host, scheduler.switching, book.group("c"), 10).eta == 16.0 + 5.0


def test_a_drained_one_whose_ordered_sleep_waits_for_another_ones_load_says_so():
    book = awake(on_one_card(sized("a", 40), sized("b", 30), sized("c", 10)), "a", "b")
    book = book >> LeaseAsked(6, 3, "c") << StartWorker("c") >> OrderGiven(7, 1, "a", Verb.SLEEP)
    book.pending.clear()
    scheduler = book.scheduler

    def said() -> str | None:
        return next_step(scheduler.host, scheduler.switching, scheduler.idling, book.group("a"), 8)

    assert said() == "finishes 0 requests, for at most 299s"
    book = book >> LeaseEnded(7.1, 1)
    assert said() == "waits until c has its memory: one at a time changes on a GPU"
