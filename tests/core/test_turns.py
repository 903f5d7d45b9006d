"""An idle model keeps its turn for as long as its clients usually take to return, and no longer than is worth it."""

from math import inf

import pytest

from muxd.core.commands import GrantLease, RevokeLease, SleepWorker, StartWorker, WakeWorker
from muxd.core.events import (
    DemandReported,
    Failure,
    GpusMeasured,
    LeaseAsked,
    LeaseEnded,
    SwitchAsked,
    TimerFired,
    Waiting,
    WorkerAsleep,
    WorkerExited,
    WorkerReady,
)
from muxd.core.policy import linger, usual_gap
from muxd.core.progress import next_step
from muxd.core.states import WorkerState
from muxd.core.view import CoreView

from .playbook import Playbook, serving_a, single


def test_a_client_that_usually_returns_is_waited_for_a_little_longer_than_it_takes():
    assert linger(usual_gap([1.0, 1.0, 1.0]), 6.0) == pytest.approx(1.35)


def test_who_takes_longer_than_a_fifth_of_a_switch_there_and_back_is_not_waited_for():
    assert linger(usual_gap([1.2]), 6.0) == pytest.approx(1.6)
    assert linger(usual_gap([1.6]), 6.0) == 0.0


def test_where_nothing_is_known_a_client_is_waited_for_only_as_long_as_is_cheap():
    assert linger(usual_gap([]), 6.0) == pytest.approx(0.3)
    assert linger(usual_gap([]), 60.0) == 0.5


def test_the_more_wait_for_another_model_the_less_a_client_is_waited_for():
    assert linger(usual_gap([1.0]), 12.0, waiting=1.0) == linger(usual_gap([1.0]), 12.0, waiting=2.0)
    assert linger(usual_gap([1.0]), 12.0, waiting=3.0) == 0.0
    assert linger(usual_gap([]), 6.0, waiting=6.0) == pytest.approx(0.05)


def test_one_client_that_stayed_away_is_forgiven_two_are_not():
    assert linger(usual_gap([1.0, 1.0, 1.0, 1.0, inf]), 6.0) > 1.0
    assert linger(usual_gap([1.0, 1.0, 1.0, inf, inf]), 6.0) == 0.0


def agents(**policy) -> Playbook:
    """Return a world in which a serves an agent that returns a second after each answer, and b sleeps."""
    book = (
        Playbook(*policy.get("models", ("a", "b")), wait_target=30.0)
        >> LeaseAsked(0, 1, "b")
        << StartWorker("b")
        >> WorkerReady(2, "b", "http://b")
        << GrantLease(1, "http://b", 1)
        >> LeaseEnded(3, 1)
        >> LeaseAsked(300, 2, "a")
        << SleepWorker("b", 2)
        >> WorkerAsleep(301, "b")
        << StartWorker("a")
        >> WorkerReady(303, "a", "http://a")
        << GrantLease(2, "http://a", 1)
    )
    book.scheduler.switching.lineup.keep_turns = policy.get("keep_turns", True)
    for second in range(304, 312, 2):
        book >> DemandReported(second, 2, 0) >> DemandReported(second + policy.get("think", 1.0), 2, 1)
    return book >> DemandReported(312, 2, 0)


def revoked(at: float) -> RevokeLease:
    return RevokeLease(2, "switch", "a gives way to b", at + 300)


def test_an_idle_model_keeps_its_turn_until_its_client_returns():
    book = agents() >> LeaseAsked(312.1, 3, "b")
    assert book.timer == pytest.approx(313.35)
    assert book >> DemandReported(313, 2, 1) >> TimerFired(313.35) >> DemandReported(314, 2, 0)
    assert book.timer == pytest.approx(315.35), "its client has returned, and is waited for again"


def test_a_client_that_does_not_return_costs_one_linger():
    book = agents() >> LeaseAsked(312.1, 3, "b") >> TimerFired(313.35) << revoked(313.35)
    assert book
    assert book.group("a").gaps[-1] == inf


