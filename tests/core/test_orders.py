"""What an operator's orders and a new configuration do to the workers."""

import gc

import pytest
from msgspec.structs import replace

from muxd.core.commands import (
    AnswerUnload,
    EndLease,
    FailLease,
    FailOrder,
    FailSwitch,
    FinishOrder,
    FinishSwitch,
    GrantLease,
    PersistStopped,
    ReconfigureWorker,
    RemoveWorker,
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
    GpusMeasured,
    LeaseAsked,
    LeaseEnded,
    OrderGiven,
    Reconfigured,
    ShutdownAsked,
    Started,
    SwitchAsked,
    TimerFired,
    UnloadAsked,
    Verb,
    Waiting,
    WorkerAsleep,
    WorkerExited,
    WorkerReady,
)
from muxd.core.states import WorkerState
from muxd.core.worker import Worker

from .playbook import Playbook, idle_a, serving_a, single

A, B = single("a"), single("b")
STOPPED = "model a is stopped by an operator; `muxctl start a` lets it run again"
NO_ROOM = (
    "a may run, but there is no room on its GPU: {} has it; a request for a brings it in its turn, "
    "`muxctl switch a` at once"
)


def asleep_a():
    """Worker a sleeps and b is ready; nobody holds a lease."""
    return (
        idle_a()
        >> LeaseEnded(21, 1)
        >> LeaseAsked(30, 2, "b") << SleepWorker("a", 2)
        >> WorkerAsleep(32, "a") << StartWorker("b")
        >> WorkerReady(40, "b", "http://b") << GrantLease(2, "http://b", 1)
        >> LeaseEnded(41, 2)
    )  # fmt: skip


def order(time, verb, model="a", ticket=9, now=False, level=None):
    return OrderGiven(time, ticket, model, verb, now, level)


def configured(time, *specs, changed=()):
    return Reconfigured(time, specs, frozenset(changed), 30.0)


def revoked(verb, message, deadline):
    return RevokeLease(1, verb, message, deadline)


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


# Unload


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


# A new configuration


def test_an_unchanged_model_is_never_touched():
    assert serving_a() >> configured(20, A, replace(B, drain_timeout=7.0), single("c"))


def test_a_new_model_can_be_asked_for_and_is_preloaded_if_it_says_so():
    preloaded = single("d", frozenset({"1"}), preload=True)
    assert serving_a() >> configured(20, A, B, single("c"), preloaded) << StartWorker("d")


def test_a_model_that_is_removed_drains_and_goes():
    book = (
        serving_a()
        >> configured(20, B) << revoked("retire", "a is no longer in the configuration", 320)
        >> LeaseAsked(21, 2, "a") << FailLease(2, "model_not_found", "model a is no longer in the configuration")
        >> LeaseEnded(25, 1) << StopWorker("a")
        >> WorkerExited(26, "a") << RemoveWorker("a")
    )  # fmt: skip
    assert book
    assert list(book.scheduler.host.workers) == ["b"]


def test_a_changed_model_on_the_gpu_is_restarted_with_its_new_settings():
    book = (
        serving_a()
        >> configured(20, single("a", sleep_level=1), B, changed=["a"]) << revoked("restart", "a is restarted", 320)
        >> LeaseEnded(25, 1) << StopWorker("a")
        >> WorkerExited(26, "a") << ReconfigureWorker("a") << StartWorker("a")
    )  # fmt: skip
    assert book
    assert book.worker("a").spec.sleep_level == 1


def test_a_changed_model_that_sleeps_loses_its_process_and_waits_for_a_request():
    assert (
        asleep_a()
        >> configured(50, single("a", sleep_level=1), B, changed=["a"]) << StopWorker("a", kill=True)
        >> WorkerExited(51, "a") << ReconfigureWorker("a")
        >> configured(60, single("a", sleep_level=1), B)
    )  # fmt: skip


def test_a_changed_model_without_a_process_just_changes():
    book = (
        Playbook("a", "b") >> configured(1, single("a", frozenset({"1"})), B, changed=["a"]) << ReconfigureWorker("a")
    )
    assert book
    assert book >> LeaseAsked(2, 1, "b") << StartWorker("b")
    assert book >> LeaseAsked(3, 2, "a") << StartWorker("a")  # on another GPU now


def test_a_failed_model_that_changed_is_tried_at_the_next_request():
    book = (
        Playbook("a") >> LeaseAsked(0, 1, "a") << StartWorker("a")
        >> WorkerExited(5, "a", Failure.REFUSED, "unknown flag") << FailLease(
            1, "model_failed", "model a failed: unknown flag; see `muxctl logs a`; tried again in 60 s", 60.0)
        >> configured(6, A, changed=["a"]) << ReconfigureWorker("a")
    )  # fmt: skip
    assert book
    assert book >> LeaseAsked(7, 2, "a") << StartWorker("a")


def test_a_model_that_comes_back_while_it_still_drains_is_kept_as_a_new_one():
    book = (
        serving_a()
        >> configured(20, B) << revoked("retire", "a is no longer in the configuration", 320)
        >> configured(21, A, B)
        >> LeaseAsked(22, 2, "a")
        >> LeaseEnded(25, 1) << StopWorker("a")
        >> WorkerExited(26, "a") << ReconfigureWorker("a") << StartWorker("a")
    )  # fmt: skip
    assert book


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


