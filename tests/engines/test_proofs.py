"""The wake proof's question to each engine, and what is read in the answers, as SGLang 0.5.23 and vLLM 0.32.0 give."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from muxd.config import Model
from muxd.engines.engine_client import EngineCallFailed, EngineClient
from muxd.engines.registry import engine_for
from muxd.engines.routers import StandInRouter
from muxd.engines.wake_proof import PROMPT, ProofAnswer
from tests.answering_client import AnsweringClient

SGLANG = Model("qwen", model_path="/m", served_names=("a",))
VLLM = Model("qwen", engine="vllm", model_path="/m", served_names=("a",))
POOLING = Model("qwen", engine="vllm", model_path="/m", served_names=("a",), args=("--runner", "pooling"))

GENERATED = {
    "text": "9[",
    "output_ids": [31, 65],
    "meta_info": {
        "prompt_tokens": 32,
        "cached_tokens": 0,
        "input_token_logprobs": [[None, 11, None], *([-5.25, token, None] for token in PROMPT[1:])],
        "output_token_logprobs": [[-4.75, 31, None], [-4.5, 65, None]],
        "output_top_logprobs": [[[-4.75, 31, None], [-4.875, 9, None]], [[-4.5, 65, None], [-5.0, 12, None]]],
    },
}
COMPLETED = {
    "choices": [
        {
            "text": "9[",
            "logprobs": {
                "tokens": ["token_id:31", "token_id:65"],
                "token_logprobs": [-4.75, -4.5],
                "top_logprobs": [
                    {"token_id:31": -4.75, "token_id:9": -4.875},
                    {"token_id:65": -4.5, "token_id:12": -5.0},
                ],
            },
            "prompt_logprobs": [None, *({str(t): {"logprob": -5.25, "rank": 9}} for t in PROMPT[1:])],
        }
    ]
}
ANSWER = ProofAnswer(prompt=(-5.25,) * 31, tokens=(((31, -4.75), (9, -4.875)), ((65, -4.5), (12, -5.0))))
VECTOR = ProofAnswer(vector=(0.5, -0.5))


class Server:
    """Answers each path as told, 404 to others."""

    def __init__(self, **pages: Any) -> None:
        self.pages = pages
        self.asked: dict[str, Any] = {}
        self.keys: set[str | None] = set()

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if request.method == "POST":
            self.asked[path] = json.loads(request.content)
            self.keys.add(request.headers.get("authorization"))
        page = self.pages.get(path, (404, "{}"))
        if isinstance(page, Exception):
            raise page
        status, text = page if isinstance(page, tuple) else (200, json.dumps(page))
        return httpx.Response(status, stream=httpx.ByteStream(text.encode()))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[EngineClient]:
        async def answer(request: httpx.Request) -> httpx.Response:
            return self.answer(request)

        async with AnsweringClient(answer) as http:
            times = {"call_timeout": 5.0, "probe_timeout": 5.0}
            yield EngineClient(http, "http://127.0.0.1:9", "admin", lambda _: None, api_key="api", **times)


def says_it_makes(*, text: bool) -> dict[str, Any]:
    return {"/model_info": {"is_generation": text}}


async def test_sglang_is_asked_for_two_tokens_whose_prompt_it_must_not_take_from_its_cache():
    server = Server(**says_it_makes(text=True), **{"/generate": GENERATED})
    async with server.running() as link:
        assert await engine_for(SGLANG).proof(link, SGLANG) == ANSWER
    asked = server.asked["/generate"]
    assert (asked["input_ids"], asked["logprob_start_len"], asked["return_logprob"]) == ([*PROMPT], 0, True)
    assert asked["sampling_params"] == {"temperature": 0, "max_new_tokens": 2, "ignore_eos": True}
    assert server.keys == {"Bearer api"}


async def test_an_sglang_that_makes_vectors_is_never_asked_for_text():
    server = Server(**says_it_makes(text=False), **{"/encode": {"embedding": [0.5, -0.5]}})
    async with server.running() as link:
        assert await engine_for(SGLANG).proof(link, SGLANG) == VECTOR
    assert server.asked == {"/encode": {"input_ids": [*PROMPT]}}


async def test_an_sglang_that_does_not_say_what_it_makes_is_asked_nothing():
    server = Server(**{"/generate": GENERATED})
    async with server.running() as link:
        with pytest.raises(EngineCallFailed, match="does not say what it makes"):
            await engine_for(SGLANG).proof(link, SGLANG)
    assert server.asked == {}


async def test_vllm_is_asked_for_two_tokens_whose_prompt_it_must_not_take_from_its_cache():
    server = Server(**{"/v1/completions": COMPLETED})
    async with server.running() as link:
        assert await engine_for(VLLM).proof(link, VLLM) == ANSWER
    asked = server.asked["/v1/completions"]
    assert (asked["model"], asked["prompt"], asked["prompt_logprobs"]) == ("a", [*PROMPT], 0)
    assert (asked["temperature"], asked["max_tokens"], asked["ignore_eos"]) == (0, 2, True)


async def test_a_vllm_that_makes_vectors_is_asked_for_one_with_another_salt_each_time():
    server, salts = Server(**{"/v1/embeddings": {"data": [{"embedding": [0.5, -0.5]}]}}), set()
    async with server.running() as link:
        for _ in range(2):
            assert await engine_for(POOLING).proof(link, POOLING) == VECTOR
            salts.add(server.asked["/v1/embeddings"]["cache_salt"])
    assert len(salts) == 2


def without(answer: dict[str, Any], name: str) -> dict[str, Any]:
    """The answer, as JSON, with this field renamed wherever it is."""
    return json.loads(json.dumps(answer).replace(f'"{name}"', '"other"'))


ODD = {
    "sglang": [
        *(without(GENERATED, name) for name in ("meta_info", "input_token_logprobs", "output_top_logprobs")),
        *([], None, "text", {"meta_info": []}, {"meta_info": {**GENERATED["meta_info"], "output_top_logprobs": [3]}}),
    ],
    "vllm": [
        *(without(COMPLETED, name) for name in ("choices", "logprobs", "prompt_logprobs", "tokens", "13")),
        *([], None, {"choices": []}, {"choices": [{"logprobs": None, "prompt_logprobs": [None]}]}),
        json.loads(json.dumps(COMPLETED).replace("token_id:31", "9")),
    ],
}


@pytest.mark.parametrize(
    ("model", "odd"), [(model, odd) for model in (SGLANG, VLLM) for odd in ODD[model.engine]], ids=repr
)
async def test_an_answer_without_logprobs_is_a_failure(model, odd):
    server = Server(**says_it_makes(text=True), **{"/generate": odd, "/v1/completions": odd})
    async with server.running() as link:
        with pytest.raises(EngineCallFailed, match="no logprobs") as failed:
            await engine_for(model).proof(link, model)
    assert failed.value.answered


@pytest.mark.parametrize("odd", [{}, [], {"embedding": "0.5"}, {"data": []}, {"data": [{"embedding": None}]}])
async def test_an_answer_without_a_vector_is_a_failure(odd):
    for model in (SGLANG, POOLING):
        server = Server(**says_it_makes(text=False), **{"/encode": odd, "/v1/embeddings": odd})
        async with server.running() as link:
            with pytest.raises(EngineCallFailed, match="no vector"):
                await engine_for(model).proof(link, model)


async def test_numbers_that_are_none_are_read_and_differ_from_every_number():
    """As SGLang answers with weights that are not numbers: null."""
    garbage = json.loads(json.dumps(GENERATED).replace("-5.25", "null"))
    async with Server(**says_it_makes(text=True), **{"/generate": garbage}).running() as link:
        answer = await engine_for(SGLANG).proof(link, SGLANG)
    assert answer is not None
    assert not answer.is_sound


@pytest.mark.parametrize(
    ("page", "said", "answered", "broken"),
    [
        ((400, "Out of range float values"), "/v1/completions answered 400 Out of range float values", True, ""),
        ((200, "{"), "it is not JSON", True, ""),
        (httpx.ReadError("reset"), "the connection broke", False, "proof"),
    ],
)
async def test_a_failure_tells_whether_the_server_answered(page, said, answered, broken):
    async with Server(**{"/v1/completions": page}).running() as link:
        with pytest.raises(EngineCallFailed, match=said) as failed:
            await engine_for(VLLM).proof(link, VLLM)
    assert (failed.value.answered, failed.value.broken) == (answered, broken)


async def test_a_router_has_nothing_to_prove():
    async with Server().running() as link:
        assert await StandInRouter().proof(link, SGLANG) is None
