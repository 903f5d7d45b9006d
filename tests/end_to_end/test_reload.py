"""A new configuration in a running muxd: whole or not at all, and never touching an unchanged model."""

import os
import signal
from collections.abc import Callable

import pytest

from .muxd import Muxd, chat_body, eventually

GAMMA = """
[models.gamma]
served_names = ["org/gamma"]
memory = { weights = "30GiB" }
simulation = { load_time = 0.2, sleep_time = 0.02, wake_time = 0.05, token_rate = 500, pace = 0.02 }
"""


def edit(muxd: Muxd, old: str, new: str) -> None:
    text = muxd.config.read_text()
    assert old in text
    muxd.config.write_text(text.replace(old, new, 1))


def add(muxd: Muxd, more: str) -> None:
    muxd.config.write_text(muxd.config.read_text() + more)


def reload(muxd: Muxd, **body: bool) -> tuple[int, dict[str, object]]:
    answer = muxd.control("POST", "/v1/reload", body)
    return answer.status_code, answer.json()


def steps(answer: dict[str, object]) -> list[tuple[str, str]]:
    return [(step["model"], step["action"]) for step in answer["plan"]]  # type: ignore[index, attr-defined]


def served(muxd: Muxd) -> list[str]:
    return [card["id"] for card in muxd.get("/v1/models").json()["data"]]


def test_a_new_model_is_served_and_the_old_ones_are_not_touched(start: Callable[..., Muxd]) -> None:
    muxd = start()
    muxd.ask("alpha")
    before = muxd.worker("alpha")
    add(muxd, GAMMA)
    status, plan = reload(muxd)
    assert (status, steps(plan), plan["unchanged"]) == (200, [("gamma", "add")], ["alpha", "beta"])
    assert muxd.worker("alpha") == before
    eventually(lambda: served(muxd) == ["alpha", "org/alpha", "beta", "gamma", "org/gamma"], "the proxy knows it")
    assert muxd.ask("org/gamma").startswith("org/gamma")


@pytest.mark.thorough
def test_a_removed_model_is_gone_and_its_name_free(start: Callable[..., Muxd]) -> None:
    muxd = start()
    muxd.ask("alpha")
    text = muxd.config.read_text()
    head, rest = text.split("[models.alpha]")
    muxd.config.write_text(head + "[models.beta]" + rest.split("[models.beta]")[1])
    _, plan = reload(muxd)
    assert steps(plan) == [("alpha", "remove")]
    eventually(lambda: [m["name"] for m in muxd.status()["models"]] == ["beta"], "alpha is gone")
    assert muxd.ask("beta").startswith("beta")
    answer = muxd.post("/v1/chat/completions", chat_body("alpha", "hello"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert muxd.muxctl("status", "alpha").returncode == 4
    muxd.config.write_text(text)
    reload(muxd)
    eventually(lambda: "org/alpha" in served(muxd), "its name is back")
    assert muxd.ask("org/alpha").startswith("org/alpha")


def test_sighup_reloads_and_a_broken_file_is_told_in_the_log(start: Callable[..., Muxd]) -> None:
    muxd = start()
    add(muxd, GAMMA)
    os.kill(muxd.process.pid, signal.SIGHUP)
    eventually(lambda: len(muxd.status()["models"]) == 3, "gamma is there")
    add(muxd, "[[[")
    os.kill(muxd.process.pid, signal.SIGHUP)
    eventually(lambda: "nothing was changed" in muxd.log, "the log says so")
    assert len(muxd.status()["models"]) == 3
