"""The examples are configurations that muxd takes, on a machine that has what they name."""

import os
import re
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from muxd.config import load_config
from muxd.errors import ConfigError
from tests.real.sglang_cpu import CPU_ARGS, CPU_ENV

CONF = Path(__file__).parents[2] / "conf"
EXAMPLES = [*sorted((CONF / "examples").glob("*.toml")), CONF / "docker/muxd.toml"]
ENVIRON = {**os.environ, "MUXD_API_KEY": "a secret"}  # what the Dockerfile says to pass on
ELSEWHERE = re.compile(r'"(/(?:opt|srv)/[^"]+)"')  # what exists on the reader's machine only


@pytest.fixture
def load(tmp_path):
    """Loads an example on a machine where every path that it names is there."""

    def run(path):
        text = path.read_text()
        for place in ELSEWHERE.findall(text):
            here = tmp_path / place[1:]
            here.parent.mkdir(parents=True, exist_ok=True)
            if place.endswith("/python"):
                here.exists() or here.symlink_to(sys.executable)
            else:
                here.mkdir()
        file = tmp_path / "muxd.toml"
        file.write_text(ELSEWHERE.sub(rf'"{tmp_path}\1"', text))
        return load_config(file, {**ENVIRON, "HOME": str(tmp_path)})

    return run


def model(config, name):
    return next(model for model in config.models if model.name == name)


def problems(path):
    try:
        load_config(path, ENVIRON)
    except ConfigError as error:
        return error.problems
    return []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_a_good_configuration(load, path):
    assert len(load(path).models) >= 2


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_elsewhere_nothing_is_wrong_with_it_but_what_is_not_there(path):
    places = ELSEWHERE.findall(path.read_text())
    assert not any(Path(place).exists() for place in places)
    for problem in problems(path):
        assert any(place in problem for place in places), problem


def test_the_containers_key_is_what_it_is_started_with(load):
    (key,) = load(CONF / "docker/muxd.toml").keys
    assert key.secret_sha256 == sha256(b"a secret").hexdigest()
    assert '"MUXD_API_KEY"' in (CONF / "docker/muxd.toml").read_text()
    assert "-e MUXD_API_KEY" in (CONF / "docker/Dockerfile").read_text()


def test_a_models_own_args_replace_the_defaults_as_the_example_says(load):
    config = load(CONF / "examples/single-gpu.toml")
    assert model(config, "embed").args == ("--mem-fraction-static", "0.9", "--is-embedding")
    assert model(config, "qwen").args == ("--mem-fraction-static", "0.9")
    assert [m.sleep_level for m in config.models] == [1, 2, 3]


def test_the_large_model_takes_the_gpus_of_both_small_ones(load):
    config = load(CONF / "examples/two-gpus-tensor-parallel.toml")
    assert model(config, "large").gpus == ("0", "1")
    assert {model(config, "coder").gpus, model(config, "chat").gpus} == {("0",), ("1",)}


def test_the_cpu_example_has_the_flags_that_real_sglang_was_run_with(load):
    for found in load(CONF / "examples/cpu-only.toml").models:
        assert found.args == CPU_ARGS
        assert found.env["SGLANG_USE_CPU_ENGINE"] == CPU_ENV["SGLANG_USE_CPU_ENGINE"]
        assert found.sleep_level == 3
