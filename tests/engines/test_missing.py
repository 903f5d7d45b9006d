"""Interpreters that do not have the engine of their models are told when muxd starts."""

import json
import os

import pytest

from muxd.config import load_config
from muxd.engines.missing import warn_of_missing_engines

ABOUT = json.dumps({"version": "0.5.23"})


@pytest.fixture
def told(tmp_path, monkeypatch, caplog):
    """`told(models)`: the warnings for a configuration; its Pythons, `has` and `python3`, note that they were asked."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name, answer in (("has", f"echo 'sglang {ABOUT}'"), ("python3", "true")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name} >> {tmp_path}/asked\n{answer}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "a.sh").write_text(f"exec {tmp_path}/python3 -m sglang.launch_server --model-path o/a --port 3\n")

    async def told(models):
        (tmp_path / "muxd.toml").write_text(models)
        await warn_of_missing_engines(load_config(tmp_path / "muxd.toml", dict(os.environ)))
        asked = (tmp_path / "asked").read_text().split() if (tmp_path / "asked").exists() else []
        return [record.getMessage().replace(f"{tmp_path}/", "") for record in caplog.records], asked

    return told


def by_keys(name, python, more=""):
    return f'[models.{name}]\npython = "./{python}"\nmodel_path = "o/{name}"\n{more}\n'


async def test_an_interpreter_is_asked_once_and_told_with_its_models(told):
    lines, asked = await told(
        by_keys("a", "has")
        + by_keys("b", "python3")
        + by_keys("c", "python3")
        + '[models.d]\nscript = "a.sh"\n[models.e]\nengine = "simulator"\n'
    )
    assert lines == [
        "b, c, d cannot be loaded: python3: no SGLang is installed in it; "
        "name the python of an environment that has SGLang, or install it there: python3 -m pip install sglang"
    ]
    assert asked == ["has", "python3"]


async def test_what_an_environment_changes_is_asked_for_itself(told):
    lines, asked = await told(by_keys("a", "has") + by_keys("b", "has", "env = { PYTHONPATH = '/x' }"))
    assert (lines, asked) == ([], ["has", "has"])
