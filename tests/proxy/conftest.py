from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .proxy_env import ProxyEnv, open_house


@pytest.fixture
async def proxy_env(tmp_path: Path) -> AsyncIterator[ProxyEnv]:
    """Alpha's lease is granted at the first request; beta's waits for the test."""
    async with open_house(tmp_path) as proxy_env:
        yield proxy_env