def test_a_change_that_came_during_a_start_is_applied_as_soon_as_that_is_done():
    assert (
        Playbook("a")
        >> order(0, Verb.START) << StartWorker("a")
        >> configured(5, single("a", sleep_level=1), changed=["a"])
        >> WorkerReady(10, "a", "http://a") << FinishOrder(9, WorkerState.READY) << StopWorker("a")
        >> WorkerExited(11, "a") << ReconfigureWorker("a") << StartWorker("a")
    )  # fmt: skip


def test_nothing_is_kept_of_a_model_that_is_removed():
    book = serving_a(A, B, single("brief"))
    assert book.scheduler.host.placement.never_loads(book.group("brief")) is None, "it is found, and remembered"
    assert book >> configured(20, A, B) << RemoveWorker("brief")
    gc.collect()
    assert not [each for each in gc.get_objects() if isinstance(each, Worker) and each.name == "brief"]


def test_what_was_asked_of_a_model_that_a_reload_has_just_removed_is_refused():
    gone = "model a is no longer in the configuration"
    book = Playbook("a", "b") >> configured(1, B) << RemoveWorker("a")
    assert book >> LeaseAsked(2, 1, "a") << FailLease(1, "model_not_found", gone)
    assert book >> SwitchAsked(3, 2, "a") << FailSwitch(2, "model_not_found", gone)
    assert book >> order(4, Verb.START) << FailOrder(9, "model_not_found", gone)


def test_a_preloaded_model_that_comes_back_while_it_drains_is_preloaded_again():
    preloaded = replace(A, preload=True)
    book = (
        serving_a(preloaded, "b")
        >> configured(20, B) << revoked("retire", "a is no longer in the configuration", 320)
        >> configured(21, preloaded, B)
        >> LeaseEnded(25, 1) << StopWorker("a")
    )  # fmt: skip
    assert book >> WorkerExited(26, "a") << ReconfigureWorker("a") << StartWorker("a")


def test_a_lifted_stop_leaves_no_reason_behind():
    book = Playbook("a", "b") >> order(1, Verb.STOP) << PersistStopped("a", True) << FinishOrder(9, "stopped")
    assert book
    assert (book.group("a").shown_state, book.worker("a").reason) == ("stopped", "a is stopped by an operator")
    assert book >> order(2, Verb.START) << PersistStopped("a", False) << StartWorker("a")
    assert book.worker("a").reason == ""


# What a launch script's server was seen to use


def test_a_claim_that_is_narrowed_leaves_room_for_another_at_once():
    every, first, second = (
        single("a", frozenset({"0", "1"})),
        single("a", frozenset({"0"})),
        single("b", frozenset({"1"})),
    )
    book = (
        Playbook(every, second)
        >> LeaseAsked(1, 1, "a") << StartWorker("a")
        >> configured(2, first, second)
        >> LeaseAsked(3, 2, "b") << StartWorker("b")
        >> WorkerReady(4, "a", "http://a") << GrantLease(1, "http://a", 1)
        >> WorkerReady(5, "b", "http://b") << GrantLease(2, "http://b", 1)
    )  # fmt: skip
    assert book


def test_a_worker_on_other_gpus_than_it_was_granted_is_started_again_on_those_that_it_uses():
    first, second = single("a", frozenset({"0"})), single("a", frozenset({"1"}))
    book = (
        Playbook(first, single("b", frozenset({"1"})))
        >> LeaseAsked(1, 1, "a") << StartWorker("a")
        >> configured(2, second, single("b", frozenset({"1"})), changed={"a"}) << StopWorker("a", True)
        >> WorkerExited(3, "a") << ReconfigureWorker("a") << StartWorker("a")
        >> WorkerReady(4, "a", "http://a") << GrantLease(1, "http://a", 2)
    )  # fmt: skip
    assert book
    assert book.scheduler.host.ledger.holders({"1"}) == ["a"]


def test_who_waits_for_a_model_that_a_reload_has_made_too_large_is_told_when_the_reload_takes_hold():
    def model(size):
        return single("a", share=size, memory=size)

    book = (
        Playbook(model(40))
        >> GpusMeasured(0, {"0": 80})
        >> LeaseAsked(1, 1, "a") << StartWorker("a")
        >> WorkerReady(2, "a", "u") << GrantLease(1, "u", 1)
        >> LeaseEnded(3, 1)
        >> configured(3, model(100), changed={"a"}) << StopWorker("a")
        >> LeaseAsked(4, 2, "a")
        >> WorkerExited(5, "a") << ReconfigureWorker("a")
    )  # fmt: skip
    (failed,) = book.pending
    assert isinstance(failed, FailLease)
    assert (failed.lease, failed.code) == (2, "model_too_large")


def test_models_come_in_the_order_of_the_new_configuration():
    book = Playbook("a", "b") >> configured(5, single("c"), single("b"), single("a"))
    assert list(book.scheduler.host.groups) == ["c", "b", "a"]
    assert book
