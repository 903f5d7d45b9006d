"""muxd and its proxy over two real vLLM servers, which sleep as far as a CPU can (stand_ins/vllm_cpu_sleep)."""

import json
import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.muxd import Muxd, eventually
from tests.real.any_engine import (  # noqa: F401  the tests are collected here
    DEADLINE,
    A,
    B,
    inline_table,
    is_back_after_a_sigkill,
    test_a_stream_whose_client_leaves_does_not_hold_up_a_switch,
    test_a_validation_finds_every_level_of_the_running_process_well,
    test_all_requests_of_a_crowd_succeed,
    test_both_answer_in_turn_after_wakes_at_levels_2_and_1_with_their_own_unchanged_text,
    test_streams_and_a_sleeper_outlive_muxd,
)

from .vllm_cpu import CPU_ARGS, CPU_ENV, processes_of

CONFIG = """\
[defaults]
engine = "vllm"
python = "{home}/venv/bin/python"
args = {args}
env = {env}
restart_limit = 99
hang_timeout = "20s"
probe_interval = "2s"
[models.tiny-a]
model_path = "{home}/models/tiny-a"
served_names = ["tests/tiny-a"]
sleep_level = 2
[models.tiny-b]
model_path = "{home}/models/tiny-b"
served_names = ["tests/tiny-b"]
sleep_level = 1
"""


@pytest.fixture(scope="module")
def muxd(vllm_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Muxd]:
    """tiny-a at level 2, tiny-b at level 1, for all tests of this file that leave it well."""
    own_modules = {"PYTHONPATH": str(tmp_path_factory.mktemp("modules"))}  # beside the guard's
    text = CONFIG.format(home=vllm_home, args=list(CPU_ARGS), env=inline_table({**CPU_ENV, **own_modules}))
    with Muxd(tmp_path_factory.mktemp("muxd"), text, deadline=DEADLINE) as muxd:
        yield muxd
        muxd.stop()
        assert not list((muxd.folder / "state" / "workers").iterdir())


@pytest.fixture
def crowd() -> tuple[int, int]:
    return 8, 40


@pytest.mark.parametrize(
    ("model", "level"), [("tiny-a", 0), ("tiny-b", 1), ("tiny-a", 2), ("tiny-b", 0), ("tiny-a", 3)]
)
def test_a_sleep_at_any_level_changes_no_answer(muxd, texts, model, level):
    muxd.ask(f"tests/{model}")
    muxd.muxctl("sleep", model, "--level", str(level))
    assert muxd.state(model) == ("asleep" if level < 3 else "unloaded")
    assert muxd.ask(f"tests/{model}", max_tokens=24) == texts[f"tests/{model}"]


def test_a_name_that_came_with_a_reload_is_answered_by_the_server_that_runs(muxd, texts):
    muxd.ask(A)
    before, text = muxd.status("tiny-a")["pid"], muxd.config.read_text()
    muxd.config.write_text(text.replace(f'["{A}"]', f'["{A}", "newest"]'))
    assert muxd.muxctl("reload").returncode == 0
    assert muxd.ask("newest", max_tokens=24) == texts[A]
    assert muxd.ask("tiny-a", max_tokens=24) == texts[A]
    assert muxd.status("tiny-a")["pid"] == before
    muxd.config.write_text(text)
    assert muxd.muxctl("reload").returncode == 0


def test_the_control_routes_are_for_muxd_alone(muxd, texts):
    muxd.ask(A)
    url = muxd.status("tiny-a")["url"]
    for method, path in (("POST", "/sleep?level=1"), ("POST", "/wake_up"), ("GET", "/server_info"), ("GET", "/docs")):
        assert httpx.request(method, url + path).status_code == 401
    assert httpx.post(url + "/collective_rpc", json={"method": "reload_weights"}).status_code == 401
    assert httpx.get(url + "/health").status_code == 200
    assert httpx.post(f"{muxd.url}/sleep").status_code == 404
    assert muxd.ask(A, max_tokens=24) == texts[A]


