"""Fixtures for tests against real vLLM on a CPU; not part of the ordinary test run.

python tests/real/vllm/install.py && pytest tests/real/vllm
"""

import os
from pathlib import Path

import pytest

from tests.real.vllm import install


@pytest.fixture(scope="session")
def vllm_home() -> Path:
    """Where install.py put vLLM: `venv/bin/python`, `models/tiny-a`, `models/tiny-b`."""
    home = Path(os.environ.get("MUXD_REAL_VLLM") or install.DEFAULT).absolute()
    if missing := install.VLLMInstallation(home).missing_steps():
        steps = ", ".join(step.name for step in missing)
        pytest.fail(
            f"vLLM is not installed in {home} ({steps}): run `python tests/real/vllm/install.py`", pytrace=False
        )
    return home
