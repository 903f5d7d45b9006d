"""What a launch script's text does not say is seen at its process and kept, and named where it contradicts the text."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .muxd import Muxd, assert_never_two_awake, eventually, free_port
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
    "a loop": "for port in {port}; do {server} --model-path org/hidden --served-model-name h --port $port "
    "--enable-memory-saver; done",
    "a function": 'serve() { local p=$1; shift; {server} --port "$p" "$@"; }\n'
    "serve {port} --model-path org/hidden --served-model-name h --enable-memory-saver",
    "a program": "./serve-it",
}
WORDS = "--model-path org/hidden --served-model-name h --port {port} --enable-memory-saver"


@pytest.mark.parametrize("text", HIDDEN.values(), ids=HIDDEN)
def test_name_port_and_level_of_a_script_that_does_not_say_them_are_those_of_its_server(start, tmp_path, text):
    write(tmp_path, "words", WORDS)
    (tmp_path / "words.sh").rename(tmp_path / "words")
    write(tmp_path, "serve-it", f"#!/bin/bash\nexec {{server}} {WORDS}\n")
    (tmp_path / "serve-it.sh").rename(tmp_path / "serve-it")
    (tmp_path / "serve-it").chmod(0o755)
    muxd = start(write(tmp_path, "alpha", text))
    muxd.until_state("alpha", "ready")
    assert set(muxd.status("alpha")["served_names"]) == {"org/hidden", "h"}
    assert muxd.status("alpha")["sleep_level"] == 2
    eventually(lambda: muxd.ask("h"), "clients may use what was learnt")
    assert muxd.ask("alpha") == muxd.ask("org/hidden")


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


def test_what_is_kept_and_damaged_is_put_aside(start, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state/scripts.json").write_text('{"x": {"port": "y"}}')
    write(tmp_path, "alpha", HIDDEN["a function"])
    muxd = start(models='[models.alpha]\nscript = "alpha.sh"\n')
    assert muxd.ask("alpha")
    assert (tmp_path / "state/scripts.unreadable").exists()
    assert json.loads((tmp_path / "state/scripts.json").read_text())


def two_gpus(folder: Path, first: str = "0", second: str = "1") -> str:
    models = ""
    for name, gpu in (("alpha", first), ("beta", second)):
        write(
            folder, name, f"export CUDA_VISIBLE_DEVICES={gpu}\nexec {{server}} --model-path org/{name} --port {{port}}"
        )
        models += f'[models.{name}]\nscript = "{name}.sh"\n'
    return models + '[models.gamma]\nengine = "simulator"\ngpus = [0, 1]\n'


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


def test_a_server_on_a_gpu_that_its_table_does_not_name_is_ended_and_started_again_on_what_it_uses(start, tmp_path):
    models = two_gpus(tmp_path).replace('"alpha.sh"\n', '"alpha.sh"\ngpus = [0]\n')
    models = models.replace('"beta.sh"\n', '"beta.sh"\ngpus = [0]\npreload = true\n')
    muxd = start(models=models)
    muxd.until_state("beta", "ready")
    told = "its server uses GPU 1, and its table says 0"
    eventually(lambda: muxd.status("beta")["gpus"] == [1], "the process goes before the table")
    assert muxd.status("beta")["reason"] == told
    assert "beta: wrong_gpus: its server uses GPU 1, and GPU 0 was set aside for it" in muxd.log
    assert muxd.ask("org/beta")
    assert muxd.ask("org/alpha")
    assert [muxd.state(name) for name in ("alpha", "beta")] == ["ready", "ready"]
    muxd.stop()
    again = start(models=models)
    assert again.status("beta")["gpus"] == [1]
    assert again.status("beta")["reason"] == told


def test_a_server_on_another_gpu_is_ended_while_it_loads(start, tmp_path):
    text = "export CUDA_VISIBLE_DEVICES=1\nexec {server} --load-time 60 --model-path org/alpha --port {port}"
    write(tmp_path, "alpha", text)
    muxd = start(models='[models.alpha]\nscript = "alpha.sh"\ngpus = [0]\npreload = true\n')
    eventually(lambda: "alpha: wrong_gpus: its server uses GPU 1" in muxd.log, "nobody waits until it is loaded")
    assert muxd.status("alpha")["gpus"] == [1]
    assert "ready" not in {after for _, _, after in muxd.moves()}


def failure(muxd: Muxd) -> str:
    muxd.until_state("alpha", "failed")
    assert "backoff" not in {after for model, _, after in muxd.moves() if model == "alpha"}, "not tried again"
    assert muxd.status("alpha")["last_exit"]["code"] == "script_unusable"
    return str(muxd.status("alpha")["reason"])


@pytest.mark.parametrize("pause", ["", "sleep 2\n"], ids=["at once", "later"])
def test_two_servers_of_one_script_are_told_and_none_is_served(start, tmp_path, pause):
    text = f"for p in {free_port()} {free_port()}; do\n{{server}} --model-path org/x --port $p &\n{pause}done\nwait"
    write(tmp_path, "alpha", text)
    muxd = start(models='[models.alpha]\nscript = "alpha.sh"\npreload = true\nprobe_interval = "200ms"\n')
    assert "its launch script runs 2 servers at a time, on ports " in failure(muxd)
    assert not [line for line in muxd.processes().values() if "muxd.simulator" in line]


def test_a_server_that_is_none_of_sglang_is_told(start, tmp_path):
    (tmp_path / "health").write_text("{}")
    muxd = start(write(tmp_path, "alpha", f"{sys.executable} -m http.server --bind 127.0.0.1 {{port}}"))
    assert "which is not SGLang" in failure(muxd)


def test_a_script_that_starts_no_server_is_told_when_its_time_is_over(start, tmp_path):
    write(tmp_path, "alpha", 'eval "$(true)"\nsleep 1000')
    muxd = start(models='[models.alpha]\nscript = "alpha.sh"\npreload = true\nstart_timeout = 1\n')
    muxd.until_state("alpha", "backoff", "failed")
    assert "started no server that listens" in muxd.status("alpha")["last_exit"]["reason"]


def test_a_table_that_sleeps_deeper_than_its_server_can_is_told_and_the_server_goes_before_it(start, tmp_path):
    write(tmp_path, "alpha", HIDDEN["a function"])
    muxd = start(models='[models.alpha]\nscript = "alpha.sh"\nserved_names = ["x"]\nsleep_level = 1\n')
    assert muxd.ask("x")
    assert muxd.status("alpha")["sleep_level"] == 2
    assert "without --enable-memory-saver --enable-weights-cpu-backup" in muxd.status("alpha")["reason"]
    assert muxd.status("alpha")["served_names"] == ["x"], "what clients see is the table's to say"


def test_scripts_of_the_command_line_share_every_gpu_until_both_were_seen(start, tmp_path):
    scripts = [
        write(tmp_path, name, f"{{server}} --model-path org/{name} --port {{port}}") for name in ("alpha", "beta")
    ]
    muxd = start(*scripts)
    muxd.until_state("beta", "ready")
    assert muxd.ask("org/alpha")
    assert muxd.control("POST", "/v1/reload").json()["plan"] == []
    assert_never_two_awake(muxd.moves())
