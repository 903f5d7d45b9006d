"""Conversion of workers' responses for HTTP/1.0 clients, and for clients that were sent a head already."""

from typing import Any

import msgspec
from httptools import HttpResponseParser

from muxd.http.response import chunk

from .stream_formats import StreamFormat

_DROPPED = (b"transfer-encoding:", b"connection:", b"keep-alive:", b"trailer:")


class _Pieces(list[bytes]):
    """The pieces of a body that a parser has found.

    The parser calls this object and not the decoder that owns the parser: they would be a cycle, and stay in memory.
    """

    on_body = list.append


class ChunkDecoder:
    """Converts a response for an HTTP/1.0 client, which does not know chunks.

    The body is sent without framing, and ends with the connection.  `feed` it the worker's response as received.
    """

    def __init__(self) -> None:
        self._body = _Pieces()
        self._parser = HttpResponseParser(self._body)
        self._in_body = False

    def feed(self, raw: bytes) -> bytes:
        """Return what the client is sent for `raw`.

        At the first call `raw` has to begin with the whole head; the caller has checked that the response parses.
        """
        body = self._decode(raw)
        if self._in_body:
            return body
        self._in_body = True
        return self._unchunked_head(raw.partition(b"\r\n\r\n")[0]) + body

    def _decode(self, raw: bytes) -> bytes:
        self._parser.feed_data(raw)
        body = b"".join(self._body)
        self._body.clear()
        return body

    def _unchunked_head(self, head: bytes) -> bytes:
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(_DROPPED)]
        return b"\r\n".join([*lines, b"Connection: close", b"", b""])


class ChunkReencoder(ChunkDecoder):
    """Converts a response for a client whose stream began before the worker responded: the body alone, in chunks."""

    def __init__(self, stream: StreamFormat) -> None:
        super().__init__()
        self._ends = stream.ends
        self._tail = stream.ends[0]

    def feed(self, raw: bytes) -> bytes:
        body = self._decode(raw)
        if not body:
            return b""
        self._tail = (self._tail + body[-4:])[-4:]
        return chunk(body)

    def between_parts(self) -> bool:
        return self._tail.endswith(self._ends)


class BodyBuffer(ChunkDecoder):
    """Keeps a response's body, up to a limit, for a client whose stream began and that cannot be sent it as it is."""

    MOST = 64 * 1024

    def __init__(self) -> None:
        super().__init__()
        self._kept = b""

    def feed(self, raw: bytes) -> bytes:
        self._kept = (self._kept + self._decode(raw))[: self.MOST]
        return b""

    def as_part(self, stream: StreamFormat, status: int) -> bytes:
        """Return the kept body as a part of a stream: as it is where the response was a success, else as an error."""
        body = self._kept.strip()
        if status < 300 and len(body) < self.MOST:
            return stream.says(body)
        return stream.error(error_of(body, status))


class Collector(ChunkDecoder):
    """Keeps a response's whole body, for a client that is sent another one made from it."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0
        self._pieces: list[bytes] = []

    def feed(self, raw: bytes) -> bytes:
        piece = self._decode(raw)
        self._pieces.append(piece)
        self.size += len(piece)
        return b""

    def body(self) -> bytes:
        return b"".join(self._pieces)


def error_of(body: bytes, status: int) -> dict[str, Any]:
    """Return OpenAI's error object, made from the body of an error response of another server."""
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        decoded = None
    if not isinstance(decoded, dict):
        decoded = {"message": body.decode("utf-8", "replace")}
    error = decoded.get("error")
    if isinstance(error, dict) and "message" in error:
        return error
    if isinstance(error, str):
        error = {"message": error}  # as Ollama writes it
    elif not isinstance(error, dict):
        error = {key: decoded[key] for key in ("message", "type", "param", "code") if key in decoded}
    return {"message": f"the model answered with status {status}", "type": "server_error", "code": status} | error
