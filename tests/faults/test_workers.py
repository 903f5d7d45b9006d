"""A worker is killed, or hangs, in every state that it can be in: rows 1 to 4, 9 and 13.7."""

import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import pytest

from tests.end_to_end.conftest import two_models
from tests.end_to_end.muxd import Muxd, eventually

from .oracles import judged

#: Long enough in each state for a fault to hit it there.
SLOW = two_models(
    alpha='faults = ["slow-term=0.7"]',
    alpha_keys='restart_limit = 99\nstable_after = "0s"\nstart_timeout = "5s"\nhang_timeout = "2s"',
    beta_keys='restart_limit = 99\nstable_after = "0s"',
).replace("load_time = 0.3, sleep_time = 0.02, wake_time = 0.05", "load_time = 0.7, sleep_time = 0.7, wake_time = 0.7")


LONG = {"prompt": "x", "max_tokens": 1500, "ignore_eos": True}


def loading(muxd: Muxd, clients: ThreadPoolExecutor) -> None:
    muxd.muxctl("stop", "alpha")
    clients.submit(muxd.muxctl, "start", "alpha")
    muxd.until_state("alpha", "starting")


def idle(muxd: Muxd, clients: ThreadPoolExecutor) -> None:
    muxd.ask("alpha")


def busy(muxd: Muxd, clients: ThreadPoolExecutor) -> None:
    muxd.ask("alpha")
    asked: list[Future[httpx.Response]] = []

    def in_flight() -> bool:
        if all(each.done() for each in asked):  # at first, and where they were over before anybody looked
            assert [each.result().text for each in asked if each.result().status_code != 200] == []
            asked[:] = [clients.submit(muxd.post, "/v1/completions", {**LONG, "model": "alpha"}) for _ in range(4)]
        return bool(muxd.status("alpha")["in_flight"] > 1)

    eventually(in_flight, "requests are in flight")


def draining(muxd: Muxd, clients: ThreadPoolExecutor) -> None:
    busy(muxd, clients)
    clients.submit(muxd.switch, "beta")
    muxd.until_state("alpha", "draining")


def falling_asleep(muxd: Muxd, clients: ThreadPoolExecutor) -> None:
    muxd.ask("alpha")
    clients.submit(muxd.ask, "beta")
    muxd.until_state("alpha", "falling_asleep")


def asleep(muxd: Muxd, clients: ThreadPoolExecutor) -> None:
    muxd.ask("alpha")
    muxd.ask("beta")
    muxd.until_state("alpha", "asleep")


def waking(muxd: Muxd, clients: ThreadPoolExecutor) -> None:
    asleep(muxd, clients)
    clients.submit(muxd.ask, "alpha")
    muxd.until_state("alpha", "waking")


def stopping(muxd: Muxd, clients: ThreadPoolExecutor) -> None:
    muxd.ask("alpha")
    clients.submit(muxd.muxctl, "stop", "alpha")
    muxd.until_state("alpha", "stopping")


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
@pytest.mark.parametrize("role", ["main_process", "scheduler"])
@pytest.mark.parametrize("comes", [loading, idle, busy, draining, falling_asleep, asleep, waking, stopping])
def test_a_worker_that_is_lost_in_any_state_is_swept_and_answers_again(
    start: Callable[..., Muxd], comes: Callable[[Muxd, ThreadPoolExecutor], None], role: str, fault: signal.Signals
) -> None:
    muxd = start(SLOW, deadline=90)  # each its own: a level whose wakes fail is left
    muxd.ask("beta")
    text = muxd.ask("alpha")
    with judged(muxd), ThreadPoolExecutor(8) as clients:
        comes(muxd, clients)
        tree = eventually(lambda: (tree := muxd.worker("alpha")).get(role) and tree, f"it has a {role}")
        os.kill(tree[role], fault)
        if comes is stopping:
            muxd.until_state("alpha", "unloaded", "stopped")
            muxd.muxctl("start", "alpha")
        assert muxd.ask("alpha") == text
        assert set(tree.values()) & muxd.processes().keys() == set()
