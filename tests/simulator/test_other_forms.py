"""Routes beside OpenAI's: Ollama's, SGLang's own, and speech, in the shapes of SGLang 0.5.23."""

import json

import httpx
import pytest

MESSAGES = [{"role": "user", "content": "hello"}]
OPTIONS = {"num_predict": 6, "temperature": 0}
GREETING = {"messages": MESSAGES, "options": OPTIONS}
FINAL = {"done": True, "done_reason": "stop"}
AUDIO = {"file": ("a.wav", b"RIFF\r\n\r\n\x00\xff" * 8000)}


@pytest.fixture(scope="module")
def embedder(start_for_module):
    return start_for_module("--model-path", "small/embedder", "--is-embedding")


def test_ollamas_chat_says_the_same_as_openais_under_the_servers_own_name(simulator):
    answer = simulator.post("/api/chat", {"model": "anything", **GREETING, "stream": False}).json
    assert answer["message"]["content"] == simulator.chat(max_tokens=6).said
    assert (answer["model"], answer["eval_count"]) == ("some/model", 6)
    assert FINAL.items() <= answer.items()


def test_ollamas_chat_streams_a_line_for_each_part_and_leaves_the_last_token_out(simulator):
    answer = httpx.post(f"{simulator.url}/api/chat", json={"model": "m", **GREETING})
    assert answer.headers["content-type"] == "application/x-ndjson"
    *lines, last = [json.loads(line) for line in answer.text.splitlines()]
    said = "".join(line["message"]["content"] for line in lines)
    assert said == simulator.chat(max_tokens=5).said
    assert not any(line["done"] for line in lines)
    assert last["message"]["content"] == ""
    assert FINAL.items() <= last.items()


def test_ollamas_generate_goes_on_from_a_prompt(simulator):
    ask = {"model": "m", "prompt": "once", "options": OPTIONS}
    whole = simulator.post("/api/generate", {**ask, "stream": False}).json
    own = simulator.post("/generate", {"text": "once", "sampling_params": {"max_new_tokens": 6, "temperature": 0}}).json
    assert whole["response"] == own["text"]
    lines = [json.loads(line) for line in simulator.post("/api/generate", ask).text.splitlines()]
    assert whole["response"].startswith("".join(line["response"] for line in lines).strip() or "?")
    assert lines[-1]["done"]


@pytest.mark.parametrize("stream", [True, False])
def test_an_empty_prompt_is_answered_with_nothing(stream, simulator):
    answer = simulator.post("/api/generate", {"model": "m", "prompt": " ", "stream": stream}).json
    assert (answer["response"], answer["eval_count"]) == ("", None)
    assert FINAL.items() <= answer.items()


def test_the_native_routes_make_embeddings_of_one_text_or_several(embedder):
    one = embedder.post("/encode", {"text": "a"}).json
    several = embedder.post("/classify", {"model": "m", "text": ["a", "b"]}).json
    assert one["embedding"] == several[0]["embedding"] != several[1]["embedding"]
    assert one["meta_info"]["prompt_tokens"] == 1


def test_the_native_routes_refuse_in_a_form_of_their_own(simulator, embedder):
    refused = simulator.post("/encode", {"text": "a"})
    assert refused.status == 400
    assert "--is-embedding" in refused.json["error"]["message"]
    assert "At least one of text" in embedder.post("/encode", {}).json["error"]["message"]


def transcribe(simulator, files=AUDIO, **fields):
    return httpx.post(f"{simulator.url}/v1/audio/transcriptions", files=files, data={"model": "whisper", **fields})


def test_speech_is_heard_in_three_formats(simulator):
    plain = transcribe(simulator).json()
    assert plain["usage"] == {"type": "duration", "seconds": 3}
    assert transcribe(simulator, response_format="text").text == plain["text"]
    verbose = transcribe(simulator, response_format="verbose_json", language="de").json()
    assert (verbose["text"], verbose["language"], verbose["segments"]) == (plain["text"], "de", [])


def test_what_is_heard_hangs_on_every_byte(simulator):
    other = {"file": ("a.wav", AUDIO["file"][1][:-1] + b"\xfe")}
    assert transcribe(simulator, other).json()["text"] != transcribe(simulator).json()["text"]


def test_speech_streams_as_events(simulator):
    answer = transcribe(simulator, stream="true")
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, done = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    chunks = [json.loads(event) for event in events]
    assert done == "[DONE]"
    assert {(chunk["object"], chunk["model"]) for chunk in chunks} == {("transcription.chunk", "whisper")}
    said = "".join(chunk["choices"][0]["delta"]["content"] or "" for chunk in chunks)
    assert said == transcribe(simulator).json()["text"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_a_form_without_its_file_or_with_a_format_nobody_knows_is_refused(simulator):
    assert transcribe(simulator, files={"other": ("a.wav", b"x")}).status_code == 400
    refused = transcribe(simulator, response_format="srt")
    assert (refused.status_code, "verbose_json" in refused.text) == (400, True)
    assert httpx.post(f"{simulator.url}/v1/audio/transcriptions", json={}).status_code == 400
