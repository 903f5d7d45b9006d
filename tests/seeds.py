"""How many of the random worlds are tried: every fourth, or each of them where MUXD_TEST_SEEDS is "all", as in CI.

A fault in a decision breaks so many worlds that a fourth of them nearly always finds it as well: of 40 random edits of
`muxd/core` all worlds found 22, and every fourth 21 (2026-11-29).
"""

import os

EVERY = 1 if os.environ.get("MUXD_TEST_SEEDS") == "all" else 4


def seeds(start: int, count: int) -> range:
    """Those of so many seeds, from `start` on, that are tried."""
    return range(start, start + count, EVERY)
