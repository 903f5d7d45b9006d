"""What a client may ask of an answer: several, the likelihoods, where to stop, in which form."""

import json

import httpx
import pytest


def complete(simulator, **fields):
    return simulator.post("/v1/completions", {"prompt": "once", "max_tokens": 4, "temperature": 0, **fields})


def said(deltas):
    return "".join(delta.get("content") or "" for delta in deltas)


def streamed(simulator, **fields):
    """Its events, which must end as they should."""
    with simulator.open_stream(**fields) as stream:
        *events, done = stream.rest()
    assert done == "[DONE]"
    return events


def of_choice(events, index):
    return [choice for event in events for choice in event["choices"] if choice["index"] == index]


# Several


def test_several_answers_are_numbered_and_differ_where_they_are_drawn(simulator):
    equal = simulator.chat(n=2, max_tokens=6).json["choices"]
    assert [one["index"] for one in equal] == [0, 1]
    assert equal[0]["message"] == equal[1]["message"]
    drawn = simulator.chat(n=2, max_tokens=6, temperature=1, seed=3)
    first, second = (one["message"]["content"] for one in drawn.json["choices"])
    assert first != second
    assert drawn.json["choices"] == simulator.chat(n=2, max_tokens=6, temperature=1, seed=3).json["choices"]
    assert drawn.json["usage"]["completion_tokens"] == 12


def test_several_streams_come_in_one_and_each_is_whole(simulator):
    events = streamed(simulator, n=2, max_tokens=20)
    for index in (0, 1):
        parts = of_choice(events, index)
        assert said(part["delta"] for part in parts) == simulator.chat(max_tokens=20).said
        assert [part["finish_reason"] for part in parts].count("length") == 1


def test_each_prompt_of_a_list_is_completed(simulator):
    texts = [one["text"] for one in complete(simulator, prompt=["once", "twice"]).json["choices"]]
    assert texts == [complete(simulator, prompt=p).json["choices"][0]["text"] for p in ("once", "twice")]


def test_an_answer_to_none_is_refused(simulator):
    assert simulator.chat(n=0).status == 400


# To whom


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/nowhere"])
def test_pages_of_every_origin_may_read_as_they_may_of_sglang(simulator, path):
    def allowed(headers):
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 1}
        asked = {"method": "POST", "json": body} if "chat" in path else {"method": "GET"}
        answer = httpx.request(url=simulator.url + path, headers=headers, **asked)
        return answer.headers.get("access-control-allow-origin")

    assert allowed({"Origin": "http://localhost:3000"}) == "*"
    assert allowed({}) is None


# Likelihoods


def test_logprobs_tell_each_token_and_the_likeliest_others(simulator):
    choice = simulator.chat(max_tokens=5, logprobs=True, top_logprobs=3).json["choices"][0]
    told = choice["logprobs"]["content"]
    assert "".join(one["token"] for one in told) == choice["message"]["content"]
    for one in told:
        assert one["top_logprobs"][0]["token"] == one["token"]
        assert [each["logprob"] for each in one["top_logprobs"]] == sorted(
            (each["logprob"] for each in one["top_logprobs"]), reverse=True
        )
        assert len({each["token"] for each in one["top_logprobs"]}) == 3
        assert one["logprob"] < 0
    assert simulator.chat(max_tokens=5).json["choices"][0]["logprobs"] is None


def test_a_stream_tells_the_same_logprobs(simulator):
    whole = simulator.chat(max_tokens=12, logprobs=True, top_logprobs=2).json["choices"][0]["logprobs"]["content"]
    parts = of_choice(streamed(simulator, max_tokens=12, logprobs=True, top_logprobs=2), 0)
    assert [one for part in parts if part["logprobs"] for one in part["logprobs"]["content"]] == whole


def test_completions_tell_logprobs_in_columns(simulator):
    choice = complete(simulator, logprobs=2).json["choices"][0]
    columns = choice["logprobs"]
    assert "".join(columns["tokens"]) == choice["text"]
    assert len(columns["token_logprobs"]) == len(columns["tokens"]) == 4
    assert [dict(one)[token] for token, one in zip(columns["tokens"], columns["top_logprobs"], strict=True)] == columns[
        "token_logprobs"
    ]


