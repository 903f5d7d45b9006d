"""docs/reliability.md: every fault of the matrix has its tests, and they exist."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "reliability.md"
MATRIX = PAGE.read_text().partition("| # | fault | what happens | tests |")[2].partition("\n\n")[0]
ROWS = [line.strip("|").split("|") for line in MATRIX.splitlines() if re.match(r"\| \d+ \|", line)]
NAMED = sorted({name for row in ROWS for name in re.findall(r"`([\w/]+\.py::\w+)`", row[-1])})


def test_no_row_is_missing_and_each_names_a_test():
    assert [int(row[0]) for row in ROWS] == list(range(1, 34))
    assert [row[0] for row in ROWS if not re.search(r"`[\w/]+\.py::\w+`", row[-1])] == []


@pytest.mark.parametrize("name", NAMED)
def test_a_test_that_is_named_exists(name):
    file, test = name.split("::")
    defined = (TESTS / file).read_text()
    assert f"def {test}(" in defined or re.search(rf"^from \.\S+ import [^\n]*\b{test}\b", defined, re.M), name


def test_every_test_of_faults_is_in_the_matrix():
    found = {
        f"faults/{file.name}::{test}"
        for file in (TESTS / "faults").glob("test_*.py")
        for test in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.M)
    }
    assert found - set(NAMED) == set()
