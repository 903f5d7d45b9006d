from pathlib import Path

import pytest

from .bash import Bash


@pytest.fixture
def bash(tmp_path: Path) -> Bash:
    return Bash(tmp_path)
