from collections.abc import AsyncIterator, Iterator

import pytest

from .recorder import Recorder
from .site import House, Site, open_house, open_site


@pytest.fixture(scope="module")
def proxy_keys() -> str:
    """Lines for the `[proxy]` table; a module that needs some has this fixture of its own."""
    return ""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, proxy_keys: str) -> Iterator[Site]:
    with open_site(tmp_path_factory.mktemp("site"), proxy_keys) as site:
        yield site
        site.end()


@pytest.fixture
async def house(site: Site) -> AsyncIterator[House]:
    """A model that no other test has, and its worker."""
    async with open_house(site) as house:
        yield house


@pytest.fixture
async def recorder(house: House) -> AsyncIterator[Recorder]:
    """In the place of the house's worker: it keeps every byte, and is strict about what it takes."""
    recorder = Recorder()
    async with recorder.running():
        house.site.muxd.grants[house.model] = recorder.url
        yield recorder
