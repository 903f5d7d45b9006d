"""What an operator's orders do to the workers."""

import pytest

from muxd.core.commands import (
    EndLease,
    FailLease,
    FailOrder,
    FailSwitch,
    FinishOrder,
    FinishSwitch,
    GrantLease,
    PersistStopped,
    RestoreLease,
    RevokeLease,
    SleepWorker,
    StartWorker,
    StopWorker,
    WakeWorker,
)
from muxd.core.events import (
    DemandReported,
    Failure,
    LeaseAsked,
    LeaseEnded,
    ShutdownAsked,
    Started,
    SwitchAsked,
    TimerFired,
    Verb,
    WorkerAsleep,
    WorkerExited,
    WorkerReady,
)
from muxd.core.states import WorkerState

from .playbook import Playbook, asleep_a, idle_a, order, revoked, serving_a, single

STOPPED = "model a is stopped by an operator; `muxctl start a` lets it run again"
NO_ROOM = (
    "a may run, but there is no room on its GPU: {} has it; a request for a brings it in its turn, "
    "`muxctl switch a` at once"
)


# Stop


def test_a_stop_lets_requests_finish_and_is_remembered():
    book = (
        serving_a()
        >> order(20, Verb.STOP) << PersistStopped("a", True) << revoked("stop", "a is stopped by an operator", 320)
        >> LeaseEnded(25, 1) << StopWorker("a")
        >> WorkerExited(26, "a") << FinishOrder(9, "stopped")
    )  # fmt: skip
    assert book
    assert book.group("a").stopped_by_operator


def test_a_stopped_model_is_refused_by_name_until_a_start():
    book = Playbook("a", "b") >> order(1, Verb.STOP) << PersistStopped("a", True) << FinishOrder(9, "stopped")
    assert book >> LeaseAsked(2, 1, "a") << FailLease(1, "model_stopped", STOPPED)
    assert book >> SwitchAsked(3, 4, "a") << FailSwitch(4, "model_stopped", STOPPED)
    assert (
        book
        >> order(4, Verb.START) << PersistStopped("a", False) << StartWorker("a")
        >> WorkerReady(9, "a", "http://a") << FinishOrder(9, WorkerState.READY)
        >> LeaseAsked(10, 5, "a") << GrantLease(5, "http://a", 1)
    )  # fmt: skip


def test_a_stop_outlasts_muxd_also_for_a_preloaded_model():
    book = Playbook(single("a", preload=True), single("b", preload=True))
    assert book >> Started(0, frozenset({"a"})) << StartWorker("b")
    assert book >> LeaseAsked(1, 1, "a") << FailLease(1, "model_stopped", STOPPED)


def test_a_stop_refuses_those_who_wait_and_ends_a_start_at_once():
    assert (
        Playbook("a")
        >> LeaseAsked(0, 1, "a") << StartWorker("a")
        >> order(5, Verb.STOP) << PersistStopped("a", True) << FailLease(1, "model_stopped", STOPPED)
        << StopWorker("a", kill=True)
        >> WorkerExited(6, "a") << FinishOrder(9, "stopped")
    )  # fmt: skip


def test_a_stop_with_now_cuts_what_is_in_flight():
    assert (
        serving_a()
        >> order(20, Verb.STOP, now=True) << PersistStopped("a", True)
        << revoked("stop", "a is stopped by an operator", 20)
        >> TimerFired(21) << EndLease(1) << StopWorker("a")
    )  # fmt: skip


def test_a_sleep_with_now_hurries_a_drain_that_has_begun():
    assert (
        serving_a()
        >> order(20, Verb.SLEEP) << revoked("sleep", "a is put to sleep by an operator", 320)
        >> order(30, Verb.SLEEP, ticket=10, now=True) << revoked("sleep", "a is put to sleep by an operator", 30)
        >> LeaseEnded(30, 1) << SleepWorker("a", 2)
        >> WorkerAsleep(31, "a") << FinishOrder(9, "asleep") << FinishOrder(10, "asleep")
    )  # fmt: skip


def test_a_second_stop_with_now_hurries_the_first():
    message = "a is stopped by an operator"
    assert (
        serving_a()
        >> order(20, Verb.STOP) << PersistStopped("a", True) << revoked("stop", message, 320)
        >> order(30, Verb.STOP, ticket=10, now=True) << revoked("stop", message, 30)
        >> LeaseEnded(30, 1) << StopWorker("a")
        >> WorkerExited(31, "a") << FinishOrder(9, "stopped") << FinishOrder(10, "stopped")
    )  # fmt: skip


def test_now_hurries_processes_that_take_long_to_end():
    assert (
        idle_a()
        >> LeaseEnded(21, 1)
        >> order(22, Verb.STOP) << PersistStopped("a", True) << StopWorker("a")
        >> order(23, Verb.STOP, ticket=10, now=True) << StopWorker("a", kill=True)
        >> DemandReported(24, 99, 0)
    )  # fmt: skip


