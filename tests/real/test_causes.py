"""Real SGLang that cannot start, and what muxd makes of what it says."""

import os
import signal
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.muxd import Muxd, chat_body, eventually
from tests.ports import free_port

from .sglang_cpu import CPU_ARGS, CPU_ENV

#: A failed start takes 7 to 30 s of two cores that have nothing else to do.
DEADLINE = 120.0

MODELS = """\
[defaults]
python = "{home}/venv/bin/python"
args = {args}
env = {{ {env} }}
restart_limit = 1
model_path = "{home}/models/tiny-a"
[models.bad-flag]
args = {args_and_more}
[models.bad-value]
args = {args_and_bad}
[models.missing-path]
model_path = "{gone}"
[models.not-downloaded]
model_path = "org/not-downloaded"
[models.no-sglang]
python = "{bare}"
[models.port-taken]
port = {port}
"""

#: Of each model: the code, what the message says.
FAILURES = {
    "bad-flag": ("bad_flag", "the engine does not know --no-such-flag; correct the model's args"),
    "bad-value": ("bad_flag", "argument --tp-size/--tensor-parallel-size: invalid int value: 'two'"),
    "missing-path": ("model_path_missing", "/gone; correct model_path"),
    "not-downloaded": ("model_download_failed", "org/not-downloaded is no folder here and not in the Hub's cache"),
    "no-sglang": ("engine_missing", "sglang is not installed in /"),
}


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def muxd(sglang_home: Path, port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Muxd]:
    gone = tmp_path_factory.mktemp("models") / "gone"
    gone.mkdir()
    models = MODELS.format(
        home=sglang_home,
        args=list(CPU_ARGS),
        args_and_more=[*CPU_ARGS, "--no-such-flag", "5"],
        args_and_bad=[*CPU_ARGS, "--tp-size", "two"],
        env=", ".join(f'{key} = "{value}"' for key, value in CPU_ENV.items()),
        port=port,
        gone=gone,
        bare=sys.executable,
    )
    with Muxd(tmp_path_factory.mktemp("muxd"), models, deadline=DEADLINE) as muxd:
        gone.rmdir()  # after its configuration was found to be good
        yield muxd


def refusal(muxd: Muxd, model: str) -> dict[str, Any]:
    """What a client is told; status says the same."""
    answer = muxd.post("/v1/chat/completions", chat_body(model, "hello"))
    assert answer.status_code == 503, answer.text
    error: dict[str, Any] = answer.json()["error"]
    view = muxd.status(model)
    assert (view["state"], view["last_exit"]["code"]) == ("failed", error["code"])
    assert view["last_exit"]["reason"] in error["message"]
    return error


@pytest.mark.parametrize("model", FAILURES)
def test_what_keeps_it_from_starting_is_told_by_name_with_what_to_do(muxd, model):
    code, words = FAILURES[model]
    error = refusal(muxd, model)
    assert error["code"] == code
    assert words in error["message"]
    assert "Traceback" not in error["message"]


@pytest.mark.long
def test_a_port_that_is_taken_while_it_loads_is_told_though_sglang_does_not_end_of_it(muxd, port):
    with socket.socket() as other, ThreadPoolExecutor(1) as client:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        told = client.submit(refusal, muxd, "port-taken")
        muxd.until_state("port-taken", "starting")
        other.bind(("127.0.0.1", port))
        other.listen()
        error = told.result()
    assert error["code"] == "port_taken"
    assert f"port {port} was taken by another process while the engine loaded" in error["message"]


def test_a_sigkill_that_nobody_can_explain_is_not_said_to_be_the_kernels(muxd):
    with ThreadPoolExecutor(1) as client:
        told = client.submit(muxd.switch, "port-taken")
        main_process = eventually(lambda: muxd.status("port-taken")["pid"], "it was launched")
        os.kill(main_process, signal.SIGKILL)
        assert told.result()["error"]["code"] == "model_failed"
    assert muxd.status("port-taken")["last_exit"] | {"log_tail": [], "when_s": 0} == {
        "code": None,
        "reason": "killed by SIGKILL",
        "log_tail": [],
        "when_s": 0,
    }
