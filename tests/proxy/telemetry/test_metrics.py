"""What is counted, and where."""

from math import inf

import pytest

from muxd.proxy.telemetry.metrics import (
    FIRST_BYTE_BOUNDS,
    GAP_BOUNDS,
    OF_LATE,
    REQUEST_BOUNDS,
    WAIT_BOUNDS,
    Histogram,
    ModelMetrics,
    ProxyMetrics,
)


def test_a_value_that_equals_a_bound_is_under_it() -> None:
    histogram = Histogram((1, 2, inf))
    for value in (0, 1, 1.5, 2, 2.1, inf):
        histogram.add(value)
    assert histogram.counts == [2, 2, 2]


@pytest.mark.parametrize("bounds", [FIRST_BYTE_BOUNDS, GAP_BOUNDS, REQUEST_BOUNDS, WAIT_BOUNDS])
def test_bounds_rise_and_end_with_infinity(bounds: tuple[float, ...]) -> None:
    assert list(bounds) == sorted(set(bounds))
    assert bounds[-1] == inf


def test_a_model_has_one_meter() -> None:
    meters = ProxyMetrics()
    assert meters.of("qwen") is meters.of("qwen")
    assert meters.of("qwen") is not meters.of("llama")


def test_requests_are_counted_by_route_and_status() -> None:
    meter = ProxyMetrics().of("qwen")
    meter.finished("/v1/chat/completions", 200, [0.5])
    meter.finished("/v1/chat/completions", 200, [1.5])
    meter.finished("/v1/embeddings", 503, [0.1])
    assert meter.finished_by == {("/v1/chat/completions", 200): 2, ("/v1/embeddings", 503): 1}
    assert sum(meter.requests.counts) == 3
    assert meter.requests.total == pytest.approx(2.1)


def test_each_time_has_its_histogram() -> None:
    meter = ProxyMetrics().of("qwen")
    meter.first_byte(1.0)
    meter.gaps.noted.append(2.0)
    meter.waited(3.0)
    assert (meter.first_bytes.total, meter.gaps.flush().total, meter.waits.total) == (1.0, 2.0, 3.0)
    assert sum(meter.requests.counts) == 0


def test_what_was_noted_is_counted_once() -> None:
    gaps = ProxyMetrics().of("qwen").gaps
    gaps.noted += [0.0005, 0.2, 0.2]
    assert sum(gaps.flush().counts) == sum(gaps.flush().counts) == 3
    assert gaps.total == pytest.approx(0.4005)
    gaps.noted.append(1.0)
    assert sum(gaps.flush().counts) == 4


def test_tokens_and_replays_add_up() -> None:
    meter = ProxyMetrics().of("qwen")
    meter.tokens(10, 4, 20)
    meter.tokens(1, 0, 2)
    meter.replayed()
    assert (meter.prompt_tokens, meter.cached_tokens, meter.completion_tokens, meter.replays) == (11, 4, 22, 1)


def test_refusals_are_counted_by_code() -> None:
    meters = ProxyMetrics()
    meters.rejected("model_not_found")
    meters.rejected("model_not_found")
    meters.rejected("invalid_json")
    assert meters.rejections == {"model_not_found": 2, "invalid_json": 1}


def answered(meter: ModelMetrics, count: int, seconds: float, wait: float = 0.0, status: int = 200) -> None:
    for _ in range(count):
        meter.finished("/v1/chat/completions", status, [seconds + wait])
        meter.waited(wait)


def test_how_long_answers_usually_take_is_the_mean_of_late() -> None:
    meter = ProxyMetrics().of("qwen")
    assert meter.usual_answer() is None
    answered(meter, 3, 1.0, wait=60.0)
    answered(meter, 1, 5.0)
    assert meter.usual_answer() == pytest.approx(2.0)
    assert meter.usual_answer() == pytest.approx(2.0)
    answered(meter, 4, 4.0)
    assert meter.usual_answer() == pytest.approx(3.0)
    for _ in range(10 * OF_LATE):
        answered(meter, 1, 0.5)
        meter.usual_answer()
    answered(meter, OF_LATE, 40.0)
    assert meter.usual_answer() == pytest.approx(40.0)


def test_a_refused_request_says_nothing_of_how_long_answers_take() -> None:
    meter = ProxyMetrics().of("qwen")
    answered(meter, 5, 0.0, wait=3.0, status=429)
    assert meter.usual_answer() is None
    answered(meter, 1, 8.0)
    answered(meter, 100, 0.0, status=429)
    assert meter.usual_answer() == pytest.approx(8.0)


def test_values_that_were_noted_are_counted_as_if_each_was_added_at_once() -> None:
    noted, added = ProxyMetrics().of("qwen").gaps, Histogram(GAP_BOUNDS)
    values = [number % 7 * 0.0025 for number in range(40)] + [*GAP_BOUNDS[:-1], 61.0, 0.0]
    for value in values:
        noted.noted.append(value)
        added.add(value)
        if len(noted.noted) == 25:
            noted.flush()
    assert noted.flush().counts == added.counts
    assert noted.total == pytest.approx(added.total)
