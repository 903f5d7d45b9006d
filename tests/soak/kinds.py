"""What one client asks, by the official `openai` package or by curl, and how it checks the whole of the answer.

What a client breaks off by itself ends in Left, whatever is wrong with an answer in an exception.
"""

import json
import random
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionToolParam

PATIENCE = 240.0  # seconds a client waits for an answer
TOKENS = 24
PROMPT = "hello"
TOOL: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Rome", "Oslo", "Lima"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}


class Left(Exception):
    """The client broke it off."""


@dataclass(frozen=True, slots=True)
class Said:
    """What an answer says.  Equal topics to the same model have equal texts."""

    topic: str
    text: str


class Client:
    """One request's hands; `first()` is called when the answer begins."""

    def __init__(self, url: str, api: openai.OpenAI, draw: random.Random) -> None:
        self.url = url
        self.api = api
        self.draw = draw
        self.first_at: float | None = None

    def first(self) -> None:
        self.first_at = self.first_at or time.time()

    # openai, whole

    def chat(self, model: str, **fields: Any) -> Any:
        messages = [{"role": "user", "content": PROMPT}]
        wish = {"model": model, "messages": messages, "temperature": 0, "max_tokens": TOKENS, **fields}
        return self.api.chat.completions.create(**wish)

    def complete(self, model: str, **fields: Any) -> Any:
        wish = {"model": model, "prompt": PROMPT, "temperature": 0, "max_tokens": TOKENS, **fields}
        return self.api.completions.create(**wish)

    def stream(self, create: Callable[..., Any], model: str, **fields: Any) -> Iterator[Any]:
        """The parts of a stream, which must tell its usage last."""
        usage = None
        with closing(create(model, stream=True, stream_options={"include_usage": True}, **fields)) as parts:
            for part in parts:
                self.first()
                assert usage is None, f"after the usage came {part}"
                if part.choices:
                    yield part
                else:
                    usage = part.usage
        assert usage is not None, "the stream told no usage"
        assert usage.completion_tokens > 0
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens

    # curl

    def curl(self, path: str, body: dict[str, Any], *flags: str) -> list[str]:
        argv = ["curl", "-sS", "--fail-with-body", "--max-time", str(PATIENCE), *flags, f"{self.url}{path}"]
        return [*argv, "-H", "Content-Type: application/json", "-d", json.dumps(body)]

    def curled(self, path: str, body: dict[str, Any], *flags: str) -> str:
        done = subprocess.run(self.curl(path, body, *flags), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"curl ended with {done.returncode}: {done.stderr}{done.stdout}"
        return done.stdout


def body_of(model: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": PROMPT}]
    return {"model": model, "messages": messages, "temperature": 0, "max_tokens": TOKENS, **fields}


Kind = Callable[[Client, str], Said | None]
KINDS: dict[str, Kind] = {}


def kind(name: str) -> Callable[[Kind], Kind]:
    def register(function: Kind) -> Kind:
        KINDS[name] = function
        return function

    return register


@kind("chat")
def _chat(client: Client, model: str) -> Said:
    answer = client.chat(model)
    (choice,) = answer.choices
    assert answer.model == model
    assert choice.finish_reason in ("length", "stop")
    assert choice.logprobs is None
    assert 0 < answer.usage.completion_tokens <= TOKENS
    return Said("chat", choice.message.content)


@kind("chat, streamed")
def _chat_stream(client: Client, model: str) -> Said:
    parts = [part.choices[0] for part in client.stream(client.chat, model)]
    assert [part.finish_reason for part in parts[:-1]] == [None] * (len(parts) - 1)
    assert parts[-1].finish_reason in ("length", "stop")
    return Said("chat", "".join(part.delta.content or "" for part in parts))


@kind("completion")
def _completion(client: Client, model: str) -> Said:
    (choice,) = client.complete(model).choices
    assert choice.finish_reason in ("length", "stop")
    return Said("completion", choice.text)


@kind("completion, streamed")
def _completion_stream(client: Client, model: str) -> Said:
    parts = [part.choices[0] for part in client.stream(client.complete, model)]
    assert parts[-1].finish_reason in ("length", "stop")
    return Said("completion", "".join(part.text for part in parts))


@kind("logprobs")
def _logprobs(client: Client, model: str) -> Said:
    (choice,) = client.chat(model, logprobs=True, top_logprobs=3).choices
    _check_logprobs(choice.logprobs.content)
    assert _shown(one.token for one in choice.logprobs.content) == choice.message.content
    return Said("chat", choice.message.content)


@kind("logprobs, streamed")
def _logprobs_stream(client: Client, model: str) -> Said:
    parts = [part.choices[0] for part in client.stream(client.chat, model, logprobs=True, top_logprobs=3)]
    told = [one for part in parts if part.logprobs for one in part.logprobs.content]
    _check_logprobs(told)
    text = "".join(part.delta.content or "" for part in parts)
    assert _shown(one.token for one in told) == text
    return Said("chat", text)


def _shown(tokens: Iterable[str]) -> str:
    """The text of these; special tokens are not in it."""
    return re.sub(r"<\|\w+\|>", "", "".join(tokens))


def _check_logprobs(told: list[Any]) -> None:
    assert told
    for one in told:
        assert one.logprob <= 0
        assert len(one.top_logprobs) == 3
        assert all(other.logprob <= one.top_logprobs[0].logprob for other in one.top_logprobs)


@kind("completion's logprobs")
def _completion_logprobs(client: Client, model: str) -> Said:
    (choice,) = client.complete(model, logprobs=2).choices
    assert len(choice.logprobs.token_logprobs) == len(choice.logprobs.top_logprobs) == len(choice.logprobs.tokens) > 0
    assert _shown(choice.logprobs.tokens) == choice.text
    return Said("completion", choice.text)


@kind("two at once")
def _two(client: Client, model: str) -> Said:
    answer = client.chat(model, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1]
    first, second = (choice.message.content for choice in answer.choices)
    assert first == second, "the two greedy answers differ"
    return Said("chat", first)


@kind("two at once, streamed")
def _two_streamed(client: Client, model: str) -> Said:
    texts, finished = {0: "", 1: ""}, set()
    for part in client.stream(client.chat, model, n=2):
        for choice in part.choices:
            texts[choice.index] += choice.delta.content or ""
            if choice.finish_reason is not None:
                finished.add(choice.index)
    assert finished == {0, 1}
    assert texts[0] == texts[1], "the two greedy answers differ"
    return Said("chat", texts[0])


@kind("stop string")
def _stop(client: Client, model: str) -> Said:
    (choice,) = client.chat(model, stop=["e", "o"]).choices
    assert choice.finish_reason in ("stop", "length")
    assert not {"e", "o"} & set(choice.message.content)
    return Said("stopped", choice.message.content)


@kind("seeded")
def _seeded(client: Client, model: str) -> None:
    """Real SGLang repeats an answer by its seed only with a flag of its own: its text is not compared."""
    (choice,) = client.chat(model, temperature=1, seed=7).choices
    assert choice.finish_reason in ("length", "stop")
    assert choice.message.content


@kind("demanded call")
def _call(client: Client, model: str) -> Said:
    (choice,) = client.chat(
        model, tools=[TOOL], tool_choice="required", parallel_tool_calls=False, max_tokens=300
    ).choices
    assert choice.finish_reason == "tool_calls", choice
    call = choice.message.tool_calls[0]
    assert call.id
    return _checked_call(call.function.name, call.function.arguments)


@kind("demanded call, streamed")
def _call_stream(client: Client, model: str) -> Said:
    choice = {"type": "function", "function": {"name": "get_weather"}}
    wish = {"tools": [TOOL], "tool_choice": choice, "parallel_tool_calls": False}
    name, arguments, finish = "", "", None
    for part in client.stream(client.chat, model, max_tokens=300, **wish):
        (choice,) = part.choices
        finish = choice.finish_reason or finish
        for call in choice.delta.tool_calls or ():
            name += call.function.name or ""
            arguments += call.function.arguments or ""
    assert finish == "tool_calls"
    return _checked_call(name, arguments)


def _checked_call(name: str, arguments: str) -> Said:
    assert name == "get_weather"
    given = json.loads(arguments)
    assert given.keys() == {"city", "days"}
    assert given["city"] in ("Rome", "Oslo", "Lima")
    assert given["days"] in range(1, 10)
    return Said("call", json.dumps(given, sort_keys=True))


@kind("offered tool")
def _offered(client: Client, model: str) -> Said:
    (choice,) = client.chat(model, tools=[TOOL]).choices
    assert choice.finish_reason in ("length", "stop")
    return Said("chat", choice.message.content)


@kind("unknown model")
def _unknown(client: Client, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat(f"{model}-no-such")
    assert refused.value.code == "model_not_found"
    assert model in refused.value.message, "the message lists the models there are"


@kind("curl")
def _curl(client: Client, model: str) -> Said:
    answer = json.loads(client.curled("/v1/chat/completions", body_of(model)))
    return Said("chat", answer["choices"][0]["message"]["content"])


@kind("curl, streamed")
def _curl_stream(client: Client, model: str) -> Said:
    lines = client.curled("/v1/chat/completions", body_of(model, stream=True), "-N").split("\n\n")
    *events, done = [line.removeprefix("data: ") for line in lines if line and not line.startswith(": muxd: ")]
    assert done == "[DONE]", f"the stream was cut after {events[-1:]}"
    choices = [choice for event in events for choice in json.loads(event)["choices"]]
    return Said("chat", "".join(choice["delta"].get("content") or "" for choice in choices))


@kind("curl, Anthropic's messages")
def _curl_messages(client: Client, model: str) -> Said:
    answer = json.loads(client.curled("/v1/messages", body_of(model)))
    assert answer["stop_reason"] in ("max_tokens", "end_turn")
    return Said("chat", answer["content"][0]["text"])


# What a client breaks off


@kind("leaves a stream")
def _leaves(client: Client, model: str) -> None:
    with closing(client.chat(model, stream=True, max_tokens=400, extra_body={"ignore_eos": True})) as parts:
        next(iter(parts))
    raise Left


@kind("gives up waiting")
def _gives_up(client: Client, model: str) -> Said:
    try:
        return _chat(_impatient(client), model) or Said("chat", "")
    except openai.APITimeoutError:
        raise Left from None


def _impatient(client: Client) -> Client:
    return Client(client.url, client.api.with_options(timeout=client.draw.uniform(0.01, 1.0)), client.draw)


@kind("curl is killed")
def _curl_killed(client: Client, model: str) -> None:
    body = body_of(model, stream=client.draw.random() < 0.5)
    argv = client.curl("/v1/chat/completions", body, "-N")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as curl:
        with suppress(subprocess.TimeoutExpired):
            status = curl.wait(client.draw.uniform(0.01, 1.0))
            assert status == 0, f"curl ended with {status} before it was killed"
            return
        curl.kill()
    raise Left
