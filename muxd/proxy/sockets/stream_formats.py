"""The kinds of streams that workers answer with, where their parts end, and how to say something in their midst."""

from dataclasses import dataclass
from typing import Any

import msgspec


@dataclass(frozen=True, slots=True)
class StreamFormat:
    """`ends`: what a part ends with; `chunk_ends`: and a chunk that ends with one."""

    ends: tuple[bytes, ...]
    chunk_ends: tuple[bytes, ...]

    def says(self, body: bytes) -> bytes:
        """A whole answer as a part of the stream."""
        raise NotImplementedError

    def error(self, error: dict[str, Any]) -> bytes:
        """The last part of a stream that breaks off; `error` is OpenAI's object."""
        raise NotImplementedError

    @property
    def nothing(self) -> bytes:
        """What clients pass over in front of the first part."""
        raise NotImplementedError


class _Events(StreamFormat):
    def says(self, body: bytes) -> bytes:
        return b"".join(b"data: %b\n" % line for line in body.splitlines()) + b"\n"

    def error(self, error: dict[str, Any]) -> bytes:
        """OpenAI's client looks for "error" in the data, Anthropic's for the event's name and type."""
        return b"event: error\ndata: " + msgspec.json.encode({"type": "error", "error": error}) + b"\n\n"

    @property
    def nothing(self) -> bytes:
        return b":\n\n"


class _Lines(StreamFormat):
    def says(self, body: bytes) -> bytes:
        return b" ".join(body.splitlines()) + b"\n" if body else b""

    def error(self, error: dict[str, Any]) -> bytes:
        """Ollama's clients look for a line with "error"."""
        return msgspec.json.encode({"error": str(error["message"])}) + b"\n"

    @property
    def nothing(self) -> bytes:
        return b" "  # in front of an object, where there is another: to a client an empty line is a broken one


#: Server-sent events.
EVENTS = _Events((b"\n\n", b"\r\n\r\n"), (b"\n\n\r\n", b"\r\n\r\n\r\n"))

#: One JSON object a line, Ollama's.
LINES = _Lines((b"\n",), (b"\n\r\n",))


def kind_of(head: bytes) -> StreamFormat | None:
    """By the content type in an answer's head, in lower case."""
    at = head.find(b"\r\ncontent-type: ")  # `in` makes an exception first, which is thrown away: twice the time
    if at < 0:
        return None
    at += len(b"\r\ncontent-type: ")
    if head.startswith(b"text/event-stream", at):
        return EVENTS
    if head.startswith(b"application/x-ndjson", at):
        return LINES
    return None
