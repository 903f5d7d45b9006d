"""Fixtures for tests against llama.cpp's own server on a CPU; not part of the ordinary test run.

python tests/real/openai/install.py && pytest tests/real/openai
"""

from pathlib import Path

import pytest

from tests.real.installed import home_of
from tests.real.openai import install


@pytest.fixture(scope="session")
def llama_home() -> Path:
    """Where install.py put llama.cpp: `venv/bin/python`, `models/tiny-a.gguf`, `models/tiny-b.gguf`."""
    return home_of(install.LlamaInstallation, "MUXD_REAL_OPENAI", install.DEFAULT, "tests/real/openai/install.py")
