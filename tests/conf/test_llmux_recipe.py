"""llmux's recipe for Docker Compose with muxd in its place: what each line of it leads to."""

from pathlib import Path

import pytest
import yaml

from muxd.__main__ import _added
from muxd.arguments import command_line
from muxd.config.load import read_config

PROJECT = Path(__file__).parents[2]
RECIPE = PROJECT / "conf/llmux"


@pytest.fixture(scope="module")
def service():
    whole = yaml.safe_load((RECIPE / "compose.yaml").read_text())
    (service,) = whole["services"].values()
    named = {volume.partition(":")[0] for volume in service["volumes"] if volume[0] not in "./~"}
    assert whole["volumes"].keys() == named
    return service


@pytest.fixture(scope="module")
def mounted(service):
    """The recipe's own files by their places in the container."""
    pairs = (volume.split(":")[:2] for volume in service["volumes"] if volume.startswith("./"))
    return {inside: RECIPE / outside for outside, inside in pairs}


@pytest.fixture
def options(service, mounted):
    """What muxd's own parser makes of the command, with the recipe's files in their places."""
    return command_line().parse_args([str(mounted.get(word, word)) for word in service["command"]])


@pytest.fixture
def config(options, tmp_path):
    environ = {"HOME": str(tmp_path), "PATH": "/nowhere", "MUXD_API_KEY": "sk-of-a-client"}
    config, problems = read_config(options.config, environ, _added(options), host=False)
    problems.raise_any()
    return config


def test_llmuxs_own_configuration_is_what_runs(config):
    assert [(m.name, m.engine, m.model_path, m.sleep_level) for m in config.models] == [
        ("qwen-14b", "vllm", "Qwen/Qwen3-14B", 1),
        ("gemma-12b", "vllm", "google/gemma-3-12b-it", 2),
    ]


def test_it_is_reached_from_outside_with_a_key_alone(config, service):
    (port,) = service["ports"]
    assert (config.proxy.host, config.proxy.port) == ("0.0.0.0", int(port.rpartition(":")[2]))
    assert not config.proxy.allow_anonymous
    assert [(key.name, key.models) for key in config.keys] == [("default", ("qwen-14b", "gemma-12b"))]
    assert "MUXD_API_KEY" in service["environment"]


def test_without_the_key_in_its_environment_it_does_not_start(options, tmp_path):
    environ = {"HOME": str(tmp_path), "PATH": "/nowhere"}
    _, problems = read_config(options.config, environ, _added(options), host=False)
    assert "MUXD_API_KEY is not set" in problems.told()[0][1]


def test_the_image_is_built_of_what_is_there(service):
    build = service["build"]
    assert (RECIPE / build["context"]).resolve() == PROJECT
    dockerfile = (PROJECT / build["dockerfile"]).read_text()
    assert all(f"ARG {name}=" in dockerfile for name in build["args"])


def test_what_the_image_keeps_is_on_the_recipes_volumes(service):
    inside = {volume.split(":")[1] for volume in service["volumes"]}
    assert {"/var/lib/muxd", "/var/log/muxd", "/etc/muxd/muxd.d", "/var/cache/muxd/huggingface"} <= inside


def test_a_stop_has_the_time_that_muxd_takes(config, service):
    least = config.daemon.shutdown_timeout + max(model.stop_timeout for model in config.models)
    assert int(service["stop_grace_period"].removesuffix("m")) * 60 > least
