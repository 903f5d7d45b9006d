"""A zone to live in."""

import time
from collections.abc import Callable, Iterator

import pytest


@pytest.fixture
def set_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Has this process live in a zone, until the test is over."""

    def run(zone: str) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield run
    monkeypatch.undo()
    time.tzset()
