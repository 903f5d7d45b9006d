"""Answers for HTTP/1.0 clients, who do not know chunks: the body bare, ended by the connection's end."""

from httptools import HttpResponseParser

_DROPPED = (b"transfer-encoding:", b"connection:", b"keep-alive:", b"trailer:")


class Unframer:
    """Feed it a worker's answer as received; it returns what an HTTP/1.0 client can read."""

    def __init__(self) -> None:
        self._parser = HttpResponseParser(self)
        self._body: list[bytes] = []
        self._in_body = False

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def feed(self, raw: bytes | memoryview) -> bytes:
        """`raw` starts with the whole head at the first call; the caller knows that it parses."""
        self._parser.feed_data(raw)
        body = b"".join(self._body)
        self._body.clear()
        if self._in_body:
            return body
        self._in_body = True
        return self._bare_head(bytes(raw).partition(b"\r\n\r\n")[0]) + body

    def _bare_head(self, head: bytes) -> bytes:
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(_DROPPED)]
        return b"\r\n".join([*lines, b"Connection: close", b"", b""])
