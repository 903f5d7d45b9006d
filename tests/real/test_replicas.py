"""Two real SGLang servers of one model behind the real sglang-router behind muxd."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.end_to_end.muxd import Muxd, chat_body, eventually, streamed_text

from .sglang_cpu import CPU_ARGS, CPU_ENV
from .test_muxd import DEADLINE, A

CONFIG = """\
[models.tiny-a]
python = "{home}/venv/bin/python"
args = {args}
env = {env}
model_path = "{home}/models/tiny-a"
served_names = ["tests/tiny-a"]
replicas = 2
gpus = [0, 1]
router = {{ policy = "round_robin" }}
restart_limit = 99
"""


@pytest.fixture(scope="module")
def muxd(sglang_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Muxd]:
    env = "{ " + ", ".join(f'{key} = "{value}"' for key, value in CPU_ENV.items()) + " }"
    text = CONFIG.format(home=sglang_home, args=list(CPU_ARGS), env=env)
    with Muxd(tmp_path_factory.mktemp("replicas"), text, deadline=DEADLINE) as muxd:
        yield muxd
        muxd.stop()
        assert not list((muxd.folder / "state" / "workers").iterdir())


def workers(muxd: Muxd) -> dict[str, dict[str, Any]]:
    return {worker["name"]: worker for worker in muxd.status("tiny-a")["workers"]}


def until_all_ready(muxd: Muxd) -> None:
    def all_ready() -> bool:
        return [worker["state"] for worker in workers(muxd).values()] == ["ready"] * 3

    eventually(all_ready, "both replicas and their router are ready", DEADLINE)


def chats_of(muxd: Muxd, number: int) -> int:
    """How many chats a replica has answered, by its log."""
    logs = (muxd.folder / "logs").glob(f"tiny-a@{number}.std*.log")
    return sum(log.read_text(errors="replace").count("POST /v1/chat/completions") for log in logs)


def test_200_requests_of_16_clients_are_answered_though_a_replica_is_killed_among_them(muxd):
    text = muxd.ask(A, max_tokens=16)
    until_all_ready(muxd)
    before = workers(muxd)
    broken: list[list[str]] = []

    def stream() -> str:
        body = chat_body(A, "hello", max_tokens=16, stream=True)
        lines: list[str] = []
        with httpx.stream("POST", f"{muxd.url}/v1/chat/completions", json=body, timeout=DEADLINE) as answer:
            assert answer.status_code == 200
            try:
                for line in answer.iter_lines():
                    lines.append(line)
            except httpx.RemoteProtocolError:  # it breaks off behind the error event
                broken.append(lines)
                return text
        return streamed_text(iter(lines))

    def ask(number: int) -> str:
        if number == 60:
            os.kill(before["tiny-a/0"]["pid"], signal.SIGKILL)
        return stream() if number % 2 else muxd.ask(A, max_tokens=16)

    with ThreadPoolExecutor(16) as clients:
        assert set(clients.map(ask, range(200))) == {text}
    assert len(broken) <= 8, "at most the streams that had begun on the replica that was killed"
    for lines in broken:
        assert any('"content"' in line for line in lines), "it had begun"
        assert "event: error" in lines
    until_all_ready(muxd)
    after = workers(muxd)
    assert (after["tiny-a/0"]["restarts"], after["tiny-a/1"]["restarts"], after["tiny-a/router"]["restarts"]) == (
        1,
        0,
        0,
    )
    assert after["tiny-a/router"]["pid"] == before["tiny-a/router"]["pid"]


def test_both_replicas_answer_after_a_sleep_of_the_whole_group_as_before_it(muxd):
    text = muxd.ask(A, max_tokens=16)
    until_all_ready(muxd)
    muxd.muxctl("sleep", "tiny-a")
    assert {worker["state"] for name, worker in workers(muxd).items() if not name.endswith("router")} == {"asleep"}
    seen = chats_of(muxd, 0), chats_of(muxd, 1)
    assert {muxd.ask(A, max_tokens=16) for _ in range(3)} == {text}
    until_all_ready(muxd)
    assert {muxd.ask(A, max_tokens=16) for _ in range(6)} == {text}
    assert chats_of(muxd, 0) > seen[0]
    assert chats_of(muxd, 1) > seen[1]
