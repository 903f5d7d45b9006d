from math import log

import pytest

from muxd.core.events import (
    DemandReported,
    Failure,
    LeaseAsked,
    LeaseEnded,
    OrderGiven,
    RouterSynced,
    SwitchAsked,
    TimerFired,
    Verb,
    WorkerAsleep,
    WorkerExited,
    WorkerReady,
)
from muxd.core.progress import Progress, ScalingProgress, likeliest_drain, progress_of
from muxd.core.states import WorkerState

from .playbook import Playbook, replicas


def look(book: Playbook, name: str, now: float) -> Progress:
    return progress_of(book.scheduler.host, book.scheduler.switching, book.group(name), now)


def play(book: Playbook, *events) -> Playbook:
    for event in events:
        book >> event
        book.pending.clear()
    return book


def both_measured() -> Playbook:
    """a sleeps (started in 10 s, slept in 2 s), b is ready (started in 20 s)."""
    return play(
        Playbook("a", "b"),
        LeaseAsked(0, 1, "a"),
        WorkerReady(10, "a", "http://a"),
        LeaseEnded(11, 1),
        LeaseAsked(12, 2, "b"),
        WorkerAsleep(14, "a"),
        WorkerReady(34, "b", "http://b"),
    )


def test_before_anything_was_measured_there_is_no_eta():
    book = play(Playbook("a"), LeaseAsked(0, 1, "a"))
    assert look(book, "a", 5) == Progress("starting", (), 5, None)


def test_a_second_start_is_as_long_as_the_first():
    book = play(both_measured(), WorkerExited(40, "b", Failure.EXITED, "x"))
    assert look(book, "b", 45) == Progress("starting", (), 5, 15.0)


def test_a_wake_is_unknown_until_there_was_one():
    book = play(both_measured(), LeaseEnded(35, 2), LeaseAsked(36, 3, "a"), WorkerAsleep(38, "b"))
    assert look(book, "a", 38.5) == Progress("waking", ("b",), 2.5, None)
    play(book, WorkerReady(39, "a", "http://a"), LeaseEnded(40, 3), LeaseAsked(41, 4, "b"))
    assert look(book, "b", 41.5).phase == "falling_asleep"


def test_a_whole_switch_is_the_sum_of_what_was_measured():
    book = play(
        both_measured(),
        LeaseEnded(35, 2),
        LeaseAsked(36, 3, "a"),
        WorkerAsleep(38, "b"),  # b fell asleep in 2 s
        WorkerReady(39, "a", "http://a"),  # a woke in 1 s
        DemandReported(40, 3, 0),
        LeaseEnded(41, 3),
        LeaseAsked(50, 4, "b"),
        WorkerAsleep(52, "a"),
        WorkerReady(55, "b", "http://b"),  # b woke in 3 s
        LeaseEnded(56, 4),
        SwitchAsked(60, 5, "a"),
    )
    assert look(book, "a", 60.5) == Progress("falling_asleep", ("b",), 0.5, 2.0 - 0.5 + 1.0)


def test_the_drain_of_an_idle_model_takes_no_time_and_says_nothing_of_what_drains_take():
    book = play(
        both_measured(),
        DemandReported(35, 2, 0),
        LeaseAsked(36, 3, "a"),
        TimerFired(40),  # b is idle, and its clients are not waited for any longer
        LeaseEnded(40.5, 2),
        WorkerAsleep(42.5, "b"),
        WorkerReady(43.5, "a", "http://a"),
        DemandReported(43.5, 3, 1),
        LeaseAsked(44, 4, "b"),
        TimerFired(100),  # a has had its turn
        LeaseEnded(110, 3),
        WorkerAsleep(112, "a"),
        WorkerReady(113, "b", "http://b"),
        DemandReported(114, 4, 0),
        LeaseAsked(115, 5, "a"),
        TimerFired(125),
    )
    assert not book.worker("b").cost(WorkerState.DRAINING).measured
    assert book.worker("a").cost(WorkerState.DRAINING).seconds == pytest.approx(10)
    assert book.state("b") is WorkerState.DRAINING
    assert look(book, "a", 125.2).eta == pytest.approx(2 + 1), "its sleep and the wake"


def test_who_waits_behind_a_busy_model_is_told_when_it_must_give_way():
    book = play(both_measured(), LeaseAsked(36, 3, "a"))
    view = look(book, "a", 36)
    assert view.phase == "queued"
    assert view.eta is None, "a has never been woken: nobody knows how long that takes"


def test_a_ready_worker_is_ready():
    assert look(both_measured(), "b", 40) == Progress("ready", (), 6, 0.0)


def test_how_long_a_drain_takes_is_told_by_how_much_is_in_flight():
    """Of four answers the last one takes 1 + 1/2 + 1/3 + 1/4 as long as a mean one, which takes 12 s therefore."""
    book = play(both_measured(), DemandReported(35, 2, 4), SwitchAsked(36, 9, "a"), LeaseEnded(61, 2))
    play(book, WorkerAsleep(63, "b"), WorkerReady(64, "a", "http://a"), LeaseAsked(65, 3, "b"), SwitchAsked(65, 8, "b"))
    play(book, WorkerAsleep(66, "a"), WorkerReady(67, "b", "http://b"), DemandReported(68, 3, 2))
    play(book, SwitchAsked(70, 7, "a"))
    two, one = likeliest_drain(2, 12.0, 3.0) + 3, likeliest_drain(1, 12.0, 3.0) + 3
    assert look(book, "a", 70).eta == pytest.approx(two, abs=0.1)
    play(book, DemandReported(71, 3, 1))
    assert one < two
    assert look(book, "a", 71).eta == pytest.approx(one, abs=0.1)
    assert look(book, "a", 130).eta == pytest.approx(one, abs=0.1), "whoever is left takes as long as before"


