"""Figures over time: rates are right, steps that are over are kept, and nothing grows without bound."""

import random

import pytest

from muxd.history.series import FIELDS, STEPS, NotedModel, Series, SeriesRow

NOW = 1_764_442_800.0


def figures(series: Series, now: float, field: str, step: int = 1, model: str = "a") -> list[float | None]:
    return series.read(now, now - 60, now, step, [field])["models"].get(model, {}).get(field, [])


def total(series: Series, now: float, step: int = 1) -> float:
    return sum(value or 0 for value in figures(series, now, "tokens_per_s", step)) * step


def test_reports_that_come_at_odd_times_give_an_even_rate_and_the_right_sum():
    series, now, rng = Series(), NOW, random.Random(1)
    for _ in range(40):
        seconds = rng.uniform(0.7, 1.6)
        now += seconds
        series.give(now, seconds, "a", round(100 * seconds), ())
    rates = [rate for rate in figures(series, now, "tokens_per_s")[-30:-2] if rate is not None]
    assert all(97 <= rate <= 103 for rate in rates), rates
    assert total(series, now) == pytest.approx(100 * (now - NOW), rel=0.02)
    assert total(series, now, 10) == pytest.approx(100 * (now - NOW), rel=0.02)


def test_a_sleep_between_two_answers_is_no_spike_and_a_correction_never_shows_as_less_than_nothing():
    series, now = Series(), NOW
    series.give(now, 1.0, "a", 500, ())
    now += 30
    series.give(now, 1.0, "a", 3, ())
    series.give(now + 1, 1.0, "a", -3, ())
    rates = figures(series, now + 1, "tokens_per_s")
    assert max(rate for rate in rates[-10:] if rate is not None) <= 3
    assert min(rate for rate in rates if rate is not None) == 0
    assert total(series, now) == pytest.approx(503, rel=0.02)


def test_of_a_step_of_ten_seconds_the_greatest_gauges_are_kept_and_the_median_of_all_first_tokens():
    series = Series()
    for second in range(10):
        series.note(NOW + second, {"a": NotedModel(second % 4, 3 - second % 4, 10 * second)})
        series.give(NOW + second, 1.0, "a", 0, (0.1 * (second + 1),))
    told = series.read(NOW + 9, NOW, NOW + 9, 10, FIELDS)["models"]["a"]
    assert [told[field] for field in ("in_flight", "waiting", "gpu_bytes")] == [[3], [3], [90]]
    assert (told["first_token_p50_s"], told["first_token_p95_s"]) == ([0.6], [1.0])


def test_a_model_that_never_had_anything_has_no_series_and_one_at_rest_has_zeroes():
    series = Series()
    series.note(NOW, {"a": NotedModel(1, 0, 0), "b": NotedModel(0, 0, 0)})
    series.note(NOW + 1, {"a": NotedModel(0, 0, 0)})
    told = series.read(NOW + 1, NOW, NOW + 1, 1, ["in_flight", "tokens_per_s"])
    assert told == {"step": 1, "from": NOW, "models": {"a": {"in_flight": [1, 0], "tokens_per_s": [0.0, 0.0]}}}


def test_what_was_not_measured_is_null_and_what_is_too_old_is_not_told():
    series = Series()
    series.note(NOW, {"a": NotedModel(1, 0, 0)})
    series.note(NOW + 3, {"a": NotedModel(1, 0, 0)})
    assert series.read(NOW + 3, NOW, NOW + 3, 1, ["in_flight"])["models"]["a"]["in_flight"] == [1, None, None, 1]
    series.note(NOW + 2000, {"a": NotedModel(2, 0, 0)})
    told = series.read(NOW + 2000, 0, NOW + 9999, 1, ["in_flight"])
    assert told["from"] == series.earliest(NOW + 2000, 1) == NOW + 2000 - STEPS[1] + 1
    assert [value for value in told["models"]["a"]["in_flight"] if value is not None] == [2]


def test_steps_that_are_over_are_handed_over_once_and_an_earlier_muxds_are_taken_over():
    series = Series()
    for second in range(60):
        series.note(NOW + second, {"a": NotedModel(1, 0, 7), "b": NotedModel(0, 0, 0)})
        series.give(NOW + second, 1.0, "a", 20, ())
    rows = series.take_rows(NOW + 59)
    assert [row.slot * 10 - NOW for row in rows if row.slot * 10 >= NOW] == [0, 10, 20, 30]
    assert series.take_rows(NOW + 59) == []
    assert {row.model for row in rows} == {"a"}
    later = Series()
    later.restore([*rows, SeriesRow(1, "old", rows[0].values), SeriesRow(rows[0].slot, "odd", (1.0,))], NOW + 100)
    assert figures(later, NOW + 59, "tokens_per_s", 10) == [
        *figures(series, NOW + 59, "tokens_per_s", 10)[:-2],
        None,
        None,
    ]
    assert later.read(NOW + 100, 0, NOW + 100, 10, FIELDS)["models"].keys() == {"a"}
    assert later.take_rows(NOW + 100) == [], "they are kept already"


def test_a_clock_that_goes_back_breaks_nothing():
    series = Series()
    for now in (NOW, NOW - 5000, NOW + 1):
        series.note(now, {"a": NotedModel(1, 0, 0)})
        series.give(now, 1.0, "a", 5, (0.1,))
    assert figures(series, NOW + 1, "in_flight")[-2:] == [1, 1]


def test_models_that_the_configuration_has_no_more_are_forgotten():
    series = Series()
    series.note(NOW, {"a": NotedModel(1, 0, 0), "b": NotedModel(1, 0, 0)})
    series.forget({"b"})
    assert series.read(NOW, NOW, NOW, 1, FIELDS)["models"].keys() == {"b"}
