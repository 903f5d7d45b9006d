"""What an operator orders: start, stop, restart, sleep, over the control socket and with muxctl."""

import json
import threading
from collections.abc import Callable

from .muxd import Muxd, assert_never_two_awake, eventually, until_cut


def order(muxd: Muxd, model: str, verb: str, **body: bool) -> dict[str, object]:
    """Watched to its end: the last line."""
    lines = muxd.control("POST", f"/v1/models/{model}/{verb}", body).text.splitlines()
    return json.loads(lines[-1])  # type: ignore[no-any-return]


def refusal(muxd: Muxd, model: str) -> tuple[int, str]:
    answer = muxd.post("/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": "hi"}]})
    return answer.status_code, answer.json()["error"]["code"]


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


def test_a_stop_lets_a_stream_finish(start: Callable[..., Muxd]) -> None:
    muxd = start()
    muxd.ask("alpha")
    with muxd.stream("alpha", max_tokens=300, ignore_eos=True) as lines:
        first = next(line for line in lines if line)
        ends: list[dict[str, object]] = []
        stopping = threading.Thread(target=lambda: ends.append(order(muxd, "alpha", "stop")))
        stopping.start()
        muxd.until_state("alpha", "draining")
        rest = [line for line in lines if line]
        stopping.join()
    assert first.startswith("data: ")
    assert rest[-1] == "data: [DONE]"
    assert ends[0]["state"] == "stopped"


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


def test_a_start_evicts_nobody(start: Callable[..., Muxd]) -> None:
    muxd = start()
    muxd.ask("alpha")
    end = order(muxd, "beta", "start")
    assert end["error"]["code"] == "no_room"  # type: ignore[index]
    assert muxd.state("alpha") == "ready"
    assert muxd.state("beta") == "unloaded"


def test_a_restart_has_new_processes_and_the_same_gpu(start: Callable[..., Muxd]) -> None:
    muxd = start()
    muxd.ask("alpha")
    before = muxd.worker("alpha")
    assert order(muxd, "alpha", "restart")["state"] == "ready"
    after = muxd.worker("alpha")
    assert not set(before.values()) & set(after.values())
    assert muxd.ask("alpha").startswith("org/alpha")
    assert muxd.status("alpha")["restarts"] == 0  # nothing was wrong


def test_sleep_frees_the_gpu_and_the_next_request_wakes_the_model(start: Callable[..., Muxd]) -> None:
    muxd = start()
    muxd.ask("alpha")
    assert order(muxd, "alpha", "sleep")["state"] == "asleep"
    status = muxd.status("alpha")
    assert status["memory"]["awake"] == status["memory"]["declared"]
    assert status["memory"]["asleep"] == 2 << 30  # its overhead stays with the process
    assert muxd.ask("alpha").startswith("org/alpha")
    assert ("alpha", "asleep", "waking") in muxd.moves()


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
