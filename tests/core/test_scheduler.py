from math import inf

import pytest

from muxd.core.commands import (
    EndLease,
    FailLease,
    FailOrder,
    FailSwitch,
    FinishShutdown,
    FinishSwitch,
    GrantLease,
    RecordMove,
    RestoreLease,
    RevokeLease,
    SetTimer,
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
    PortFreed,
    Reconfigured,
    ShutdownAsked,
    SleepFailed,
    Started,
    SwitchAsked,
    TimerFired,
    Verb,
    Waiting,
    WakeFailed,
    WeightsSeen,
    WorkerAsleep,
    WorkerDied,
    WorkerExited,
    WorkerHung,
    WorkerReady,
    WorkerStuck,
)
from muxd.core.progress import next_step
from muxd.core.states import WorkerState
from muxd.core.view import CoreView
from muxd.core.worker import BAD_LEVELS, PORT_RETRY

from .playbook import Playbook, single


def serving_a(*specs, **options):
    """Worker a is ready and lease 1 on it is granted, with one request in flight."""
    return (
        Playbook(*(specs or ("a", "b")), **options)
        >> LeaseAsked(0, 1, "a") << StartWorker("a")
        >> WorkerReady(10, "a", "http://a") << GrantLease(1, "http://a", 1)
    )  # fmt: skip


def idle_a(*specs, **options):
    return serving_a(*specs, **options) >> DemandReported(20, 1, 0)


def revoked(lease, deadline, to="b"):
    return RevokeLease(lease, "switch", f"a gives way to {to}", deadline)


# Leases and switches


def test_first_request_starts_the_worker_then_gets_its_lease():
    assert serving_a()


def test_an_idle_model_gives_way_at_once_and_sleeps_before_the_next_one_starts():
    assert (
        idle_a()
        >> LeaseAsked(30, 2, "b") << revoked(1, 330)
        >> LeaseEnded(31, 1) << SleepWorker("a", 2)
        >> WorkerAsleep(32, "a") << StartWorker("b")
        >> WorkerReady(40, "b", "http://b") << GrantLease(2, "http://b", 1)
    )  # fmt: skip


def test_a_sleeping_model_is_woken_not_started():
    book = (
        idle_a()
        >> LeaseAsked(30, 2, "b") << revoked(1, 330)
        >> LeaseEnded(31, 1) << SleepWorker("a", 2)
        >> WorkerAsleep(32, "a") << StartWorker("b")
        >> WorkerReady(40, "b", "http://b") << GrantLease(2, "http://b", 1)
        >> LeaseEnded(41, 2)
        >> LeaseAsked(42, 3, "a") << SleepWorker("b", 2)
        >> WorkerAsleep(43, "b") << WakeWorker("a")
        >> WorkerReady(44, "a", "http://a") << GrantLease(3, "http://a", 2)
    )  # fmt: skip
    assert book


def test_at_level_3_the_process_ends_and_the_next_one_starts_when_it_is_gone():
    assert (
        idle_a(single("a", sleep_level=3), "b")
        >> LeaseAsked(30, 2, "b") << revoked(1, 330)
        >> LeaseEnded(31, 1) << StopWorker("a")
        >> WorkerExited(32, "a") << StartWorker("b")
    )  # fmt: skip


def test_a_busy_model_gives_way_when_the_waiter_nears_its_bound():
    book = serving_a(wait_target=30.0, timers=True) >> LeaseAsked(20, 2, "b")
    at = 20 + 30 - 5  # the wait target less the drain's estimate, counted from the question
    assert book << SetTimer(max(at, 10 + 61))  # but a turn lasts as long as the switch costs: sleep 1 + start 60
    assert book >> TimerFired(71) << revoked(1, 371) << SetTimer(372)


def test_a_drain_ends_at_its_deadline_even_if_the_holder_does_not_let_go():
    assert (
        idle_a(single("a", drain_timeout=60), "b")
        >> LeaseAsked(30, 2, "b") << revoked(1, 90)
        >> TimerFired(90.5)
        >> TimerFired(91) << EndLease(1) << SleepWorker("a", 2)
    )  # fmt: skip


