"""What becomes of requests whose worker dies under them; tests/real/test_replay.py asks it of real SGLang."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from .conftest import two_models
from .loss import Loss, said
from .muxd import DEADLINE, Muxd, chat_body, eventually, until_cut

#: The body of a stream of each route that sends its head before there is anything to tell.
HEADS_AT_ONCE = {
    "/generate": {"text": "hello", "sampling_params": {"max_new_tokens": 6, "temperature": 0}, "stream": True},
    "/v1/messages": {**chat_body("", "hello", max_tokens=6), "stream": True},
    "/api/chat": {**chat_body("", "hello"), "options": {"num_predict": 6, "temperature": 0}},
}


@pytest.fixture(scope="module")
def muxd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Muxd]:
    """Its alpha is started again at once each time that it dies."""
    models = two_models(alpha_keys='restart_limit = 99\nstable_after = "0s"')
    with Muxd(tmp_path_factory.mktemp("replay"), models) as muxd:
        yield muxd


@pytest.fixture
def loss(muxd: Muxd) -> Loss:
    return Loss(muxd, "alpha")


@pytest.fixture
def client() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as client:
        yield client


def test_a_request_that_waits_for_its_first_token_is_answered_by_the_next_worker(muxd, loss, client):
    text = muxd.ask("alpha", max_tokens=24)
    loss.stop()
    asked = client.submit(muxd.ask, "alpha", max_tokens=24, stream=True)
    eventually(lambda: muxd.status("alpha")["in_flight"] == 1, "the worker has it")
    loss.kill()
    assert asked.result() == text
    assert loss.replays == 1


def test_a_request_whose_answer_is_half_made_is_answered_by_the_next_worker(muxd, loss, client):
    asked = client.submit(muxd.ask, "alpha", max_tokens=300, ignore_eos=True)
    eventually(lambda: running(muxd) == 1, "it is made")
    loss.kill()
    assert len(asked.result().split()) == 300
    assert loss.replays == 1


@pytest.mark.parametrize("path", HEADS_AT_ONCE)
def test_a_stream_that_has_its_head_and_no_event_goes_on_with_those_of_the_next_worker(muxd, loss, path):
    body = {**HEADS_AT_ONCE[path], "model": "alpha"}
    undisturbed = said(muxd.post(path, body).text)
    loss.stop()
    with httpx.stream("POST", f"{muxd.url}{path}", json=body, timeout=DEADLINE) as answer:
        assert (answer.status_code, "x-request-id" in answer.headers) == (200, True)
        loss.kill()
        assert said(answer.read().decode()) == undisturbed
    assert loss.replays == 1


def test_one_that_was_with_two_dying_workers_gets_502_and_is_named(muxd, client):
    poison = chat_body("alpha", "hello", max_tokens=3000, ignore_eos=True)
    asked = client.submit(muxd.post, "/v1/chat/completions", poison)
    for _ in range(2):
        loss = Loss(muxd, "alpha")
        eventually(lambda: running(muxd) == 1, "the worker has it")
        loss.kill()
    answer = asked.result()
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "worker_died")
    named = f"request {answer.headers['x-request-id']} was with its worker at 2 deaths"
    logs = (muxd.folder / "logs").glob  # written by the shim, a moment later
    eventually(lambda: any(named in path.read_text() for path in logs("muxd-proxy.*")), "its log names it")


def test_a_stream_that_has_begun_ends_with_an_error_and_uncleanly(muxd, loss):
    with muxd.stream("alpha", max_tokens=3000, ignore_eos=True) as lines:
        next(lines)
        loss.kill()
        rest = until_cut(lines)
    assert '"error"' in next(line for line in reversed(rest) if line)
    assert loss.replays == 0


def running(muxd: Muxd) -> int:
    """What the worker is at; none while there is no worker to ask."""
    answer = muxd.get("/upstream/alpha/v1/loads")
    return int(answer.json()["loads"][0]["num_running_reqs"]) if answer.status_code == 200 else 0
