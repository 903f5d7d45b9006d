"""A reader of a number or "auto"; the other readers are tested by the files that they read."""

import re
from pathlib import Path

import pytest

from muxd.config.readers import Base, count_or_auto

BASE = Base(Path("/"), Path("/"))


def test_a_count_is_a_number_or_auto():
    read = count_or_auto(1, 64)
    assert [read(value, BASE) for value in (1, 64, "auto")] == [1, 64, None]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, '0 is out of range; use 1 to 64, or "auto"'),
        (65, "65 is out of range"),
        (True, "not a whole number"),
        (2.0, 'write one from 1 to 64, or "auto"'),
        ("2", 'write a number without quotes, or "auto"'),
    ],
)
def test_other_counts_are_refused_with_what_to_write(value, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        count_or_auto(1, 64)(value, BASE)
