from collections.abc import AsyncIterator, Iterator

import pytest

from .recorder import Recorder
from .wire_env import WireEnv, WireModel, open_wire_env, open_wire_model


@pytest.fixture(scope="module")
def proxy_keys() -> str:
    """Lines for the `[proxy]` table; a module that needs some has this fixture of its own."""
    return ""


@pytest.fixture(scope="session")
def usual_wire_env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WireEnv]:
    with open_wire_env(tmp_path_factory.mktemp("site")) as wire_env:
        yield wire_env
        wire_env.end()


@pytest.fixture(scope="module")
def wire_env(
    tmp_path_factory: pytest.TempPathFactory, proxy_keys: str, request: pytest.FixtureRequest
) -> Iterator[WireEnv]:
    if not proxy_keys:
        yield request.getfixturevalue("usual_wire_env")
        return
    with open_wire_env(tmp_path_factory.mktemp("site"), proxy_keys) as wire_env:
        yield wire_env
        wire_env.end()


@pytest.fixture
async def wire_model(wire_env: WireEnv) -> AsyncIterator[WireModel]:
    """A model that no other test has, and its worker."""
    async with open_wire_model(wire_env) as wire_model:
        yield wire_model


@pytest.fixture
async def recorder(wire_model: WireModel) -> AsyncIterator[Recorder]:
    """In the place of the model's worker: it keeps every byte, and is strict about what it takes."""
    recorder = Recorder()
    async with recorder.running():
        wire_model.wire_env.muxd.grants[wire_model.model] = recorder.url
        yield recorder
