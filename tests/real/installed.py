"""Where the real engines are that `install.py` has installed, for the fixtures of the tests."""

import os
from pathlib import Path

import pytest

from .installation import Installation


def home_of(installation: type[Installation], variable: str, default: Path, program: str) -> Path:
    """The folder of a whole installation, by the environment or else `default`; the test fails where a step lacks."""
    home = Path(os.environ.get(variable) or default).absolute()
    if missing := installation(home).missing_steps():
        steps = ", ".join(step.name for step in missing)
        pytest.fail(f"{installation.what} is not installed in {home} ({steps}): run `python {program}`", pytrace=False)
    return home
