"""The shapes of SGLang's answers: the whole one, and the events of a stream.  Recorded from 0.5.23."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from .batch import Job


@dataclass(frozen=True, slots=True)
class Asked:
    """One request for text, whatever route it came by."""

    rid: str
    model: Any  # whatever the client wrote: it is not checked, and echoed
    created: int
    prompt: str
    prompt_tokens: int
    limit: int  # tokens at most
    endless: bool  # up to the limit, even where the model would stop
    salt: str  # empty at temperature 0
    stream: bool
    usage: bool  # a stream's last event tells the counts


class Form(Protocol):
    """One route's way to say it."""

    def whole(self, asked: Asked, text: str, job: Job) -> dict[str, Any]: ...

    def opening(self, asked: Asked) -> Iterable[dict[str, Any]]: ...

    def part(self, asked: Asked, text: str, job: Job) -> dict[str, Any]: ...

    def closing(self, asked: Asked, job: Job) -> Iterable[dict[str, Any]]: ...


def event(value: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


class ChatForm:
    def whole(self, asked: Asked, text: str, job: Job) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "reasoning_content": None}
        choice = _choice("message", message, job.finish)
        return {**_head(asked, "chat.completion"), "choices": [choice], "usage": usage(asked, job), **_METADATA}

    def opening(self, asked: Asked) -> Iterable[dict[str, Any]]:
        yield self._chunk(asked, {"role": "assistant", "content": ""}, None)

    def part(self, asked: Asked, text: str, job: Job) -> dict[str, Any]:
        return self._chunk(asked, {"content": text}, None)

    def closing(self, asked: Asked, job: Job) -> Iterable[dict[str, Any]]:
        yield self._chunk(asked, {}, job.finish)
        if asked.usage:
            yield {**_head(asked, "chat.completion.chunk"), "choices": [], "usage": usage(asked, job)}

    def _chunk(self, asked: Asked, delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
        choice = _choice("delta", {"reasoning_content": None, **delta}, finish)
        return {**_head(asked, "chat.completion.chunk"), "choices": [choice]}


class CompletionForm:
    def whole(self, asked: Asked, text: str, job: Job) -> dict[str, Any]:
        choice = _choice("text", text, job.finish)
        return {**_head(asked, "text_completion"), "choices": [choice], "usage": usage(asked, job), **_METADATA}

    def opening(self, asked: Asked) -> Iterable[dict[str, Any]]:
        return ()

    def part(self, asked: Asked, text: str, job: Job) -> dict[str, Any]:
        return self._chunk(asked, text, None)

    def closing(self, asked: Asked, job: Job) -> Iterable[dict[str, Any]]:
        yield self._chunk(asked, "", job.finish)
        if asked.usage:
            yield {**_head(asked, "text_completion"), "choices": [], "usage": usage(asked, job)}

    def _chunk(self, asked: Asked, text: str, finish: str | None) -> dict[str, Any]:
        return {**_head(asked, "text_completion"), "choices": [_choice("text", text, finish)], "usage": None}


class GenerateForm:
    """SGLang's own: each event repeats the text from its beginning.  One per answer."""

    def __init__(self) -> None:
        self._text = ""

    def whole(self, asked: Asked, text: str, job: Job) -> dict[str, Any]:
        finish = {"type": job.finish, "length": job.made} if job.finish == "length" else {"type": job.finish}
        meta = {"id": asked.rid, "finish_reason": finish if job.finish else None, "weight_version": "default"}
        counts = {"prompt_tokens": asked.prompt_tokens, "completion_tokens": job.made}
        return {"text": text, "meta_info": {**meta, **counts}}

    def opening(self, asked: Asked) -> Iterable[dict[str, Any]]:
        return ()

    def part(self, asked: Asked, text: str, job: Job) -> dict[str, Any]:
        self._text += text
        return self.whole(asked, self._text, job)

    def closing(self, asked: Asked, job: Job) -> Iterable[dict[str, Any]]:
        if job.finish == "abort":
            yield self.whole(asked, self._text, job)


def usage(asked: Asked, job: Job) -> dict[str, Any]:
    return {
        "prompt_tokens": asked.prompt_tokens,
        "total_tokens": asked.prompt_tokens + job.made,
        "completion_tokens": job.made,
        "prompt_tokens_details": None,
        "reasoning_tokens": 0,
    }


_METADATA = {"metadata": {"weight_version": "default"}}


def _head(asked: Asked, kind: str) -> dict[str, Any]:
    return {"id": asked.rid, "object": kind, "created": asked.created, "model": asked.model}


def _choice(name: str, value: Any, finish: str | None) -> dict[str, Any]:
    return {"index": 0, name: value, "logprobs": None, "finish_reason": finish, "matched_stop": None}
