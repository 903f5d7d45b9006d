"""Requests of the last minute, and of no earlier one."""

from muxd.history.book import History
from muxd.history.request_rates import RequestRates
from muxd.protocol import ActivityReport, KeyUsage


def test_what_ended_in_the_last_minute_counts():
    rates = RequestRates()
    assert rates.per_minute(0.0, "a") is None
    for second in range(100):
        rates.add(float(second), "a", 2)
    assert [rates.per_minute(now, "a") for now in (99.0, 129.5, 159.0)] == [120, 60, 0]
    assert rates.per_minute(129.0, "a") == 60, "of the seconds from 70 on"
    assert rates.per_minute(99.0, "b") is None


def test_the_requests_of_all_keys_and_processes_count():
    history = History()
    for keys in ((KeyUsage("alice", "a", 3), KeyUsage("", "a", 4, refused=4)), (KeyUsage("", "a", 5),)):
        history.report(ActivityReport(keys=keys))
    assert history.requests_per_minute("a") == 12