def test_a_drain_without_limit_waits_for_ever():
    book = idle_a(single("a", drain_timeout=inf), "b") >> LeaseAsked(30, 2, "b") << revoked(1, inf)
    assert book >> TimerFired(1e9)
    assert book >> LeaseEnded(1e9, 1) << SleepWorker("a", 2)


def test_everybody_waiting_is_admitted_before_the_next_switch_is_decided():
    assert (
        idle_a(keep_turns=False)
        >> LeaseAsked(30, 2, "b") << revoked(1, 330)
        >> LeaseAsked(30, 3, "a")
        >> LeaseAsked(30, 4, "b")
        >> LeaseEnded(31, 1) << SleepWorker("a", 2)
        >> WorkerAsleep(32, "a") << StartWorker("b")
        >> WorkerReady(40, "b", "http://b") << GrantLease(2, "http://b", 1) << GrantLease(4, "http://b", 1)
        >> DemandReported(41, 2, 0)  # lease 4 still counts as busy: it has not reported yet
        >> DemandReported(42, 4, 0)
        << RevokeLease(2, "switch", "b gives way to a", 342) << RevokeLease(4, "switch", "b gives way to a", 342)
    )  # fmt: skip


def test_a_client_that_left_the_queue_starts_nothing():
    assert serving_a() >> LeaseAsked(20, 2, "b") >> LeaseEnded(21, 2) >> LeaseEnded(22, 1)


def test_a_lease_whose_requests_all_left_starts_nothing_until_one_comes():
    assert (
        idle_a(wait_target=10.0)
        >> LeaseAsked(30, 2, "b", ())
        >> DemandReported(40, 2, 0, (Waiting(),)) << revoked(1, 340)
    )  # fmt: skip


def test_a_disconnect_of_the_only_waiter_does_not_stop_a_switch_half_way():
    assert (
        idle_a()
        >> LeaseAsked(30, 2, "b") << revoked(1, 330)
        >> LeaseEnded(31, 2)
        >> LeaseEnded(32, 1) << SleepWorker("a", 2)
        >> WorkerAsleep(33, "a") << StartWorker("b")
        >> WorkerReady(40, "b", "http://b")
    )  # fmt: skip


def test_of_two_waiting_models_the_one_with_more_work_goes_first():
    book = (
        serving_a("a", "b", "c", keep_turns=False)
        >> LeaseAsked(20, 2, "b", (Waiting(1),))
        >> LeaseAsked(20, 3, "c", (Waiting(5),))
        >> DemandReported(21, 1, 0)
    )
    assert book << revoked(1, 321, to="c")


def test_priority_multiplies():
    book = (
        serving_a("a", "b", "c", keep_turns=False)
        >> LeaseAsked(20, 2, "b", (Waiting(2, priority=2),))
        >> LeaseAsked(20, 3, "c", (Waiting(5),))
        >> DemandReported(21, 1, 0)
    )
    assert book << revoked(1, 321, to="b")


def test_models_on_different_gpus_do_not_give_way_to_each_other():
    assert (
        serving_a(single("a", frozenset({"0"})), single("b", frozenset({"1"})))
        >> LeaseAsked(20, 2, "b") << StartWorker("b")
        >> WorkerReady(30, "b", "http://b") << GrantLease(2, "http://b", 1)
    )  # fmt: skip


def test_a_model_over_two_gpus_waits_for_both():
    one, two, both = (
        single("a", frozenset({"0"})),
        single("b", frozenset({"1"})),
        single("c", frozenset({"0", "1"})),
    )
    assert (
        serving_a(one, two, both, keep_turns=False)
        >> LeaseAsked(20, 2, "b") << StartWorker("b")
        >> WorkerReady(30, "b", "http://b") << GrantLease(2, "http://b", 1)
        >> LeaseEnded(31, 1)
        >> LeaseAsked(32, 3, "c")
        >> LeaseEnded(33, 2) << SleepWorker("a", 2) << SleepWorker("b", 2)
        >> WorkerAsleep(34, "a")
        >> WorkerAsleep(35, "b") << StartWorker("c")
    )  # fmt: skip


# Preload


def test_preloaded_models_are_loaded_in_order_and_all_but_the_last_sleep():
    assert (
        Playbook(single("a", preload=True), "x", single("b", preload=True))
        >> Started(0) << StartWorker("a")
        >> WorkerReady(10, "a", "http://a") << SleepWorker("a", 2)
        >> WorkerAsleep(11, "a") << StartWorker("b")
        >> WorkerReady(20, "b", "http://b")
    )  # fmt: skip


