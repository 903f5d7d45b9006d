"""muxd and its proxy over llama.cpp's own server, started by a command: one model ends, the other is frozen."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.muxd import Muxd, assert_never_two_awake, chat_body, eventually
from tests.ports import free_port
from tests.real.any_engine import (  # noqa: F401  the tests are collected here
    A,
    B,
    is_back_after_a_sigkill,
    test_a_stream_whose_client_leaves_does_not_hold_up_a_switch,
    test_all_requests_of_a_crowd_succeed,
)

from .llama_cpu import FREEZE, SERVER, STEPS, THAW, command, table

DEFAULTS = """\
[defaults]
engine = "openai"
restart_limit = 99
probe_interval = "200ms"
probe_timeout = "1s"
"""


def config(home: Path, *, a: tuple[str, ...] = (), b: tuple[str, ...] = (STEPS,)) -> str:
    """tiny-a and tiny-b with these keys, and the command that starts either, unless tiny-a's keys have one."""
    return f"{DEFAULTS}{command(home)}\n{table(home, 'tiny-a', *a)}{table(home, 'tiny-b', *b)}"


@pytest.fixture(scope="module")
def muxd(llama_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Muxd]:
    """tiny-a at level 3, tiny-b at level 1 by steps, for all tests of this file that leave it well."""
    with Muxd(tmp_path_factory.mktemp("muxd"), config(llama_home)) as muxd:
        yield muxd
        muxd.stop()
        assert not list((muxd.folder / "state" / "workers").iterdir())


def frozen(pid: int) -> bool:
    return "\nState:\tT" in Path(f"/proc/{pid}/status").read_text()


def test_both_answer_in_turn_and_the_one_with_steps_is_frozen_and_thawed(muxd, texts):
    muxd.ask(B)
    pid = muxd.status("tiny-b")["pid"]
    for stream in (False, True, False):
        assert muxd.ask(A, stream=stream, max_tokens=24) == texts[A]
        assert frozen(pid)
        assert (muxd.state("tiny-b"), muxd.status("tiny-b")["level"]) == ("asleep", 1)
        assert muxd.ask(B, stream=stream, max_tokens=24) == texts[B]
        assert (muxd.state("tiny-a"), muxd.status("tiny-b")["pid"]) == ("unloaded", pid)
    assert_never_two_awake(muxd.moves())


@pytest.fixture
def crowd() -> tuple[int, int]:
    return 16, 100


def test_what_the_server_answers_itself_is_passed_on(muxd, texts):
    muxd.ask(A)
    tokens = muxd.post("/tokenize", {"model": A, "content": "hello"}).json()["tokens"]
    assert len(tokens) == 6
    assert muxd.post("/v1/completions", {"model": B, "prompt": "x", "max_tokens": 3}).json()["usage"]["prompt_tokens"]
    assert muxd.post("/generate", {"model": A, "text": "x"}).status_code == 404
    assert {card["max_model_len"] for card in muxd.get("/v1/models").json()["data"] if card["root"] == "tiny-b"} == {
        2048
    }


def test_after_a_sigkill_no_process_is_left_and_the_model_is_back(muxd, texts):
    is_back_after_a_sigkill(muxd, texts, "server", {"server"}, lambda: {"server": muxd.status("tiny-a")["pid"]})


def test_a_sleeper_that_is_killed_is_started_again_when_it_is_asked(muxd, texts):
    muxd.ask(B)
    pid = muxd.status("tiny-b")["pid"]
    muxd.ask(A)
    os.kill(pid, signal.SIGKILL)
    assert muxd.ask(B, max_tokens=24) == texts[B]
    assert pid not in muxd.processes()


def test_a_server_that_hangs_is_noticed(muxd, texts):
    muxd.ask(A)
    os.kill(muxd.status("tiny-a")["pid"], signal.SIGSTOP)
    muxd.until_state("tiny-a", "unresponsive", "starting", "backoff")
    assert muxd.ask(A, max_tokens=24) == texts[A]


BROKEN = {
    "a command fails": '{{ command = ["sh", "-c", "! test -e {0}"] }}',
    "a command never ends": '{{ command = ["sh", "-c", "while test -e {0}; do sleep 0.05; done"] }}',
    "a call is refused": '{{ post = "/no/such/route" }}',
}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("verb", ["sleep", "wake"])
def test_a_server_whose_step_does_not_work_is_killed_and_started_anew(llama_home, tmp_path, texts, verb, how):
    broken = tmp_path / "broken"
    steps = {"sleep": FREEZE, "wake": THAW}
    steps[verb] = f"{BROKEN[how].format(broken)}, {steps[verb]}"
    keys = (f"sleep = [{steps['sleep']}]", f"wake = [{steps['wake']}]", 'call_timeout = "1s"')
    with Muxd(tmp_path, config(llama_home, b=keys)) as muxd:
        assert muxd.ask(B, max_tokens=24) == texts[B]
        first = muxd.status("tiny-b")["pid"]
        broken.touch()
        assert muxd.ask(A, max_tokens=24) == texts[A]
        assert muxd.ask(B, max_tokens=24) == texts[B]
        assert muxd.status("tiny-b")["pid"] != first
        assert first not in muxd.processes()
        assert f"{verb} step 1 of" in muxd.log
        assert_never_two_awake(muxd.moves())


