from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .proxy_env import ProxyEnv, open_proxy_env


@pytest.fixture
async def proxy_env(tmp_path: Path) -> AsyncIterator[ProxyEnv]:
    """Alpha's lease is granted at the first request; beta's waits for the test."""
    async with open_proxy_env(tmp_path) as proxy_env:
        yield proxy_env
