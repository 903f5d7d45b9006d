"""sglangmux's launch scripts, unchanged, under a real `muxd start a.sh b.sh`; their servers are simulated."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.ports import free_port

from .muxd import Muxd, assert_never_two_awake, chat_body, eventually
from .scripts import Scripts, environ

#: What all servers share.  MODEL_NAME is no path, as it may be: the weights are elsewhere.
HEAD = """\
#!/usr/bin/env bash
set -euo pipefail
MODEL_NAME="org/{name}"  # what clients send
PORT={port}
FOLDER='{folder}'
FLAGS=(--load-time 0.3 --sleep-time 0.02 --wake-time 0.05 --token-rate 500 --pace 0.02
       --ledger "$FOLDER/gpus" --gpu-memory 80000 --weights 40000 --kv 20000)
SERVER=({python} -m muxd.simulator --model-path "$FOLDER/weights/{name}" --port "$PORT" "${{FLAGS[@]}}")
"""

#: How a script keeps its server.  It writes how that ended to NAME.ended, where it lives to see that.
ENDED = 'echo $? > "$FOLDER/{name}.ended"'
SHAPES = {
    "exec": 'exec "${SERVER[@]}" --enable-memory-saver',
    "no exec": f'"${{SERVER[@]}}" --enable-memory-saver; {ENDED}',
    "a trap": f"trap 'echo heard > /dev/null' TERM INT\n\"${{SERVER[@]}}\" --enable-memory-saver; {ENDED}",
}
#: What a script can do so that it never ends by itself.
ENDLESS = {
    "it is kept up": 'while true; do "${SERVER[@]}" --enable-memory-saver; done',
    "others beside it": 'setsid sleep 100000 &\nnohup sleep 100000 &\n"${SERVER[@]}" --enable-memory-saver\nwait',
}


def write(folder: Path, name: str, body: str, port: int | None = None) -> str:
    head = HEAD.format(name=name, folder=folder, port=port or free_port(), python=sys.executable)
    (folder / f"{name}.sh").write_text(f"{head}{body.replace('{name}', name)}\n")  # no executable bit
    return f"{name}.sh"


def two(folder: Path, body: str) -> tuple[str, str]:
    return write(folder, "alpha", body), write(folder, "beta", body)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Scripts]]:
    with ExitStack() as stack:
        yield lambda *words: stack.enter_context(Scripts(tmp_path, *words))


def once_loaded(muxd: Muxd) -> Muxd:
    """Both were loaded in their order; the last one is awake."""
    muxd.until_state("beta", "ready")
    muxd.until_state("alpha", "asleep", "unloaded")
    return muxd


def test_both_answer_in_turn_by_the_names_in_the_scripts_with_their_own_unchanged_text(start, tmp_path):
    muxd = once_loaded(start(*two(tmp_path, SHAPES["no exec"])))
    loads = [model for model, before, after in muxd.moves() if (before, after) == ("starting", "ready")]
    assert (loads, muxd.state("alpha")) == (["alpha", "beta"], "asleep"), "once each, in their order"
    first = muxd.ask("org/beta"), muxd.ask("org/alpha")
    assert first[0] != first[1]
    for _ in range(2):
        assert (muxd.ask("org/beta"), muxd.ask("org/alpha", stream=True)) == first, "reloaded from its own weights"
    assert muxd.ask("alpha") == first[1], "the file's name means it too"
    assert [muxd.status(name)["restarts"] for name in ("alpha", "beta")] == [0, 0]
    assert_never_two_awake(muxd.moves())


@pytest.mark.thorough
def test_a_stop_ends_the_server_by_itself_whatever_is_around_it(start, tmp_path):
    muxd = once_loaded(start(write(tmp_path, "alpha", SHAPES["exec"]), write(tmp_path, "beta", SHAPES["a trap"])))
    muxd.process.terminate()
    assert muxd.process.wait(20) == 0, muxd.log
    assert not muxd.left_behind()
    assert (tmp_path / "beta.ended").read_text() == "0\n", "not killed"


@pytest.mark.thorough
def test_an_interrupt_at_the_terminal_ends_who_is_awake_and_who_sleeps(start, tmp_path):
    muxd = once_loaded(start(*two(tmp_path, SHAPES["no exec"])))
    muxd.process.send_signal(signal.SIGINT)
    assert muxd.process.wait(20) == 0, muxd.log
    assert not muxd.left_behind()


@pytest.mark.thorough
def test_a_script_that_never_ends_leaves_nothing_behind_either(start, tmp_path):
    muxd = start(write(tmp_path, "alpha", ENDLESS["others beside it"]))
    muxd.until_state("alpha", "ready")
    muxd.process.terminate()
    assert muxd.process.wait(20) == 0, muxd.log
    assert not muxd.left_behind()


@pytest.mark.thorough
def test_a_stop_while_a_server_loads_leaves_nothing_behind(start, tmp_path):
    slow = SHAPES["no exec"].replace('"${SERVER[@]}"', '"${SERVER[@]}" --load-time 60')
    muxd = start(write(tmp_path, "alpha", slow), "--log-dir", "logs")
    log = tmp_path / "logs/alpha.stdout.log"
    eventually(lambda: log.exists() and "loading" in log.read_text(), "the server loads")
    for _ in range(2):
        muxd.process.terminate()
    muxd.process.wait(60)
    assert not muxd.left_behind()


@pytest.mark.thorough
def test_a_server_that_its_script_starts_again_by_itself_is_ended_and_started_by_muxd(tmp_path):
    write(tmp_path, "alpha", ENDLESS["it is kept up"])
    table = '[models.alpha]\nscript = "alpha.sh"\ngpus = [0]\npreload = true\n'
    models = f'{table}probe_interval = "200ms"\nprobe_timeout = "1s"\n'
    with Scripts(tmp_path, models=models) as muxd:
        muxd.until_state("alpha", "ready")
        shell = muxd.status("alpha")["pid"]
        assert muxd.ask("org/alpha")
        eventually(lambda: server_of(muxd, "alpha", shell), "its server is there")
        os.kill(server_of(muxd, "alpha", shell), signal.SIGKILL)
        eventually(lambda: muxd.status("alpha")["restarts"] == 1, "another server is no server of muxd's")
        muxd.until_state("alpha", "ready")
        assert muxd.ask("org/alpha")
        assert muxd.status("alpha")["pid"] != shell


def server_of(muxd: Muxd, name: str, shell: int) -> int:
    """The process that a script runs: the main process of its server."""
    lines = {pid: line for pid, line in muxd.processes().items() if f"weights/{name}" in line and pid != shell}
    return next(iter(sorted(lines)))


@pytest.mark.thorough
def test_keys_that_scripts_give_their_servers_are_used(start, tmp_path):
    body = 'exec "${SERVER[@]}" --enable-memory-saver --api-key open-sesame --admin-api-key shut-sesame'
    muxd = once_loaded(start(*two(tmp_path, body), "--upstream-timeout-secs", "30"))
    assert muxd.state("alpha") == "asleep"
    with httpx.Client(timeout=30, headers={"Authorization": "Bearer open-sesame"}) as client:
        for model in ("org/alpha", "org/beta"):
            assert client.post(f"{muxd.url}/v1/chat/completions", json=chat_body(model, "x")).status_code == 200
    assert muxd.post("/v1/chat/completions", chat_body("org/beta", "x")).status_code == 401, "the client's own to send"
    assert_never_two_awake(muxd.moves())


def test_the_flags_of_sglangmux_mean_what_they_mean_there(start, tmp_path):
    slow = SHAPES["exec"].replace('"${SERVER[@]}"', '"${SERVER[@]}" --load-time 20')
    scripts = write(tmp_path, "alpha", slow), write(tmp_path, "beta", SHAPES["exec"])
    flags = ["--host", "127.0.0.1", "--model-ready-timeout-secs", "1.5", "--model-switch-timeout-secs", "1"]
    muxd = start(*flags, "--log-dir", "their-logs", *scripts)
    waited = muxd.post("/v1/chat/completions", chat_body("org/alpha", "x"))
    assert (waited.status_code, waited.json()["error"]["code"]) == (503, "switch_timeout")
    eventually(lambda: "did not become ready in 1.5 s" in json.dumps(muxd.status("alpha")), "it timed out")
    assert {path.name for path in (tmp_path / "their-logs").glob("alpha.*")} == {"alpha.stdout.log", "alpha.stderr.log"}


@pytest.mark.thorough
def test_a_script_that_was_edited_is_run_anew_by_a_reload_and_the_other_is_left_alone(start, tmp_path):
    scripts = two(tmp_path, SHAPES["exec"])
    muxd = start(*scripts)
    muxd.until_state("beta", "ready")
    before = muxd.worker("beta")
    path = tmp_path / scripts[0]
    path.write_text(path.read_text().replace("set -euo pipefail", "set -euo pipefail\nexport MARK=new"))
    plan = muxd.control("POST", "/v1/reload").json()
    assert plan["plan"] == [{"model": "alpha", "action": "restart", "changes": ["script"]}]
    muxd.until_state("alpha", "unloaded")
    assert muxd.worker("beta") == before
    assert muxd.ask("org/alpha")
    assert b"MARK=new" in Path(f"/proc/{muxd.worker('alpha')['main_process']}/environ").read_bytes()


@pytest.mark.thorough
def test_scripts_beside_a_configuration_and_in_it(tmp_path):
    """[models.legacy] has a script; another comes on the command line; a simulated model is beside them."""
    port = free_port()
    write(tmp_path, "old", SHAPES["no exec"].replace('"${SERVER[@]}"', '"${SERVER[@]}" --port "$PORT"'), port=30999)
    text = (tmp_path / "old.sh").read_text().replace("PORT=30999", "PORT=${PORT:-30999}")
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch/old.sh").write_text(text)
    beta = write(tmp_path, "beta", SHAPES["exec"])
    models = f"""
