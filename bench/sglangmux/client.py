"""Requests as they are on the wire: which byte came when; and clients that leave."""

import json
import socket
import time
from dataclasses import dataclass
from typing import Any

CHAT = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Answer:
    """`first` is the seconds from the request to the first byte of the body, `end` to the last."""

    raw: bytes
    first: float
    end: float

    @property
    def status(self) -> int:
        """0 where none came."""
        return int(self.raw.split(b" ", 2)[1]) if self.raw else 0

    @property
    def body(self) -> bytes:
        """As sent: not taken out of its chunks, if it is in chunks."""
        return self.raw.partition(b"\r\n\r\n")[2]

    def header(self, name: str) -> str | None:
        """The first of that name."""
        lines = self.raw.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
        named = (line.partition(":") for line in lines)
        return next((value.strip() for key, _, value in named if key.lower() == name), None)

    def __str__(self) -> str:
        return f"{self.status or 'no answer'} after {self.end:.1f} s"


def chat(model: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "hello"}]
    return {"model": model, "messages": messages, "temperature": 0, "max_tokens": 8, **fields}


def post(port: int, path: str, body: dict[str, Any] | bytes, headers: dict[str, str] | None = None) -> bytes:
    """A request as it goes out."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {"Host": f"127.0.0.1:{port}", "Content-Type": "application/json", **(headers or {})}
    head = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in lines.items())]
    return "\r\n".join([*head, f"Content-Length: {len(content)}", "Connection: close", "", ""]).encode() + content


def get(port: int, path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode()


def send(port: int, request: bytes) -> socket.socket:
    """The connection; who closes it is a client that leaves."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(request)
    return connection


def exchange(port: int, request: bytes, patience: float = 60) -> Answer:
    """What comes to the end of the connection, however it ends, or until nothing comes for `patience` seconds."""
    began, raw, first = time.monotonic(), b"", 0.0
    with send(port, request) as connection:
        connection.settimeout(patience)
        try:
            while data := connection.recv(1 << 16):
                raw += data
                if not first and raw.partition(b"\r\n\r\n")[2]:
                    first = time.monotonic() - began
        except (TimeoutError, ConnectionResetError):
            pass
    return Answer(raw, first, time.monotonic() - began)
