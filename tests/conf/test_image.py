"""The Dockerfile: what decides whether muxd is a good PID 1.  What muxd does as one is in `test_pid_1`."""

import fnmatch
import json
import re
from pathlib import Path

import pytest
import yaml

from muxd.config.schema import Proxy
from muxd.engines.sglang import engine as sglang
from tests.typed import run_muxd

PROJECT = Path(__file__).parents[2]
DOCKER = PROJECT / "conf/docker"


@pytest.fixture(scope="module")
def instructions():
    """(NAME, rest) of each, continued lines joined; comments are left out."""
    text = (DOCKER / "Dockerfile").read_text()
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    logical = re.sub(r"\\\n\s*", "", kept).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in logical if line.strip()]


@pytest.fixture(scope="module")
def last_stage(instructions):
    """What the image itself is made of."""
    begin = max(number for number, (name, _) in enumerate(instructions) if name == "FROM")
    return instructions[begin:]


def all_of(instructions, name):
    return [rest for found, rest in instructions if found == name]


def the(instructions, name):
    (rest,) = all_of(instructions, name)
    return rest


def environment(last_stage):
    return dict(pair.split("=", 1) for pair in the(last_stage, "ENV").split())


def test_muxd_itself_is_what_the_container_runs_with_no_shell_in_between(last_stage):
    assert json.loads(the(last_stage, "ENTRYPOINT")) == ["/opt/muxd/bin/muxd"]
    assert isinstance(json.loads(the(last_stage, "CMD")), list)


@pytest.fixture
def check(last_stage, tmp_path, capsys):
    """The status of `muxd check` and what it says of a configuration that the container is started with."""

    def check(text):
        config = tmp_path / "muxd.toml"
        config.write_text(text + '[models.alpha]\nengine = "simulator"\n')
        start, *words = json.loads(the(last_stage, "CMD"))
        assert start == "start"
        words = [str(config) if word == "/etc/muxd/muxd.toml" else word for word in words]
        return run_muxd("check", *words), capsys.readouterr().out

    return check


def test_the_port_can_be_reached_from_outside_whatever_the_configuration_says(check):
    said = check(f'[proxy]\nlisten = "127.0.0.1:30100"\n[[keys]]\nname = "a"\nsecret_sha256 = "{"0" * 64}"\n')
    assert "proxy 0.0.0.0:30100" in said[1]


def test_nobody_is_let_in_from_outside_without_a_key_unless_the_configuration_says_so(check):
    refused, said = check("")
    assert refused == 2
    assert "allow" in said
    assert check("[proxy]\nallow_anonymous = true\n")[0] == 0


def test_a_stop_is_the_signal_that_drains(last_stage):
    assert the(last_stage, "STOPSIGNAL") == "SIGTERM"


def test_its_health_is_that_muxd_answers(last_stage):
    options, _, command = the(last_stage, "HEALTHCHECK").partition(" CMD ")
    assert json.loads(command) == ["/opt/muxd/bin/muxctl", "status"]
    assert "--timeout=" in options


def test_the_base_is_pinned_to_the_release_that_was_measured(instructions):
    tag, image, extras = all_of(instructions, "ARG")
    assert extras == "EXTRAS="
    assert image == "ENGINE_IMAGE=lmsysorg/sglang:${SGLANG_TAG}"
    assert all_of(instructions, "FROM") == ["${ENGINE_IMAGE} AS engine", "engine AS build", "engine"]
    assert f"SGLang {tag.removeprefix('SGLANG_TAG=v')} " in sglang.__doc__


def test_the_port_is_the_proxys(last_stage):
    assert the(last_stage, "EXPOSE") == str(Proxy().port)


def test_what_must_survive_the_container_is_on_volumes(last_stage):
    variables, volumes = environment(last_stage), json.loads(the(last_stage, "VOLUME"))
    for variable in ("STATE_DIRECTORY", "LOGS_DIRECTORY", "HF_HOME", "XDG_CACHE_HOME"):
        assert any(Path(variables[variable]).is_relative_to(volume) for volume in volumes), variable
    made = next(rest for rest in all_of(last_stage, "RUN") if "mkdir -p" in rest)
    assert set(made.partition("mkdir -p ")[2].split()) == {*volumes, "/etc/muxd", variables["RUNTIME_DIRECTORY"]}


def test_every_file_that_is_copied_is_there_and_sent_to_the_builder(instructions):
    let_in = [line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"]
    for rest in all_of(instructions, "COPY"):
        if "--from=" not in rest:
            for source in rest.split()[:-1]:
                assert (PROJECT / source).exists()
                assert any(fnmatch.fnmatch(source, pattern) for pattern in let_in), source


@pytest.fixture(scope="module")
def service():
    """Docker Compose's way to run it."""
    whole = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    (service,) = whole["services"].values()
    named = {volume.partition(":")[0] for volume in service["volumes"] if volume[0] not in "./~"}
    assert whole["volumes"].keys() == named
    return service


def test_compose_builds_this_image_and_keeps_what_it_keeps(service, last_stage):
    assert (DOCKER / service["build"]["context"]).resolve() == PROJECT
    assert service["build"]["dockerfile"] == "conf/docker/Dockerfile"
    inside = {volume.split(":")[1] for volume in service["volumes"]}
    assert {"/var/lib/muxd", "/var/log/muxd", "/etc/muxd/muxd.d", environment(last_stage)["HF_HOME"]} <= inside
    assert "./muxd.toml:/etc/muxd/muxd.toml:ro" in service["volumes"]


def test_compose_lets_nobody_else_in_and_gives_a_stop_its_time(service):
    assert service["ports"] == [f"127.0.0.1:{Proxy().port}:{Proxy().port}"]
    assert "MUXD_API_KEY" in service["environment"]
    assert service["stop_grace_period"] == "3m"
    assert service["deploy"]["resources"]["reservations"]["devices"] == [{"capabilities": ["gpu"]}]
