"""What clients see."""

import re

import httpx
import pytest
import trio

from .harness import eventually

MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def other(start_for_module):
    return start_for_module("--model-path", "other/model", "--batch-slots", 1)


@pytest.fixture(scope="module")
def embedder(start_for_module):
    return start_for_module("--model-path", "small/embedder", "--is-embedding")


def test_answers_depend_on_model_and_prompt_and_are_the_same_each_time(simulator, other):
    said = simulator.says()
    assert said.startswith("some/model: ")
    assert simulator.says() == said
    assert simulator.says("another prompt") != said
    assert other.says() != said


def test_a_temperature_makes_answers_differ_and_a_seed_makes_them_equal(simulator):
    assert simulator.chat(temperature=1).said != simulator.chat(temperature=1).said
    assert simulator.chat(temperature=1, seed=5).said == simulator.chat(temperature=1, seed=5).said


def test_the_model_field_is_echoed_whatever_it_says(simulator):
    assert simulator.chat(model="no/such").json["model"] == "no/such"


@pytest.fixture(scope="module")
def adapted(start_for_module):
    return start_for_module("--model-path", "some/model", "--enable-lora")


@pytest.mark.parametrize("name", ["some/model:latest", "other:latest", "some/model: latest "])
@pytest.mark.parametrize("stream", [False, True])
def test_what_follows_a_colon_is_an_adapter_and_there_are_none(name, stream, simulator):
    for path, asked in (("/v1/chat/completions", {"messages": MESSAGES}), ("/v1/completions", {"prompt": "a"})):
        refused = simulator.post(path, {"model": name, "stream": stream, **asked})
        assert (refused.status, refused.json["type"]) == (400, "BadRequestError")
        assert refused.json["message"].startswith("LoRA adapter 'latest' was requested, but LoRA is not enabled. ")


def test_messages_are_refused_an_adapter_in_their_own_shape(simulator):
    asked = {"model": "m:a", "messages": MESSAGES, "max_tokens": 4}
    refused = simulator.post("/v1/messages", asked)
    assert (refused.status, refused.json["type"]) == (400, "error")
    assert "adapter 'a'" in refused.json["error"]["message"]
    stream = simulator.post("/v1/messages", {**asked, "stream": True})
    assert (stream.status, stream.text.count("event: ")) == (200, 3)
    assert "event: error\n" in stream.text


def test_what_only_names_a_path_of_an_adapter_is_refused_too(simulator):
    assert simulator.post("/generate", {"model": "m:a", "text": "a", "lora_path": None}).status == 200
    refused = simulator.post("/generate", {"text": "a", "lora_path": [None, "b"]})
    assert (refused.status, "adapter 'b'" in refused.json["error"]["message"]) == (400, True)


def test_embeddings_are_refused_an_adapter(embedder):
    refused = embedder.post("/v1/embeddings", {"model": "m:latest", "input": "a"})
    assert (refused.status, "adapter 'latest'" in refused.json["message"]) == (400, True)
    refused = embedder.post("/encode", {"text": "a", "lora_path": "b"})
    assert (refused.status, "adapter 'b'" in refused.json["error"]["message"]) == (400, True)


def test_no_adapter_is_meant_by_other_names_and_where_they_are_enabled_there_is_each(simulator, adapted):
    for name in ("some/model", "other", "some/model:", "some/model: "):
        assert simulator.chat(model=name).json["model"] == name
    assert adapted.chat(model="some/model:latest").json["model"] == "some/model:latest"


def test_usage_and_finish_reason_tell_why_it_ended(simulator):
    cut = simulator.chat(max_tokens=3).json
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["usage"] | {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5} == cut["usage"]
    full = simulator.chat().json
    assert full["choices"][0]["finish_reason"] == "stop"
    assert 16 <= full["usage"]["completion_tokens"] < 48
    endless = simulator.chat(max_tokens=60, ignore_eos=True).json
    assert endless["usage"]["completion_tokens"] == 60


def test_a_stream_says_the_same_as_an_answer_in_one_piece(simulator):
    with simulator.open_stream(max_tokens=12, stream_options={"include_usage": True}) as stream:
        *events, usage, done = stream.rest()
    assert done == "[DONE]"
    assert usage["usage"]["completion_tokens"] == 12
    deltas = [event["choices"][0]["delta"] for event in events]
    assert deltas[0]["role"] == "assistant"
    assert "".join(delta.get("content", "") for delta in deltas) == simulator.chat(max_tokens=12).said
    assert [event["choices"][0]["finish_reason"] for event in events][-1] == "length"


def test_completions_and_generate_have_their_own_forms(simulator):
    done = simulator.post("/v1/completions", {"prompt": "once", "max_tokens": 4, "temperature": 0}).json
    assert (done["object"], done["model"], done["choices"][0]["finish_reason"]) == (
        "text_completion",
        "default",
        "length",
    )
    sampling = {"max_new_tokens": 4, "temperature": 0}
    own = simulator.post("/generate", {"text": "once", "sampling_params": sampling}).json
    assert own["text"] == done["choices"][0]["text"]
    assert own["meta_info"]["finish_reason"] == {"type": "length", "length": 4}
    streamed = simulator.post("/generate", {"text": "once", "sampling_params": sampling, "stream": True}).text
    assert streamed.count(own["text"]) == 1
    assert streamed.endswith("data: [DONE]\n\n")


def test_tokens_are_counted_and_turned_back(simulator):
    counted = simulator.post("/tokenize", {"prompt": "one two three"}).json
    assert counted["count"] == len(counted["tokens"]) == 3
    assert len(simulator.post("/v1/detokenize", {"tokens": counted["tokens"]}).json["text"].split()) == 3


