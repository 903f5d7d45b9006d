"""What is wrong with the table of a model that a command serves is told with its place and with what to write."""

import re
import sys
from pathlib import Path

import pytest

from muxd.config import load_config
from muxd.errors import ConfigError

GOOD = 'command = ["sh", "-c", "serve --port {port}"]\n'
STEPS = 'sleep = [{ post = "/sleep" }]\nwake = [{ post = "/wake" }]\n'


@pytest.fixture
def load(tmp_path: Path):
    def load(table: str, defaults: str = ""):
        head = f"[defaults]\n{defaults}" if defaults else ""
        (tmp_path / "muxd.toml").write_text(f'{head}[models.a]\nengine = "openai"\n{table}')
        return load_config(tmp_path / "muxd.toml", {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}).models[0]

    return load


@pytest.fixture
def problem(load):
    def problem(table: str, defaults: str = "") -> str:
        with pytest.raises(ConfigError) as caught:
            load(table, defaults)
        (text,) = caught.value.problems
        return re.sub(r"^.*/muxd\.toml", "F", text)

    return problem


def test_a_model_without_steps_sleeps_at_level_3_whatever_the_defaults_say(load):
    assert load(GOOD).sleep_level == 3
    assert load(GOOD, "sleep_level = 1\n").sleep_level == 3
    assert load(GOOD + STEPS).sleep_level == 1
    assert load(GOOD + STEPS + "sleep_level = 2\n").sleep_level == 2


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("", 'F:1: models.a.command: missing; write the server\'s command, as ["llama-server", "--port", "{port}"]'),
        (
            'command = ["/no/such/llama-server", "--port", "{port}"]\n',
            "F:3: models.a.command: /no/such/llama-server is not an executable that can be found; install it, or "
            "give its path",
        ),
        (
            'command = ["sh", "{prot}", "{port}"]\n',
            "F:3: models.a.command: {prot} is no placeholder here; did you mean port? (a brace that is to stay "
            "as it is: {lbrace}prot})",
        ),
        (
            'command = ["env", "A=${HOME}", "sh", "-c", "exec serve {port}"]\n',
            "F:3: models.a.command: ${HOME} would be taken literally, no shell is involved; write the value",
        ),
        (
            'command = ["sh", "{port}", "{pid}"]\n',
            "F:3: models.a.command: {pid} is no placeholder here; the server does not run yet then; "
            "known: port, host, model, model_path, gpus, lbrace (a brace",
        ),
        (
            'command = ["sh", "{port}", "{model_path}"]\n',
            "F:3: models.a.command: {model_path} stands for the key model_path, which is not there; write it",
        ),
        (
            'command = ["cat", "${HOME}/x", "{port}"]\n',
            "F:3: models.a.command: ${HOME} would be taken literally, no shell is involved; write the value",
        ),
        (
            'command = ["cat"]\n',
            "F:3: models.a.command: nothing tells the server on which port muxd expects it; write "
            '"--port", "{port}", or say with port where it listens',
        ),
        (
            'command = ["cat", "--port", "8080"]\n',
            "F:3: models.a.command: the server is told port 8080, and muxd expects it on one that is free; write "
            "{port} in the place of 8080, or port = 8080 into the table",
        ),
        (
            'command = ["cat", "--port=8080"]\nport = 9000\n',
            "F:3: models.a.command: the server is told port 8080, and port says 9000; write {port} in the place of "
            "8080, or port = 8080",
        ),
        (
            'command = ["env", "OLLAMA_HOST=127.0.0.1:11434", "cat"]\nport = 9000\n',
            "F:3: models.a.command: the server is told port 11434, and port says 9000; write {port} in the place of "
            "11434, or port = 11434",
        ),
        (
            GOOD + 'sleep = [{ post = "/sleep" }]\n',
            "F:4: models.a.sleep: nothing would wake it again; write wake as well, or leave this out",
        ),
        (
            GOOD + 'wake = [{ post = "/wake" }]\n',
            "F:4: models.a.wake: nothing puts it to sleep; write sleep as well, or leave this out",
        ),
        (
            GOOD + "sleep_level = 2\n",
            "F:4: models.a.sleep_level: level 2 takes steps, sleep and wake, which are not there; write them, or "
            "leave this out: its process ends instead (level 3)",
        ),
        (
            GOOD + STEPS + "sleep_level = 3\n",
            "F:6: models.a.sleep_level: its process ends at level 3, and sleep and wake are never used; use 1 or 2",
        ),
        (
            GOOD + STEPS + "sleep_level = 0\n",
            "F:6: models.a.sleep_level: openai has no sleep level 0; use one of 1, 2, 3",
        ),
        (
            GOOD + 'sleep = [{ command = ["cat", "{pidd}"] }]\nwake = [{ get = "/x" }]\n',
            "F:4: models.a.sleep: {pidd} is no placeholder here; did you mean pid?",
        ),
        (
            GOOD + 'stop_command = ["/no/docker", "stop"]\n',
            "F:4: models.a.stop_command: /no/docker is not an executable that can be found; install it, or give",
        ),
        (
            GOOD + 'args = ["--x"]\n',
            "F:4: models.a.args: nothing is added to a command; write them into it, and leave this out",
        ),
        (
            GOOD + 'ready_path = "health"\n',
            'F:4: models.a.ready_path: "health" is no path of a URL; write "/health", with a slash and',
        ),
        (GOOD + 'stop_signal = "TERM"\n', 'F:4: models.a.stop_signal: "TERM" is not known; use "SIGTERM" or'),
        (
            GOOD + 'python = "python3"\n',
            'F:4: models.a.python: only engine = "sglang" or "vllm" has it; remove it or change engine',
        ),
        (
            GOOD + "hang_timeout = 5\n",
            'F:4: models.a.hang_timeout: only engine = "sglang" or "vllm" or "simulator" has it',
        ),
    ],
)
def test_a_mistake_is_told_with_its_place_and_what_to_write(problem, table, told):
    assert problem(table).startswith(told)


