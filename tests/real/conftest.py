"""Fixtures for tests against real SGLang on a CPU; not part of the ordinary test run.

python tests/real/install.py && pytest tests/real
"""

from pathlib import Path

import pytest

from tests.end_to_end.muxd import Muxd
from tests.real import install
from tests.real.any_engine import A, B
from tests.real.installed import home_of


@pytest.fixture(scope="session")
def sglang_home() -> Path:
    """Where install.py put SGLang: `venv/bin/python`, `models/tiny-a`, `models/tiny-b`."""
    return home_of(install.SGLangInstallation, "MUXD_REAL_SGLANG", install.DEFAULT, "tests/real/install.py")


@pytest.fixture(scope="module")
def texts(muxd: Muxd) -> dict[str, str]:
    """What each model says when it was just loaded."""
    said = {model: muxd.ask(model, max_tokens=24) for model in (A, B)}
    assert said[A] != said[B]
    assert all(said.values())
    return said
