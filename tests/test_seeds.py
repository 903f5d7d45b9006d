"""What `make test` leaves to CI: further cases, and never all that a file of tests has."""

import re
from pathlib import Path

TESTS = Path(__file__).parent


def test_each_file_keeps_tests_that_are_not_thorough():
    kept = {}
    for file in TESTS.rglob("test_*.py"):
        decorated = re.findall(r"((?:^@.*\n(?:^[ )\]].*\n)*)*)^(?:async )?def test_", file.read_text(), re.MULTILINE)
        if any("mark.thorough" in decorators for decorators in decorated):
            kept[file.name] = sum("mark.thorough" not in decorators for decorators in decorated)
    assert [name for name, count in kept.items() if not count] == []
    assert len(kept) > 20


def test_ci_leaves_out_nothing():
    assert re.search(r"^MUXD_TEST_SEEDS=all passes test$", (TESTS.parent / ".ci/run").read_text(), re.MULTILINE)
