"""Servers that a command starts, here simulated ones: one sleeps by calls, one is frozen, one ends; none is known."""

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.ports import free_port

from .muxd import assert_never_two_awake, eventually, streamed_text
from .test_llmux_hooks import outside

MODELS = """\
[defaults]
engine = "openai"
command = ["{python}", "-m", "muxd.simulator", "--model", "{{model}}", "--port", "{{port}}", "--enable-memory-saver",
  "--load-time", "0.2", "--sleep-time", "0.01", "--wake-time", "0.01", "--token-rate", "500", "--pace", "0.02",
  "--config", "{config}"]
stop_timeout = "3s"
call_timeout = "2s"
probe_interval = "200ms"
[models.calls]
sleep_level = 2
sleep = [
  {{ post = "/pause_generation", body = {{ mode = "abort" }}, {key} }},
  {{ post = "/release_memory_occupation", body = {{ tags = ["kv_cache", "weights"] }}, {key} }},
]
wake = [
  {{ post = "/resume_memory_occupation", body = {{ tags = ["kv_cache", "weights"] }}, {key} }},
  {{ post = "/update_weights_from_disk", body = {{ model_path = "calls" }}, {key} }},
  {{ post = "/continue_generation", body = {{}}, {key} }},
]
[models.frozen]
sleep = [{{ command = ["kill", "-STOP", "{{pids}}"] }}]
wake = [{{ command = ["kill", "-CONT", "{{pids}}"] }}]
[models.ends]
stop_command = ["sh", "-c", "kill -INT $0; echo $1 >> {said}", "{{pid}}", "{{model}} on {{port}}"]
"""

NAMES = ("calls", "frozen", "ends")


def models(folder: Path) -> str:
    config = folder / "server.yaml"
    config.write_text("admin-api-key: k\n")
    key = 'headers = { Authorization = "Bearer k" }'
    return MODELS.format(python=sys.executable, config=config, said=folder / "said", key=key)


def test_three_take_turns_each_in_its_own_way(start, tmp_path):
    muxd = start(models(tmp_path))
    texts = {name: muxd.ask(name) for name in NAMES}
    pids = {name: muxd.status(name)["pid"] for name in NAMES[:2]}
    for stream in (True, False):
        for name in NAMES:
            assert muxd.ask(name, stream=stream) == texts[name]
    assert {name: (muxd.status(name)["pid"], muxd.status(name)["level"]) for name in NAMES[:2]} == {
        "calls": (pids["calls"], 2),
        "frozen": (pids["frozen"], 1),
    }
    assert_never_two_awake(muxd.moves())
    muxd.ask("calls")
    eventually(lambda: muxd.state("ends") == "unloaded", "its command has ended it")
    assert len({line for line in (tmp_path / "said").read_text().splitlines() if line.startswith("ends on ")}) >= 1


@pytest.mark.thorough
def test_a_server_that_dies_awake_or_frozen_is_back_when_it_is_asked(start, tmp_path):
    muxd = start(models(tmp_path))
    text = muxd.ask("frozen")
    for is_frozen in (True, False):
        if is_frozen:
            muxd.ask("ends")
        pid = muxd.status("frozen")["pid"]
        os.kill(pid, signal.SIGKILL)
        assert muxd.ask("frozen") == text
        assert pid not in muxd.processes()


@pytest.mark.thorough
def test_a_route_that_no_such_server_has_is_refused_before_anybody_gives_way(start, tmp_path):
    muxd = start(models(tmp_path).replace("[models.ends]", '[models.ends]\nroutes = ["/v1/completions"]'))
    muxd.ask("calls")
    for name, path in (("frozen", "/generate"), ("ends", "/v1/chat/completions")):
        refused = muxd.post(path, {"model": name, "text": "x", "messages": [{"role": "user", "content": "x"}]})
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "route_not_found")
    assert muxd.state("calls") == "ready"
    assert muxd.post("/v1/completions", {"model": "ends", "prompt": "x", "max_tokens": 2}).status_code == 200


#: A container engine's client, as far as it matters here: it waits while its container runs, and dies without it.
DOCKER = """\
#!/bin/sh
cd {folder}
if [ "$1" = run ]; then
  touch $4.up; until test -e $4.listens; do sleep 0.02; done
  while test -e $4.listens; do sleep 0.02; done
else
  rm $3.up; while test -e $3.listens; do sleep 0.02; done
fi
"""

CONTAINER = """\
[models.{name}]
engine = "openai"
port = {port}
ready_path = "/up"
command = ["{folder}/docker", "run", "--rm", "--name", "{{model}}", "--publish", "127.0.0.1:{{port}}:8080", "image"]
stop_command = ["{folder}/docker", "rm", "--force", "{{model}}"]
restart_limit = 99
"""


def test_a_container_is_ended_in_its_turn_and_when_its_client_or_muxd_was_killed(start, tmp_path):
    docker = tmp_path / "docker"
    docker.write_text(DOCKER.format(folder=tmp_path))
    docker.chmod(0o755)
    ports = {"owl": free_port(), "hawk": free_port()}
    models = "".join(CONTAINER.format(name=name, port=port, folder=tmp_path) for name, port in ports.items())
    with ExitStack() as stack:
        for name, port in ports.items():
            stack.enter_context(outside(tmp_path, name, port))
        muxd = start(models, daemon='on_crash = "stop"')

        def ask(name: str) -> None:
            answer = muxd.post("/v1/completions", {"model": name, "prompt": "x"})
            assert (answer.status_code, answer.json()["from"]) == (200, name)
            assert [each for each in ports if (tmp_path / f"{each}.listens").exists()] == [name]

        for name in ("owl", "hawk", "owl"):
            ask(name)
        os.kill(muxd.status("owl")["pid"], signal.SIGKILL)
        ask("hawk")
        muxd.kill()
        muxd.start_again()
        assert not (tmp_path / "hawk.listens").exists(), "nothing is left of an earlier muxd's container"
        ask("owl")
        muxd.stop()


@pytest.mark.thorough
def test_a_server_is_frozen_only_after_its_last_answer(start, tmp_path):
    muxd = start(models(tmp_path))
    with ThreadPoolExecutor(1) as other, muxd.stream("frozen", max_tokens=1500) as lines:
        next(lines)
        asked = other.submit(muxd.ask, "ends")
        eventually(lambda: ("frozen", "ready", "draining") in muxd.moves(), "it is asked to give way")
        assert streamed_text(lines)  # to its end
        assert asked.result()
    assert muxd.state("frozen") == "asleep"