@pytest.mark.parametrize(("waiting", "last"), [(1, inf), (9, 1.0)])
def test_nobody_is_said_not_to_return_to_a_model_that_was_not_kept(waiting, last):
    """One that nobody has used for a while was kept from one request as long as a linger, from many not at all."""
    book = agents() >> LeaseAsked(320, 3, "b", (Waiting(waiting, 0.0),)) << revoked(320)
    assert book.group("a").gaps[-1] == last


def test_an_idle_model_is_kept_the_less_the_more_requests_wait_for_whichever_model():
    three = ("a", "b", "c")
    assert (agents(models=three) >> LeaseAsked(312.1, 3, "b")).timer == pytest.approx(313.35)
    assert agents(models=three) >> LeaseAsked(312.1, 3, "b") >> LeaseAsked(312.2, 4, "c") << revoked(312.2)


def test_more_requests_for_one_model_hasten_the_switch_to_another():
    book = agents(models=("a", "b", "c"), think=0.4) >> LeaseAsked(312.1, 3, "b") >> LeaseAsked(312.2, 4, "c")
    assert book.timer == pytest.approx(312.6)
    assert book >> DemandReported(312.3, 4, 0, (Waiting(9, 0.1),)) << revoked(312.3)


def test_status_says_for_how_long_and_why():
    book = agents() >> LeaseAsked(312.1, 3, "b")
    host, switching = book.scheduler.host, book.scheduler.switching
    said = next_step(host, switching, book.scheduler.idling, book.group("a"), 312.1)
    assert said == "kept for 1.2s: its client usually returns; then gives way to b"


def test_the_bound_of_who_waits_ends_the_turn_of_an_idle_model():
    book = agents() >> DemandReported(313, 2, 1) >> LeaseAsked(313.5, 3, "b")
    for second in range(314, 360, 2):
        book >> DemandReported(second, 2, 0)
        if book.pending:
            break
        book >> DemandReported(second + 1, 2, 1)
        if book.pending:
            break
    assert book << revoked(book.scheduler.host.now)
    assert book.scheduler.host.now - 313.5 <= 30


@pytest.mark.parametrize(("waiting", "target"), [(1, 100), (60, 100), (70, 600 / 7), (80, 85)])
def test_who_waits_for_one_that_many_use_waits_longer_the_fewer_they_are(waiting, target):
    """Many are in flight: sixty times those beyond a few are 600."""
    book = agents() >> DemandReported(313, 2, 40)
    answers = book.group("a").answers
    answers.load = answers.mean_load = 15.0
    book.worker("a").costs[WorkerState.DRAINING, None].learn(10.0)
    book >> LeaseAsked(313.5, 3, "b", (Waiting(waiting, 0.0),))
    assert book.timer == 313.5 + target - 10


def test_a_busy_model_gives_way_when_another_one_is_due_however_long_its_answers_take():
    book = agents() >> DemandReported(313, 2, 3, oldest=40.0, usual=4.0)
    book >> LeaseAsked(314, 3, "b") >> DemandReported(335, 2, 3, oldest=62.0, usual=4.0)
    assert book.timer == pytest.approx(343.8, abs=0.1)
    assert book >> TimerFired(343.9) << revoked(343.9)


def test_who_waits_for_one_that_is_never_idle_is_due_before_its_requests_are_refused():
    """Turns and switches of all others that wait would take longer than any request does."""
    names = [f"m{number}" for number in range(60)]
    book = serving_a("a", *names, wait_target=30.0)
    for number, name in enumerate(names):
        book >> LeaseAsked(20 + number / 100, 2 + number, name) >> DemandReported(21, 1, 9, oldest=1.0, usual=4.0)
    assert sum(book.worker(name).costs[WorkerState.STARTING, None].seconds for name in names) > 600
    due = 20 + 540 - book.worker("m0").costs[WorkerState.STARTING, None].seconds
    assert due - 30 < book.timer <= due, "with a drain"
    assert (
        book >> TimerFired(book.timer) << RevokeLease(1, "switch", "a gives way to m0", book.scheduler.host.now + 300)
    )


