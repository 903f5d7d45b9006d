"""Fixtures for tests against real vLLM on a CPU; not part of the ordinary test run.

python tests/real/vllm/install.py && pytest tests/real/vllm
"""

from pathlib import Path

import pytest

from tests.real.installed import home_of
from tests.real.vllm import install


@pytest.fixture(scope="session")
def vllm_home() -> Path:
    """Where install.py put vLLM: `venv/bin/python`, `models/tiny-a`, `models/tiny-b`."""
    return home_of(install.VLLMInstallation, "MUXD_REAL_VLLM", install.DEFAULT, "tests/real/vllm/install.py")
