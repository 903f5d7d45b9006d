"""Answers that cannot pass as they come: for HTTP/1.0 clients, and for those who were sent a head already."""

from typing import Any

import msgspec
from httptools import HttpResponseParser

from muxd.http.response import chunk

from .stream_formats import StreamFormat

_DROPPED = (b"transfer-encoding:", b"connection:", b"keep-alive:", b"trailer:")


class _Pieces(list[bytes]):
    """What a parser has found of a body; apart from who has the parser, else they were a cycle and stayed."""

    on_body = list.append


class ChunkDecoder:
    """For HTTP/1.0, which does not know chunks: the body bare, ended by the connection's end.

    Feed it a worker's answer as received; it returns what such a client can read.
    """

    def __init__(self) -> None:
        self._body = _Pieces()
        self._parser = HttpResponseParser(self._body)
        self._in_body = False

    def feed(self, raw: bytes) -> bytes:
        """`raw` starts with the whole head at the first call; the caller knows that it parses."""
        body = self._bare(raw)
        if self._in_body:
            return body
        self._in_body = True
        return self._bare_head(raw.partition(b"\r\n\r\n")[0]) + body

    def _bare(self, raw: bytes) -> bytes:
        self._parser.feed_data(raw)
        body = b"".join(self._body)
        self._body.clear()
        return body

    def _bare_head(self, head: bytes) -> bytes:
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(_DROPPED)]
        return b"\r\n".join([*lines, b"Connection: close", b"", b""])


class ChunkReencoder(ChunkDecoder):
    """For a client whose stream has begun before its worker answered: the body alone, in chunks."""

    def __init__(self, stream: StreamFormat) -> None:
        super().__init__()
        self._ends = stream.ends
        self._tail = stream.ends[0]

    def feed(self, raw: bytes) -> bytes:
        body = self._bare(raw)
        if not body:
            return b""
        self._tail = (self._tail + body[-4:])[-4:]
        return chunk(body)

    def between_parts(self) -> bool:
        return self._tail.endswith(self._ends)


class BodyBuffer(ChunkDecoder):
    """For an answer that such a client cannot be given as it is: its body, kept up to a limit."""

    MOST = 64 * 1024

    def __init__(self) -> None:
        super().__init__()
        self._kept = b""

    def feed(self, raw: bytes) -> bytes:
        self._kept = (self._kept + self._bare(raw))[: self.MOST]
        return b""

    def as_part(self, stream: StreamFormat, status: int) -> bytes:
        """The whole of it as a part of a stream: what it says where it is a success, else an error."""
        body = self._kept.strip()
        if status < 300 and len(body) < self.MOST:
            return stream.says(body)
        return stream.error(error_of(body, status))


class Collector(ChunkDecoder):
    """For an answer that the client is told in other words: its body."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0
        self._pieces: list[bytes] = []

    def feed(self, raw: bytes) -> bytes:
        piece = self._bare(raw)
        self._pieces.append(piece)
        self.size += len(piece)
        return b""

    def body(self) -> bytes:
        return b"".join(self._pieces)


def error_of(body: bytes, status: int) -> dict[str, Any]:
    """OpenAI's object, of what another server made of it."""
    try:
        said = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        said = None
    if not isinstance(said, dict):
        said = {"message": body.decode("utf-8", "replace")}
    error = said.get("error")
    if isinstance(error, dict) and "message" in error:
        return error
    if isinstance(error, str):
        error = {"message": error}  # Ollama's
    elif not isinstance(error, dict):
        error = {key: said[key] for key in ("message", "type", "param", "code") if key in said}
    return {"message": f"the model answered with status {status}", "type": "server_error", "code": status} | error