def one_answer(
    since: float, *, in_flight: int = 1, oldest: float = 1.0, is_batch: bool = False, load: float | None = None
) -> Playbook:
    """Return a world in which a model answers one request, and another one has waited since then, due 30 s later."""
    book = agents() >> DemandReported(313, 2, 3, oldest=1.0, usual=4.0)
    if load is not None:
        answers = book.group("a").answers
        answers.load = answers.mean_load = load
    book >> LeaseAsked(since, 3, "b", (Waiting(1, 0.0, is_batch=is_batch),))
    return book >> DemandReported(since + 9, 2, in_flight, oldest=oldest, usual=4.0)


def test_a_quiet_model_gives_way_before_the_other_one_is_due():
    book = one_answer(314, load=4.5)
    assert book.timer == pytest.approx(325.9, abs=0.1), "two fifths of 30 s"
    assert book >> TimerFired(326) << revoked(326)
    assert book.group("a").answers.crowd == 0, "that it was quiet says nothing of how many are usually in flight"


def test_no_quiet_moment_is_looked_for_where_the_model_is_idle_by_itself_in_half_a_minute():
    book = one_answer(314, load=2.7)
    idle_in = book.group("a").until_idle
    assert 20 < idle_in < 25
    assert book.timer == pytest.approx(343.75 - idle_in * 2 * idle_in / 60, abs=0.1)


def test_of_a_quiet_model_it_is_told_when_it_gives_way_at_the_latest():
    """Not the quiet moment: it may be quiet no more by then."""
    book = one_answer(314, load=4.5)
    for name, state in (("a", WorkerState.FALLING_ASLEEP), ("b", WorkerState.WAKING)):
        cost = book.worker(name).costs[state, 2]
        cost.learn(cost.seconds)
    said = CoreView(book.scheduler).group("a", 323).next_step
    assert (book.timer, said) == (pytest.approx(325.9, abs=0.1), "gives way to b in at most 21s")


def test_a_moment_is_quiet_also_right_after_another_look():
    """Within a second of it, and with the same oldest answer under way."""
    book = one_answer(314, in_flight=3, load=3.0) >> DemandReported(328.0, 2, 3, oldest=1.0, usual=4.0)
    assert book >> DemandReported(328.4, 2, 1, oldest=1.4, usual=4.0) << revoked(328.4)


def test_a_model_is_not_quiet_with_as_many_answers_as_usual_or_one_that_takes_long_already_or_for_batch():
    assert one_answer(314, in_flight=3).timer > 343
    assert one_answer(314, oldest=8.0).timer > 343, "it will have taken 2.5 times as long before two fifths of 30 s"
    assert one_answer(314, is_batch=True).timer > 840


def test_a_model_with_fewer_answers_than_usual_gives_way_later_than_a_quiet_one():
    book = one_answer(314, in_flight=2, load=6.0) >> DemandReported(328, 2, 2, oldest=1.0, usual=4.0)
    assert book.group("a").fullness == pytest.approx(0.27, abs=0.01)
    assert book.timer == pytest.approx(335.3, abs=0.1), "five sevenths of 29.8 s"
    assert book >> TimerFired(335.4) << revoked(335.4)


def test_a_model_whose_answers_differ_much_is_not_quiet_with_one_under_way():
    """The one answer may be of the long kind, however young it is; turns are longer, for drains are."""
    book = agents() >> DemandReported(313, 2, 1, oldest=1.0, usual=4.0)
    book >> DemandReported(353, 2, 1, oldest=41.0, usual=4.0) >> DemandReported(354, 2, 1, oldest=0.5, usual=4.0)
    book >> LeaseAsked(354, 3, "b") >> DemandReported(367, 2, 1, oldest=1.0, usual=4.0)
    assert not book.pending
    book >> DemandReported(375, 2, 1, oldest=0.5, usual=4.0)
    assert book.timer == pytest.approx(397.7, abs=0.1), "due, 43.7 s later"


def test_a_drain_is_expected_to_take_as_long_as_answers_do_where_none_was_measured():
    book = agents() >> DemandReported(313, 2, 3, oldest=1.0, usual=20.0)
    assert book.group("a").known_drain == pytest.approx(20, rel=0.01)
    book.group("a").answers.crowd = 4.0
    assert book.group("a").known_drain == pytest.approx(20 * (1 + 1 / 2 + 1 / 3 + 1 / 4), rel=0.01)
    book.worker("a").costs[WorkerState.DRAINING, None].learn(100.0)
    assert book.group("a").known_drain == 100


