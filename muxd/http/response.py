"""Builders of the bytes of HTTP responses, and of one request's head."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import msgspec

from muxd.http.request import Headers

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}".encode() for status in HTTPStatus}


def head(status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the status line and the headers, up to and with the empty line."""
    lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d Unknown" % status]
    lines += [b"%b: %b" % header for header in headers]
    lines.append(b"\r\n")
    return b"\r\n".join(lines)


def json_response(
    status: int, value: Any, *headers: tuple[bytes, bytes], keep_alive: bool = True, method: str = "GET"
) -> bytes:
    """Return a whole response whose body is `value` in JSON; to HEAD the same head and no body."""
    body = msgspec.json.encode(value) + b"\n"
    return body_response(status, b"application/json", body, *headers, keep_alive=keep_alive, method=method)


def body_response(
    status: int,
    content_type: bytes,
    body: bytes,
    *headers: tuple[bytes, bytes],
    keep_alive: bool = True,
    method: str = "GET",
) -> bytes:
    """Return a whole response; to HEAD the same head and no body."""
    lines: Headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *headers]
    if not keep_alive:
        lines.append((b"connection", b"close"))
    return head(status, lines) + (b"" if method == "HEAD" else body)


def spliced(answer: bytes, lines: bytes) -> bytes:
    """Return the response `answer` with `lines`, each ended by CRLF, put before its own header lines."""
    if not lines:
        return answer
    end = answer.index(b"\r\n") + 2
    return b"".join((answer[:end], lines, answer[end:]))


def chunk(data: bytes) -> bytes:
    """Return `data` as one chunk of a chunked body; empty data would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def request_head(method: str, target: str, body: bytes, host: str = "muxd") -> bytes:
    """Return the head of a JSON request that is the last on its connection; the caller sends `body` after it."""
    lines = [f"{method} {target} HTTP/1.1", f"host: {host}", "connection: close"]
    if body:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "\r\n"]).encode("ascii")
