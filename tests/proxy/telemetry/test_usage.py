"""Token counts in answers as SGLang 0.5.23 writes them, cut into pieces anywhere."""

import gzip
import json
import random
from typing import Any

import pytest

from muxd.http.response import LAST_CHUNK, chunk
from muxd.proxy.telemetry.usage import USAGE_READERS, Tokens

HEAD = b"HTTP/1.1 200 OK\r\ndate: today\r\ncontent-type: application/json\r\n\r\n"
CHAT, MESSAGES, RESPONSES, GENERATE = "/v1/chat/completions", "/v1/messages", "/v1/responses", "/generate"


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def event(value: Any) -> bytes:
    return b"data: " + compact(value) + b"\n\n"


def read(route: str, *pieces: bytes) -> Tokens:
    make = USAGE_READERS.get(route)
    assert make is not None
    usage = make()
    for piece in pieces:
        usage.see(piece)
    if len(pieces) == 1:
        assert make().of_whole(pieces[0]) == usage.result()
    return usage.result()


def usage(prompt: int, completion: int, cached: int | None = None) -> dict[str, Any]:
    details = None if cached is None else {"cached_tokens": cached}
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
        "prompt_tokens_details": details,
        "reasoning_tokens": 0,
        "completion_tokens_details": None,
    }


