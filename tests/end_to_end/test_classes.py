"""Interactive requests, batch and several keys at one model: with real processes."""

from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import pytest

from .conftest import two_models
from .muxd import eventually

GREEDY, MODEST, NIGHT = ("sk-" + name * 5 for name in ("greedy", "modest", "nightly"))
KEYS = "".join(
    f'[[keys]]\nname = "{name}"\nsecret_sha256 = "{sha256(secret.encode()).hexdigest()}"\n{more}\n'
    for name, secret, more in (
        ("greedy", GREEDY, ""),
        ("modest", MODEST, ""),
        ("night", NIGHT, 'request_class = "batch"'),
    )
)


def body(model: str) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20}


def test_batch_waits_while_a_model_is_in_use_and_interactive_requests_do_not(start):
    """Beta's batch must not make alpha leave, whose client returns; an interactive request for beta does."""
    muxd = start(two_models() + '[policy]\nwait_target = "1s"\nbatch_max_wait = "1h"\n')
    for model in ("alpha", "beta", "alpha"):  # what a switch takes is known then
        muxd.ask(model)
    with ThreadPoolExecutor(2) as clients, muxd.stream("alpha", max_tokens=30_000, ignore_eos=True) as lines:
        next(line for line in lines if line)
        batch = clients.submit(muxd.post, "/v1/chat/completions", {**body("beta"), "service_tier": "flex"})
        eventually(lambda: muxd.status("beta")["waiting"] == 1, "batch waits")
        assert "alpha" not in str(muxd.control("GET", "/v1/status").json()["switch"])
        assert muxd.state("alpha") == "ready"
        interactive = clients.submit(muxd.post, "/v1/chat/completions", body("beta"))
        eventually(lambda: muxd.state("alpha") == "draining", "it gives way to somebody who waits")
        lines.close()
        assert (batch.result().status_code, interactive.result().status_code) == (200, 200)


@pytest.mark.thorough
def test_a_class_that_there_is_not_is_refused(start):
    muxd = start()
    refused = muxd.post("/v1/chat/completions", body("alpha"), headers={"x-muxd-class": "urgent"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_class")


@pytest.mark.thorough
def test_a_greedy_key_does_not_keep_out_another_one_and_batch_comes_last(start):
    slow = two_models(alpha_keys="concurrency_limit = 1").replace("load_time = 0.3", "load_time = 4")
    muxd = start(slow + KEYS)  # while it loads, they line up

    def ask(secret: str) -> None:
        answer = muxd.post("/v1/chat/completions", body("alpha"), headers={"authorization": f"Bearer {secret}"})
        assert answer.status_code == 200
        ended.append(secret)

    ended: list[str] = []
    with ThreadPoolExecutor(8) as clients:
        clients.submit(ask, GREEDY)
        eventually(lambda: muxd.status("alpha")["waiting"] == 1, "the first one brings the model")
        done = [clients.submit(ask, NIGHT)]
        eventually(lambda: muxd.status("alpha")["waiting"] == 2, "batch waits")
        for waiting in (3, 4, 5):
            done.append(clients.submit(ask, GREEDY))
            eventually(lambda waiting=waiting: muxd.status("alpha")["waiting"] == waiting, "the greedy one's wait")
        done.append(clients.submit(ask, MODEST))
        eventually(lambda: muxd.status("alpha")["waiting"] == 6, "the modest one's waits")
        assert muxd.status("alpha")["waiting_batch"] == 1
        eventually(lambda: muxd.status("alpha")["in_flight_batch"] == 1, "batch is told apart at the model, too")
        for each in done:
            each.result()
    assert ended.index(MODEST) <= 2, "it came as the second of those who waited"
    assert ended[-1] == NIGHT
