"""Files that are loaded, or refused, in an environment with one program."""

import pytest

from muxd.config import Config, load_config
from muxd.errors import ConfigError

ONE_MODEL = '[models.qwen]\nmodel_path = "Qwen/Qwen3-14B"\n'


@pytest.fixture
def environ(tmp_path):
    """Return an environment with one program in its PATH: python3."""
    program = tmp_path / "bin/python3"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    # Not below HOME, whose path may be too long for a socket's where several processes run the tests.
    return {"PATH": str(program.parent), "HOME": str(tmp_path / "home"), "XDG_RUNTIME_DIR": "/run/user/1"}


@pytest.fixture
def load(tmp_path, environ):
    def load(text: str, **more: str) -> Config:
        file = tmp_path / "muxd.toml"
        file.write_text(text)
        return load_config(file, environ | more)

    return load


@pytest.fixture
def problems(load, tmp_path):
    """Return a function that returns the problems of a text, with F for the file."""

    def problems(text: str, **more: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(text, **more)
        return [problem.replace(f"{tmp_path}/muxd.toml", "F") for problem in caught.value.problems]

    return problems