def test_a_preload_that_cannot_start_does_not_keep_the_others_waiting():
    assert (
        Playbook(single("a", preload=True), single("b", preload=True))
        >> Started(0) << StartWorker("a")
        >> WorkerExited(1, "a", Failure.REFUSED, "its port is taken") << StartWorker("b")
    )  # fmt: skip


# Failures


def test_a_crash_revokes_the_leases_and_restarts_at_once_after_a_stable_time():
    assert (
        serving_a(timers=True)
        >> WorkerExited(100, "a", Failure.EXITED, "was killed by SIGKILL")
        << RevokeLease(1, "worker_exited", "the worker of a was killed by SIGKILL", 100) << EndLease(1)
        << StartWorker("a")
    )  # fmt: skip


def test_a_crashing_worker_waits_longer_each_time_and_then_is_failed():
    book = Playbook(single("a", restart_limit=4)) >> LeaseAsked(0, 1, "a") << StartWorker("a")
    assert book >> WorkerExited(1, "a") << StartWorker("a")
    for delay in (1.0, 2.0):
        now = book.scheduler.host.now
        assert book >> WorkerExited(now, "a", reason="exited with status 1")
        assert book.timer == pytest.approx(now + delay * 1.05, rel=0.05)
        assert book >> TimerFired(book.timer) << StartWorker("a")
    book = book >> WorkerExited(20, "a", reason="exited with status 1")
    message = "model a failed: exited with status 1; see `muxctl logs a`; tried again in 60 s"
    assert book << FailLease(1, "model_failed", message, 60.0)
    assert book.state("a") is WorkerState.FAILED


def failed_a(**spec):
    return (
        Playbook(single("a", **spec), "b")
        >> LeaseAsked(0, 1, "a") << StartWorker("a")
        >> WorkerExited(5, "a", Failure.REFUSED, "cannot start: port 31001 is in use")
        << FailLease(
            1,
            "model_failed",
            "model a failed: cannot start: port 31001 is in use; see `muxctl logs a`; tried again in 60 s",
            60.0,
        )
    )  # fmt: skip


def test_a_failed_worker_is_tried_once_more_on_a_request_after_its_cool_down():
    book = failed_a()
    book >> LeaseAsked(30, 2, "a")
    assert [type(c) for c in book.pending] == [FailLease]
    book.pending.clear()
    assert book >> LeaseAsked(66, 3, "a") << StartWorker("a")
    book >> WorkerExited(70, "a", reason="exited with status 1")
    assert [type(c) for c in book.pending] == [FailLease], "a trial that fails is not repeated"


def test_a_worker_whose_port_was_taken_comes_by_itself_once_that_is_free():
    assert failed_a() >> PortFreed(20, "a") << StartWorker("a") >> PortFreed(21, "a")


def awaiting_its_port():
    """Play a model that was told to come with a cool_down of an hour, and whose port somebody had."""
    book = Playbook(single("a", cool_down=3600.0), "b") >> LeaseAsked(0, 1, "a") << StartWorker("a")
    return book >> WorkerExited(5, "a", Failure.REFUSED, "cannot start: port 31001 is in use", "port_taken")


def test_while_its_port_is_taken_clients_are_told_to_come_back_in_seconds_and_not_after_its_cool_down():
    message = (
        "model a failed: cannot start: port 31001 is in use; see `muxctl logs a`; tried again once its port is free"
    )
    assert (
        awaiting_its_port()
        << FailLease(1, "port_taken", message, PORT_RETRY)
        >> LeaseAsked(3604, 2, "a")
        << FailLease(2, "port_taken", message, 1.0)
        >> PortFreed(3604.5, "a")
        << StartWorker("a")
    )  # fmt: skip


def test_status_says_the_same_of_its_next_start():
    view = CoreView(awaiting_its_port().scheduler)
    assert [view.group("a", now).retry_wait for now in (6.0, 3604.0)] == [PORT_RETRY, 1.0]
    assert view.group("a", 6.0).members[0].retry_wait == view.host().workers["a"].retry_wait == PORT_RETRY
    assert view.group("b", 6.0).retry_wait == -inf


