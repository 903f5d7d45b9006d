"""The forms of SGLang's answers, in one piece and as the events of a stream.  Recorded from SGLang 0.5.23.

This module has OpenAI's chat and completions and SGLang's own /generate; `messages`, `responses`, `ollama` and
`transcriptions` have the others.  tests/real/test_simulator_truth.py compares them all with SGLang.
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
    """The form of one route's answers.  An object is made for each request: it may remember what it has sent."""

    text_request: TextRequest
    content_type = EVENT_STREAM  # the Content-Type of a stream
    head_at_once = True  # a stream's head is sent before the first token is made, else with the first event
    end = b""  # the bytes that close a stream

    @abstractmethod
    def complete(self, choices: Sequence[Choice]) -> "Event | str":
        """Return the answer in one piece: an object, or plain text."""
        ...

    def opening(self) -> Iterable[Event]:
        """Return the events that are sent before anything is made, by a form whose head is sent at once."""
        return ()

    def first(self, choice: Choice) -> Iterable[Event]:
        """Return the events that are sent ahead of the choice's first part."""
        return ()

    @abstractmethod
    def part(self, choice: Choice, first: int, last: int) -> Iterable[Event]:
        """Return the events for the tokens from `first` to before `last`; if the choice has finished, its last ones."""
        ...

    @abstractmethod
    def closing(self, choices: Sequence[Choice]) -> Iterable[Event]:
        """Return the events that are sent when all choices have finished."""
        ...

    @abstractmethod
    def encode(self, event: Event) -> bytes:
        """Return the bytes of one event on the stream."""
        ...


class _DataEvents(ReplyForm):
    """Server-sent events without names, as OpenAI's older routes have them."""

    head_at_once = False
    end = b"data: [DONE]\n\n"

    def __init__(self, text_request: TextRequest) -> None:
        self.text_request = text_request

    def encode(self, event: Event) -> bytes:
        return b"data: " + msgspec.json.encode(event) + b"\n\n"


class ChatForm(_DataEvents):
    """The form of /v1/chat/completions."""

    def complete(self, choices: Sequence[Choice]) -> Event:
        head = _head(self.text_request, self.text_request.rid, "chat.completion")
        answers = [_choice(c, "message", _message(c), self._logprobs(c, 0, c.made), ended=True) for c in choices]
        return {**head, "choices": answers, "usage": usage(self.text_request, choices), "metadata": _metadata(choices)}

    def first(self, choice: Choice) -> Iterable[Event]:
        yield self._chunk(choice, {"reasoning_content": None, "role": "assistant", "content": ""})

    def part(self, choice: Choice, first: int, last: int) -> Iterable[Event]:
        logprobs = self._logprobs(choice, first, last)
        if not self.text_request.tools:
            yield self._chunk(choice, {"reasoning_content": None, "content": choice.text(first, last)}, logprobs)
            return
        for delta in _with_tools(choice, first, last):
            yield {**self._chunk(choice, {"role": None, "reasoning_content": None, **delta}, logprobs), "usage": None}

    def closing(self, choices: Sequence[Choice]) -> Iterable[Event]:
        for choice in choices:
            yield self._chunk(choice, {"reasoning_content": None}, ended=True)
        if self.text_request.usage:
            head = _head(self.text_request, choices[0].rid, "chat.completion.chunk")
            yield {**head, "choices": [], "usage": usage(self.text_request, choices)}

    def _chunk(self, choice: Choice, delta: Event, logprobs: Event | None = None, *, ended: bool = False) -> Event:
        head = _head(self.text_request, choice.rid, "chat.completion.chunk")
        return {**head, "choices": [_choice(choice, "delta", delta, logprobs, ended=ended)]}

    def _logprobs(self, choice: Choice, first: int, last: int) -> Event | None:
        if (top := self.text_request.logprobs) is None:
            return None
        likely = choice.likelihoods(first, last, max(top - 1, 0))
        content = [_token(*ones[0]) | {"top_logprobs": [_token(*one) for one in ones[:top]]} for ones in likely]
        return {"content": content}


