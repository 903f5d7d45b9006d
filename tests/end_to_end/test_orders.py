"""What an operator orders: start, stop, restart, sleep, over the control socket and with muxctl."""

import json
from collections.abc import Callable

import pytest

from .muxd import Muxd, assert_never_two_awake, eventually, until_cut


def order(muxd: Muxd, model: str, verb: str, **body: bool) -> dict[str, object]:
    """Watched to its end: the last line."""
    lines = muxd.control("POST", f"/v1/models/{model}/{verb}", body).text.splitlines()
    return json.loads(lines[-1])  # type: ignore[no-any-return]


def refusal(muxd: Muxd, model: str) -> tuple[int, str]:
    answer = muxd.post("/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": "hi"}]})
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.thorough
def test_a_stopped_model_stays_down_across_a_restart_of_muxd(start: Callable[..., Muxd]) -> None:
    muxd = start()
    muxd.ask("alpha")
    assert order(muxd, "alpha", "stop")["state"] == "stopped"
    assert refusal(muxd, "org/alpha") == (503, "model_stopped")
    muxd.kill()
    muxd.start_again()
    assert muxd.status("alpha")["stopped_by_operator"]
    eventually(lambda: refusal(muxd, "alpha") == (503, "model_stopped"), "refused after the restart too")
    assert "muxctl start alpha" in muxd.status("alpha")["next"]
    assert order(muxd, "alpha", "start")["state"] == "ready"
    assert muxd.ask("alpha").startswith("org/alpha")


@pytest.mark.thorough
def test_a_stop_with_now_cuts_a_stream_with_an_error_event(start: Callable[..., Muxd]) -> None:
    muxd = start()
    muxd.ask("alpha")
    seen: list[str] = []
    with muxd.stream("alpha", max_tokens=30_000, ignore_eos=True) as lines:
        seen.append(next(line for line in lines if line))
        assert order(muxd, "alpha", "stop", now=True)["state"] == "stopped"
        seen += until_cut(lines)
    error = json.loads(next(line for line in seen if '"error"' in line).removeprefix("data: "))["error"]
    assert error["code"] == "drain_timeout"
    assert "stopped by an operator" in error["message"]


def test_orders_by_muxctl_end_with_their_exit_codes(start: Callable[..., Muxd]) -> None:
    muxd = start()
    assert muxd.muxctl("start", "alpha").returncode == 0
    assert muxd.muxctl("start", "beta").returncode == 3
    assert muxd.muxctl("sleep", "org/alpha").returncode == 0
    assert muxd.muxctl("start", "beta").returncode == 0
    assert muxd.muxctl("restart", "beta").returncode == 0
    stopped = muxd.muxctl("stop", "beta")
    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert muxd.muxctl("switch", "beta").returncode == 3
    assert muxd.muxctl("stop", "nope").returncode == 4
    assert_never_two_awake(muxd.moves())