def delta(text: str, told: Any = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
    return {"id": "c-1", "object": "chat.completion.chunk", "model": "qwen", "choices": [choice], "usage": told}


def chat(content: str, told: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    end = {"metadata": {"weight_version": "default"}}
    return {"id": "c-1", "object": "chat.completion", "model": "qwen", "choices": [choice], "usage": told, **end}


def meta(name: str, prompt: int, completion: int, cached: int, *, ended: bool = False, **more: Any) -> dict[str, Any]:
    finish = {"type": "stop", "matched": "}"} if ended else None
    told = {"id": name, "finish_reason": finish, "prompt_tokens": prompt, "weight_version": "default", **more}
    return {"meta_info": {**told, "completion_tokens": completion, "cached_tokens": cached, "e2e_latency": 0.25}}


CHAT_STREAM = [
    HEAD,
    event(delta("Hel")),
    event(delta("lo")),
    event({**delta(""), "choices": [], "usage": usage(12, 345, 7)}),
    b"data: [DONE]\n\n",
]
MESSAGE_STREAM = [
    HEAD,
    b"event: message_start\n"
    + event({"type": "message_start", "message": {"usage": {"input_tokens": 20, "cache_read_input_tokens": 5}}}),
    b"event: content_block_delta\n" + event({"type": "content_block_delta", "delta": {"text": "Hello"}}),
    b"event: message_delta\n" + event({"type": "message_delta", "usage": {"output_tokens": 345}}),
    b"event: message_stop\n" + event({"type": "message_stop"}),
]
RESPONSE_USAGE = {
    "input_tokens": 12,
    "input_tokens_details": {"cached_tokens": 7, "cache_write_tokens": 0},
    "output_tokens": 345,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 357,
}
TOOL = {"type": "function", "parameters": {"properties": {"usage": {"type": "object"}, "max_tokens": {"type": "int"}}}}
RESPONSE_STREAM = [
    HEAD,
    event({"type": "response.created", "response": {"usage": None, "tools": [TOOL], "max_output_tokens": 16}}),
    event({"type": "response.output_text.delta", "delta": "Hello"}),
    event({"type": "response.completed", "response": {"usage": RESPONSE_USAGE, "tools": [TOOL], "metadata": {}}}),
]
GENERATE_STREAM = [
    HEAD,
    event({"text": "Hel", "output_ids": [1], **meta("r1", 12, 1, 7)}),
    event({"text": "Hello", "output_ids": [1, 2], **meta("r1", 12, 345, 7, ended=True)}),
    b"data: [DONE]\n\n",
]
OLLAMA = [HEAD, compact({"model": "q", "done": True, "total_duration": 5, "prompt_eval_count": 12, "eval_count": 345})]
ANSWERS = {
    "chat stream": (CHAT, CHAT_STREAM, (12, 7, 345)),
    "chat": (CHAT, [HEAD, compact(chat("Hello", usage(12, 345, 7)))], (12, 7, 345)),
    "chat with blanks": (CHAT, [HEAD, json.dumps(chat("Hello", usage(12, 345, 7)), indent=1).encode()], (12, 7, 345)),
    "embeddings": ("/v1/embeddings", [HEAD, compact({"data": [], "usage": usage(12, 0)})], (12, 0, 0)),
    "messages stream": (MESSAGES, MESSAGE_STREAM, (25, 5, 345)),
    "messages": (MESSAGES, [HEAD, compact({"usage": {"input_tokens": 12, "output_tokens": 345}})], (12, 0, 345)),
    "responses stream": (RESPONSES, RESPONSE_STREAM, (12, 7, 345)),
    "responses": (RESPONSES, [HEAD, compact({"usage": RESPONSE_USAGE, "tools": [TOOL]})], (12, 7, 345)),
    "generate stream": (GENERATE, GENERATE_STREAM, (12, 7, 345)),
    "generate": (GENERATE, [HEAD, compact({"text": "Hello", **meta("r1", 12, 345, 7, ended=True)})], (12, 7, 345)),
    "ollama": ("/api/chat", OLLAMA, (12, 0, 345)),
}
EACH = pytest.mark.parametrize(("route", "pieces", "tokens"), ANSWERS.values(), ids=ANSWERS)


def framed(pieces: list[bytes]) -> list[bytes]:
    head, *body = pieces
    return [head, *map(chunk, body), LAST_CHUNK]


@EACH
def test_it_is_found_in_pieces_as_a_worker_writes_them(route: str, pieces: list[bytes], tokens: Tokens) -> None:
    assert read(route, *pieces) == tokens
    assert read(route, *framed(pieces)) == tokens


@EACH
def test_it_is_found_in_one_piece(route: str, pieces: list[bytes], tokens: Tokens) -> None:
    assert read(route, b"".join(pieces)) == tokens
    assert read(route, b"".join(framed(pieces))) == tokens


@EACH
@pytest.mark.parametrize("framing", [list, framed])
def test_it_is_found_when_split_at_any_byte(route: str, pieces: list[bytes], tokens: Tokens, framing: Any) -> None:
    whole = b"".join(framing(pieces))
    for at in range(len(whole) + 1):
        assert read(route, whole[:at], whole[at:]) == tokens, f"{whole[:at]!r} | {whole[at:]!r}"


@EACH
@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_it_is_found_in_crumbs(route: str, pieces: list[bytes], tokens: Tokens, size: int) -> None:
    for whole in (b"".join(pieces), b"".join(framed(pieces))):
        assert read(route, *(whole[at : at + size] for at in range(0, len(whole), size))) == tokens


@EACH
def test_it_is_found_where_each_piece_is_a_chunk_cut_anywhere(route: str, pieces: list[bytes], tokens: Tokens) -> None:
    head, *body = pieces
    whole, chance = b"".join(body), random.Random(4)
    for _ in range(200):
        cuts = sorted(chance.sample(range(1, len(whole)), min(5, len(whole) - 1)))
        parts = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
        assert read(route, *framed([head, *parts])) == tokens


ANSWERS = [
    'the reply has "usage":{"prompt_tokens":99,"completion_tokens":98}',
    '{"meta_info":{"id":"x","prompt_tokens":99,"completion_tokens":98}}',
    '"prompt_eval_count":99,"eval_count":98',
    "prompt_tokens",
    'ends with "usage":{"input_tokens":99',
]


@pytest.mark.parametrize("said", ANSWERS)
def test_text_that_talks_of_tokens_is_not_counted(said: str) -> None:
    assert read(CHAT, HEAD, compact(chat(said, None))) == (0, 0, 0)
    assert read(CHAT, HEAD, event(delta(said)), event(delta(said))) == (0, 0, 0)
    assert read(GENERATE, HEAD, event({"text": said, **meta("r", 1, 2, 0)})) == (1, 0, 2)
    assert read("/api/chat", HEAD, compact({"message": said, "prompt_eval_count": 1, "eval_count": 2})) == (1, 0, 2)


def test_a_tools_own_arguments_are_not_taken_for_the_usage() -> None:
    block = {"type": "tool_use", "input": {"usage": {"input_tokens": 99, "output_tokens": 98}}}
    answer = {"content": [block], "usage": {"input_tokens": 1, "output_tokens": 2}}
    assert read(MESSAGES, HEAD, compact(answer)) == (1, 0, 2)


def test_with_continuous_usage_the_last_counts() -> None:
    assert read(CHAT, *(event(delta("a", usage(12, made, 7))) for made in range(1, 40))) == (12, 7, 39)
    assert read(CHAT, b"".join(event(delta("a", usage(12, made, 7))) for made in range(1, 40))) == (12, 7, 39)


def test_a_stream_without_usage_tells_nothing() -> None:
    assert read(CHAT, HEAD, *(event(delta("word")) for _ in range(50)), b"data: [DONE]\n\n") == (0, 0, 0)


def test_a_broken_off_generate_tells_what_was_made_so_far() -> None:
    assert read(GENERATE, *GENERATE_STREAM[:2]) == (12, 7, 1)


def test_each_part_of_a_batch_is_counted_once() -> None:
    parts = [{"text": "a", **meta(f"id-{n}", 10, n, 1, ended=True)} for n in range(1, 5)]
    assert read(GENERATE, HEAD, compact(parts)) == (40, 4, 10)
    turns = [event({"text": "a", **meta(f"id-{n}", 10, made, 1), "index": n}) for made in (1, 2, 3) for n in (1, 2)]
    assert read(GENERATE, HEAD, *turns) == (20, 2, 6)
    assert read(GENERATE, HEAD, b"".join(turns)) == (20, 2, 6)


def test_short_ids_that_the_client_chose_are_kept_apart_and_together() -> None:
    turns = [event(meta(name, 10, made, 0, ended=made == 3)) for made in (1, 2, 3) for name in ("a", "b")]
    assert read(GENERATE, *turns) == (20, 0, 6)


def test_figures_with_megabytes_of_logprobs_between_them_are_found() -> None:
    logprobs = [[-0.25, 1234, "token"]] * 30_000
    whole = compact({"text": "a", **meta("r1", 12, 345, 7, ended=True, output_token_logprobs=logprobs)})
    pieces = [whole[at : at + 65_536] for at in range(0, len(whole), 65_536)]
    assert len(pieces) > 5
    assert read(GENERATE, HEAD, *pieces) == (12, 7, 345)


def test_the_usage_behind_a_long_body_is_found() -> None:
    whole = compact({"data": [{"embedding": [0.123456] * 40_000}], "usage": usage(12, 0, 7)})
    for size in (65_536, 131_072):
        pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
        assert read("/v1/embeddings", HEAD, *pieces) == (12, 7, 0)
    middle = len(whole) - 60  # within the object
    assert read("/v1/embeddings", HEAD, whole[:middle], whole[middle:]) == (12, 7, 0)


def test_a_compressed_answer_tells_nothing() -> None:
    body = gzip.compress(compact(chat("Hello", usage(12, 345))))
    assert read(CHAT, HEAD + body) == (0, 0, 0)


@pytest.mark.parametrize(
    "told",
    [
        b"{}",
        b"null",
        b'"prompt_tokens"',
        b"[1]",
        b'{"prompt_tokens":-5}',
        b'{"prompt_tokens":1e99}',
        b'{"prompt_tokens":',
    ],
)
def test_what_is_no_usage_tells_nothing(told: bytes) -> None:
    assert read(CHAT, HEAD, b'{"usage":' + told + b',"x_tokens":1}') == (0, 0, 0)


def test_garbage_is_survived() -> None:
    chance = random.Random(5)
    words = [
        b'"usage":',
        b'_tokens":',
        b"{",
        b"}",
        b'"meta_info":',
        b'"id"',
        b"\r\n",
        b"\n\n",
        b"5",
        b'"',
        b"\xff",
        b"null",
    ]
    for _ in range(3000):
        pieces = [b"".join(chance.choices(words, k=chance.randrange(12))) for _ in range(4)]
        for route in (CHAT, MESSAGES, GENERATE, "/api/chat"):
            assert len(read(route, *pieces)) == 3


@pytest.mark.parametrize("route", ["/v1/tokenize", "/v1/models", "", "/v1/messages/count_tokens"])
def test_routes_that_generate_nothing_have_no_reader(route: str) -> None:
    assert USAGE_READERS.get(route) is None


@pytest.mark.parametrize("route", [CHAT, MESSAGES, RESPONSES, GENERATE])
@pytest.mark.parametrize("depth", [100, 1200, 100_000])
def test_an_answer_nested_too_deeply_to_be_read_harms_nobody(route: str, depth: int) -> None:
    told = read(route, HEAD, b'{"usage":{"x":%b,"prompt_tokens":5}}' % (b"[" * depth + b"]" * depth))
    assert told in ((0, 0, 0), (5, 0, 0))
