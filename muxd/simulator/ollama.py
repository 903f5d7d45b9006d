"""Ollama's chat and generate, recorded from SGLang 0.5.23.

A stream is one JSON object per line; its last object, which says that it is done, leaves out the text of the last
token.  Answers name the model as it was served, whatever the client wrote.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from .replies import Event, ReplyForm
from .routes import of_kind
from .saying import Choice
from .text_request import TextRequest, dialogue, read

_LIMIT = 2048  # tokens, where the client sets no limit
_OPTIONS = {"temperature": "temperature", "num_predict": "max_tokens", "stop": "stop", "seed": "seed"}


def read_ollama_chat(body: dict[str, Any], longest: int) -> TextRequest:
    """Read the body of /api/chat; `longest` is the context length in tokens.  Raise EngineRefusal."""
    return _read(body, dialogue(body["messages"]), longest)


def read_ollama_generate(body: dict[str, Any], longest: int) -> TextRequest:
    """Read the body of /api/generate; `longest` is the context length in tokens.  Raise EngineRefusal."""
    system = of_kind(body, "system", str)
    prompt = of_kind(body, "prompt", str)
    return _read(body, f"{system}\n\n{prompt}" if system else prompt, longest)


def _read(body: dict[str, Any], prompt: str, longest: int) -> TextRequest:
    options = body.get("options") or {}
    known = {name: options[option] for option, name in _OPTIONS.items() if option in options}
    request = {"model": body.get("model"), "stream": body.get("stream", True)}
    return read({**request, **known}, (prompt,), longest, otherwise=min(_LIMIT, longest))


class OllamaChatForm(ReplyForm):
    """The form of /api/chat; `served` is the model's served name."""

    content_type = "application/x-ndjson"

    def __init__(self, text_request: TextRequest, served: str) -> None:
        self.text_request = text_request
        self._served = served

    def complete(self, choices: Sequence[Choice]) -> Event:
        (choice,) = choices
        return ended(self._served, self._said(choice.text()), self.text_request.prompt_tokens, choice.made)

    def part(self, choice: Choice, first: int, last: int) -> Iterable[Event]:
        done = choice.finish is not None
        if text := choice.text(first, last - done):
            yield self._line(text, done=False)
        if done:
            yield self._line("", done=True)

    def closing(self, choices: Sequence[Choice]) -> Iterable[Event]:
        (choice,) = choices
        if choice.finish == "abort" or not choice.tokens:  # no part was known to be the last
            yield self._line("", done=True)

    def encode(self, event: Event) -> bytes:
        return msgspec.json.encode(event) + b"\n"

    def _line(self, text: str, *, done: bool) -> Event:
        head = {"model": self._served, "created_at": now(), **self._said(text)}
        return {**head, "done": done, "done_reason": "stop" if done else None}

    def _said(self, text: str) -> Event:
        return {"message": {"role": "assistant", "content": text, "images": None}}


class OllamaGenerateForm(OllamaChatForm):
    """The form of /api/generate."""

    def complete(self, choices: Sequence[Choice]) -> Event:
        return {**super().complete(choices), "context": None}

    def _said(self, text: str) -> Event:
        return {"response": text}


def nothing_to_say(served: str) -> Event:
    """Return the answer to an empty prompt, which Ollama's own client sends to have a model loaded."""
    return {**ended(served, {"response": ""}, None, None), "context": None, "total_duration": None}


def ended(served: str, content: Event, prompt_tokens: int | None, made: int | None) -> Event:
    """Return the last object of an answer; `made` is the number of its tokens."""
    return {
        "model": served,
        "created_at": now(),
        **content,
        "done": True,
        "done_reason": "stop",
        "total_duration": 1_000_000,
        "load_duration": None,
        "prompt_eval_count": prompt_tokens,
        "prompt_eval_duration": None,
        "eval_count": made,
        "eval_duration": None,
    }


def now() -> str:
    """Return the time in ISO 8601, UTC, with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
