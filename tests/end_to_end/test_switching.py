"""Requests switch models: the main job, with simulated workers and everything else real."""

import json
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from .conftest import two_models
from .muxd import assert_never_two_awake, chat_body, eventually

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")


@pytest.mark.parametrize("levels", [(1, 2), (2, 3), (3, 1)])
def test_both_models_answer_in_turn_with_their_own_unchanged_text(start, levels):
    muxd = start(two_models(levels=levels))
    first = muxd.ask("alpha"), muxd.ask("beta")
    assert first[0] != first[1]
    for stream in (False, True):
        assert (muxd.ask("alpha", stream=stream), muxd.ask("beta", stream=stream)) == first
    assert_never_two_awake(muxd.moves())
    asleep = {1: "asleep", 2: "asleep", 3: "unloaded"}
    assert (muxd.state("alpha"), muxd.state("beta")) == (asleep[levels[0]], "ready")


def test_sixty_requests_from_eight_clients_all_succeed_and_never_two_are_awake(start):
    muxd = start()
    texts = {model: muxd.ask(model) for model in ("alpha", "beta")}

    def one(number: int) -> bool:
        model = "alpha" if number % 3 else "beta"
        return muxd.ask(model, stream=number % 2 == 0) == texts[model]

    with ThreadPoolExecutor(8) as clients:
        assert all(clients.map(one, range(60)))
    moves = muxd.moves()
    assert_never_two_awake(moves)
    assert len([m for m in moves if m[1:] == ("waking", "ready")]) >= 2


def test_a_served_name_and_the_models_own_name_mean_the_same(start):
    muxd = start()
    assert muxd.ask("org/alpha") == muxd.ask("alpha")


def test_a_client_that_leaves_during_a_switch_does_not_stop_it(start):
    muxd = start(two_models(beta="load_time = 2.0").replace("load_time = 0.3, sleep", "sleep"))
    muxd.ask("alpha")
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{muxd.url}/v1/chat/completions", json=chat_body("beta", "x"), timeout=1.2)
    muxd.until_state("beta", "ready")
    assert muxd.ask("alpha")
    assert_never_two_awake(muxd.moves())


def test_a_busy_model_finishes_its_stream_before_it_gives_way(start):
    muxd = start()
    muxd.ask("alpha")
    with muxd.stream("alpha", max_tokens=400, ignore_eos=True) as lines:
        next(lines)
        switch = threading.Thread(target=muxd.switch, args=("beta",))
        switch.start()
        muxd.until_state("alpha", "draining")
        assert list(lines)[-2] == "data: [DONE]"
    switch.join()
    assert muxd.state("beta") == "ready"


def test_ollamas_unload_puts_an_idle_model_to_sleep_and_leaves_a_busy_one(start):
    muxd = start()
    nothing, something = {"model": "alpha", "keep_alive": 0}, {**chat_body("alpha", "hello"), "keep_alive": "0s"}
    text = muxd.ask("alpha")
    assert muxd.post("/api/generate", nothing).json()["done_reason"] == "unload"
    muxd.until_state("alpha", "asleep")
    with muxd.stream("alpha", max_tokens=300, ignore_eos=True) as lines:
        next(lines)
        told = muxd.control("POST", "/v1/models/org/alpha/unload").json()
        assert (told["sleeps"], told["reason"]) == (False, "it is in use")
        assert list(lines)[-2] == "data: [DONE]"
    assert muxd.ask("alpha") == text
    assert muxd.post("/api/chat", something).status_code == 200
    muxd.until_state("alpha", "asleep")
    assert muxd.state("beta") == "unloaded"


def test_ollamas_embeddings_are_the_workers_and_a_model_of_text_says_that_it_has_none(start):
    muxd = start(two_models(beta_keys='args = ["--is-embedding"]'))
    texts = ["a", "b"]
    theirs = [one["embedding"] for one in muxd.post("/v1/embeddings", {"model": "beta", "input": texts}).json()["data"]]
    told = muxd.post("/api/embed", {"model": "beta:latest", "input": texts}).json()
    assert (told["model"], told["embeddings"], told["prompt_eval_count"]) == ("beta:latest", theirs, 2)
    assert muxd.post("/api/embeddings", {"model": "beta", "prompt": "b"}).json() == {"embedding": theirs[1]}
    refused = muxd.post("/api/embed", {"model": "alpha", "input": texts})
    assert (refused.status_code, list(refused.json())) == (400, ["error"])
    assert "embedding model" in refused.json()["error"]


def test_a_drain_that_takes_too_long_is_cut_and_the_client_is_told(start):
    muxd = start(two_models(alpha_keys='drain_timeout = "500ms"'))
    muxd.ask("alpha")
    with muxd.stream("alpha", max_tokens=3000, ignore_eos=True) as lines:
        next(lines)
        switch = threading.Thread(target=muxd.switch, args=("beta",))
        switch.start()
        with pytest.raises(httpx.RemoteProtocolError):
            list(lines)
    switch.join()
    assert muxd.state("beta") == "ready"
    assert muxd.state("alpha") == "asleep"