[models.legacy]
script = "launch/old.sh"
port = {port}
gpus = [0]
served_names = ["old", "older"]
sleep_level = 3
[models.pretend]
engine = "simulator"
"""
    with Scripts(tmp_path, beta, models=models) as muxd:
        muxd.until_state("beta", "ready")
        assert muxd.state("legacy") == "unloaded", "what a file names is loaded when it is asked for"
        assert muxd.ask("older") == muxd.ask("legacy")
        assert muxd.ask("org/beta")
        assert muxd.state("legacy") == "unloaded"
        assert muxd.post("/v1/chat/completions", chat_body("org/old", "x")).status_code == 404


def muxd_says(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "muxd", *words]
    return subprocess.run(
        argv, cwd=folder, env=environ(folder), capture_output=True, text=True, timeout=30, check=False
    )


def test_what_is_wrong_with_scripts_is_told_at_once_with_their_lines_and_nothing_is_started(tmp_path):
    (tmp_path / "a.sh").write_text("MODEL_NAME=a\nPORT=$(free_port)\nexec ./serve\n")
    (tmp_path / "b.sh").write_text("python -m sglang.launch_server --model-path b --port 30001\n")
    (tmp_path / "c.sh").write_text("# one\nMODEL_NAME=c PORT=30001\n./serve\n")
    for command in ("start", "check"):
        said = muxd_says(tmp_path, command, "a.sh", "b.sh", "c.sh", "d.sh")
        assert said.returncode == 2
        told = said.stdout if command == "check" else said.stderr
        for problem in (
            "c.sh:2: models.c.port: 30001 is already the port of model b; use another\n",
            "d.sh: models.d.script: cannot be read: No such file or directory; correct the path, or what is there\n",
        ):
            assert problem in told
    assert not (tmp_path / "state").exists()


def test_check_says_which_models_scripts_are(tmp_path):
    scripts = two(tmp_path, SHAPES["exec"])
    said = muxd_says(tmp_path, "check", scripts[0], "--listen-port", "8000", scripts[1])
    assert said.returncode == 0
    head, *lines = said.stdout.splitlines()
    assert head == "2 models, proxy 127.0.0.1:8000"
    told = [line for line in lines if line.split()[1] in ("alpha", "beta")]
    assert [line.split()[0] for line in told] == ["warn", "warn"]
    assert all(f"nothing at {tmp_path}/weights/" in line for line in told), "the weights of a simulator"


BACKGROUND = {
    "nohup": 'nohup "${SERVER[@]}" > log.txt 2>&1 &\necho $! > server.pid',
    "a daemon": '( ( setsid "${SERVER[@]}" > /dev/null 2>&1 < /dev/null & ) & )\nexit 0',
}


def failure(muxd: Muxd, name: str) -> str:
    """Its reason, once it has failed at its first end."""
    muxd.until_state(name, "failed")
    assert [move for move in muxd.moves() if move[0] == name].count((name, "unloaded", "starting")) == 1
    assert "backoff" not in {after for model, _, after in muxd.moves() if model == name}, "not tried again"
    return str(muxd.status(name)["reason"])


def test_a_server_in_the_background_of_a_script_that_ends_is_named_at_its_first_end(start, tmp_path):
    muxd = start(write(tmp_path, "alpha", BACKGROUND["nohup"]), write(tmp_path, "beta", BACKGROUND["a daemon"]))
    for name in ("alpha", "beta"):
        reason = failure(muxd, name)
        assert "its launch script ended while" in reason
        assert "no &, nohup, setsid" in reason
        assert muxd.status(name)["last_exit"]["code"] == "script_ended"
