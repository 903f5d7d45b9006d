"""A client lets a model go: it sleeps if nobody uses it, and is left alone otherwise."""

import pytest

from muxd.core.commands import (
    AnswerUnload,
    FinishOrder,
    FinishSwitch,
    GrantLease,
    RestoreLease,
    SleepWorker,
    StartWorker,
    StopWorker,
    WakeWorker,
)
from muxd.core.events import (
    DemandReported,
    LeaseAsked,
    LeaseEnded,
    SwitchAsked,
    UnloadAsked,
    Verb,
    Waiting,
    WorkerAsleep,
    WorkerExited,
)
from muxd.core.states import WorkerState

from .playbook import Playbook, asleep_a, idle_a, order, revoked, serving_a, single

LET_GO = revoked("unload", "no client has any more use of a", 325)


def let_go_a():
    """Nobody uses worker a, and its client lets it go."""
    return idle_a() >> UnloadAsked(25, 9, "a") << AnswerUnload(9) << LET_GO


def test_an_idle_model_that_a_client_lets_go_sleeps_until_its_next_request():
    book = let_go_a() >> LeaseEnded(26, 1) << SleepWorker("a", 2) >> WorkerAsleep(28, "a")
    assert book.state("a") is WorkerState.ASLEEP
    assert book >> LeaseAsked(30, 2, "a") << WakeWorker("a")


def test_one_that_is_let_go_sleeps_at_its_own_level_and_leaves_no_reason_behind():
    book = (
        idle_a(single("a", sleep_level=3))
        >> UnloadAsked(25, 9, "a") << AnswerUnload(9) << LET_GO
        >> LeaseEnded(26, 1) << StopWorker("a")
        >> WorkerExited(28, "a")
    )  # fmt: skip
    assert (book.state("a"), book.worker("a").reason, book.group("a").order) == (WorkerState.UNLOADED, "", None)


def test_a_model_without_a_lease_sleeps_at_once():
    assert idle_a() >> LeaseEnded(24, 1) >> UnloadAsked(25, 9, "a") << AnswerUnload(9) << SleepWorker("a", 2)


def test_a_busy_model_is_not_let_go():
    book = serving_a() >> UnloadAsked(20, 9, "a") << AnswerUnload(9, "it is in use")
    assert book >> DemandReported(21, 1, 0)
    assert book.state("a") is WorkerState.READY


def test_what_is_not_ready_is_left_as_it_is():
    assert Playbook("a") >> UnloadAsked(1, 9, "a") << AnswerUnload(9, "it is unloaded")
    assert asleep_a() >> UnloadAsked(50, 9, "a") << AnswerUnload(9, "it is asleep")
    starting = Playbook("a") >> LeaseAsked(0, 1, "a") << StartWorker("a")
    assert starting >> UnloadAsked(1, 9, "a") << AnswerUnload(9, "it is starting")
    gone = "model x is no longer in the configuration"
    assert Playbook("a") >> UnloadAsked(1, 9, "x") << AnswerUnload(9, gone)


def test_what_an_operator_ordered_goes_on_where_a_client_lets_the_model_go():
    book = idle_a() >> order(22, Verb.RESTART) << revoked("restart", "a is restarted", 322)
    assert book >> UnloadAsked(23, 8, "a") << AnswerUnload(8, "it is draining")
    assert book >> LeaseEnded(24, 1) << StopWorker("a") >> WorkerExited(25, "a") << StartWorker("a")


@pytest.mark.parametrize("told", [(1, ()), (0, (Waiting(),)), (1, (Waiting(),))])
def test_a_model_serves_on_where_a_request_came_before_its_client_let_it_go(told):
    book = let_go_a() >> DemandReported(26, 1, *told) << RestoreLease(1)
    assert (book.state("a"), book.group("a").order) == (WorkerState.READY, None)


def test_a_request_of_another_holder_keeps_a_model_that_was_let_go():
    assert let_go_a() >> LeaseAsked(26, 2, "a") << RestoreLease(1) << GrantLease(2, "http://a", 1)


def test_an_operators_word_comes_before_a_clients():
    assert let_go_a() >> SwitchAsked(26, 7, "a") << RestoreLease(1) << FinishSwitch(7, "http://a")
    assert let_go_a() >> order(26, Verb.START) << RestoreLease(1) << FinishOrder(9, "ready")
    asleep = let_go_a() >> order(26, Verb.SLEEP) >> LeaseEnded(27, 1) << SleepWorker("a", 2)
    assert asleep >> WorkerAsleep(28, "a") << FinishOrder(9, "asleep")


def test_a_model_that_was_let_go_makes_room_for_the_one_that_waits():
    book = let_go_a() >> LeaseAsked(25.1, 2, "b") >> LeaseEnded(25.2, 1) << SleepWorker("a", 2)
    assert book >> WorkerAsleep(27, "a") << StartWorker("b")
