"""The shapes of SGLang's answers: the whole one, and the events of a stream.  Recorded from 0.5.23.

Here are OpenAI's chat and completions and SGLang's own /generate; `messages`, `responses`,
`ollama` and `transcriptions` have the others.  tests/real/test_simulator_truth.py compares them all.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from time import time
from typing import Any

import msgspec

from . import pretend_text
from .saying import Choice
from .text_request import TextRequest

Event = dict[str, Any]

EVENT_STREAM = "text/event-stream; charset=utf-8"


class ReplyForm(ABC):
    """One route's way to say it.  One per request: it may remember what it said."""

    asked: TextRequest
    content_type = EVENT_STREAM  # of a stream
    head_at_once = True  # the head of a stream comes before there is anything to tell, else with its first event
    end = b""  # what closes one

    @abstractmethod
    def whole(self, choices: Sequence[Choice]) -> "Event | str":
        """In JSON, or as plain text."""
        ...

    def opening(self) -> Iterable[Event]:
        """Told before anything is made, by a form that has its head at once."""
        return ()

    def first(self, choice: Choice) -> Iterable[Event]:
        """Told ahead of the choice's first part."""
        return ()

    @abstractmethod
    def part(self, choice: Choice, first: int, last: int) -> Iterable[Event]:
        """The tokens from `first` to before `last`; the choice's last ones if it has finished."""
        ...

    @abstractmethod
    def closing(self, choices: Sequence[Choice]) -> Iterable[Event]: ...

    @abstractmethod
    def encode(self, event: Event) -> bytes: ...


class _DataEvents(ReplyForm):
    """Server-sent events without names, as OpenAI's older routes have them."""

    head_at_once = False
    end = b"data: [DONE]\n\n"

    def __init__(self, asked: TextRequest) -> None:
        self.asked = asked

    def encode(self, event: Event) -> bytes:
        return b"data: " + msgspec.json.encode(event) + b"\n\n"


class ChatForm(_DataEvents):
    def whole(self, choices: Sequence[Choice]) -> Event:
        head = _head(self.asked, self.asked.rid, "chat.completion")
        answers = [_choice(c, "message", _message(c), self._logprobs(c, 0, c.made), ended=True) for c in choices]
        return {**head, "choices": answers, "usage": usage(self.asked, choices), "metadata": _metadata(choices)}

    def first(self, choice: Choice) -> Iterable[Event]:
        yield self._chunk(choice, {"reasoning_content": None, "role": "assistant", "content": ""})

    def part(self, choice: Choice, first: int, last: int) -> Iterable[Event]:
        logprobs = self._logprobs(choice, first, last)
        if not self.asked.tools:
            yield self._chunk(choice, {"reasoning_content": None, "content": choice.text(first, last)}, logprobs)
            return
        for delta in _with_tools(choice, first, last):
            yield {**self._chunk(choice, {"role": None, "reasoning_content": None, **delta}, logprobs), "usage": None}

    def closing(self, choices: Sequence[Choice]) -> Iterable[Event]:
        for choice in choices:
            yield self._chunk(choice, {"reasoning_content": None}, ended=True)
        if self.asked.usage:
            head = _head(self.asked, choices[0].rid, "chat.completion.chunk")
            yield {**head, "choices": [], "usage": usage(self.asked, choices)}

    def _chunk(self, choice: Choice, delta: Event, logprobs: Event | None = None, *, ended: bool = False) -> Event:
        head = _head(self.asked, choice.rid, "chat.completion.chunk")
        return {**head, "choices": [_choice(choice, "delta", delta, logprobs, ended=ended)]}

    def _logprobs(self, choice: Choice, first: int, last: int) -> Event | None:
        if (top := self.asked.logprobs) is None:
            return None
        told = choice.likelihoods(first, last, max(top - 1, 0))
        return {"content": [_token(*ones[0]) | {"top_logprobs": [_token(*one) for one in ones[:top]]} for ones in told]}


class CompletionForm(_DataEvents):
    def whole(self, choices: Sequence[Choice]) -> Event:
        head = _head(self.asked, self.asked.rid, "text_completion")
        answers = [self._answer(c, 0, c.made, ended=True) for c in choices]
        return {**head, "choices": answers, "usage": usage(self.asked, choices), "metadata": _metadata(choices)}

    def part(self, choice: Choice, first: int, last: int) -> Iterable[Event]:
        head = _head(self.asked, choice.rid, "text_completion")
        answer = self._answer(choice, first, last, ended=choice.finish is not None)
        yield {**head, "choices": [answer], "usage": None}

    def closing(self, choices: Sequence[Choice]) -> Iterable[Event]:
        for choice in choices:
            if choice.finish == "abort" or not choice.tokens:  # the last part did not know that it was
                yield from self.part(choice, choice.made, choice.made)
        if self.asked.usage:
            counts = usage(self.asked, choices)
            told = {name: counts[name] for name in counts if not name.endswith("_details")}
            yield {**_head(self.asked, choices[0].rid, "text_completion"), "choices": [], "usage": told}

    def _answer(self, choice: Choice, first: int, last: int, *, ended: bool) -> Event:
        said = choice.text(first, last)
        if self.asked.body.get("echo") and first == 0:
            said = choice.prompt + said
        return _choice(choice, "text", said, self._logprobs(choice, first, last), ended=ended)

    def _logprobs(self, choice: Choice, first: int, last: int) -> Event | None:
        if (top := self.asked.logprobs) is None:
            return None
        told = list(choice.likelihoods(first, last, max(top - 1, 0)))
        return {
            "text_offset": [-1] * len(told),
            "token_logprobs": [ones[0][1] for ones in told],
            "tokens": [ones[0][0] for ones in told],
            "top_logprobs": [dict(ones[:top]) for ones in told] if top > 0 else [],
        }


