"""What becomes of requests whose real SGLang server dies under them.

When the head of a stream comes was seen with 0.5.23 whose scheduler was stopped: of /generate, of Anthropic's messages
and of Ollama's routes at once, of OpenAI's chat and completions with the first event.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.end_to_end.loss import Loss, said
from tests.end_to_end.muxd import Muxd, chat_body, eventually, until_cut

from .test_muxd import DEADLINE, A, config

MESSAGES = [{"role": "user", "content": "hello"}]
HEADS_AT_ONCE: dict[str, dict[str, Any]] = {
    "/generate": {"text": "hello", "sampling_params": {"max_new_tokens": 6, "temperature": 0}},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 6, "temperature": 0},
    "/api/chat": {"messages": MESSAGES, "options": {"num_predict": 48, "temperature": 0}},
}


@pytest.fixture(scope="module")
def muxd(sglang_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Muxd]:
    models = config(sglang_home, (2, 1), 'restart_limit = 99\nstable_after = "1s"')
    with Muxd(tmp_path_factory.mktemp("muxd"), models, deadline=DEADLINE) as muxd:
        yield muxd


@pytest.fixture(scope="module")
def text(muxd: Muxd) -> str:
    """What it says when nothing happens to it."""
    return muxd.ask(A, max_tokens=24)


@pytest.fixture
def loss(muxd: Muxd, text: str) -> Loss:
    return Loss(muxd, A, "tiny-a")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_request_that_waits_for_its_first_token_is_answered_by_the_next_worker(muxd, text, loss, stream):
    loss.stop()
    with ThreadPoolExecutor(1) as client:
        asked = client.submit(muxd.ask, A, max_tokens=24, stream=stream)
        eventually(lambda: muxd.status("tiny-a")["in_flight"] == 1, "the worker has it")
        loss.kill()
        assert asked.result() == text
    assert loss.replays == 1


def test_a_request_whose_answer_is_half_made_is_answered_by_the_next_worker(muxd, loss):
    body = chat_body(A, "hello", max_tokens=2000, ignore_eos=True)
    with ThreadPoolExecutor(1) as client:
        asked = client.submit(muxd.post, "/v1/chat/completions", body)
        eventually(lambda: running(muxd) == 1, "its answer is being made")
        loss.kill()
        answer = asked.result()
    assert (answer.status_code, answer.json()["usage"]["completion_tokens"]) == (200, 2000)
    assert loss.replays == 1


def running(muxd: Muxd) -> int:
    (load,) = muxd.get("/upstream/tiny-a/v1/loads").json()["loads"]
    return int(load["num_running_reqs"])


@pytest.mark.parametrize("path", HEADS_AT_ONCE)
def test_a_stream_that_has_its_head_and_no_event_goes_on_with_those_of_the_next_worker(muxd, loss, path):
    body = {"model": A, "stream": True, **HEADS_AT_ONCE[path]}
    ollamas = path.startswith("/api/")
    undisturbed = said(muxd.post(path, {**body, "stream": not ollamas}).text)
    loss.stop()
    with httpx.stream("POST", f"{muxd.url}{path}", json=body, timeout=DEADLINE) as answer:
        assert (answer.status_code, answer.headers["server"]) == (200, "uvicorn"), "its worker's own head"
        loss.kill()
        stream = answer.read().decode()
    heard = said(stream)
    if ollamas:
        # SGLang leaves the text of the last chunk out of Ollama's streams (0.5.23, entrypoints/ollama/serving.py), and
        # how many tokens come in that chunk is a matter of timing: what is streamed is the beginning of the answer.
        assert heard
        assert undisturbed.startswith(heard)
        assert json.loads(stream.splitlines()[-1])["done"] is True
    else:
        assert heard == undisturbed
    assert loss.replays == 1


def test_a_stream_that_has_begun_ends_with_an_error_and_uncleanly(muxd, loss):
    with muxd.stream(A, max_tokens=3000, ignore_eos=True) as lines:
        begun = [next(lines) for _ in range(20)]
        loss.kill()
        rest = until_cut(lines)
    assert begun[0].startswith("data: ")
    last = json.loads(next(line for line in reversed(rest) if line).removeprefix("data: "))
    assert last["error"]["code"] in ("worker_died", "worker_exited")
    assert loss.replays == 0
