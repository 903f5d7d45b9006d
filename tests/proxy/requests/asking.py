"""Requests as the connection's reader hands them over."""

import json
from typing import Any

from muxd.http.request import Request

BOUNDARY = b"----muxd-Test7MA4YWxk"


def ask(
    target: bytes, body: Any = None, method: str = "POST", headers: tuple[tuple[bytes, bytes], ...] = ()
) -> Request:
    """`body` is bytes, or what is to be said in JSON."""
    if not any(name.lower() == b"content-type" for name, _ in headers):
        headers = ((b"Content-Type", b"application/json"), *headers)
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return Request(method, target, [(b"Host", b"muxd"), *headers], content, "1.1", True)


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    file = f'; filename="{filename}"\r\nContent-Type: audio/wav' if filename else ""
    head = f'Content-Disposition: form-data; name="{name}"{file}'
    return b"--%b\r\n%b\r\n\r\n%b\r\n" % (BOUNDARY, head.encode(), content)


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--%b--\r\n" % BOUNDARY


def send_form(body: bytes, content_type: bytes = b"multipart/form-data; boundary=" + BOUNDARY) -> Request:
    return ask(b"/v1/audio/transcriptions", body, headers=((b"Content-Type", content_type),))