def test_the_next_wake_waits_until_the_memory_is_really_free(start):
    muxd = start(two_models(alpha="release_lag = 0.7", beta="release_lag = 0.7"))
    for model in ("alpha", "beta", "alpha", "beta"):
        assert muxd.ask(model)
    assert [muxd.status(m)["restarts"] for m in ("alpha", "beta")] == [0, 0], "a wake into full memory is a crash"


def test_status_answers_while_a_switch_hangs(start):
    muxd = start(two_models(alpha='faults = ["hang-on=release"]'))
    muxd.ask("alpha")
    switch = threading.Thread(target=muxd.switch, args=("beta",))
    switch.start()
    muxd.until_state("alpha", "falling_asleep")
    view = muxd.status()["switch"]
    assert (view["to"], view["from"], view["phase"]) == ("beta", ["alpha"], "falling_asleep")
    assert muxd.state("alpha") == "falling_asleep"
    switch.join()


def test_unknown_models_and_bad_requests_are_told_apart(start):
    muxd = start()
    missing = muxd.post("/v1/chat/completions", chat_body("gamma", "x"))
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
    assert "alpha" in missing.json()["error"]["message"]
    assert muxd.post("/v1/chat/completions", {"messages": []}).status_code == 400
    assert muxd.post("/release_memory_occupation", {}).status_code == 404


def test_a_request_that_waits_too_long_gets_503_with_the_reason(start):
    muxd = start(
        two_models(beta_keys='switch_timeout = "1s"', beta="load_time = 20.0").replace("load_time = 0.3, sl", "sl")
    )
    answer = muxd.post("/v1/chat/completions", chat_body("beta", "x"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "switch_timeout")
    assert int(answer.headers["retry-after"]) > 0
    assert muxd.state("beta") == "starting", "the switch goes on"


def test_a_newer_switch_supersedes_an_older_one(start):
    muxd = start()
    muxd.ask("alpha")
    with muxd.stream("alpha", max_tokens=300, ignore_eos=True) as lines:
        next(lines)
        older: list[dict[str, object]] = []
        thread = threading.Thread(target=lambda: older.append(muxd.switch("beta")))
        thread.start()
        muxd.until_state("alpha", "draining")
        assert muxd.switch("alpha")["type"] == "ready"
        thread.join()
        list(lines)
    assert older[0]["error"]["code"] == "superseded"
    assert muxd.ask("alpha")


def test_logs_show_what_each_model_wrote(start):
    muxd = start()
    muxd.ask("alpha")
    shown = muxd.muxctl("logs", "alpha")
    assert "/v1/chat/completions" in shown.stdout


@needs_curl
def test_curl_can_use_every_route_of_the_control_socket(start):
    muxd = start()

    def curl(method: str, path: str, *more: str) -> list[dict[str, object]]:
        argv = ["curl", "-sS", "--fail-with-body", "-X", method, "--unix-socket", str(muxd.socket), *more]
        done = subprocess.run([*argv, f"http://muxd{path}"], capture_output=True, text=True, timeout=30, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    assert curl("GET", "/v1/version")[0]["pid"] == muxd.process.pid
    assert [m["name"] for m in curl("GET", "/v1/status")[0]["models"]] == ["alpha", "beta"]
    assert curl("GET", "/v1/models/org%2Falpha")[0]["state"] == "unloaded"
    assert curl("POST", "/v1/models/alpha/switch")[-1]["type"] == "ready"
    assert curl("POST", "/v1/models/beta/switch", "-d", '{"wait": false}')[0]["accepted"] is True
    assert curl("GET", "/v1/events?after=0&follow=0")[0]["type"] == "muxd_started"
    assert "lines" in curl("GET", "/v1/models/alpha/logs?lines=3")[0]
    assert curl("POST", "/v1/shutdown")[0] == {"stopping": True}
    assert muxd.process.wait(20) == 0


@needs_curl
def test_a_lease_by_curl_is_held_as_long_as_its_connection(start):
    muxd = start()
    argv = ["curl", "-sSN", "-X", "POST", "--unix-socket", str(muxd.socket), "http://muxd/v1/leases"]
    with subprocess.Popen([*argv, "-d", '{"model": "alpha"}'], stdout=subprocess.PIPE, text=True) as curl:
        assert curl.stdout is not None
        lines = (json.loads(line) for line in curl.stdout)
        granted = next(line for line in lines if line["type"] == "granted")
        assert httpx.get(f"{granted['url']}/v1/models").status_code == 200
        assert muxd.status("alpha")["in_flight"] == 1
        curl.kill()
    eventually(lambda: muxd.status("alpha")["in_flight"] == 0, "the lease is over")
