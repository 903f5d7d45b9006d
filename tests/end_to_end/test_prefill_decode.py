"""Workers that prefill and workers that decode, behind the real sglang-router: assigned ports, and a dead half."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from .conftest import QUICK
from .muxd import Muxd, eventually

MODELS = f"""\
[defaults]
engine = "simulator"
gpu_release_timeout = "1500ms"
probe_interval = "300ms"
[models.split]
gpus = [0, 1, 2]
prefill = {{ replicas = 1, policy = "cache_aware" }}
decode = {{ replicas = 2, policy = "round_robin", args = ["--batch-slots", "4"] }}
memory = {{ weights = "28GiB", kv = "20GiB" }}
restart_limit = 99
simulation = {{ {QUICK} }}
[models.solo]
gpus = [2]
memory = {{ weights = "40GiB", kv = "16GiB" }}
simulation = {{ {QUICK} }}
"""


@pytest.fixture(scope="module")
def muxd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Muxd]:
    with Muxd(tmp_path_factory.mktemp("split"), MODELS) as muxd:
        yield muxd


def workers(muxd: Muxd) -> dict[str, dict[str, Any]]:
    return {worker["name"]: worker for worker in muxd.status("split")["workers"]}


def all_ready(muxd: Muxd) -> bool:
    return [worker["state"] for worker in workers(muxd).values()] == ["ready"] * 4


def command_line(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")


def answered_by(muxd: Muxd, worker: str) -> int:
    return (muxd.folder / f"logs/split@{worker}.stdout.log").read_text().count("/v1/chat/completions")


def test_a_request_is_read_by_one_half_and_answered_by_the_other(muxd):
    text = muxd.ask("split", max_tokens=20)
    eventually(lambda: all_ready(muxd), "both halves and the router are ready")
    assert {muxd.ask("split", max_tokens=20) for _ in range(4)} == {text}
    assert all(answered_by(muxd, name) for name in ("prefill-0", "decode-0", "decode-1"))
    assert [worker["gpus"] for worker in workers(muxd).values()] == [[0], [1], [2], []]


def test_each_half_is_told_what_it_is(muxd):
    muxd.ask("split")
    eventually(lambda: all_ready(muxd), "both halves and the router are ready")
    prefill, decode = (command_line(workers(muxd)[f"split/{name}"]["pid"]) for name in ("prefill-0", "decode-0"))
    assert prefill[prefill.index("--disaggregation-mode") + 1] == "prefill"
    assert int(prefill[prefill.index("--disaggregation-bootstrap-port") + 1]) > 0
    assert decode[decode.index("--disaggregation-mode") + 1] == "decode"
    assert decode[-3:-1] == ["--batch-slots", "4"], "after the model's own"


def test_a_half_that_dies_is_named_and_its_requests_are_asked_again_not_left_to_hang(muxd):
    text = muxd.ask("split", max_tokens=60)
    eventually(lambda: all_ready(muxd), "both halves and the router are ready")
    prefill = workers(muxd)["split/prefill-0"]["pid"]

    def ask(number: int) -> str:
        if number == 6:
            os.kill(prefill, signal.SIGKILL)
        return muxd.ask("split", max_tokens=60)

    with ThreadPoolExecutor(8) as clients:
        assert set(clients.map(ask, range(40))) == {text}
    eventually(lambda: all_ready(muxd), "it is back")
    status = muxd.status("split")
    assert workers(muxd)["split/prefill-0"]["restarts"] == 1
    assert workers(muxd)["split/router"]["restarts"] == 0
    assert status["last_exit"] is not None


@pytest.mark.thorough
def test_a_half_that_cannot_come_refuses_requests_with_its_name(tmp_path):
    broken = MODELS.replace('policy = "cache_aware" }', 'policy = "cache_aware", args = ["--fault", "oom-text"] }')
    broken = broken.replace("restart_limit = 99", "restart_limit = 1")
    with Muxd(tmp_path, broken) as muxd:
        answer = muxd.post("/v1/chat/completions", {"model": "split", "messages": [{"role": "user", "content": "x"}]})
        assert answer.status_code in (500, 503)
        assert "split/prefill-0" in answer.text


@pytest.mark.thorough
def test_both_give_way_together(muxd):
    text = muxd.ask("split")
    muxd.ask("solo")
    assert muxd.state("split") == "unloaded"
    assert muxd.ask("split") == text