def test_a_sleeping_model_that_is_stopped_loses_its_process():
    assert (
        asleep_a()
        >> order(50, Verb.STOP) << PersistStopped("a", True) << StopWorker("a", kill=True)
        >> WorkerExited(51, "a") << FinishOrder(9, "stopped")
    )  # fmt: skip


def test_a_model_that_gives_way_is_stopped_instead_of_put_to_sleep():
    assert (
        serving_a()
        >> SwitchAsked(20, 7, "b") << RevokeLease(1, "switch", "a gives way to b", 320)
        >> order(21, Verb.STOP) << PersistStopped("a", True)
        >> LeaseEnded(22, 1) << StopWorker("a")
        >> WorkerExited(23, "a") << FinishOrder(9, "stopped") << StartWorker("b")
    )  # fmt: skip


def test_stopping_the_target_of_a_switch_that_has_not_begun_gives_the_gpu_back():
    assert (
        serving_a()
        >> SwitchAsked(20, 7, "b") << RevokeLease(1, "switch", "a gives way to b", 320)
        >> order(21, Verb.STOP, "b") << PersistStopped("b", True)
        << FailSwitch(7, "model_stopped", STOPPED.replace(" a ", " b ").replace("start a", "start b"))
        << FinishOrder(9, "stopped") << RestoreLease(1)
    )  # fmt: skip


# Start


def test_a_start_evicts_nobody_but_lifts_the_stop():
    book = (
        serving_a("b", "a")
        >> order(20, Verb.STOP, "b") << PersistStopped("b", True) << FinishOrder(9, "stopped")
        >> order(21, Verb.START, "b") << PersistStopped("b", False)
        << FailOrder(9, "no_room", NO_ROOM.format("a (ready)").replace("a may", "b may").replace("for a", "for b")
                     .replace("switch a`", "switch b`"))
    )  # fmt: skip
    assert book
    assert not book.group("b").stopped_by_operator


def test_a_start_wakes_a_model_whose_gpu_is_free():
    assert (
        asleep_a()
        >> order(50, Verb.STOP, "b") << PersistStopped("b", True) << StopWorker("b")
        >> WorkerExited(51, "b") << FinishOrder(9, "stopped")
        >> order(52, Verb.START) << WakeWorker("a")
        >> WorkerReady(53, "a", "http://a") << FinishOrder(9, WorkerState.READY)
    )  # fmt: skip


def test_a_start_tries_a_failed_model_at_once_and_says_why_it_fails_again():
    book = (
        Playbook(single("a", restart_limit=1))
        >> order(0, Verb.START) << StartWorker("a")
        >> WorkerExited(5, "a", Failure.REFUSED, "unknown flag --foo", "bad_flag")
    )  # fmt: skip
    failed = "model a failed: unknown flag --foo; see `muxctl logs a`; tried again in 60 s"
    assert book << FailOrder(9, "bad_flag", failed)
    assert book >> order(6, Verb.START, ticket=10) << StartWorker("a")


def test_a_start_waits_through_a_back_off():
    assert (
        Playbook("a")
        >> order(0, Verb.START) << StartWorker("a")
        >> WorkerExited(5, "a") << StartWorker("a")  # the first time at once
        >> WorkerExited(9, "a")
        >> TimerFired(11) << StartWorker("a")
        >> WorkerReady(20, "a", "http://a") << FinishOrder(9, WorkerState.READY)
    )  # fmt: skip


def test_a_start_calls_off_a_sleep_that_has_not_begun():
    assert (
        serving_a()
        >> order(20, Verb.SLEEP) << revoked("sleep", "a is put to sleep by an operator", 320)
        >> order(21, Verb.START, ticket=10) << FailOrder(9, "superseded", "a newer order, start a, took its place")
        << RestoreLease(1) << FinishOrder(10, WorkerState.READY)
    )  # fmt: skip


# Restart


def test_a_restart_comes_back_before_others_get_the_gpu():
    assert (
        serving_a()
        >> LeaseAsked(15, 2, "b")
        >> order(20, Verb.RESTART) << revoked("restart", "a is restarted", 320)
        >> LeaseEnded(21, 1) << StopWorker("a")
        >> WorkerExited(22, "a") << StartWorker("a")
        >> WorkerReady(30, "a", "http://a") << FinishOrder(9, WorkerState.READY) << SleepWorker("a", 2)
    )  # fmt: skip


def test_a_restart_of_a_sleeping_model_ends_its_process_and_evicts_nobody():
    assert (
        asleep_a()
        >> order(50, Verb.RESTART) << StopWorker("a", kill=True)
        >> WorkerExited(51, "a") << FailOrder(9, "no_room", NO_ROOM.format("b (ready)"))
    )  # fmt: skip