@pytest.mark.parametrize("role", ["api_server", "engine_core", "worker"])
def test_after_a_sigkill_no_process_is_left_and_the_model_is_back(muxd, texts, role):
    roles = {"api_server", "engine_core", "worker"}
    is_back_after_a_sigkill(muxd, texts, role, roles, lambda: processes_of(muxd.status("tiny-a")["pid"]))


def test_what_is_in_flight_ends_by_itself_before_its_model_sleeps(muxd, texts):
    muxd.ask(A)
    with ThreadPoolExecutor(2) as clients:
        with muxd.stream(A, max_tokens=600, ignore_eos=True) as lines:
            first = next(lines)
            other = clients.submit(muxd.ask, B, max_tokens=24)
            events = [line.removeprefix("data: ") for line in (first, *lines) if line.startswith("data: ")]
        assert other.result() == texts[B]
    assert events.pop() == "[DONE]"
    assert json.loads(events[-1])["choices"][0]["finish_reason"] == "length"


def test_an_api_server_that_is_killed_while_it_loads_leaves_no_orphan(muxd, texts):
    muxd.muxctl("sleep", "tiny-a", "--level", "3")
    with ThreadPoolExecutor(1) as client:
        answer = client.submit(muxd.ask, A, max_tokens=24)
        muxd.until_state("tiny-a", "starting")
        api_server = eventually(lambda: muxd.status("tiny-a")["pid"], "it was started", DEADLINE)
        before = eventually(
            lambda: found if "worker" in (found := processes_of(api_server)) else None, "all are there", DEADLINE
        )
        os.kill(before["api_server"], signal.SIGKILL)
        assert answer.result() == texts[A]
    assert not set(before.values()) & set(muxd.processes())


def test_a_model_that_is_stopped_while_it_loads_is_gone(muxd, texts):
    muxd.muxctl("sleep", "tiny-a", "--level", "3")
    muxd.muxctl("switch", "tiny-a", "--no-wait")
    muxd.until_state("tiny-a", "starting")
    api_server = eventually(lambda: muxd.status("tiny-a")["pid"], "it was started", DEADLINE)
    eventually(lambda: "engine_core" in processes_of(api_server), "its engine core is there", DEADLINE)
    assert muxd.muxctl("stop", "tiny-a", "--now", "--timeout", "2min").returncode == 0
    assert not processes_of(api_server)
    assert muxd.muxctl("start", "tiny-a", "--no-wait").returncode == 0


def test_no_request_fails_of_an_engine_cores_sigkill(muxd, texts):
    """vLLM's API server outlives its engine core for a moment, and answers with errors until it has ended."""
    muxd.ask(A)
    page, restarts = muxd.status("tiny-a")["url"] + "/metrics", muxd.status("tiny-a")["restarts"]
    with ThreadPoolExecutor(12) as clients:
        running = [clients.submit(muxd.ask, A, max_tokens=1500, ignore_eos=True) for _ in range(4)]
        eventually(lambda: re.search(r"num_requests_running{.*} [1-4]", httpx.get(page).text), "they run", DEADLINE)
        os.kill(processes_of(muxd.status("tiny-a")["pid"])["engine_core"], signal.SIGKILL)
        late = [clients.submit(muxd.ask, A, stream=number % 2 == 0, max_tokens=24) for number in range(8)]
        assert all(len(each.result()) > 1500 for each in running)
        assert [each.result() for each in late] == [texts[A]] * 8
    assert muxd.status("tiny-a")["restarts"] == restarts + 1


def test_an_engine_core_that_is_stopped_is_noticed(muxd, texts):
    muxd.ask(A)
    os.kill(processes_of(muxd.status("tiny-a")["pid"])["engine_core"], signal.SIGSTOP)
    muxd.until_state("tiny-a", "unresponsive", "starting", "backoff")
    assert muxd.ask(A, max_tokens=24) == texts[A]