@pytest.mark.parametrize("count", [1, 4, 16])
@pytest.mark.parametrize("after", [1.0, 8.0, 60.0])
def test_an_estimate_of_a_drain_is_near_more_often_than_the_mean_or_the_median_is(count, after):
    """Each of 999 drains is as likely as the others: those whose last answer ends by so many parts of a thousand."""
    drains = [-4.0 * log(1 - (part / 1000) ** (1 / count)) for part in range(1, 1000)]

    def near(said: float) -> int:
        return sum(abs(said - came) <= 0.25 * (came + after) for came in drains)

    others = (sum(drains) / 999, drains[499], drains[749])
    assert near(likeliest_drain(count, 4.0, after)) >= max(map(near, others)) - 5


def test_a_drain_waits_for_a_long_answer_as_long_as_such_ones_took_before():
    book = play(both_measured(), SwitchAsked(35, 9, "a"), LeaseEnded(36, 2), WorkerAsleep(38, "b"))
    play(book, WorkerReady(39, "a", "http://a"), LeaseAsked(40, 3, "b"), SwitchAsked(41, 8, "b"))
    play(book, WorkerAsleep(43, "a"), WorkerReady(44, "b", "http://b"))
    play(book, DemandReported(45, 3, 1, oldest=0.0, usual=4.0), DemandReported(165, 3, 1, oldest=0.5, usual=4.0))
    play(book, DemandReported(265, 3, 1, oldest=100.5, usual=4.0), SwitchAsked(265, 7, "a"))
    assert book.state("b") is WorkerState.DRAINING
    assert look(book, "a", 265).eta == pytest.approx(120 - 100.5 + 2 + 1, abs=0.6)
    assert look(book, "a", 275).eta == pytest.approx(120 - 110.5 + 2 + 1, abs=0.6)


def test_answers_usually_take_what_all_processes_of_the_proxy_say_each_by_what_it_has_in_flight():
    """Whoever spoke last does not decide: 6 of 4 s and 2 of 12 s are under way, and a third process has none."""
    book = play(both_measured(), SwitchAsked(35, 9, "a"), LeaseEnded(36, 2), WorkerAsleep(38, "b"))
    play(book, WorkerReady(39, "a", "http://a"), LeaseAsked(40, 4, "a"), LeaseAsked(40, 5, "a"), LeaseAsked(40, 6, "a"))
    play(book, DemandReported(41, 4, 6, usual=4.0))
    assert book.group("a").answers.told == 4.0
    play(book, DemandReported(42, 5, 2, usual=12.0), DemandReported(42, 6, 0))
    assert book.group("a").answers.told == 6.0
    play(book, DemandReported(43, 4, 6, usual=4.0))
    assert book.group("a").answers.told == 6.0
    play(book, DemandReported(44, 6, 0, usual=15.0))
    assert book.group("a").answers.told == 7.0, "an idle one counts as if it had one in flight"
    play(book, LeaseEnded(45, 6), DemandReported(46, 5, 2, usual=12.0))
    assert book.group("a").answers.told == 6.0


def test_an_answer_that_takes_longer_than_all_before_is_one_like_the_others():
    group = both_measured().group("b")
    group.answers.usual = group.answers.told = 4.0
    group.answers.note_ended(30.0)
    group.oldest_since = 100.0
    assert group.long_left(105.0) is None, "it is not long yet"
    assert group.long_left(120.0) == 10.0
    assert group.long_left(131.0) is None


def test_an_order_to_scale_tells_how_many_serve_and_what_the_others_do():
    zero, one = "http://q/0", "http://q/1"
    book = play(
        Playbook(replicas("q", *(frozenset({gpu}) for gpu in "01"), at_first=1)),
        LeaseAsked(0, 1, "q"),
        WorkerReady(1, "q/router", "http://q"),
        WorkerReady(10, "q/0", zero),
        RouterSynced(10, "q", (zero,)),
    )
    assert look(book, "q", 12).scaling is None
    play(book, OrderGiven(20, 9, "q", Verb.SCALE, replicas=2))
    assert look(book, "q", 22) == Progress(
        "scaling", (), 12, None, scaling=ScalingProgress(1, 2, (("q/1", "starting"),))
    )
    play(book, WorkerReady(30, "q/1", one))
    assert look(book, "q", 31).scaling == ScalingProgress(1, 2, (("q/1", "ready"),)), "its router does not know it yet"
    play(book, RouterSynced(32, "q", (zero, one)))
    assert look(book, "q", 33).scaling is None
    play(book, OrderGiven(40, 10, "q", Verb.SCALE, replicas=1))
    assert look(book, "q", 41).scaling == ScalingProgress(1, 1, (("q/1", "draining"),))