def test_a_start_that_fails_of_something_else_than_its_port_waits_for_its_cool_down():
    book = awaiting_its_port()
    book.pending.clear()
    failed = "model a failed: unknown flag; see `muxctl logs a`; tried again in 3600 s"
    assert (
        book
        >> PortFreed(20, "a") << StartWorker("a")
        >> LeaseAsked(21, 2, "a")
        >> WorkerExited(25, "a", Failure.REFUSED, "unknown flag") << FailLease(2, "model_failed", failed, 3600.0)
    )  # fmt: skip


def test_where_another_one_has_its_place_by_then_it_waits_for_a_request():
    book = (
        failed_a()
        >> LeaseAsked(10, 2, "b") << StartWorker("b")
        >> WorkerReady(15, "b", "http://b") << GrantLease(2, "http://b", 1)
        >> PortFreed(20, "a")
        >> TimerFired(30)
    )  # fmt: skip
    assert book.state("a") is WorkerState.UNLOADED
    assert not book.pending


def test_a_trial_that_succeeds_gives_a_fresh_budget():
    book = (
        failed_a(restart_limit=2)
        >> LeaseAsked(66, 3, "a") << StartWorker("a")
        >> WorkerReady(70, "a", "http://a") << GrantLease(3, "http://a", 2)
    )  # fmt: skip
    book >> WorkerExited(80, "a", reason="exited with status 1")
    assert [type(c) for c in book.pending] == [RevokeLease, EndLease, StartWorker]


def test_an_operator_may_try_a_failed_worker_at_once():
    assert (
        failed_a()
        >> SwitchAsked(6, 1, "a") << StartWorker("a")
        >> WorkerReady(9, "a", "http://a") << FinishSwitch(1, "http://a")
    )  # fmt: skip


def test_an_operators_switch_to_a_worker_that_fails_for_good_says_why():
    book = Playbook("a") >> SwitchAsked(0, 1, "a") << StartWorker("a")
    book >> WorkerExited(5, "a", Failure.REFUSED, "cannot start: port 31001 is in use")
    (command,) = book.pending
    assert isinstance(command, FailSwitch)
    assert (command.ticket, command.code) == (1, "model_failed")
    assert "port 31001 is in use" in command.message


def test_a_crashed_model_does_not_take_the_gpu_back_from_the_next_one():
    book = serving_a() >> LeaseAsked(20, 2, "b")
    book >> WorkerExited(25, "a", reason="exited with status 1")
    assert book.pending[-1] == StartWorker("b")
    book.pending.clear()
    assert book.state("a") is WorkerState.UNLOADED
    assert book >> WorkerReady(30, "b", "http://b") << GrantLease(2, "http://b", 1)
    assert book >> LeaseEnded(31, 2)


def test_a_sleep_that_fails_ends_the_process_and_the_switch_goes_on():
    assert (
        idle_a()
        >> LeaseAsked(30, 2, "b") << revoked(1, 330)
        >> LeaseEnded(31, 1) << SleepWorker("a", 2)
        >> SleepFailed(60, "a", "release: no answer in 30 s") << StopWorker("a", kill=True)
        >> WorkerExited(61, "a") << StartWorker("b")
    )  # fmt: skip


def test_a_wake_in_doubt_is_killed_and_started_again():
    book = (
        idle_a()
        >> LeaseEnded(20, 1)
        >> LeaseAsked(30, 2, "b") << SleepWorker("a", 2)
        >> WorkerAsleep(32, "a") << StartWorker("b")
        >> WorkerReady(40, "b", "http://b") << GrantLease(2, "http://b", 1)
        >> LeaseEnded(41, 2)
        >> LeaseAsked(42, 3, "a") << SleepWorker("b", 2)
        >> WorkerAsleep(43, "b") << WakeWorker("a")
        >> WakeFailed(50, "a", "resume: no answer in 30 s") << StopWorker("a", kill=True)
        >> WorkerExited(51, "a", reason="was killed by SIGKILL") << StartWorker("a")
    )  # fmt: skip
    assert book
    assert book.worker("a").ended == "its wake failed: resume: no answer in 30 s"


