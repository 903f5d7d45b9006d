"""Requests switch models: the main job, with simulated workers and everything else real."""

import json
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from muxd.client import ControlClient
from muxd.protocol import LeaseGranted, LeaseWish

from .conftest import two_models
from .muxd import assert_never_two_awake, eventually

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")


def test_both_models_answer_in_turn_with_their_own_unchanged_text(shared):
    muxd = shared
    first = muxd.ask("alpha"), muxd.ask("beta")
    assert first[0] != first[1]
    for stream in (False, True):
        assert (muxd.ask("alpha", stream=stream), muxd.ask("beta", stream=stream)) == first
    assert_never_two_awake(muxd.moves())
    assert (muxd.state("alpha"), muxd.state("beta")) == ("asleep", "ready")


def test_sixty_requests_from_eight_clients_all_succeed_and_never_two_are_awake(shared):
    muxd = shared
    texts = {model: muxd.ask(model) for model in ("alpha", "beta")}

    def one(number: int) -> bool:
        model = "alpha" if number % 3 else "beta"
        return muxd.ask(model, stream=number % 2 == 0) == texts[model]

    with ThreadPoolExecutor(8) as clients:
        assert all(clients.map(one, range(60)))
    moves = muxd.moves()
    assert_never_two_awake(moves)
    assert len([m for m in moves if m[1:] == ("waking", "ready")]) >= 2


def test_a_busy_model_finishes_its_stream_before_it_gives_way(shared):
    muxd = shared
    muxd.ask("alpha")
    with muxd.stream("alpha", max_tokens=400, ignore_eos=True) as lines:
        next(lines)
        switch = threading.Thread(target=muxd.switch, args=("beta",))
        switch.start()
        muxd.until_state("alpha", "draining")
        assert list(lines)[-2] == "data: [DONE]"
    switch.join()
    assert muxd.state("beta") == "ready"


@pytest.mark.thorough
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


async def test_a_lease_is_held_as_long_as_its_session(shared):
    muxd = shared
    async with ControlClient([muxd.socket]).session() as session:
        await session.send([LeaseWish(1, "alpha")])
        granted = None
        while not isinstance(granted, LeaseGranted):
            *_, granted = await session.receive()
        assert granted.url == muxd.status("alpha")["url"]
        assert muxd.status("alpha")["in_flight"] == 1
    eventually(lambda: muxd.status("alpha")["in_flight"] == 0, "the lease is over")
