"""What a launch script's text does not say is seen at its process and kept, and named where it contradicts the text."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.seeds import thorough

from .muxd import Muxd, assert_never_two_awake, eventually
from .scripts import Scripts

FLAGS = "--load-time 0.3 --sleep-time 0.02 --wake-time 0.05 --token-rate 500 --pace 0.02"


def write(folder: Path, name: str, text: str) -> str:
    """`{server}` and `{port}` in the text are what they say."""
    server = f"{sys.executable} -m muxd.simulator {FLAGS}"
    (folder / f"{name}.sh").write_text(text.replace("{server}", server).replace("{port}", str(free_port())))
    return f"{name}.sh"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Scripts]]:
    with ExitStack() as stack:
        yield lambda *words, **more: stack.enter_context(Scripts(tmp_path, *words, **more))


#: Scripts of which neither name nor port is written plainly.
HIDDEN = {
    "a text that is evaluated": 'cmd="$(cat ./words)"\neval "{server} $cmd"',
    "a function": 'serve() { local p=$1; shift; {server} --port "$p" "$@"; }\n'
    "serve {port} --model-path org/hidden --served-model-name h --enable-memory-saver",
    "a program": "./serve-it",
}
WORDS = "--model-path org/hidden --served-model-name h --port {port} --enable-memory-saver"


@pytest.mark.parametrize("text", ["a program", *thorough("a text that is evaluated")])
def test_name_port_and_level_of_a_script_that_does_not_say_them_are_those_of_its_server(start, tmp_path, text):
    write(tmp_path, "words", WORDS)
    (tmp_path / "words.sh").rename(tmp_path / "words")
    write(tmp_path, "serve-it", f"#!/bin/bash\nexec {{server}} {WORDS}\n")
    (tmp_path / "serve-it.sh").rename(tmp_path / "serve-it")
    (tmp_path / "serve-it").chmod(0o755)
    muxd = start(write(tmp_path, "alpha", HIDDEN[text]))
    muxd.until_state("alpha", "ready")
    assert set(muxd.status("alpha")["served_names"]) == {"org/hidden", "h"}
    assert muxd.status("alpha")["sleep_level"] == 2
    eventually(lambda: muxd.ask("h"), "clients may use what was learnt")
    assert muxd.ask("alpha") == muxd.ask("org/hidden")


@pytest.mark.thorough
def test_what_was_seen_is_known_to_the_next_muxd_before_anything_runs(start, tmp_path):
    write(tmp_path, "alpha", HIDDEN["a function"])
    models = '[models.alpha]\nscript = "alpha.sh"\n'
    first = start(models=models)
    assert first.status("alpha")["served_names"] == ["alpha"]
    assert first.ask("alpha")
    first.stop()
    second = start(models=models)
    assert set(second.status("alpha")["served_names"]) == {"org/hidden", "h"}
    assert second.ask("h")
    (kept,) = json.loads((tmp_path / "state/scripts.json").read_text()).values()
    assert (kept["model"], kept["served"], kept["sleep_level"], kept["gpus"]) == ("org/hidden", "h", 2, [0])


def two_gpus(folder: Path, first: str = "0", second: str = "1") -> str:
    models = ""
    for name, gpu in (("alpha", first), ("beta", second)):
        write(
            folder, name, f"export CUDA_VISIBLE_DEVICES={gpu}\nexec {{server}} --model-path org/{name} --port {{port}}"
        )
        models += f'[models.{name}]\nscript = "{name}.sh"\n'
    return models + '[models.gamma]\nengine = "simulator"\ngpus = [0, 1]\n'


@pytest.mark.thorough
def test_until_a_script_was_seen_it_has_every_gpu_and_then_those_that_it_uses(start, tmp_path):
    muxd = start(models=two_gpus(tmp_path))
    assert [muxd.status(name)["gpus"] for name in ("alpha", "beta")] == [[0, 1], [0, 1]]
    assert muxd.ask("org/alpha")
    assert muxd.ask("org/beta")
    assert [muxd.status(name)["gpus"] for name in ("alpha", "beta")] == [[0], [1]]
    assert muxd.state("alpha") == "unloaded", "nobody knew that there was room for both"
    assert muxd.control("POST", "/v1/reload").json()["plan"] == [], "what was learnt is no change"
    assert muxd.ask("org/alpha")
    assert [muxd.state(name) for name in ("alpha", "beta")] == ["ready", "ready"]


def failure(muxd: Muxd) -> str:
    muxd.until_state("alpha", "failed")
    assert "backoff" not in {after for model, _, after in muxd.moves() if model == "alpha"}, "not tried again"
    assert muxd.status("alpha")["last_exit"]["code"] == "script_unusable"
    return str(muxd.status("alpha")["reason"])


def test_two_servers_of_one_script_are_told_and_none_is_served(start, tmp_path):
    text = f"for p in {free_port()} {free_port()}; do\n{{server}} --model-path org/x --port $p &\ndone\nwait"
    write(tmp_path, "alpha", text)
    muxd = start(models='[models.alpha]\nscript = "alpha.sh"\npreload = true\nprobe_interval = "200ms"\n')
    assert "its launch script runs 2 servers at a time, on ports " in failure(muxd)
    assert not [line for line in muxd.processes().values() if "muxd.simulator" in line]


#: A server that says that it is healthy, and knows nothing else: so do those of other engines.
OTHER = """
import http.server, sys
class Other(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.send_header("content-length", "0")
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Other).serve_forever()
"""

#: Scripts that start no server of SGLang, and what is said of each after its first run.
UNUSABLE = {
    "another server": (f"exec {sys.executable} ./other.py {{port}}", "which is not SGLang"),
    "no server": ("exec sleep 1000", "has run for 4 s, and started no server that listens"),
    "no server at a plain port": (
        "PORT={port}\nexec sleep 1000",
        "has run for 4 s, and started no server that listens",
    ),
    "another server that is never healthy": (
        f"PORT={{port}}\nexec {sys.executable} -m http.server -b 127.0.0.1 $PORT",
        "which is not SGLang",
    ),
    "nothing": ("true", "its launch script ended with status 0, and left no server"),
    "a flag without its value": ("exec {server} --model-path org/x --port $1", "argument --port: expected one"),
}


LESS_USUAL = (
    "no server",
    "no server at a plain port",
    "another server that is never healthy",
    "a flag without its value",
)


@pytest.mark.parametrize("kind", ["another server", "nothing", *thorough(*LESS_USUAL)])
def test_a_script_that_starts_no_server_of_sglang_is_told_after_its_first_run(start, tmp_path, kind):
    text, told = UNUSABLE[kind]
    (tmp_path / "other.py").write_text(OTHER)
    write(tmp_path, "alpha", text)
    muxd = start(models='[models.alpha]\nscript = "alpha.sh"\npreload = true\nstart_timeout = 4\n')
    eventually(lambda: told in str(muxd.status("alpha")["last_exit"]), told)


@pytest.mark.thorough
def test_scripts_of_the_command_line_share_every_gpu_until_both_were_seen(start, tmp_path):
    scripts = [
        write(tmp_path, name, f"{{server}} --model-path org/{name} --port {{port}}") for name in ("alpha", "beta")
    ]
    muxd = start(*scripts)
    muxd.until_state("beta", "ready")
    assert muxd.ask("org/alpha")
    assert muxd.control("POST", "/v1/reload").json()["plan"] == []
    assert_never_two_awake(muxd.moves())
