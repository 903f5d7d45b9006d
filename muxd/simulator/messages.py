"""Anthropic's Messages API, recorded from SGLang 0.5.23."""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import uuid4

import msgspec

from .replies import Event, ReplyForm, called
from .routes import EngineRefusal, of_kind
from .saying import Choice
from .text_request import TextRequest, Tool, dialogue, plain, read, with_tools

_STOPPED = {"length": "max_tokens", "tool_calls": "tool_use"}
_CHOICES = {"any": "required", "none": "none"}  # Anthropic's tool_choice in OpenAI's words


def read_messages(body: dict[str, Any], longest: int) -> TextRequest:
    """Read the body of /v1/messages; `longest` is the context length in tokens.  Raise EngineRefusal."""
    for name in ("messages", "max_tokens"):
        if name not in body:
            raise _refusal(f"{name}: Field required")
    if not isinstance(body["messages"], list) or not body["messages"]:
        raise _refusal("messages: at least one message is required")
    system = [{"role": "system", "content": body["system"]}] if body.get("system") else []
    stops = {"stop": body["stop_sequences"]} if body.get("stop_sequences") else {}
    text_request = read({**body, **stops, "n": 1}, (dialogue([*system, *body["messages"]]),), longest)
    listed = [tool for tool in body.get("tools") or [] if isinstance(tool, dict)]
    tools = tuple(Tool(str(tool.get("name")), tool.get("input_schema") or {}) for tool in listed)
    choice = of_kind(body, "tool_choice", dict) or {}
    wanted = {"name": choice.get("name")} if choice.get("type") == "tool" else _CHOICES.get(str(choice.get("type")))
    return with_tools(text_request, tools, wanted, body["messages"])


def count_tokens(body: dict[str, Any]) -> dict[str, int]:
    """Return the answer of /v1/messages/count_tokens; raise EngineRefusal where the body has no messages."""
    messages = body.get("messages")
    if not isinstance(messages, list):
        raise _refusal("messages: Field required")
    system = plain(body.get("system"))
    return {"input_tokens": len(f"{system} {dialogue(messages)}".split())}


class MessagesForm(ReplyForm):
    """The form of /v1/messages: one content block per answer, which is its text or its call of a tool."""

    def __init__(self, text_request: TextRequest) -> None:
        self.text_request = text_request
        self._id = f"msg_{uuid4().hex}"

    def complete(self, choices: Sequence[Choice]) -> Event:
        (choice,) = choices
        arguments = called(choice)
        text = {"type": "text", "text": choice.text()}
        block = text if arguments is None else {**_tool_use(choice), "input": arguments}
        usage = {"input_tokens": self.text_request.prompt_tokens, "output_tokens": choice.made}
        return {**self._head([block]), "stop_reason": _stopped(choice), "usage": usage}

    def first(self, choice: Choice) -> Iterable[Event]:
        usage = {"input_tokens": self.text_request.prompt_tokens, "output_tokens": 0}
        yield {"type": "message_start", "message": {**self._head([]), "usage": usage}}
        block = {"type": "text", "text": ""} if choice.called is None else {**_tool_use(choice), "input": {}}
        yield {"type": "content_block_start", "index": 0, "content_block": block}

    def part(self, choice: Choice, first: int, last: int) -> Iterable[Event]:
        if choice.called is None:
            yield _delta({"type": "text_delta", "text": choice.text(first, last)})
        elif arguments := choice.arguments(first, last):
            yield _delta({"type": "input_json_delta", "partial_json": arguments})

    def closing(self, choices: Sequence[Choice]) -> Iterable[Event]:
        (choice,) = choices
        yield {"type": "content_block_stop", "index": 0}
        ends = {"delta": {"stop_reason": _stopped(choice)}, "usage": {"output_tokens": choice.made}}
        yield {"type": "message_delta", **ends}
        yield {"type": "message_stop"}

    def refused(self, message: str) -> Iterable[Event]:
        """Yield the events of a stream whose request was found to be wrong after the head was sent."""
        usage = {"input_tokens": 0, "output_tokens": 0}
        yield {"type": "message_start", "message": {**self._head([]), "usage": usage}}
        yield {"type": "error", "error": {"type": "invalid_request_error", "message": message}}
        yield {"type": "message_stop"}

    def refusal(self, message: str) -> EngineRefusal:
        """Return the refusal of such a request where no stream was asked for, in the words of OpenAI's routes."""
        return EngineRefusal(400, {"type": "error", "error": {"type": "BadRequestError", "message": message}})

    def encode(self, event: Event) -> bytes:
        return f"event: {event['type']}\n".encode() + b"data: " + msgspec.json.encode(event) + b"\n\n"

    def _head(self, content: list[Event]) -> Event:
        head = {"id": self._id, "type": "message", "role": "assistant"}
        return {**head, "content": content, "model": self.text_request.model}


def _tool_use(choice: Choice) -> Event:
    return {"type": "tool_use", "id": choice.call_id, "name": choice.called}


def _delta(delta: Event) -> Event:
    return {"type": "content_block_delta", "index": 0, "delta": delta}


def _stopped(choice: Choice) -> str:
    return _STOPPED.get(choice.finish or "", "end_turn")


def _refusal(message: str) -> EngineRefusal:
    return EngineRefusal(400, {"type": "error", "error": {"type": "invalid_request_error", "message": message}})
