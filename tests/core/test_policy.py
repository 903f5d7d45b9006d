from math import e, inf

import pytest

from muxd.core.policy import (
    Candidate,
    bound,
    due_at,
    fullness,
    quiet_from,
    ranked,
    score,
    stretched,
    turn_ends_at,
    turns,
    until_idle,
)

NOW = 100.0


def candidate(name="b", weight=1.0, oldest=0.0, cost=10.0, turn=10.0):
    return Candidate(name, weight, NOW - oldest, cost, turn)


def test_the_cheaper_switch_goes_first_for_the_same_work():
    waiting = [candidate("b", cost=60, oldest=9), candidate("c", cost=5, oldest=9)]
    assert [c.name for c in ranked(waiting, 30, NOW)] == ["c", "b"]


def test_a_long_wait_outweighs_much_work():
    old, much = candidate("b", weight=1, oldest=300), candidate("c", weight=50, oldest=40)
    assert [c.name for c in ranked([much, old], 30, NOW)] == ["b", "c"]


def test_equals_are_ordered_by_name():
    assert [c.name for c in ranked([candidate("c"), candidate("b")], 30, NOW)] == ["b", "c"]


def test_a_score_needs_no_measured_cost():
    assert score(candidate(cost=0.0, oldest=1), 30, NOW) > 0


def test_the_bound_is_the_target_the_others_turns_and_switches_and_ones_own_switch():
    others = [candidate("c", cost=5, turn=8), candidate("d", cost=7, turn=7)]
    assert bound(candidate(cost=10), turns(others), 30) == 30 + (8 + 5) + (7 + 7) + 10


def test_a_stated_bound_is_within_the_time_after_which_requests_are_refused():
    """Else 99 others that wait, or a high target, keep a model from ever being due."""
    impatient = Candidate("b", 1.0, NOW, 10.0, 10.0, timeout=600.0)
    assert bound(impatient, others=99 * 20, wait_target=30) == 540
    assert due_at(impatient, 99 * 20, drain=5, wait_target=30) == NOW + 540 - 10 - 5
    assert bound(impatient, others=20, wait_target=30) == 60


def test_alone_it_waits_no_longer_than_the_target():
    at = due_at(candidate(oldest=4, cost=10), 0, drain=5, wait_target=30)
    assert (at - NOW) + 4 + 5 == 30


def test_where_a_switch_there_and_back_is_dear_a_wait_becomes_eight_and_a_half_of_them_and_at_most_as_many_targets():
    assert stretched(30, overhead=3) == 30
    assert stretched(30, overhead=20) == 170
    assert stretched(30, overhead=120) == 255
    assert stretched(0, overhead=120) == 0


def test_where_many_are_in_flight_for_each_one_that_waits_the_wait_becomes_longer_and_at_most_ten_times_as_long():
    assert stretched(30, overhead=20, load=5, waiting=1) == stretched(30, overhead=20, load=45, waiting=300) == 170
    assert stretched(30, overhead=20, load=14, waiting=60) == 180
    assert stretched(30, overhead=20, load=45, waiting=1) == 200
    assert stretched(30, overhead=120, load=45, waiting=0.5) == 300
    assert stretched(30, overhead=2, load=45, waiting=1) == 30


def test_where_answers_differ_much_a_wait_becomes_twelve_drains_and_switches():
    assert stretched(30, overhead=20, differ=True) == 240
    assert stretched(30, overhead=120, differ=True) == 360


def test_a_turn_lasts_as_long_as_the_switch_costs_or_its_drain_takes():
    assert turn_ends_at(40, active_since=90) == 130
    assert turn_ends_at(10, active_since=90, drain=20) == 110
    assert turn_ends_at(10, active_since=90, drain=200) == 150


def test_a_wait_twice_as_long_makes_serving_a_model_worth_sixteen_times_as_much():
    waited = [candidate(weight=2.0, cost=4.0, oldest=oldest) for oldest in (0.0, 30.0, 60.0)]
    assert [score(each, 30.0, NOW) for each in waited] == [0.0, 0.5, 8.0]


def test_a_quiet_model_gives_way_after_two_fifths_of_the_time_until_another_one_is_due():
    assert quiet_from(since=100, due=150, full=0.0, idle_in=inf) == 120


def test_the_fuller_a_model_is_the_later_it_gives_way():
    assert fullness(0, load=0.0) == fullness(1, load=0.0) == fullness(1, load=9.0) == 0.0
    assert fullness(3, load=9.0) == 0.25
    assert fullness(9, load=9.0) == 1.0
    assert fullness(2, load=0.5) > 1.0, "more than usual"
    assert quiet_from(since=100, due=150, full=0.25, idle_in=inf) == 135
    assert quiet_from(100, due=150, full=1.0, idle_in=inf) == quiet_from(100, due=150, full=inf, idle_in=inf) == 150


def test_no_quiet_moment_is_looked_for_while_a_model_is_likely_to_be_idle_in_time():
    assert until_idle(load=1.0, usual=4.0) == pytest.approx(4 * (e - 1))
    assert until_idle(load=4.0, usual=4.0) == pytest.approx(e**4 - 1)
    assert until_idle(load=0.0, usual=4.0) == 0.0
    assert inf > until_idle(load=10_000.0, usual=4.0) > 1e9
    assert quiet_from(since=0, due=1000, full=0.0, idle_in=100.0) == 800, "twice as long is left"
    assert quiet_from(since=0, due=1000, full=0.0, idle_in=400.0) == 400, "two fifths"


def test_the_sooner_a_model_is_idle_by_itself_the_less_a_quiet_moment_is_looked_for():
    assert quiet_from(since=100, due=200, full=0.0, idle_in=30.0) == 170, "half a minute: once as long is left"
    assert quiet_from(since=100, due=200, full=0.0, idle_in=15.0) == 192.5, "a quarter: half as long"
