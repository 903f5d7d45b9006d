from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .house import House, open_house


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Alpha's lease is granted at the first request; beta's waits for the test."""
    async with open_house(tmp_path) as house:
        yield house
