from collections.abc import AsyncIterator, Iterator

import pytest

from .recorder import Recorder
from .wire_env import WireEnv, WireUpstream, open_house, open_site


@pytest.fixture(scope="module")
def proxy_keys() -> str:
    """Lines for the `[proxy]` table; a module that needs some has this fixture of its own."""
    return ""


@pytest.fixture(scope="module")
def wire_env(tmp_path_factory: pytest.TempPathFactory, proxy_keys: str) -> Iterator[WireEnv]:
    with open_site(tmp_path_factory.mktemp("site"), proxy_keys) as wire_env:
        yield wire_env
        wire_env.end()


@pytest.fixture
async def house(wire_env: WireEnv) -> AsyncIterator[WireUpstream]:
    """A model that no other test has, and its worker."""
    async with open_house(wire_env) as house:
        yield house


@pytest.fixture
async def recorder(house: WireUpstream) -> AsyncIterator[Recorder]:
    """In the place of the house's worker: it keeps every byte, and is strict about what it takes."""
    recorder = Recorder()
    async with recorder.running():
        house.wire_env.muxd.grants[house.model] = recorder.url
        yield recorder