# Where it stops


def test_a_stop_string_ends_it_and_is_not_shown(simulator):
    whole = simulator.chat(max_tokens=12).said
    stop = whole.split()[3][1:]
    cut = simulator.chat(max_tokens=12, stop=["never said", stop])
    assert cut.said == whole[: whole.index(stop)]
    choice = cut.json["choices"][0]
    assert (choice["finish_reason"], choice["matched_stop"]) == ("stop", stop)
    assert cut.json["usage"]["completion_tokens"] == 4
    assert simulator.chat(max_tokens=12, stop=stop, no_stop_trim=True).said == cut.said + stop


def test_a_stop_string_over_two_tokens_is_not_begun_in_a_stream(simulator):
    first, second, third = simulator.chat(max_tokens=12).said.split()[:3]
    stop = f"{second[-1]} {third[0]}"
    parts = of_choice(streamed(simulator, max_tokens=12, stop=stop), 0)
    assert said(part["delta"] for part in parts) == f"{first} {second[:-1]}"
    assert parts[-1]["finish_reason"] == "stop"


def test_an_end_by_itself_tells_the_token(simulator):
    choice = simulator.chat().json["choices"][0]
    assert (choice["finish_reason"], choice["matched_stop"]) == ("stop", 2)


# Its form


def test_json_is_asked_for_and_comes(simulator):
    assert isinstance(json.loads(simulator.chat(response_format={"type": "json_object"}).said), dict)
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 5, "maximum": 6}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert json.loads(simulator.chat(response_format=form).said)["n"] in (5, 6)


def test_json_that_is_cut_says_so(simulator):
    choice = simulator.chat(response_format={"type": "json_object"}, max_tokens=3).json["choices"][0]
    assert choice["finish_reason"] == "length"


@pytest.mark.parametrize("fields", [{"temperature": -1}, {"temperature": "hot"}, {"n": "two"}])
def test_what_makes_no_sense_is_refused(fields, simulator):
    assert simulator.chat(**fields).status == 400


# Other routes


def test_messages_say_the_same_in_anthropics_words(simulator):
    ask = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 6, "temperature": 0}
    answer = simulator.post("/v1/messages", ask).json
    assert answer["content"] == [{"type": "text", "text": simulator.chat(max_tokens=6).said}]
    assert (answer["stop_reason"], answer["usage"]["output_tokens"]) == ("max_tokens", 6)
    assert simulator.post("/v1/messages", {**ask, "max_tokens": 90}).json["stop_reason"] == "end_turn"
    refused = simulator.post("/v1/messages", {"model": "m", "messages": ask["messages"]})
    assert (refused.status, refused.json["type"]) == (400, "error")
    assert simulator.post("/v1/messages/count_tokens", ask).json == {"input_tokens": 2}


def test_a_stream_of_messages_is_bracketed_by_named_events(simulator):
    ask = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 6, "temperature": 0}
    names, events = named_events(simulator.post("/v1/messages", {**ask, "stream": True}).text)
    assert [names[0], names[1], *names[-3:]] == [
        "message_start",
        "content_block_start",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    text = "".join(event["delta"]["text"] for event in events if event["type"] == "content_block_delta")
    assert text == simulator.chat(max_tokens=6).said


def test_responses_say_the_same_in_items(simulator):
    ask = {"model": "m", "input": "hello", "max_output_tokens": 6, "temperature": 0}
    whole = simulator.post("/v1/responses", ask).json
    assert whole["output"][0]["content"][0]["text"] == simulator.chat(max_tokens=6).said
    assert (whole["status"], whole["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    names, events = named_events(simulator.post("/v1/responses", {**ask, "stream": True}).text)
    assert (names[0], names[-1]) == ("response.created", "response.incomplete")
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["response"]["output"][0]["content"] == whole["output"][0]["content"]
    assert simulator.post("/v1/responses", {**ask, "max_output_tokens": 90}).json["status"] == "completed"


def named_events(text):
    names = [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]
    events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    assert names == [event["type"] for event in events]
    return names, events