def test_a_worker_that_dies_asleep_stays_down_until_it_is_wanted():
    book = (
        idle_a()
        >> LeaseEnded(20, 1)
        >> LeaseAsked(30, 2, "b") << SleepWorker("a", 2)
        >> WorkerAsleep(32, "a") << StartWorker("b")
        >> WorkerExited(33, "a", reason="was killed by SIGKILL")
    )  # fmt: skip
    assert book
    assert book.state("a") is WorkerState.UNLOADED


def test_a_worker_that_stops_answering_is_killed_and_restarted():
    assert (
        serving_a()
        >> WorkerHung(100, "a", "no answer from /ping 3 times")
        << RevokeLease(1, "worker_unresponsive", "the worker of a stopped answering: no answer from /ping 3 times", 100)
        << EndLease(1)
        << StopWorker("a", kill=True)
        >> WorkerExited(101, "a", reason="was killed by SIGKILL") << StartWorker("a")
    )  # fmt: skip


def test_a_stuck_worker_refuses_those_who_need_its_gpu_and_says_so():
    book = idle_a() >> LeaseEnded(21, 1) >> LeaseAsked(30, 2, "b") << SleepWorker("a", 2)
    book = book >> SleepFailed(40, "a", "release: refused") << StopWorker("a", kill=True)
    book >> WorkerStuck(80, "a", "process 77 survived SIGKILL")
    (command,) = book.pending
    book.pending.clear()
    assert isinstance(command, FailLease)
    assert command.code == "worker_stuck"
    assert "process 77 survived SIGKILL" in command.message
    book >> SwitchAsked(81, 1, "b")
    assert [c.code for c in book.pending] == ["worker_stuck"]
    book.pending.clear()
    assert book >> WorkerExited(90, "a")
    assert book >> LeaseAsked(91, 3, "b") << StartWorker("b")


def test_leases_on_a_stuck_worker_are_taken_at_once():
    assert (
        serving_a()
        >> WorkerStuck(30, "a", "process 77 survived SIGKILL")
        << RevokeLease(1, "worker_exited", "the worker of a process 77 survived SIGKILL", 30)
        << EndLease(1)
    )  # fmt: skip


def test_an_end_that_is_told_of_a_worker_without_processes_changes_nothing():
    book = Playbook("a")
    assert book >> WorkerExited(5, "a", Failure.EXITED, "exited with status 1")
    worker = book.worker("a")
    assert (worker.state, worker.ended, len(worker.failures)) == (WorkerState.UNLOADED, "", 0)


def test_a_worker_that_was_told_to_end_has_not_shown_that_it_is_stable():
    book = Playbook("a") >> LeaseAsked(0, 1, "a") << StartWorker("a")
    book = book >> WorkerExited(1, "a") << StartWorker("a")
    book = book >> WorkerReady(3, "a", "http://a") << GrantLease(1, "http://a", 2) >> LeaseEnded(4, 1)
    book = book >> OrderGiven(500, 9, "a", Verb.RESTART) << StopWorker("a")
    book = book >> WorkerExited(501, "a") << StartWorker("a")
    assert book >> WorkerExited(502, "a", Failure.EXITED, "exited with status 1"), "not started again at once"
    assert book.worker("a").retry_at > 502


def test_who_does_not_wait_yet_would_come_behind_all_who_do():
    book = serving_a("a", "b", "c") >> LeaseAsked(20, 2, "b")
    assert book
    position = book.scheduler.switching.position
    assert (position(book.group("b")), position(book.group("c"))) == (1, 2)


# The operator's switch


def test_an_operators_switch_makes_a_busy_model_drain_at_once():
    assert (
        serving_a()
        >> SwitchAsked(20, 7, "b") << revoked(1, 320)
        >> LeaseEnded(22, 1) << SleepWorker("a", 2)
        >> WorkerAsleep(23, "a") << StartWorker("b")
        >> WorkerReady(30, "b", "http://b") << FinishSwitch(7, "http://b")
    )  # fmt: skip


def test_a_switch_to_what_is_ready_is_done_at_once():
    assert serving_a() >> SwitchAsked(20, 7, "a") << FinishSwitch(7, "http://a")


