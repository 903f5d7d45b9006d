"""Fields that hold what they are not meant to: an answer, or a 400 in SGLang's way, and never the end of the server."""

from typing import Any

import httpx
import pytest

MESSAGES = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
CHAT = {"messages": MESSAGES, "max_tokens": 1}
WRONG: tuple[Any, ...] = (None, True, -1, 1.5, "x", "", [], [1], [[]], [{}], {}, {"x": 1}, {"name": []}, {"type": []})
COMMON = ("model", "stream", "rid", "n", "stop", "seed", "temperature", "max_tokens", "stream_options", "ignore_eos")

# A request that is answered, and the fields beside the common ones to which each of the values above is given.
TEXT = {
    "/v1/chat/completions": (
        CHAT,
        "messages tools tool_choice response_format logprobs top_logprobs max_completion_tokens",
    ),
    "/v1/completions": ({"prompt": "a", "max_tokens": 1}, "prompt logprobs"),
    "/v1/responses": ({"input": "a", "max_output_tokens": 1}, "input instructions max_output_tokens metadata user"),
    "/v1/messages": (CHAT, "messages system stop_sequences tools tool_choice metadata"),
    "/v1/messages/count_tokens": (CHAT, "messages system tools"),
    "/generate": ({"text": "a", "sampling_params": {"max_new_tokens": 1}}, "text sampling_params"),
    "/api/chat": ({"model": "m", "messages": MESSAGES, "options": {"num_predict": 1}}, "messages options"),
    "/api/generate": ({"model": "m", "prompt": "a", "options": {"num_predict": 1}}, "prompt system options"),
    "/v1/tokenize": ({"prompt": "a"}, "prompt"),
    "/v1/detokenize": ({"tokens": [1]}, "tokens"),
    "/v1/score": ({"query": "a", "items": ["b"]}, "query items label_token_ids apply_softmax"),
}
NUMBERS = {
    "/v1/embeddings": ({"input": "a"}, "input"),
    "/v1/rerank": ({"query": "a", "documents": ["b"]}, "query documents"),
    "/v1/classify": ({"input": "a"}, "input"),
    "/encode": ({"text": "a"}, "text"),
}
NESTED = {
    "/v1/chat/completions": [
        {**CHAT, "response_format": {"type": "json_schema", "json_schema": 1}},
        {**CHAT, "response_format": {"type": "json_schema", "json_schema": {"schema": []}}},
        {**CHAT, "response_format": {"type": "json_schema", "json_schema": {"schema": "x"}}},
        {**CHAT, "tools": [TOOL], "tool_choice": {"function": "f"}},
        {**CHAT, "tools": [{"function": "f"}]},
        {**CHAT, "messages": []},
    ],
    "/v1/messages": [{**CHAT, "tools": 1}, {**CHAT, "tool_choice": "any"}, {**CHAT, "tool_choice": {"type": "tool"}}],
    "/generate": [{"text": "a", "sampling_params": {"max_new_tokens": []}}, {"text": "a", "sampling_params": [1]}],
    "/api/chat": [{"messages": {}}, {"messages": MESSAGES, "options": []}, {"messages": None}],
    "/api/generate": [
        {"prompt": None},
        {"prompt": {}},
        {"prompt": ["a"]},
        {"prompt": "a", "system": {}},
        {"prompt": "a", "system": ["b"]},
        {"prompt": "a", "options": {"num_predict": "many"}},
        {"prompt": "a", "options": "x"},
    ],
    "/v1/detokenize": [{"tokens": 1}, {"tokens": None}],
}


@pytest.fixture(scope="module")
def embedder(start_for_module):
    return start_for_module("--model-path", "small/embedder", "--is-embedding")


def ask_wrongly(server, path, good, names):
    assert server.post(path, good).status == 200
    for name in names:
        for value in WRONG:
            answer = server.post(path, {**good, name: value})
            assert answer.status in (200, 400), (name, value, answer)
    assert server.post(path, good).status == 200
    assert "Traceback" not in server.output


@pytest.mark.parametrize("path", TEXT)
def test_a_server_of_text_outlives_every_wrong_field(path, simulator):
    good, names = TEXT[path]
    ask_wrongly(simulator, path, good, (*COMMON, *names.split()))


@pytest.mark.parametrize("path", NUMBERS)
def test_a_server_of_embeddings_outlives_every_wrong_field(path, embedder):
    good, names = NUMBERS[path]
    ask_wrongly(embedder, path, good, ("model", *names.split()))


@pytest.mark.parametrize("path", NESTED)
def test_what_cannot_be_understood_is_a_bad_request(path, simulator):
    for body in NESTED[path]:
        answer = simulator.post(path, body)
        assert answer.status == 400, (body, answer)


@pytest.mark.parametrize("field", ["model", "stream", "response_format", "language", "file"])
@pytest.mark.parametrize("value", [b"", b"\xff\x00", b"=?utf-8?q?=ff?="])
def test_a_form_may_hold_any_bytes(field, value, simulator):
    body = b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (field.encode(), value)
    body += b'--b\r\nContent-Disposition: form-data; name="file"; filename="%b"\r\n\r\nRIFF\r\n--b--\r\n' % value
    answer = httpx.post(
        f"{simulator.url}/v1/audio/transcriptions",
        content=body,
        headers={"Content-Type": "multipart/form-data; boundary=b"},
    )
    assert answer.status_code in (200, 400)
    assert "Traceback" not in simulator.output