@pytest.mark.parametrize(
    "table",
    [
        'command = ["cat", "--port", "8080"]\nport = 8080\n',
        'command = ["cat"]\nport = 8080\n',  # by its own configuration file
        'command = ["cat", "-p", "127.0.0.1:{port}:8080", "image", "--port", "8080"]\n',
        'command = ["sh", "-c", "exec serve --port {port} --dir $HOME"]\n',
        *(
            f'command = [{wrapper}, "sh", "-c", "exec serve --port {{port}} --dir ${{HOME}}"]\n'
            for wrapper in ('"env", "A=b"', '"timeout", "9"', '"nice"', '"nohup"', '"setsid"', '"cat", "exec", "web"')
        ),
        'command = ["sh", "-c", "ps | awk \'{lbrace}print}\'; exec serve {port}"]\n',
        f'command = ["{sys.executable}", "serve.py", "{{port}}"]\nstop_command = ["kill", "{{pid}}"]\n',
    ],
)
def test_what_will_work_is_not_complained_of(load, table):
    load(table)


def test_keys_of_another_engine_are_refused_where_the_model_has_that(tmp_path):
    (tmp_path / "muxd.toml").write_text('[models.a]\nengine = "simulator"\nready_path = "/x"\n')
    with pytest.raises(ConfigError, match=r'ready_path: only engine = "openai" has it; remove it or change engine'):
        load_config(tmp_path / "muxd.toml", {})


def test_a_route_that_nobody_could_ask_is_refused(problem, load):
    assert load(GOOD + 'routes = ["/v1/embeddings", "/v1/models"]').engine_options.routes[0] == "/v1/embeddings"
    where = "F:4: models.a.routes: "
    assert problem(GOOD + 'routes = ["/v1/embedding"]').startswith(
        f"{where}/v1/embedding is no route that muxd passes on; did you mean /v1/embeddings?"
    )
    assert problem(GOOD + 'routes = ["/slots"]').startswith(f"{where}/slots is no route that muxd passes on; ")
