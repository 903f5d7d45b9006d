"""Fixtures for tests against real SGLang on a CPU; not part of the ordinary test run.

python tests/real/install.py && pytest tests/real
"""

import os
from pathlib import Path

import pytest

from tests.end_to_end.muxd import Muxd
from tests.real import install
from tests.real.any_engine import A, B


@pytest.fixture(scope="session")
def sglang_home() -> Path:
    """Where install.py put SGLang: `venv/bin/python`, `models/tiny-a`, `models/tiny-b`."""
    home = Path(os.environ.get("MUXD_REAL_SGLANG") or install.DEFAULT).absolute()
    if missing := install.SGLangInstallation(home).missing_steps():
        steps = ", ".join(step.name for step in missing)
        pytest.fail(f"SGLang is not installed in {home} ({steps}): run `python tests/real/install.py`", pytrace=False)
    return home


@pytest.fixture(scope="module")
def texts(muxd: Muxd) -> dict[str, str]:
    """What each model says when it was just loaded."""
    said = {model: muxd.ask(model, max_tokens=24) for model in (A, B)}
    assert said[A] != said[B]
    assert all(said.values())
    return said