def test_how_many_are_in_flight_when_it_gives_way_is_learned():
    book = agents() >> DemandReported(313, 2, 40) >> SwitchAsked(314, 9, "b")
    assert book.group("a").answers.crowd == 40


def test_how_many_are_in_flight_in_the_mean_is_learned_of_the_last_half_minute():
    book = agents()
    for second in range(313, 413):
        book >> DemandReported(second, 2, 7)
    assert book.group("a").answers.load == pytest.approx(7, abs=0.5)
    book >> DemandReported(413, 2, 1)
    for second in range(414, 435):
        book >> DemandReported(second, 2, 1)
    assert 3.5 < book.group("a").answers.load < 4.5, "half of them after 21 s"


def test_it_can_be_turned_off():
    assert agents(keep_turns=False) >> LeaseAsked(312.1, 3, "b") << revoked(312.1)


def test_a_return_that_another_models_answer_may_have_caused_teaches_nothing():
    """One client that asks a and b in turn: to wait for it would hold it up."""
    book = agents(keep_turns=False) >> LeaseAsked(313, 3, "b") << revoked(313)
    book >> LeaseEnded(313, 2) << SleepWorker("a", 2)
    book >> WorkerAsleep(314, "a") << WakeWorker("b")
    book >> WorkerReady(315, "b", "http://b") << GrantLease(3, "http://b", 2)
    before = list(book.group("a").gaps)
    book >> DemandReported(316, 3, 0) >> LeaseAsked(316.1, 4, "a")
    assert list(book.group("a").gaps) == before
    book.pending.clear()


def test_what_is_kept_for_one_who_waited_long_is_free_once_its_oldest_request_has_gone():
    book = Playbook(single("r", share=30), single("d", share=20), single("a"), wait_target=90.0)
    book.worker("a").return_cost.learn(60.0)
    book >> GpusMeasured(0, {"0": 80})
    book >> LeaseAsked(0, 1, "d") << StartWorker("d")
    book >> WorkerReady(60, "d", "http://d") << GrantLease(1, "http://d", 1)
    book >> LeaseEnded(61, 1)
    book >> LeaseAsked(62, 2, "r") << StartWorker("r")
    book >> WorkerReady(122, "r", "http://r") << GrantLease(2, "http://r", 1)
    assert book >> DemandReported(123, 2, 1)
    assert book >> LeaseAsked(124, 3, "a", (Waiting(1, 600.0),)), "due, and r has a turn"
    assert book >> WorkerExited(125, "d", Failure.EXITED, "exited with status 1"), "its room is kept for a"
    book >> DemandReported(126, 3, 0, (Waiting(1, 0.0),)) << StartWorker("d")
    assert book


def test_who_needs_no_gpu_has_no_turn_and_comes_at_once():
    book = (
        Playbook("a", "b", single("far", frozenset()))
        >> LeaseAsked(0, 1, "a")
        << StartWorker("a")
        >> WorkerReady(2, "a", "http://a")
        << GrantLease(1, "http://a", 1)
        >> LeaseAsked(3, 2, "far")
        << StartWorker("far")
        >> WorkerReady(4, "far", "http://far")
        << GrantLease(2, "http://far", 1)
    )
    assert book


def test_of_a_line_of_reports_the_last_one_has_it_decided_as_each_for_itself_would():
    """A line has a report for each lease of a proxy: 100 decisions took 35 ms of CPU."""
    ends = []
    for last in (DemandReported(14, 3, 0), DemandReported(14, 3, 0, more=True)):
        book = serving_a() >> LeaseAsked(11, 3, "a") << GrantLease(3, "http://a", 1)
        book >> LeaseAsked(13, 2, "b", (Waiting(1, 0.0),)) >> DemandReported(14, 1, 0, more=True)
        book >> last >> DemandReported(14, 1, 0)
        ends.append(book.timer)
        book >> TimerFired(14.5)
        for lease in (1, 3):
            book << RevokeLease(lease, "switch", "a gives way to b", 314.5)
    assert ends == [14.5, 14.5]
