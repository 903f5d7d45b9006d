from pathlib import Path

import pytest

from .hub import Hub


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    """An empty cache."""
    return Hub(tmp_path / "hub")
