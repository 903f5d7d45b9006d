"""Fixtures for tests against llama.cpp's own server on a CPU; not part of the ordinary test run.

python tests/real/openai/install.py && pytest tests/real/openai
"""

import os
from pathlib import Path

import pytest

from tests.real.openai import install


@pytest.fixture(scope="session")
def llama_home() -> Path:
    """Where install.py put llama.cpp: `venv/bin/python`, `models/tiny-a.gguf`, `models/tiny-b.gguf`."""
    home = Path(os.environ.get("MUXD_REAL_OPENAI") or install.DEFAULT).absolute()
    if missing := install.LlamaInstallation(home).missing_steps():
        steps = ", ".join(step.name for step in missing)
        pytest.fail(
            f"llama.cpp is not installed in {home} ({steps}): run `python tests/real/openai/install.py`", pytrace=False
        )
    return home
