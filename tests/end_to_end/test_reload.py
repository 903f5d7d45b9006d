"""A new configuration in a running muxd: whole or not at all, and never touching an unchanged model."""

import json
import os
import signal
from collections.abc import Callable

import pytest

from .conftest import two_models
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


def test_a_dry_run_changes_nothing(start: Callable[..., Muxd]) -> None:
    muxd = start()
    add(muxd, GAMMA)
    _, plan = reload(muxd, dry_run=True)
    assert (plan["applied"], steps(plan)) == (False, [("gamma", "add")])
    assert [model["name"] for model in muxd.status()["models"]] == ["alpha", "beta"]
    shown = muxd.muxctl("reload", "--dry-run")
    assert "gamma" in shown.stdout
    assert [model["name"] for model in muxd.status()["models"]] == ["alpha", "beta"]


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ('sleep_level = 1', 'sleep_levle = 1', "config_invalid"),
        ('shutdown_timeout = "5s"', 'shutdown_timeout = "5s"\nothers = "none"', "needs_restart"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_over_changes_nothing(start: Callable[..., Muxd], old: str, new: str, code: str) -> None:
    muxd = start()
    edit(muxd, old, new)
    add(muxd, GAMMA)
    status, answer = reload(muxd)
    assert (status, answer["error"]["code"]) == (409 if code == "needs_restart" else 400, code)  # type: ignore[index]
    assert [model["name"] for model in muxd.status()["models"]] == ["alpha", "beta"]
    assert muxd.muxctl("reload").returncode == (1 if code == "needs_restart" else 2)
    assert muxd.ask("alpha").startswith("org/alpha")


def test_a_changed_model_is_started_anew_after_its_requests(start: Callable[..., Muxd]) -> None:
    muxd = start()
    muxd.ask("beta")
    muxd.ask("alpha")
    asleep, awake = muxd.worker("beta"), muxd.worker("alpha")
    edit(muxd, "[models.alpha]", '[models.alpha]\nenv = { MARK = "new" }')
    with muxd.stream("alpha", max_tokens=200) as lines:
        next(lines)
        _, plan = reload(muxd)
        assert steps(plan) == [("alpha", "restart")]
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    eventually(lambda: muxd.state("alpha") == "ready" and muxd.worker("alpha") != awake, "alpha is started anew")
    with open(f"/proc/{muxd.worker('alpha')['launcher']}/environ", "rb") as environ:
        assert b"MARK=new" in environ.read()
    assert muxd.worker("beta") == asleep


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


def test_a_name_that_moves_to_another_model_is_served_by_that(start: Callable[..., Muxd]) -> None:
    muxd = start()
    muxd.ask("beta")
    before = muxd.worker("beta")
    edit(muxd, 'served_names = ["org/alpha"]', 'served_names = ["alpha-1"]')
    edit(muxd, "[models.beta]", '[models.beta]\nserved_names = ["beta", "org/alpha"]')
    _, plan = reload(muxd)
    assert steps(plan) == [("alpha", "restart"), ("beta", "update")]
    assert muxd.worker("beta") == before
    eventually(lambda: "org/alpha" in muxd.status("beta")["served_names"], "the name has moved")
    assert muxd.ask("org/alpha").startswith("beta")


def test_sighup_reloads_and_a_broken_file_is_told_in_the_log(start: Callable[..., Muxd]) -> None:
    muxd = start()
    add(muxd, GAMMA)
    os.kill(muxd.process.pid, signal.SIGHUP)
    eventually(lambda: len(muxd.status()["models"]) == 3, "gamma is there")
    add(muxd, "[[[")
    os.kill(muxd.process.pid, signal.SIGHUP)
    eventually(lambda: "nothing was changed" in muxd.log, "the log says so")
    assert len(muxd.status()["models"]) == 3


def test_a_switch_timeout_that_changed_holds_for_the_next_request(start: Callable[..., Muxd]) -> None:
    muxd = start(two_models(alpha="faults = ['load-time=60']", alpha_keys='switch_timeout = "2min"'))
    edit(muxd, 'switch_timeout = "2min"', 'switch_timeout = "1s"')
    _, plan = reload(muxd)
    assert json.loads(json.dumps(plan["plan"])) == [
        {"model": "alpha", "action": "update", "changes": ["switch_timeout"]}
    ]
    eventually(lambda: muxd.status("alpha")["switch_timeout_s"] == 1.0, "muxd has it")
    answer = muxd.post("/v1/chat/completions", chat_body("alpha", "hello"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "switch_timeout")
    assert "within 1 s" in answer.json()["error"]["message"]
