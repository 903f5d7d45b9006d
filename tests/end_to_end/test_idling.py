"""What becomes of models that nobody uses, and what an operator holds: with real processes."""

import json

import pytest

from .conftest import two_models
from .muxd import eventually


def chat(model: str) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}]}


def error_of(muxd, model: str) -> tuple[int, str, str]:
    answer = muxd.post("/v1/chat/completions", chat(model))
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["message"]


def test_an_idle_model_goes_down_its_ladder_and_answers_again_from_its_end(start):
    muxd = start(two_models(alpha_keys='idle = ["1s -> 1", "3s -> 3"]'))
    text = muxd.ask("alpha")
    eventually(lambda: "sleeps at level 1 in" in (muxd.status("alpha")["next"] or ""), "it is told beforehand")
    eventually(lambda: muxd.state("alpha") == "asleep", "it sleeps")
    assert muxd.status("alpha")["level"] == 1
    eventually(lambda: muxd.state("alpha") == "unloaded", "it has ended")
    assert muxd.ask("alpha") == text


@pytest.mark.thorough
def test_scrapes_and_probes_are_no_use(start):
    muxd = start(two_models(alpha_keys='idle_timeout = "1s"'))
    muxd.ask("alpha")

    def sleeps() -> bool:
        for path in ("/metrics", "/health", "/v1/models"):
            assert muxd.get(path).status_code == 200
        return muxd.state("alpha") == "asleep"

    eventually(sleeps, "it sleeps, however often it is looked at")


@pytest.mark.thorough
def test_a_model_that_is_in_use_refuses_the_others_with_the_reason(start):
    muxd = start(two_models(alpha_keys='evict = "never within 40s of use"'))
    muxd.ask("alpha")
    answer = muxd.post("/v1/chat/completions", chat("beta"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_in_use")
    assert 10 < int(answer.headers["retry-after"]) <= 40
    assert "alpha is in use, and kept for 40 s after the last request" in answer.json()["error"]["message"]
    assert muxd.muxctl("switch", "beta").returncode == 0
    assert muxd.ask("beta").startswith("beta")


@pytest.mark.thorough
def test_the_default_model_comes_back_when_nothing_else_is_wanted(start):
    muxd = start(two_models() + '[policy]\ndefault_model = "alpha"\ndefault_after = "500ms"\n')
    eventually(lambda: muxd.state("alpha") == "ready", "it comes by itself")
    muxd.ask("beta")
    eventually(lambda: muxd.state("alpha") == "ready", "it is back")
    assert muxd.state("beta") == "asleep"


@pytest.mark.thorough
def test_a_held_model_leaves_for_nobody_until_its_time_and_across_a_restart_of_muxd(start):
    muxd = start()
    held = muxd.muxctl("hold", "alpha", "--for", "1h")
    assert (held.returncode, muxd.state("alpha")) == (0, "ready")
    assert error_of(muxd, "beta")[:2] == (503, "pinned_in_the_way")
    muxd.kill()
    muxd.start_again()
    eventually(lambda: muxd.state("alpha") == "ready", "it was taken over")
    status = muxd.status("alpha")
    assert status["held"]
    assert 3500 < status["held_for_s"] <= 3600
    _, code, message = error_of(muxd, "beta")
    assert (code, "`muxctl unhold alpha` makes room" in message) == ("pinned_in_the_way", True)
    assert muxd.muxctl("unhold", "alpha").returncode == 0
    assert muxd.ask("beta").startswith("beta")
    again = muxd.muxctl("unhold", "--json", "alpha")
    assert (again.returncode, "no operator holds alpha" in again.stderr) == (3, True)


@pytest.mark.thorough
def test_a_hold_ends_by_itself(start):
    muxd = start()
    lines = muxd.control("POST", "/v1/models/alpha/hold", {"for_s": 0.7}).text.splitlines()
    assert json.loads(lines[-1])["type"] == "ready"
    eventually(lambda: not muxd.status("alpha")["held"], "it is held no more")
    assert muxd.ask("beta").startswith("beta")


@pytest.mark.thorough
def test_a_client_has_its_model_sleep_after_the_time_that_it_says(start):
    muxd = start()
    body = {"model": "alpha", "messages": [{"role": "user", "content": "hi"}], "stream": False}
    assert muxd.post("/api/chat", {**body, "keep_alive": "300ms"}).status_code == 200
    eventually(lambda: muxd.state("alpha") == "asleep", "it sleeps after that time")
    assert muxd.post("/v1/chat/completions", {**body, "ttl": 3600}).status_code == 200
    eventually(lambda: "sleeps at level 1 in 3" in (muxd.status("alpha")["next"] or ""), "it is kept an hour")
