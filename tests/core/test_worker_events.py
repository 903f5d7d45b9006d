"""What the end, the death or the failure of a worker means for it, its group and its leases."""

from math import inf

import pytest

from muxd.core.commands import (
    EndLease,
    FailLease,
    FailSwitch,
    FinishSwitch,
    GrantLease,
    RecordMove,
    RevokeLease,
    SleepWorker,
    StartWorker,
    StopWorker,
    WakeWorker,
)
from muxd.core.events import (
    Failure,
    LeaseAsked,
    LeaseEnded,
    OrderGiven,
    PortFreed,
    ShutdownAsked,
    SleepFailed,
    SwitchAsked,
    TimerFired,
    Verb,
    WakeFailed,
    WorkerAsleep,
    WorkerDied,
    WorkerExited,
    WorkerHung,
    WorkerReady,
    WorkerStuck,
)
from muxd.core.states import WorkerState
from muxd.core.view import CoreView
from muxd.core.worker import BAD_LEVELS, PORT_RETRY

from .playbook import Playbook, idle_a, serving_a, single


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
        >> LeaseAsked(30, 2, "b") << RevokeLease(1, "switch", "a gives way to b", 330)
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
