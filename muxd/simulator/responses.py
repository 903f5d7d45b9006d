"""OpenAI's Responses API, recorded from SGLang 0.5.23: one message of text per answer, no tools, nothing kept.

SGLang has this route only where `openai_harmony` is installed.
"""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import uuid4

import msgspec

from .replies import Event, ReplyForm
from .routes import bad_request
from .saying import Choice
from .text_request import TextRequest, dialogue, read

_COUNTING = {"input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0}}


def read_response(body: dict[str, Any], longest: int) -> TextRequest:
    """Read the body of /v1/responses; `longest` is the context length in tokens.  Raise EngineRefusal."""
    content = body["input"]
    messages = content if isinstance(content, list) else [{"role": "user", "content": content}]
    if not messages:
        raise bad_request("Messages cannot be empty.")
    if body.get("instructions"):
        messages = [{"role": "system", "content": body["instructions"]}, *messages]
    return read({**body, "max_tokens": body.get("max_output_tokens"), "n": 1}, (dialogue(messages),), longest)


class ResponsesForm(ReplyForm):
    """The form of /v1/responses; it numbers the events of its stream."""

    def __init__(self, text_request: TextRequest) -> None:
        self.text_request = text_request
        self._id = f"resp_{uuid4().hex}"
        self._item = f"msg_{uuid4().hex}"
        self._last = -1  # the number of the last event

    def complete(self, choices: Sequence[Choice]) -> Event:
        (choice,) = choices
        cut = choice.finish == "length"
        text = {"format": {"type": "text"}}
        ended = self._response("incomplete" if cut else "completed", [self._message(choice)], text)
        counts = {
            "input_tokens": self.text_request.prompt_tokens,
            **_COUNTING,
            "output_tokens": choice.made,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.text_request.prompt_tokens + choice.made,
        }
        return {**ended, "usage": counts, "incomplete_details": {"reason": "max_output_tokens"} if cut else None}

    def opening(self) -> Iterable[Event]:
        begun = self._response("in_progress", [], None)
        yield self._event("created", response=begun)
        yield self._event("in_progress", response=begun)

    def first(self, choice: Choice) -> Iterable[Event]:
        yield self._event("output_item.added", output_index=0, item=self._message(None))
        yield self._about_part("content_part.added", part=_part(""))

    def part(self, choice: Choice, first: int, last: int) -> Iterable[Event]:
        yield self._about_part("output_text.delta", delta=choice.text(first, last), logprobs=[])

    def closing(self, choices: Sequence[Choice]) -> Iterable[Event]:
        (choice,) = choices
        yield self._about_part("output_text.done", text=choice.text(), logprobs=[])
        yield self._about_part("content_part.done", part=_part(choice.text()))
        yield self._event("output_item.done", output_index=0, item=self._message(choice))
        ended = self.complete(choices)
        yield self._event(ended["status"], response=ended)

    def encode(self, event: Event) -> bytes:
        return f"event: {event['type']}\n".encode() + b"data: " + msgspec.json.encode(event) + b"\n\n"

    def _event(self, name: str, **fields: Any) -> Event:
        self._last += 1
        return {"type": f"response.{name}", **fields, "sequence_number": self._last}

    def _about_part(self, name: str, **fields: Any) -> Event:
        return self._event(name, content_index=0, output_index=0, item_id=self._item, **fields)

    def _message(self, choice: Choice | None) -> Event:
        """Return the output message; without a choice, as it stands before its first part."""
        return {
            "id": self._item,
            "content": [_part(choice.text())] if choice else [],
            "role": "assistant",
            "status": "completed" if choice else "in_progress",
            "type": "message",
            "phase": "final_answer",
        }

    def _response(self, status: str, output: list[Event], text: Event | None) -> Event:
        body = self.text_request.body
        return {
            "id": self._id,
            "object": "response",
            "created_at": self.text_request.created,
            "model": self.text_request.model,
            "output": output,
            "status": status,
            "usage": None,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "error": None,
            "incomplete_details": None,
            "instructions": body.get("instructions"),
            "max_output_tokens": body.get("max_output_tokens"),
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": True,
            "temperature": body.get("temperature"),
            "text": text,
            "top_p": body.get("top_p"),
            "truncation": "disabled",
            "user": body.get("user"),
            "metadata": body.get("metadata") or {},
        }


def _part(text: str) -> Event:
    return {"annotations": [], "text": text, "type": "output_text", "logprobs": None}
