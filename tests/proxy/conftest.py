from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from muxd.config.schema import Key
from muxd.proxy.proxied_request import ProxiedRequest
from muxd.proxy.states import REQUEST_MOVES, RequestState

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
        if name == "state":
            before = getattr(request, "state", RequestState.QUEUED)
            assert value is before or value in REQUEST_MOVES[before], f"a request: {before} -> {value} is no move"
        Struct.__setattr__(request, name, value)

    monkeypatch.setattr(ProxiedRequest, "__setattr__", moved)


SECRET, OTHER = "muxd-all", "muxd-beta-only"


def key(name: str, secret: str, **more: Any) -> Key:
    return Key(name, sha256(secret.encode()).hexdigest(), **more)


def bearer(secret: str) -> bytes:
    return b"Authorization: Bearer %b\r\n" % secret.encode()


def with_key(request: bytes, secret: str = SECRET) -> bytes:
    line, rest = request.split(b"\r\n", 1)
    return line + b"\r\n" + bearer(secret) + rest


@pytest.fixture
async def locked(tmp_path: Path) -> AsyncIterator[ProxyEnv]:
    """A house with a key for everything, and one for beta alone, twice a minute."""
    keys = (key("all", SECRET, priority=2), key("some", OTHER, models=("beta",), requests_per_minute=2))
    async with open_proxy_env(tmp_path, keys=keys) as proxy_env:
        proxy_env.muxd.grants["beta"] = proxy_env.beta.url
        yield proxy_env