@pytest.mark.parametrize("is_other", [True, False])
def test_a_server_that_wakes_with_another_model_is_caught_by_its_answer(llama_home, tmp_path, texts, is_other):
    """Its wake ends and starts it within its command, which reads anew which model it has."""
    which, models = tmp_path / "which", llama_home / "models"
    which.write_text(f"{models}/tiny-b.gguf")
    start = command(llama_home, "sh", "-c", f'while :; do "$@" --model "$(cat {which})"; done', "sh")
    found = models / f"tiny-{'a' if is_other else 'b'}.gguf"
    steps = (
        f"""sleep = [{{ command = ["sh", "-c", "echo {found} > {which}"] }}]""",
        """wake = [{ command = ["sh", "-c", "kill {pid}; while kill -0 {pid} 2>&-; do sleep 0.05; done"] }]""",
    )
    with Muxd(tmp_path, config(llama_home, b=(start, *steps))) as muxd:
        assert muxd.ask(B, max_tokens=24) == texts[B]
        first = muxd.status("tiny-b")["pid"]
        assert muxd.ask(A, max_tokens=24) == texts[A]
        assert muxd.ask(B, max_tokens=24) == texts[A if is_other else B]
        assert ("woke_wrong" in muxd.log, muxd.status("tiny-b")["pid"] != first) == (is_other, is_other)


def test_a_stop_command_ends_it_and_what_a_killed_one_leaves(llama_home, tmp_path, texts):
    left, said = tmp_path / "container", tmp_path / "said"  # what a container would be: it outlives its client
    start = command(llama_home, "sh", "-c", f'touch {left}; "$@" & echo $! > {left}; wait', "sh")
    stop = f"stop_command = ['sh', '-c', 'kill $(cat {left}); rm {left}; echo stopped >> {said}']"
    with Muxd(tmp_path, config(llama_home, a=(start, stop))) as muxd:
        assert muxd.ask(A, max_tokens=24) == texts[A]
        muxd.ask(B)
        assert (left.exists(), said.read_text()) == (False, "stopped\n")
        muxd.ask(A)
        os.kill(muxd.status("tiny-a")["pid"], signal.SIGKILL)
        eventually(lambda: said.read_text().count("stopped") == 2, "what the crashed one left is ended")
        assert muxd.ask(A, max_tokens=24) == texts[A]


def test_the_next_muxd_ends_what_a_killed_one_has_left_frozen_or_awake(llama_home, tmp_path, texts):
    with Muxd(tmp_path, config(llama_home), daemon='on_crash = "stop"') as muxd:
        muxd.ask(B)
        muxd.ask(A)
        left = [muxd.status(name)["pid"] for name in ("tiny-a", "tiny-b")]
        assert frozen(left[1])
        muxd.kill()
        muxd.start_again()
        assert not set(left) & set(muxd.processes())
        assert muxd.ask(B, max_tokens=24) == texts[B]


def test_a_port_that_a_stranger_holds_is_told_before_a_load_is_paid_for(llama_home, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with Muxd(tmp_path, config(llama_home, a=(f"port = {port}",))) as muxd:
            refused = muxd.post("/v1/chat/completions", chat_body(A, "hello"))
            assert refused.status_code == 503
            assert f"port {port} cannot be used" in refused.json()["error"]["message"]


def test_a_server_that_listens_elsewhere_is_told_so(llama_home, tmp_path):
    port, other = free_port(), free_port()
    script = tmp_path / "serve.sh"  # no check sees what a wrapper does
    script.write_text(f'exec "{llama_home}/venv/bin/python" "{SERVER}" --model "$1" --alias x --port {other}\n')
    keys = (f'command = ["sh", "{script}", "{{model_path}}"]', f"port = {port}")
    with Muxd(tmp_path, config(llama_home, a=keys)) as muxd:
        refused = muxd.post("/v1/chat/completions", chat_body(A, "hello"))
        assert refused.json()["error"]["code"] == "wrong_port"
        assert f"port {other}" in refused.json()["error"]["message"]


def test_what_cannot_be_loaded_ends_with_the_servers_own_words_in_the_log(llama_home, tmp_path):
    bad = tmp_path / "no-model.gguf"
    bad.write_bytes(b"GGUF" + bytes(100))
    text = config(llama_home, a=("restart_limit = 1",)).replace(f"{llama_home}/models/tiny-a.gguf", str(bad))
    with Muxd(tmp_path, text) as muxd:
        refused = muxd.post("/v1/chat/completions", chat_body(A, "hello"))
        assert refused.status_code == 503
        assert "no-model.gguf" in "\n".join(muxd.status("tiny-a")["last_exit"]["log_tail"])


def test_check_describes_it(llama_home, tmp_path):
    file = tmp_path / "muxd.toml"
    file.write_text(config(llama_home))
    argv = [sys.executable, "-m", "muxd", "check", "--config", str(file)]
    said = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    assert f"{llama_home}/models/tiny-a.gguf by {llama_home}/venv/bin/python on GPU 0" in said
