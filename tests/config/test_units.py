from math import inf

import pytest

from muxd.config.units import parse_duration, parse_size, show_duration, show_size


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("90s", 90),
        ("5min", 300),
        ("2h", 7200),
        ("1h 30min", 5400),
        ("250ms", 0.25),
        ("0.5s", 0.5),
        ("1d", 86400),
        ("inf", inf),
        (30, 30),
        (1.5, 1.5),
        (inf, inf),
        (0, 0),
    ],
)
def test_a_duration_is_seconds(written, seconds):
    assert parse_duration(written) == seconds


@pytest.mark.parametrize(
    "written", ["", "90", "5m", "10 minutes", "-5s", "s", "1h30", "5min x", True, None, [1], float("nan")]
)
def test_what_is_no_duration_is_refused_with_examples(written):
    with pytest.raises(ValueError, match='is not a duration; write seconds or "90s", "5min", "2h"'):
        parse_duration(written)


@pytest.mark.parametrize(
    ("written", "size"),
    [("38GiB", 38 << 30), ("512MiB", 512 << 20), ("1.5 GiB", 3 << 29), ("1KiB", 1024), ("7B", 7), (123, 123)],
)
def test_a_size_is_bytes(written, size):
    assert parse_size(written) == size


@pytest.mark.parametrize("written", ["38GB", "38", "38gib", "-1GiB", "", 1.5, True, None])
def test_what_is_no_size_is_refused_with_examples(written):
    with pytest.raises(ValueError, match='is not a size; write bytes or "38GiB", "512MiB"'):
        parse_size(written)


@pytest.mark.parametrize("seconds", [0, 0.25, 1, 1.5, 59, 60, 90, 3600, 5400, 86400, inf])
def test_a_shown_duration_reads_back(seconds):
    assert parse_duration(show_duration(seconds)) == seconds


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 64 << 20, 80 << 30, (1 << 30) + 1])
def test_a_shown_size_reads_back(size):
    assert parse_size(show_size(size)) == size
