"""docs/metrics.md lists what the page has, no more and no less."""

import re
from pathlib import Path

from tests.conf.exposed_metrics import exposed

REFERENCE = Path(__file__).parents[2] / "docs/metrics.md"
ROW = re.compile(r"\| `(muxd_\w+)` \| (\w+) \| (.*?)\| .+ \|")


def listed():
    """name -> (type, labels) of every row, and how many rows there are."""
    rows = [found for line in REFERENCE.read_text().splitlines() if (found := ROW.fullmatch(line))]
    return {row[1]: (row[2], frozenset(re.findall(r"`(\w+)`", row[3]))) for row in rows}, len(rows)


def test_the_reference_has_every_metric_once_with_its_type_and_labels():
    found, rows = listed()
    assert found == exposed().families
    assert rows == len(found)


def test_the_reference_names_every_value_that_a_label_can_have():
    text = REFERENCE.read_text()
    for (_, label), values in exposed().values.items():
        if label in {"kind", "part"}:
            assert all(f"`{value}`" in text for value in values)
