"""Requests per minute: evenly refilled, told in OpenAI's words."""

import random

import pytest

from muxd.proxy.answers import Refusal
from muxd.proxy.auth.rate_limit import TokenBucket, show_time


class Clock:
    def __init__(self):
        self.at = 1e6  # seconds since a boot some days ago

    def __call__(self):
        return self.at


@pytest.fixture
def clock():
    return Clock()


def fields(lines):
    assert lines.endswith(b"\r\n")
    return dict(line.split(b": ") for line in lines.split(b"\r\n")[:-1])


def taken(rate):
    try:
        rate.acquire()
    except Refusal as refusal:
        return refusal
    return None


@pytest.mark.parametrize("limit", [1, 2, 7, 49, 60, 1000, 99_991])
def test_all_of_a_minutes_requests_may_come_at_once_and_not_one_more(clock, limit):
    rate = TokenBucket("a", limit, clock)
    for left in reversed(range(limit)):
        assert fields(rate.acquire())[b"x-ratelimit-remaining-requests"] == b"%d" % left
    assert taken(rate).code == "rate_limit_exceeded"


def test_after_that_one_more_each_time_that_its_share_of_a_minute_is_over(clock):
    rate = TokenBucket("a", 6, clock)
    for _ in range(6):
        rate.acquire()
    for _ in range(20):
        clock.at += 9.99
        assert taken(rate) is not None
        clock.at += 0.01
        assert taken(rate) is None


def test_never_more_than_a_minutes_worth_is_saved_up(clock):
    rate = TokenBucket("a", 3, clock)
    rate.acquire()
    clock.at += 86400
    assert [taken(rate) is None for _ in range(4)] == [True, True, True, False]


def test_a_refusal_says_when_to_come_again(clock):
    rate = TokenBucket("alice", 4, clock)
    for _ in range(4):
        rate.acquire()
    clock.at += 4.5
    refused = taken(rate)
    assert refused.status == 429
    assert refused.message == "the API key alice may send 4 requests per minute, and has: send the next in 11s"
    assert dict(refused.headers) == {
        b"x-ratelimit-limit-requests": b"4",
        b"x-ratelimit-remaining-requests": b"0",
        b"x-ratelimit-reset-requests": b"56s",
        b"retry-after": b"11",
    }
    clock.at += 11
    assert taken(rate) is None


def test_who_is_refused_is_not_put_off_any_further(clock):
    rate = TokenBucket("a", 1, clock)
    rate.acquire()
    for _ in range(100):
        assert taken(rate) is not None
    clock.at += 60
    assert taken(rate) is None


def test_headers_tell_the_present_and_count_nothing(clock):
    rate = TokenBucket("a", 60, clock)
    assert fields(rate.headers()) == {
        b"x-ratelimit-limit-requests": b"60",
        b"x-ratelimit-remaining-requests": b"60",
        b"x-ratelimit-reset-requests": b"0ms",
    }
    for _ in range(10):
        rate.acquire()
    assert rate.headers() == rate.headers()
    assert fields(rate.headers())[b"x-ratelimit-reset-requests"] == b"10s"
    clock.at += 9.25
    assert fields(rate.headers()) == {
        b"x-ratelimit-limit-requests": b"60",
        b"x-ratelimit-remaining-requests": b"59",
        b"x-ratelimit-reset-requests": b"750ms",
    }
    clock.at += 100
    assert fields(rate.headers())[b"x-ratelimit-remaining-requests"] == b"60"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, b"0ms"), (0.0001, b"1ms"), (0.012, b"12ms"), (0.9985, b"999ms"), (0.9995, b"1s"), (1, b"1s"), (1.2, b"2s"),
     (59.1, b"1m0s"), (60, b"1m0s"), (60.0000001, b"1m0s")],
)  # fmt: skip
def test_a_time_is_written_as_openai_does_and_never_too_short(seconds, shown):
    assert show_time(seconds) == shown


@pytest.mark.parametrize("seed", range(20))
def test_it_lets_in_exactly_what_a_bucket_of_tokens_lets_in(clock, seed):
    chance = random.Random(seed)
    limit = chance.choice([1, 2, 5, 30, 600])
    rate = TokenBucket("a", limit, clock)
    tokens, last = float(limit), clock.at
    for _ in range(2000):
        clock.at += chance.choice([0.0, 0.125, 60 / limit, chance.uniform(0, 2 * 60 / limit)])
        tokens, last = min(limit, tokens + (clock.at - last) * limit / 60), clock.at
        if abs(tokens - 1) < 1e-4:
            continue  # rounding decides
        allowed = tokens >= 1
        assert (taken(rate) is None) is allowed
        tokens -= allowed
