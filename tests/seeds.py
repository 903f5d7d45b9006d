"""What `make test` leaves to CI: seven of eight random worlds, and the tests that are marked `thorough`.

MUXD_TEST_SEEDS=all makes it all of them.

A fault in a decision breaks so many worlds that a few of them nearly always find it as well: of 40 random edits of
`muxd/core` all worlds found 22, and every fourth 21 (2026-11-29); of 30 others every fourth found 11, and every eighth
the same ones (2026-11-30).
"""

import os
from typing import Any

import pytest

EVERY = 1 if os.environ.get("MUXD_TEST_SEEDS") == "all" else 8


def seeds(start: int, count: int) -> range:
    """Those of so many seeds, from `start` on, that are tried."""
    return range(start, start + count, EVERY)


def thorough(*values: Any) -> list[Any]:
    """Return further values of a parameter, for CI: the tests with the others touch the same code."""
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.thorough) for value in values
    ]
