"""Calls of tools: who is called when, with arguments that fit."""

import json
import random

import pytest

from muxd.simulator.pretend_text import WORDS
from muxd.simulator.schemas import fitting, spelled

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Rome", "Oslo"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
                "wind": {"type": "boolean"},
            },
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}
FORCED = {"type": "function", "function": {"name": "get_weather"}}


def call_of(answer):
    """The name and the arguments of its one call."""
    choice = answer.json["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == ""
    (call,) = choice["message"]["tool_calls"]
    return call["function"]["name"], json.loads(call["function"]["arguments"])


def fits(arguments):
    return (
        arguments.keys() == {"city", "days", "wind"}
        and arguments["city"] in ("Rome", "Oslo")
        and arguments["days"] in range(1, 10)
        and isinstance(arguments["wind"], bool)
    )


@pytest.mark.parametrize("choice", ["required", FORCED])
def test_a_demanded_call_comes_with_arguments_that_fit(choice, simulator):
    name, arguments = call_of(simulator.chat(tools=[WEATHER, CLOCK], tool_choice=choice))
    assert name == "get_weather"
    assert fits(arguments)


def test_of_several_tools_the_one_that_was_named_is_called(simulator):
    tools = [WEATHER, CLOCK]
    assert call_of(simulator.chat("please use get_time", tools=tools)) == ("get_time", {})
    assert call_of(simulator.chat("please use get_time", tools=tools, tool_choice="required"))[0] == "get_time"
    assert call_of(simulator.chat("please use get_time", tools=tools, tool_choice=FORCED))[0] == "get_weather"


def test_without_need_the_model_answers_in_words(simulator):
    plain = simulator.says()
    assert simulator.chat(tools=[WEATHER], max_tokens=8).said == plain
    silenced = simulator.chat("use get_weather", tools=[WEATHER], tool_choice="none", max_tokens=8)
    assert silenced.said.startswith("some/model: ")


def test_after_the_tools_result_the_model_answers_in_words(simulator):
    messages = [
        {"role": "user", "content": "use get_weather"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "tool_call_id": "x", "content": "get_weather says rain"},
    ]
    ask = {"model": "m", "messages": messages, "tools": [WEATHER], "temperature": 0}
    assert simulator.post("/v1/chat/completions", ask).said.startswith("some/model: ")


def test_a_stream_names_the_call_once_and_then_spells_its_arguments(simulator):
    with simulator.open_stream(tools=[WEATHER], tool_choice=FORCED) as stream:
        *events, done = stream.rest()
    assert done == "[DONE]"
    choices = [event["choices"][0] for event in events]
    calls = [call for choice in choices for call in choice["delta"].get("tool_calls", ())]
    assert [call["function"]["name"] for call in calls if call["function"]["name"]] == ["get_weather"]
    assert calls[0]["id"].startswith("call_")
    assert all(call["id"] is None for call in calls[1:])
    assert fits(json.loads("".join(call["function"]["arguments"] for call in calls)))
    assert choices[-1]["finish_reason"] == "tool_calls"


def test_a_call_that_is_cut_is_none(simulator):
    choice = simulator.chat(tools=[WEATHER], tool_choice="required", max_tokens=3).json["choices"][0]
    assert choice["finish_reason"] == "length"
    assert "tool_calls" not in choice["message"]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"tool_choice": "required"}, "Tools cannot be empty"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "nope"}}}, "'nope' not found"),
        ({"tools": [{"type": "function"}]}, "Field required"),
    ],
)
def test_a_call_of_what_is_not_there_is_refused(fields, problem, simulator):
    refused = simulator.chat(**fields)
    assert refused.status == 400
    assert problem in refused.json["message"]


def test_messages_call_tools_in_anthropics_words(simulator):
    tool = {"name": "get_weather", "input_schema": WEATHER["function"]["parameters"]}
    ask = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 90, "tools": [tool]}
    for choice in ({"type": "any"}, {"type": "tool", "name": "get_weather"}):
        answer = simulator.post("/v1/messages", {**ask, "tool_choice": choice}).json
        assert (answer["stop_reason"], answer["content"][0]["name"]) == ("tool_use", "get_weather")
        assert fits(answer["content"][0]["input"])
    text = simulator.post("/v1/messages", {**ask, "tool_choice": {"type": "any"}, "stream": True}).text
    events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert fits(json.loads("".join(delta["partial_json"] for delta in deltas)))


# Values for schemas


def drawn(schema, seed=0):
    return fitting(schema, random.Random(seed), WORDS)


def test_values_keep_to_the_bounds_of_their_schema():
    for seed in range(50):
        assert drawn({"type": "integer", "minimum": 3, "maximum": 4}, seed) in (3, 4)
        assert 0.5 <= drawn({"type": "number", "minimum": 0.5, "maximum": 0.75}, seed) <= 0.75
        assert len(drawn({"type": "array", "minItems": 3, "items": {"type": "null"}}, seed)) == 3
        assert 7 <= len(drawn({"type": "string", "minLength": 7, "maxLength": 9}, seed)) <= 9
        assert drawn({"type": ["null", "string"]}, seed) in WORDS
        assert drawn({"anyOf": [{"const": 1}, {"const": 2}]}, seed) == 1


def test_references_are_followed_and_a_schema_of_itself_ends():
    schema = {
        "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}, "n": {"const": 1}}}},
        "$ref": "#/$defs/node",
    }
    assert drawn(schema)["next"]["n"] == 1


@pytest.mark.parametrize(
    "schema", [None, [], {"type": "object", "properties": []}, {"type": "integer", "minimum": "x"}, {"$ref": "#/a/b"}]
)
def test_a_schema_that_is_none_is_no_trouble(schema):
    assert json.loads("".join(spelled(drawn(schema)))) == drawn(schema)
