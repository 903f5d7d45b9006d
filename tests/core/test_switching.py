"""Who comes and who gives way: leases, switches, preloaded models, and an operator's switch."""

from math import inf

from muxd.core.commands import (
    EndLease,
    FailSwitch,
    FinishSwitch,
    GrantLease,
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
    LeaseAsked,
    LeaseEnded,
    Started,
    SwitchAsked,
    TimerFired,
    Waiting,
    WorkerAsleep,
    WorkerExited,
    WorkerReady,
)
from muxd.core.states import WorkerState

from .playbook import Playbook, idle_a, serving_a, single


def revoked(lease, deadline, to="b"):
    return RevokeLease(lease, "switch", f"a gives way to {to}", deadline)


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
    assert book << SetTimer(at)
    assert book >> TimerFired(at) << revoked(1, at + 300) << SetTimer(at + 301)


def test_it_keeps_its_turn_for_as_long_as_the_switch_is_known_to_cost():
    book = Playbook("a", single("b", sleep_level=3), wait_target=5.0) >> LeaseAsked(0, 1, "b") << StartWorker("b")
    book = book >> WorkerReady(40, "b", "http://b") << GrantLease(1, "http://b", 1) >> LeaseEnded(41, 1)
    book = book >> LeaseAsked(42, 2, "a") << StopWorker("b")
    book = book >> WorkerExited(43, "b") << StartWorker("a")
    book = book >> WorkerReady(50, "a", "http://a") << GrantLease(2, "http://a", 1)
    book = book >> LeaseAsked(51, 3, "b")
    assert book.timer == 50 + 1 + 40  # a sleep is guessed to take a second


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


def on_two_gpus():
    """Return a that serves, and b that shares its GPU, beside c, which has another one."""
    return serving_a(single("a", frozenset({"0"})), single("b", frozenset({"0"})), single("c", frozenset({"1"})))


SUPERSEDED = FailSwitch(7, "superseded", "a newer switch, to c, took its place")


def test_what_drains_for_a_superseded_switch_serves_again_also_where_the_newer_one_is_on_other_gpus():
    book = on_two_gpus() >> SwitchAsked(20, 7, "b") << revoked(1, 320)
    book = book >> SwitchAsked(21, 8, "c") << SUPERSEDED << RestoreLease(1) << StartWorker("c")
    assert book >> WorkerReady(30, "c", "http://c") << FinishSwitch(8, "http://c")
    assert book.state("a") is WorkerState.READY


def test_a_superseded_switch_goes_on_for_clients_who_wait_for_the_same_model():
    book = on_two_gpus() >> SwitchAsked(20, 7, "b") << revoked(1, 320) >> LeaseAsked(21, 2, "b")
    book = book >> SwitchAsked(22, 8, "c") << SUPERSEDED << StartWorker("c")
    assert book >> LeaseEnded(23, 1) << SleepWorker("a", 2) >> WorkerAsleep(24, "a") << StartWorker("b")


def test_a_superseded_switch_that_has_begun_goes_on():
    book = on_two_gpus() >> SwitchAsked(20, 7, "b") << revoked(1, 320) >> LeaseEnded(21, 1) << SleepWorker("a", 2)
    book = book >> WorkerAsleep(22, "a") << StartWorker("b")
    book = book >> SwitchAsked(23, 8, "c") << SUPERSEDED << StartWorker("c")
    assert book >> WorkerReady(30, "b", "http://b")


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
