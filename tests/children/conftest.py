"""Real children in a world of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.childworld import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.clean_up()