def test_only_a_newer_switch_supersedes_one():
    assert (
        serving_a("a", "b", "c")
        >> SwitchAsked(20, 7, "b") << revoked(1, 320)
        >> SwitchAsked(21, 8, "c")
        << FailSwitch(7, "superseded", "a newer switch, to c, took its place")
        << RestoreLease(1)
        << RevokedAnew
        >> LeaseEnded(22, 1) << SleepWorker("a", 2)
        >> WorkerAsleep(23, "a") << StartWorker("c")
        >> WorkerReady(30, "c", "http://c") << FinishSwitch(8, "http://c")
    )  # fmt: skip


#: What was draining for a switch that is called off, and must drain for the next one: asked once more.
RevokedAnew = revoked(1, 321, to="c")


def test_two_operators_who_want_the_same_both_get_it():
    assert (
        idle_a()
        >> SwitchAsked(20, 7, "b") << revoked(1, 320)
        >> SwitchAsked(21, 8, "b")
        >> LeaseEnded(22, 1) << SleepWorker("a", 2)
        >> WorkerAsleep(23, "a") << StartWorker("b")
        >> WorkerReady(30, "b", "http://b") << FinishSwitch(7, "http://b") << FinishSwitch(8, "http://b")
    )  # fmt: skip


def test_a_switch_back_to_what_drains_calls_the_drain_off():
    book = serving_a() >> LeaseAsked(20, 2, "b") >> SwitchAsked(21, 7, "b") << revoked(1, 321)
    book >> SwitchAsked(22, 8, "a")
    assert (
        book
        << FailSwitch(7, "superseded", "a newer switch, to a, took its place")
        << RestoreLease(1)
        << FinishSwitch(8, "http://a")
    )
    assert book.state("a") is WorkerState.READY


def test_a_switch_goes_ahead_of_the_queue():
    assert (
        serving_a("a", "b", "c")
        >> LeaseAsked(20, 2, "b", (Waiting(50),))
        >> SwitchAsked(21, 7, "c") << revoked(1, 321, to="c")
        >> LeaseEnded(22, 1) << SleepWorker("a", 2)
        >> WorkerAsleep(23, "a") << StartWorker("c")
        >> WorkerReady(30, "c", "http://c") << FinishSwitch(7, "http://c")
        << SleepWorker("c", 2)  # no pin: nobody asks c anything, so b gets its turn
    )  # fmt: skip


# Shutdown


def test_shutdown_drains_then_stops_everything_and_says_when_it_is_done():
    assert (
        serving_a()
        >> LeaseAsked(20, 2, "b")
        >> ShutdownAsked(25, 55)
        << RevokeLease(1, "shutdown", "muxd is shutting down", 55)
        << FailLease(2, "shutting_down", "muxd is shutting down; send the request again when it is back", None)
        >> LeaseEnded(30, 1) << StopWorker("a")
        >> WorkerExited(31, "a") << FinishShutdown()
    )  # fmt: skip


def test_shutdown_kills_what_loads_and_what_sleeps():
    assert (
        idle_a()
        >> LeaseEnded(20, 1)
        >> LeaseAsked(30, 2, "b") << SleepWorker("a", 2)
        >> WorkerAsleep(32, "a") << StartWorker("b")
        >> ShutdownAsked(33, 63)
        << StopWorker("a", kill=True) << StopWorker("b", kill=True)
        << FailLease(2, "shutting_down", "muxd is shutting down; send the request again when it is back", None)
        >> WorkerExited(34, "b")
        >> WorkerExited(35, "a") << FinishShutdown()
    )  # fmt: skip


def test_shutdown_takes_leases_away_at_the_deadline():
    assert (
        serving_a()
        >> ShutdownAsked(20, 50) << RevokeLease(1, "shutdown", "muxd is shutting down", 50)
        >> TimerFired(51) << EndLease(1) << StopWorker("a")
    )  # fmt: skip


def test_a_second_shutdown_hurries():
    assert (
        serving_a()
        >> ShutdownAsked(20, 50) << RevokeLease(1, "shutdown", "muxd is shutting down", 50)
        >> ShutdownAsked(21, 21) << RevokeLease(1, "shutdown", "muxd is shutting down", 21)
        >> TimerFired(22) << EndLease(1) << StopWorker("a", kill=True)
        >> ShutdownAsked(23, 23) << StopWorker("a", kill=True)
        >> WorkerExited(24, "a") << FinishShutdown()
    )  # fmt: skip


