"""muxd and its proxy over two real SGLang servers: the main job, as it runs on a GPU host."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.muxd import Muxd, assert_never_two_awake, chat_body, eventually
from tests.end_to_end.test_orders import order

from .any_engine import (  # noqa: F401  the tests are collected here
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
from .sglang_cpu import CPU_ARGS, CPU_ENV

#: Level of tiny-a, level of tiny-b.
CONFIG = """\
[defaults]
python = "{home}/venv/bin/python"
args = {args}
env = {env}
{defaults}
[models.tiny-a]
model_path = "{home}/models/tiny-a"
served_names = ["tests/tiny-a"]
sleep_level = {levels[0]}
[models.tiny-b]
model_path = "{home}/models/tiny-b"
served_names = ["tests/tiny-b"]
sleep_level = {levels[1]}
"""


def config(home: Path, levels: tuple[int, int], defaults: str = "") -> str:
    env, args = inline_table(CPU_ENV), list(CPU_ARGS)
    return CONFIG.format(home=home, args=args, env=env, levels=levels, defaults=defaults)


def shared_memory() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir()}


def noted_leftovers(muxd: Muxd, model: str) -> list[str]:
    return muxd.saved().workers[model].leftovers


@pytest.fixture(scope="module")
def muxd(sglang_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Muxd]:
    """tiny-a at level 2, tiny-b at level 1, for all tests of this file that leave it well."""
    before = shared_memory()
    with Muxd(
        tmp_path_factory.mktemp("muxd"), config(sglang_home, (2, 1), "restart_limit = 99"), deadline=DEADLINE
    ) as muxd:
        yield muxd
        muxd.stop()
        assert not list((muxd.folder / "state" / "workers").iterdir())
        assert shared_memory() == before


@pytest.fixture
def crowd() -> tuple[int, int]:
    return 8, 60


def test_a_client_that_disconnects_during_a_switch_does_no_harm(muxd, texts):
    muxd.ask(A)
    with suppress(httpx.ReadTimeout):
        httpx.post(f"{muxd.url}/v1/chat/completions", json=chat_body(B, "hello"), timeout=0.01)
    assert muxd.ask(A, max_tokens=24) == texts[A]
    assert muxd.ask(B, max_tokens=24) == texts[B]
    assert_never_two_awake(muxd.moves())


@pytest.mark.parametrize("role", ["main_process", "scheduler", "detokenizer"])
def test_after_a_sigkill_no_process_is_left_and_the_model_is_back(muxd, texts, role):
    roles = {"main_process", "scheduler", "detokenizer"}
    is_back_after_a_sigkill(muxd, texts, role, roles, lambda: muxd.worker("tiny-a"))


def test_a_main_process_killed_while_it_loads_leaves_no_orphan_and_the_request_is_answered(muxd, texts):
    muxd.ask(A)
    os.kill(muxd.worker("tiny-a")["main_process"], signal.SIGKILL)
    muxd.until_state("tiny-a", "starting")
    answer: list[str] = []
    client = threading.Thread(target=lambda: answer.append(muxd.ask(A, max_tokens=24)))
    client.start()
    before = eventually(lambda: tree if len(tree := muxd.worker("tiny-a")) == 3 else None, "all are there", DEADLINE)
    eventually(lambda: len(noted_leftovers(muxd, "tiny-a")) == 2, "what a kill would leave is noted", DEADLINE)
    os.kill(before["main_process"], signal.SIGKILL)
    client.join()
    assert answer == [texts[A]]
    assert not set(before.values()) & set(muxd.processes())


def test_level_3_ends_the_process_and_starts_it_again_with_the_same_text(sglang_home, tmp_path, texts):
    with Muxd(tmp_path, config(sglang_home, (3, 3)), deadline=DEADLINE) as muxd:
        assert muxd.ask(A, max_tokens=24) == texts[A]
        assert muxd.ask(B, max_tokens=24) == texts[B]
        assert muxd.state("tiny-a") == "unloaded"
        assert muxd.ask(A, max_tokens=24) == texts[A]
        assert_never_two_awake(muxd.moves())


def test_level_0_and_deeper_levels_after_it_leave_the_text_unchanged(sglang_home, tmp_path):
    with Muxd(tmp_path, config(sglang_home, (0, 1)), deadline=DEADLINE) as muxd:
        for model, name, deep in ((A, "tiny-a", 2), (B, "tiny-b", 1)):
            text = muxd.ask(model, max_tokens=24)
            for levels in ((0,), (0, 0), (0, deep), (deep,), (0,)):
                for level in levels:
                    assert order(muxd, name, "sleep", level=level)["state"] == "asleep"
                assert muxd.status(name)["level"] == levels[-1]
                assert muxd.ask(model, max_tokens=24) == text
            assert (muxd.status(name)["restarts"], muxd.status(name)["sleep_trouble"]) == (0, None)


def test_a_taken_port_is_told_before_a_load_is_paid_for(sglang_home, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        models = config(sglang_home, (2, 2)).replace("[models.tiny-a]", f"[models.tiny-a]\nport = {port}")
        with Muxd(tmp_path, models, deadline=DEADLINE) as muxd:
            refused = muxd.post("/v1/chat/completions", chat_body(A, "hello"))
            assert refused.status_code == 503
            assert f"port {port} cannot be used" in refused.json()["error"]["message"]
            assert not (muxd.folder / "logs" / "tiny-a.stderr.log").exists(), "nothing was started"


def test_a_bad_flag_is_told_with_sglangs_own_words(sglang_home, tmp_path):
    models = config(sglang_home, (2, 2), "restart_limit = 1").replace("'--device'", "'--no-such-flag', '--device'", 1)
    with Muxd(tmp_path, models, deadline=DEADLINE) as muxd:
        refused = muxd.post("/v1/chat/completions", chat_body(A, "hello"))
        assert refused.json()["error"]["code"] == "bad_flag"
        assert "no-such-flag" in "\n".join(muxd.status("tiny-a")["last_exit"]["log_tail"])


def test_the_admin_key_is_not_in_any_command_line(muxd, texts):
    muxd.ask(A)
    keys = [line for line in muxd.processes().values() if "admin" in line]
    assert keys == []
