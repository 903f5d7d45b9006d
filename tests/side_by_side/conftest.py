import pytest

from bench.sglangmux.programs import PEER_VERSION, Program, peer


@pytest.fixture(scope="session")
def sglangmux() -> Program:
    """The real one."""
    program = peer()
    if program is None:
        pytest.skip(f"sglangmux {PEER_VERSION} is not in this environment: pip install --group peers")
    return program