def test_with_nothing_running_shutdown_is_done_at_once():
    assert Playbook("a") >> ShutdownAsked(1, 31) << FinishShutdown()


def test_moves_are_recorded_with_their_reason():
    assert (
        Playbook("a", moves=True)
        >> LeaseAsked(0, 1, "a") << RecordMove("a", WorkerState.UNLOADED, WorkerState.STARTING, "") << StartWorker("a")
        >> WorkerExited(1, "a", Failure.REFUSED, "port taken")
        << RecordMove("a", WorkerState.STARTING, WorkerState.FAILED, "port taken")
        << FailLease(1, "model_failed", "model a failed: port taken; see `muxctl logs a`; tried again in 60 s", 60.0)
    )  # fmt: skip


def test_an_answer_that_comes_too_late_changes_nothing():
    book = (
        Playbook("a")
        >> LeaseAsked(0, 1, "a") << StartWorker("a")
        >> ShutdownAsked(1, 31) << StopWorker("a", kill=True)
    )  # fmt: skip
    book.pending.clear()
    assert book >> WorkerReady(2, "a", "http://a")
    assert book.state("a") is WorkerState.STOPPING


def test_a_death_is_told_at_once_and_the_gpu_waits_for_its_memory():
    book = serving_a() >> LeaseAsked(50, 2, "b") >> WorkerDied(52, "a", "killed by SIGKILL")
    assert book << RevokeLease(1, "worker_exited", "the worker of a killed by SIGKILL", 52) << EndLease(1)
    assert book.state("a") is WorkerState.STOPPING
    assert book >> WorkerExited(60, "a", reason="killed by SIGKILL") << StartWorker("b")


def test_a_wake_that_fails_does_not_use_up_the_restart_budget_and_the_level_is_given_up():
    book = (
        Playbook(single("a", restart_limit=1), "b")
        >> LeaseAsked(0, 1, "a") << StartWorker("a")
        >> WorkerReady(1, "a", "http://a") << GrantLease(1, "http://a", 1)
        >> LeaseEnded(2, 1)
    )  # fmt: skip
    lease, now = 1, 10.0
    for _ in range(BAD_LEVELS):
        lease += 2
        come = WakeWorker("b") if book.state("b") is WorkerState.ASLEEP else StartWorker("b")
        assert (
            book
            >> LeaseAsked(now, lease, "b") << SleepWorker("a", 2)
            >> WorkerAsleep(now + 1, "a") << come
            >> WorkerReady(now + 2, "b", "http://b") << GrantLease(lease, "http://b", book.worker("b").generation)
            >> LeaseEnded(now + 3, lease)
            >> LeaseAsked(now + 4, lease + 1, "a") << SleepWorker("b", 2)
            >> WorkerAsleep(now + 5, "b") << WakeWorker("a")
            >> WakeFailed(now + 6, "a", "reload was refused: 400") << StopWorker("a", kill=True)
            >> WorkerExited(now + 7, "a", reason="killed by SIGKILL") << StartWorker("a")
            >> WorkerReady(now + 8, "a", "http://a") << GrantLease(lease + 1, "http://a", book.worker("a").generation)
            >> LeaseEnded(now + 9, lease + 1)
        )  # fmt: skip
        now += 20
    assert book >> LeaseAsked(now, 99, "b") << StopWorker("a"), "it sleeps at level 3 now"


def test_a_model_that_its_gpu_can_never_hold_is_refused_at_once_and_evicts_nobody():
    message = (
        "model b can never be loaded: it needs 420.0 GiB on each of its GPUs, and GPU 0 has 80.0 GiB in all; "
        "give it more GPUs, or correct its `memory`"
    )
    book = Playbook("a", single("b", memory=420 << 30)) >> GpusMeasured(0, {"0": 80 << 30})
    assert (
        book
        >> LeaseAsked(1, 1, "a") << StartWorker("a")
        >> WorkerReady(2, "a", "http://a") << GrantLease(1, "http://a", 1)
        >> DemandReported(3, 1, 0)
        >> LeaseAsked(4, 2, "b") << FailLease(2, "model_too_large", message)
        >> SwitchAsked(5, 3, "b") << FailSwitch(3, "model_too_large", message)
    )  # fmt: skip