class CompletionForm(_DataEvents):
    """The form of /v1/completions."""

    def complete(self, choices: Sequence[Choice]) -> Event:
        head = _head(self.text_request, self.text_request.rid, "text_completion")
        answers = [self._answer(c, 0, c.made, ended=True) for c in choices]
        return {**head, "choices": answers, "usage": usage(self.text_request, choices), "metadata": _metadata(choices)}

    def part(self, choice: Choice, first: int, last: int) -> Iterable[Event]:
        head = _head(self.text_request, choice.rid, "text_completion")
        answer = self._answer(choice, first, last, ended=choice.finish is not None)
        yield {**head, "choices": [answer], "usage": None}

    def closing(self, choices: Sequence[Choice]) -> Iterable[Event]:
        for choice in choices:
            if choice.finish == "abort" or not choice.tokens:  # no part was known to be the last
                yield from self.part(choice, choice.made, choice.made)
        if self.text_request.usage:
            counts = usage(self.text_request, choices)
            plain = {name: counts[name] for name in counts if not name.endswith("_details")}
            yield {**_head(self.text_request, choices[0].rid, "text_completion"), "choices": [], "usage": plain}

    def _answer(self, choice: Choice, first: int, last: int, *, ended: bool) -> Event:
        text = choice.text(first, last)
        if self.text_request.body.get("echo") and first == 0:
            text = choice.prompt + text
        return _choice(choice, "text", text, self._logprobs(choice, first, last), ended=ended)

    def _logprobs(self, choice: Choice, first: int, last: int) -> Event | None:
        if (top := self.text_request.logprobs) is None:
            return None
        likely = list(choice.likelihoods(first, last, max(top - 1, 0)))
        return {
            "text_offset": [-1] * len(likely),
            "token_logprobs": [ones[0][1] for ones in likely],
            "tokens": [ones[0][0] for ones in likely],
            "top_logprobs": [dict(ones[:top]) for ones in likely] if top > 0 else [],
        }


class GenerateForm(_DataEvents):
    """The form of SGLang's own /generate: each event repeats the text from its beginning."""

    head_at_once = True

    def complete(self, choices: Sequence[Choice]) -> Event:
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
            "prompt_tokens": self.text_request.prompt_tokens,
            "num_retractions": 0,
            "reasoning_tokens": 0,
            "completion_tokens": made,
            "cached_tokens": 0,
            "cached_tokens_details": None,
            "dp_rank": None,
            "weight_version": "default",
        }
        if self.text_request.logprobs is not None:
            meta |= self._logprobs(choice, made, self.text_request.logprobs)
        if begins:
            meta["response_sent_to_client_ts"] = time()
        if choice.finish:
            meta |= {"e2e_latency": time() - self.text_request.created, **_metadata([choice])}
        ids = [pretend_text.token_id(token) for token in choice.tokens[:made]]
        return {"text": choice.text(0, made), "output_ids": ids, "meta_info": meta}

    def _logprobs(self, choice: Choice, made: int, top: int) -> Event:
        """Return the logprobs of the answer's tokens, and of the prompt's from `logprob_start_len` on."""
        start = self.text_request.body.get("logprob_start_len", -1)
        read = choice.prompt.split()[start:] if isinstance(start, int) and start >= 0 else []
        heard = [pretend_text.likelihoods(choice.weights, word, top) for word in read]
        meta: Event = {"output_token_logprobs_length": made}
        for kind, likely in (("input", heard), ("output", list(choice.likelihoods(0, made, top)))):
            meta[f"{kind}_token_logprobs"] = [_triple(*ones[0]) for ones in likely]
            if top:
                meta[f"{kind}_top_logprobs"] = [[_triple(*one) for one in ones[:top]] for ones in likely]
        if heard and start == 0:  # nothing comes before the first token
            meta["input_token_logprobs"][0][0] = None
            if top:
                meta["input_top_logprobs"][0] = None
        return meta


def usage(text_request: TextRequest, choices: Sequence[Choice]) -> dict[str, Any]:
    made = sum(choice.made for choice in choices)
    return {
        "prompt_tokens": text_request.prompt_tokens,
        "total_tokens": text_request.prompt_tokens + made,
        "completion_tokens": made,
        "prompt_tokens_details": None,
        "reasoning_tokens": 0,
        "completion_tokens_details": None,
    }


def called(choice: Choice) -> dict[str, Any] | None:
    """Return the arguments of the answer's tool call; None where it makes none, or was cut short."""
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
    """Yield the deltas of an answer that may call a tool; the tool's name comes in a delta before the arguments."""
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


def _triple(token: str, logprob: float) -> list[Any]:
    return [logprob, pretend_text.token_id(token), None]


def _metadata(choices: Sequence[Choice]) -> Event:
    version = {"version": "default", "start": 0, "end": choices[0].made}
    return {"weight_version": "default", "weight_versions": [version]}


def _head(text_request: TextRequest, number: str, kind: str) -> Event:
    return {"id": number, "object": kind, "created": text_request.created, "model": text_request.model}


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
