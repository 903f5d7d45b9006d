"""What a request for text asks for, read from the body of any of the routes.

The checks and their words are SGLang's.  Fields that are not named here are ignored.
"""

from time import time
from typing import Any
from uuid import uuid4

from msgspec import Struct, field
from msgspec.structs import replace

from . import pretend_text
from .routes import bad_request, of_kind


class Tool(Struct, frozen=True):
    """A function that the model may call, and the JSON schema of its arguments."""

    name: str
    parameters: dict[str, Any] = field(default_factory=dict)


class TextRequest(Struct, frozen=True):
    """One request for text, by whatever route it came."""

    body: dict[str, Any]
    rid: str
    model: Any  # whatever the client wrote: SGLang does not check it, and echoes it
    created: int
    prompts: tuple[str, ...]
    limit: int  # tokens at most
    endless: bool  # the answer goes on to the limit, even where the model would stop
    salt: str  # makes the answer differ from others to the same prompt; empty at temperature 0
    count: int  # answers to each prompt
    stops: tuple[str, ...]
    keeps_stop: bool  # the text shows the string that stopped it
    stream: bool
    usage: bool  # a stream's last event has the token counts
    logprobs: int | None = None  # how many of the likeliest tokens come with each one; None: no logprobs at all
    tools: tuple[Tool, ...] = ()  # the functions that the model may call
    call: Tool | None = None  # the function that the model does call
    schema: dict[str, Any] | None = None  # the answer is JSON that fits it

    @property
    def prompt_tokens(self) -> int:
        return sum(len(pretend_text.token_ids(prompt)) for prompt in self.prompts)


def read(body: dict[str, Any], prompts: tuple[str, ...], longest: int, *, otherwise: int = 0) -> TextRequest:
    """Read the fields that every route has; raise EngineRefusal.

    `longest` is the context length in tokens; `otherwise` is the limit of tokens where the body has none, 0: `longest`.
    """
    temperature = _number(body, "temperature", 1.0)
    if temperature < 0:
        raise bad_request(f"temperature must be a non-negative finite number, got {temperature}.")
    seed = body.get("seed")
    stop = body.get("stop") or []
    return TextRequest(
        body=body,
        rid=str(body.get("rid") or uuid4().hex),
        model=body.get("model", "default"),
        created=int(time()),
        prompts=prompts,
        limit=_limit(body, longest, otherwise),
        endless=bool(body.get("ignore_eos")),
        salt=str(uuid4().hex if seed is None else seed) if temperature else "",
        count=_count(body),
        stops=tuple(str(one) for one in (stop if isinstance(stop, list) else [stop])),
        keeps_stop=bool(body.get("no_stop_trim")),
        stream=bool(body.get("stream")),
        usage=bool((body.get("stream_options") or {}).get("include_usage")),
    )


def read_chat(body: dict[str, Any], longest: int) -> TextRequest:
    """Read the body of /v1/chat/completions; raise EngineRefusal."""
    messages = body["messages"]
    if not isinstance(messages, list) or not messages:
        raise bad_request("Messages cannot be empty.")
    text_request = read(body, (dialogue(messages),), longest)
    tools = tuple(_tool(one.get("function")) for one in body.get("tools") or [] if isinstance(one, dict))
    if body.get("logprobs"):
        text_request = replace(text_request, logprobs=int(_number(body, "top_logprobs", 0)))
    return with_tools(replace(text_request, schema=_schema(body)), tools, body.get("tool_choice"), messages)


def read_completion(body: dict[str, Any], longest: int) -> TextRequest:
    """Read the body of /v1/completions; raise EngineRefusal."""
    prompt = body["prompt"]
    several = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
    prompts = tuple(_ids_or_text(one) for one in (prompt if several else [prompt]))
    text_request = read(body, prompts, longest, otherwise=16)
    return (
        text_request
        if body.get("logprobs") is None
        else replace(text_request, logprobs=int(_number(body, "logprobs", 0)))
    )


def with_tools(text_request: TextRequest, tools: tuple[Tool, ...], choice: Any, messages: list[Any]) -> TextRequest:
    """Return the request with its tools and the one that the model calls; raise EngineRefusal.

    `choice` is OpenAI's tool_choice.  Left to itself, the model calls the tool that the last message names, if a user
    wrote that message.
    """
    if isinstance(choice, dict):
        name = (of_kind(choice, "function", dict) or choice).get("name")
        call = next((tool for tool in tools if tool.name == name), None)
        if call is None:
            raise bad_request(f"Tool '{name}' not found in tools list.")
        return replace(text_request, tools=tools, call=call)
    if choice == "required":
        if not tools:
            raise bad_request("Tools cannot be empty if tool choice is set to required.")
        return replace(text_request, tools=tools, call=_mentioned_tool(tools, messages) or tools[0])
    if choice == "none":
        return text_request
    return replace(text_request, tools=tools, call=_mentioned_tool(tools, messages))


def dialogue(messages: list[Any]) -> str:
    """Return the messages as one prompt, one line per message."""
    return "\n".join(f"{m.get('role')}: {plain(m.get('content'))}" for m in messages if isinstance(m, dict))


def plain(content: Any) -> str:
    """Return the text of a message's content, which may come in parts."""
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "")


def _limit(body: dict[str, Any], longest: int, otherwise: int) -> int:
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    limit = (otherwise or longest) if limit is None else limit
    if not isinstance(limit, int) or limit < 0:
        raise bad_request(f"max_completion_tokens must be at least 0, got {limit}.")
    if limit > longest:
        raise bad_request(
            f"max_completion_tokens is too large: {limit}.This model supports at most {longest} completion tokens."
        )
    return limit


def _count(body: dict[str, Any]) -> int:
    count = int(_number(body, "n", 1))
    if count < 1:
        raise bad_request("range() arg 3 must not be zero", "BadRequest")  # SGLang's own words
    return count


def _number(body: dict[str, Any], name: str, otherwise: float) -> float:
    value = body.get(name)
    if value is None:
        return otherwise
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise bad_request(f"1 validation error:\n  'Input should be a valid number': {name}", "Bad Request")
    return value


def _tool(function: Any) -> Tool:
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise bad_request("1 validation error:\n  'Field required': tools.function.name", "Bad Request")
    return Tool(function["name"], function.get("parameters") or {})


def _mentioned_tool(tools: tuple[Tool, ...], messages: list[Any]) -> Tool | None:
    last = messages[-1] if isinstance(messages[-1], dict) else {}
    said = plain(last.get("content")) if last.get("role") == "user" else ""
    return next((tool for tool in tools if tool.name in said), None)


def _schema(body: dict[str, Any]) -> dict[str, Any] | None:
    form = body.get("response_format") or {}
    match form.get("type"):
        case "json_object":
            return {"properties": {"answer": {"type": "string"}, "sure": {"type": "boolean"}}}
        case "json_schema":
            return dict(of_kind(of_kind(form, "json_schema", dict) or {}, "schema", dict) or {})
    return None


def _ids_or_text(prompt: Any) -> str:
    return " ".join(map(str, prompt)) if isinstance(prompt, list) else str(prompt)