class GenerateForm(_DataEvents):
    """SGLang's own: each event repeats the text from its beginning."""

    head_at_once = True

    def whole(self, choices: Sequence[Choice]) -> Event:
        return self._so_far(choices[0], choices[0].made, begins=True)

    def part(self, choice: Choice, first: int, last: int) -> Iterable[Event]:
        yield self._so_far(choice, last, begins=first == 0)

    def closing(self, choices: Sequence[Choice]) -> Iterable[Event]:
        return (self._so_far(c, c.made, begins=c.made == 0) for c in choices if c.finish == "abort")

    def _so_far(self, choice: Choice, made: int, *, begins: bool) -> Event:
        finish = {"type": choice.finish, **({"length": made} if choice.finish == "length" else {})}
        meta: Event = {
            "id": choice.rid,
            "finish_reason": finish if choice.finish else None,
            "prompt_tokens": self.asked.prompt_tokens,
            "num_retractions": 0,
            "reasoning_tokens": 0,
            "completion_tokens": made,
            "cached_tokens": 0,
            "cached_tokens_details": None,
            "dp_rank": None,
            "weight_version": "default",
        }
        if begins:
            meta["response_sent_to_client_ts"] = time()
        if choice.finish:
            meta |= {"e2e_latency": time() - self.asked.created, **_metadata([choice])}
        ids = [pretend_text.token_id(token) for token in choice.tokens[:made]]
        return {"text": choice.text(0, made), "output_ids": ids, "meta_info": meta}


def usage(asked: TextRequest, choices: Sequence[Choice]) -> dict[str, Any]:
    made = sum(choice.made for choice in choices)
    return {
        "prompt_tokens": asked.prompt_tokens,
        "total_tokens": asked.prompt_tokens + made,
        "completion_tokens": made,
        "prompt_tokens_details": None,
        "reasoning_tokens": 0,
        "completion_tokens_details": None,
    }


def called(choice: Choice) -> dict[str, Any] | None:
    """The arguments of the call; None where there is none, or not the whole of it."""
    if choice.called is None or choice.finish != "tool_calls":
        return None
    arguments: dict[str, Any] = json.loads(choice.arguments())
    return arguments


def _message(choice: Choice) -> Event:
    if called(choice) is None:
        return {"role": "assistant", "content": choice.text(), "reasoning_content": None}
    call = _call(choice.call_id, choice.called, choice.arguments())
    return {"role": "assistant", "content": "", "reasoning_content": None, "tool_calls": [call]}


def _with_tools(choice: Choice, first: int, last: int) -> Iterable[Event]:
    """The deltas of an answer that may call, the name of what is called apart from the arguments."""
    if choice.called is None:
        yield {"content": choice.text(first, last)}
        return
    if first == 0:
        yield {"content": None, "tool_calls": [_call(choice.call_id, choice.called, "")]}
    if arguments := choice.arguments(first, last):
        yield {"content": None, "tool_calls": [_call(None, None, arguments)]}


def _call(number: str | None, name: str | None, arguments: str) -> Event:
    return {"id": number, "index": 0, "type": "function", "function": {"name": name, "arguments": arguments}}


def _token(token: str, logprob: float) -> Event:
    return {"token": token, "bytes": list(token.encode()), "logprob": logprob}


def _metadata(choices: Sequence[Choice]) -> Event:
    version = {"version": "default", "start": 0, "end": choices[0].made}
    return {"weight_version": "default", "weight_versions": [version]}


def _head(asked: TextRequest, number: str, kind: str) -> Event:
    return {"id": number, "object": kind, "created": asked.created, "model": asked.model}


def _choice(choice: Choice, name: str, value: Any, logprobs: Event | None, *, ended: bool) -> Event:
    finish = choice.finish if ended else None
    matched = choice.stopped_by if ended and not (finish == "tool_calls" and name == "message") else None
    return {
        "index": choice.index,
        name: value,
        "logprobs": logprobs,
        "finish_reason": finish,
        "matched_stop": matched,
    }