def test_a_restart_lifts_a_stop():
    assert (
        Playbook("a") >> Started(0, frozenset({"a"}))
        >> order(1, Verb.RESTART) << PersistStopped("a", False) << StartWorker("a")
    )  # fmt: skip


# Sleep


def test_a_model_put_to_sleep_is_woken_by_its_next_request():
    assert (
        serving_a()
        >> order(20, Verb.SLEEP) << revoked("sleep", "a is put to sleep by an operator", 320)
        >> LeaseEnded(21, 1) << SleepWorker("a", 2)
        >> WorkerAsleep(22, "a") << FinishOrder(9, WorkerState.ASLEEP)
        >> LeaseAsked(30, 3, "a") << WakeWorker("a")
    )  # fmt: skip


def test_sleep_at_level_3_ends_the_process():
    assert (
        idle_a(single("a", sleep_level=3), "b") >> LeaseEnded(21, 1)
        >> order(22, Verb.SLEEP) << StopWorker("a")
        >> WorkerExited(23, "a") << FinishOrder(9, WorkerState.UNLOADED)
    )  # fmt: skip


def test_a_model_that_is_being_loaded_sleeps_as_soon_as_it_is_ready():
    assert (
        Playbook("a")
        >> SwitchAsked(0, 1, "a") << StartWorker("a")
        >> order(5, Verb.SLEEP) << FailSwitch(1, "superseded", "a newer order, sleep a, took its place")
        >> WorkerReady(10, "a", "http://a") << SleepWorker("a", 2)
        >> WorkerAsleep(11, "a") << FinishOrder(9, WorkerState.ASLEEP)
    )  # fmt: skip


@pytest.mark.parametrize("verb", [Verb.SLEEP, Verb.START])
def test_what_is_so_already_is_done_at_once(verb):
    book = asleep_a()
    done = {Verb.SLEEP: ("a", WorkerState.ASLEEP), Verb.START: ("b", WorkerState.READY)}
    model, state = done[verb]
    assert book >> order(50, verb, model) << FinishOrder(9, state)


def test_a_switch_supersedes_a_sleep():
    assert (
        serving_a()
        >> order(20, Verb.SLEEP) << revoked("sleep", "a is put to sleep by an operator", 320)
        >> SwitchAsked(21, 4, "a") << FailOrder(9, "superseded", "a newer switch to a took its place")
        << RestoreLease(1) << FinishSwitch(4, "http://a")
    )  # fmt: skip


def test_a_shutdown_ends_every_order():
    book = serving_a() >> order(20, Verb.SLEEP) << revoked("sleep", "a is put to sleep by an operator", 320)
    book >> ShutdownAsked(21, 51) << FailOrder(9, "shutting_down", "muxd is shutting down")
    assert book << revoked("shutdown", "muxd is shutting down", 51)
    message = "muxd is shutting down; send the request again when it is back"
    assert book >> order(22, Verb.START, ticket=10) << FailOrder(10, "shutting_down", message)


# Between two orders


def test_a_stopped_model_is_not_put_to_sleep_instead():
    assert (
        serving_a()
        >> order(20, Verb.STOP) << PersistStopped("a", True) << revoked("stop", "a is stopped by an operator", 320)
        >> order(21, Verb.SLEEP, ticket=10) << FailOrder(10, "model_stopped", STOPPED)
        >> LeaseEnded(22, 1) << StopWorker("a")
        >> WorkerExited(23, "a") << FinishOrder(9, "stopped")
    )  # fmt: skip


def test_a_second_restart_ends_a_load_that_hangs():
    assert (
        Playbook("a")
        >> order(0, Verb.RESTART) << StartWorker("a")
        >> order(50, Verb.RESTART, ticket=10) << FailOrder(9, "superseded", "a newer order, restart a, took its place")
        << StopWorker("a", kill=True)
        >> WorkerExited(51, "a") << StartWorker("a")
        >> WorkerReady(60, "a", "http://a") << FinishOrder(10, WorkerState.READY)
    )  # fmt: skip


def test_sleep_does_not_go_around_a_back_off_that_requests_wait_for():
    assert (
        Playbook("a")
        >> LeaseAsked(0, 1, "a") << StartWorker("a")
        >> WorkerExited(1, "a") << StartWorker("a")
        >> WorkerExited(2, "a")
        >> order(2.1, Verb.SLEEP) << FinishOrder(9, WorkerState.BACKOFF)
        >> TimerFired(4) << StartWorker("a")
    )  # fmt: skip


def test_a_lifted_stop_leaves_no_reason_behind():
    book = Playbook("a", "b") >> order(1, Verb.STOP) << PersistStopped("a", True) << FinishOrder(9, "stopped")
    assert book
    assert (book.group("a").shown_state, book.worker("a").reason) == ("stopped", "a is stopped by an operator")
    assert book >> order(2, Verb.START) << PersistStopped("a", False) << StartWorker("a")
    assert book.worker("a").reason == ""