def test_a_gpu_that_is_not_there_is_refused_at_once_and_evicts_nobody():
    message = "model b can never be loaded: GPU 7 is not there: there are 0, 1; correct its `gpus`"
    book = Playbook("a", single("b", gpus=frozenset({"0", "7"}), preload=True))
    assert (
        book
        >> GpusMeasured(0, {"0": 80 << 30}, there=frozenset({"0", "1"}))
        >> Started(1)
        >> LeaseAsked(2, 1, "a") << StartWorker("a")
        >> WorkerReady(3, "a", "http://a") << GrantLease(1, "http://a", 1)
        >> DemandReported(4, 1, 0)
        >> LeaseAsked(5, 2, "b") << FailLease(2, "gpu_missing", message)
        >> SwitchAsked(6, 3, "b") << FailSwitch(3, "gpu_missing", message)
        >> OrderGiven(7, 4, "b", Verb.START) << FailOrder(4, "gpu_missing", message)
    )  # fmt: skip
    assert never_said(book, "b") == message.removeprefix("model b ")


def test_a_card_that_is_lost_or_a_number_that_is_no_card_is_not_missing():
    book = Playbook(single("a", gpus=frozenset({"1"})), single("b", gpus=frozenset({"9"}), on_cards=False))
    book >> GpusMeasured(0, {"0": 80 << 30}, there=frozenset({"0", "1"}))
    assert book >> LeaseAsked(1, 1, "a") << StartWorker("a") >> LeaseAsked(2, 2, "b") << StartWorker("b")


def test_weights_that_its_gpus_can_never_hold_are_refused_where_no_memory_is_declared():
    spec = single("b", gpus=frozenset({"0", "1"}))
    message = (
        "model b can never be loaded: its weights alone need 200.0 GiB, and GPU 0 has 80.0 GiB in all, "
        "GPU 1 has 80.0 GiB in all; give it more GPUs, or a smaller model"
    )
    book = Playbook("a", spec) >> WeightsSeen(0, {"b": 200 << 30}) >> GpusMeasured(1, {"0": 80 << 30, "1": 80 << 30})
    assert book >> LeaseAsked(2, 1, "b") << FailLease(1, "model_too_large", message)
    assert never_said(book, "b") == message.removeprefix("model b ")
    for sizes, totals in (({"b": 150}, (80, 80)), ({"b": 200}, (80,)), ({}, (80, 80))):
        weights = {name: size << 30 for name, size in sizes.items()}
        book = Playbook(spec) >> WeightsSeen(0, weights)
        book >> GpusMeasured(1, {str(gpu): total << 30 for gpu, total in enumerate(totals)})
        assert book >> LeaseAsked(2, 1, "b") << StartWorker("b")
    declared = single("b", memory=40 << 30)
    book = Playbook(declared) >> WeightsSeen(0, {"b": 200 << 30}) >> GpusMeasured(1, {"0": 80 << 30})
    assert book >> LeaseAsked(2, 1, "b") << StartWorker("b"), "who declares it knows better"


def test_a_restart_on_to_a_gpu_that_is_not_there_ends_in_a_word():
    book = Playbook("a") >> GpusMeasured(0, {}, there=frozenset({"0"}))
    book >> LeaseAsked(1, 1, "a") << StartWorker("a")
    book >> WorkerReady(2, "a", "http://a") << GrantLease(1, "http://a", 1)
    book >> Reconfigured(3, (single("a", gpus=frozenset({"7"})),), frozenset({"a"}), 30.0)
    book.pending.clear()
    book >> LeaseEnded(4, 1)
    book.pending.clear()
    book >> WorkerExited(5, "a")
    assert StartWorker("a") not in book.pending
    assert book.state("a") is WorkerState.UNLOADED


def never_said(book: Playbook, name: str) -> str | None:
    return next_step(book.scheduler.host, book.scheduler.switching, book.scheduler.idling, book.group(name), 10)


def test_a_corrected_memory_is_tried():
    book = Playbook(single("b", memory=420 << 30)) >> GpusMeasured(0, {"0": 80 << 30})
    book >> Reconfigured(1, (single("b", memory=42 << 30),), frozenset({"b"}), 30.0)
    book.pending.clear()
    assert book >> LeaseAsked(2, 1, "b") << StartWorker("b")
