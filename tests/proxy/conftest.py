from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from muxd.proxy.proxied_request import ProxiedRequest
from muxd.proxy.states import REQUEST_MOVES

from .proxy_env import ProxyEnv, open_proxy_env


@pytest.fixture
async def proxy_env(tmp_path: Path) -> AsyncIterator[ProxyEnv]:
    """Alpha's lease is granted at the first request; beta's waits for the test."""
    async with open_proxy_env(tmp_path) as proxy_env:
        yield proxy_env


@pytest.fixture(autouse=True)
def every_move_of_a_request_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold each request of every test here to `states.REQUEST_MOVES`; the proxy itself does not pay for that."""

    def moved(request: ProxiedRequest, name: str, value: object) -> None:
        if name == "state" and value is not request.state:
            assert value in REQUEST_MOVES[request.state], f"a request: {request.state} -> {value} is no move"
        object.__setattr__(request, name, value)

    monkeypatch.setattr(ProxiedRequest, "__setattr__", moved)