NUMBERS = {
    "/v1/embeddings": {"input": ["a", "b"]},
    "/v1/rerank": {"query": "q", "documents": ["a", "b"]},
    "/v1/classify": {"input": ["a", "b"]},
}


@pytest.mark.parametrize("path", NUMBERS)
def test_what_is_made_of_embeddings_needs_the_flag(path, simulator):
    refused = simulator.post(path, {"model": "m", **NUMBERS[path]})
    assert refused.status == 400
    assert "--is-embedding" in refused.json["message"]


def test_an_embedding_depends_on_the_text_and_names_the_servers_own_model(embedder):
    answer = embedder.post("/v1/embeddings", {"model": "m", "input": ["a", "b", "a"]}).json
    one, two, again = (each["embedding"] for each in answer["data"])
    assert one == again != two
    assert answer["model"] == "small/embedder"


def test_documents_are_ranked_best_first_under_their_own_numbers(embedder):
    documents = ["one", "two", "three"]
    ranked = embedder.post("/v1/rerank", {"query": "q", "documents": documents}).json
    assert [documents[one["index"]] for one in ranked] == [one["document"] for one in ranked]
    assert sorted(one["index"] for one in ranked) == [0, 1, 2]
    assert ranked == sorted(ranked, key=lambda one: -one["score"])


def test_texts_are_classified_one_by_one(embedder):
    data = embedder.post("/v1/classify", {"model": "m", "input": ["a", "b"]}).json["data"]
    assert [one["index"] for one in data] == [0, 1]


def test_items_are_scored_by_the_likelihood_of_the_labels(simulator):
    ask = {"model": "m", "query": "q", "items": ["a", "b"], "label_token_ids": [3, 4], "apply_softmax": True}
    scores = simulator.post("/v1/score", ask).json["scores"]
    assert [sum(row) for row in scores] == pytest.approx([1, 1])
    assert scores[0] != scores[1]


def test_a_server_of_embeddings_dies_when_it_is_asked_for_text(start):
    doomed = start("--is-embedding", SGLANG_PYSPY_DUMP_BEFORE_CRASH="0", SGLANG_CUDA_COREDUMP_BEFORE_CRASH="0")
    with pytest.raises(ConnectionError):
        doomed.chat()
    assert doomed.ended() == -9
    assert "no attribute 'embeddings'" in doomed.output


def test_the_served_model_is_listed(simulator):
    (card,) = simulator.get("/v1/models").json["data"]
    assert card["id"] == "some/model"
    assert simulator.get("/v1/models/some/model").json["id"] == "some/model"
    assert simulator.get("/v1/models/other").json["error"]["code"] == "model_not_found"
    assert simulator.get("/model_info").json["simulated"] is True


@pytest.mark.parametrize(
    ("path", "body", "problem"),
    [
        ("/v1/chat/completions", {"model": "m"}, "messages"),
        ("/v1/chat/completions", {"messages": []}, "Messages cannot be empty."),
        ("/v1/chat/completions", {"messages": [{"role": "user"}], "max_tokens": 10**9}, "too large"),
        ("/v1/chat/completions", [], "dictionary"),
        ("/v1/completions", None, "Field required"),
        ("/generate", {}, "Either text"),
    ],
)
def test_bad_requests_are_refused(path, body, problem, simulator):
    refused = simulator.post(path, body)
    assert refused.status == 400
    assert problem in refused.json["message"]


def test_json_must_say_that_it_is_json(simulator):
    refused = httpx.post(f"{simulator.url}/v1/chat/completions", content=b"{}", headers={"Content-Type": "text/plain"})
    assert refused.status_code == 400
    assert "Unsupported Media Type" in refused.json()["message"]


def test_unknown_routes_and_methods_are_refused(simulator):
    assert (simulator.get("/nope").status, simulator.get("/nope").json) == (404, {"detail": "Not Found"})
    assert simulator.get("/v1/chat/completions").status == 405


def test_requests_beyond_the_slots_wait(other):
    with other.open_stream(max_tokens=10_000, ignore_eos=True), other.open_generation(max_new_tokens=5):
        eventually(lambda: other.loads() == (1, 1), "one runs, one waits")
    eventually(lambda: other.loads() == (0, 0), "both are gone with their clients")


def test_what_waits_for_its_first_token_has_a_head_where_sglangs_has(other):
    with other.open_stream(max_tokens=10_000, ignore_eos=True) as running:
        running.next()
        with other.open_generation(max_new_tokens=5):
            pass
        with pytest.raises(httpx.ReadTimeout):
            other.open_stream(max_tokens=5, timeout=0.5)
    with other.open_stream(max_tokens=5) as stream:
        assert stream.next()["choices"][0]["delta"]["role"] == "assistant"


def test_a_client_that_leaves_ends_its_request(simulator):
    long = {"text": "x", "sampling_params": {"max_new_tokens": 30_000, "ignore_eos": True}}
    with pytest.raises(TimeoutError):
        simulator.post("/generate", long, timeout=0.3)
    eventually(lambda: simulator.loads() == (0, 0), "the engine is idle")


async def test_several_hundred_streams_at_once_are_all_answered_completely(start):
    simulator = start("--batch-slots", 200, "--token-rate", 20)
    body = b'{"messages":[{"role":"user","content":"all of you"}],"max_tokens":10,"stream":true,"temperature":0}'
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    answers = []

    async def ask():
        async with await trio.open_tcp_stream("127.0.0.1", simulator.port) as stream:
            await stream.send_all(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            answer = b""
            while not answer.endswith(b"0\r\n\r\n"):
                data = await stream.receive_some()
                assert data, "the connection was cut"
                answer += data
            answers.append(b"".join(re.findall(rb'"content":"([^"]*)"', answer)).decode())

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(ask)
    assert answers == [simulator.chat("all of you", max_tokens=10).said] * 200
