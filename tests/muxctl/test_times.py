"""The times that --since and --until mean."""

from datetime import datetime

import pytest

from muxctl import times
from muxctl.exit_codes import CommandFailed


class EveningClock(datetime):
    """It is 18:03."""

    @classmethod
    def now(cls, tz=None):
        return cls(2026, 11, 29, 18, 3)


@pytest.fixture(autouse=True)
def at_evening(monkeypatch):
    monkeypatch.setattr(times, "datetime", EveningClock)


def moment(day, hour, minute):
    return datetime(2026, 11, day, hour, minute).timestamp()


@pytest.mark.parametrize(
    ("since", "until", "meant"),
    [
        ("18:00", "18:05", (moment(29, 18, 0), moment(29, 18, 5))),  # its end is yet to come
        ("17:00", "18:00", (moment(29, 17, 0), moment(29, 18, 0))),
        ("2026-11-28 18:04", "18:05", (moment(28, 18, 4), moment(28, 18, 5))),
        ("23:00", "01:00", (moment(28, 23, 0), moment(29, 1, 0))),
    ],
)
def test_a_window_is_the_last_one_that_has_begun(since, until, meant):
    assert tuple(times.time_window(since, until).values()) == meant


def test_a_window_may_have_one_end():
    assert times.time_window(None, "18:05") == {"until": moment(28, 18, 5)}
    assert times.time_window(None, None) == {}


def test_an_end_before_its_beginning_is_told():
    with pytest.raises(CommandFailed, match="nothing is between them"):
        times.time_window("18:02", "18:01")
