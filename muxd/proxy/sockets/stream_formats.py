"""The formats of streams that workers respond with: where their parts end, and how to insert a part of the proxy's."""

from typing import Any

import msgspec
from msgspec import Struct


class StreamFormat(Struct, frozen=True):
    """One format: `ends` are what a part can end with, `chunk_ends` what a chunk can end with that ends a part."""

    ends: tuple[bytes, ...]
    chunk_ends: tuple[bytes, ...]

    def says(self, body: bytes) -> bytes:
        """Return `body`, that of a whole response, as a part of the stream."""
        raise NotImplementedError

    def error(self, error: dict[str, Any]) -> bytes:
        """Return the last part of a stream that breaks off; `error` is OpenAI's object."""
        raise NotImplementedError

    @property
    def nothing(self) -> bytes:
        """Return bytes that clients ignore in front of the first part."""
        raise NotImplementedError


class _Events(StreamFormat, frozen=True):
    def says(self, body: bytes) -> bytes:
        return b"".join(b"data: %b\n" % line for line in body.splitlines()) + b"\n"

    def error(self, error: dict[str, Any]) -> bytes:
        """Return an event for OpenAI's client, which looks for "error", and Anthropic's: that reads name and type."""
        return b"event: error\ndata: " + msgspec.json.encode({"type": "error", "error": error}) + b"\n\n"

    @property
    def nothing(self) -> bytes:
        return b":\n\n"


class _Lines(StreamFormat, frozen=True):
    def says(self, body: bytes) -> bytes:
        return b" ".join(body.splitlines()) + b"\n" if body else b""

    def error(self, error: dict[str, Any]) -> bytes:
        """Return a line with the member "error", which Ollama's clients look for."""
        return msgspec.json.encode({"error": str(error["message"])}) + b"\n"

    @property
    def nothing(self) -> bytes:
        return b" "  # in front of the next object: to Ollama's clients an empty line would be broken JSON


#: Server-sent events.
EVENTS = _Events((b"\n\n", b"\r\n\r\n"), (b"\n\n\r\n", b"\r\n\r\n\r\n"))

#: Ollama's streams: one JSON object a line.
LINES = _Lines((b"\n",), (b"\n\r\n",))


def kind_of(head: bytes) -> StreamFormat | None:
    """Return the format that a response's head, in lower case, names as its content type; None for no stream."""
    at = head.find(b"\r\ncontent-type: ")  # `in` takes twice the time: it makes an exception first, and throws it away
    if at < 0:
        return None
    at += len(b"\r\ncontent-type: ")
    if head.startswith(b"text/event-stream", at):
        return EVENTS
    if head.startswith(b"application/x-ndjson", at):
        return LINES
    return None
