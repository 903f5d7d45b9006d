"""Faults of what passes between client and server."""

import json
from typing import Any

from .client import CHAT, exchange, get, post
from .lab import Lab, Observation
from .worker import HEADER

#: Of a client that cares for its bytes.
BODY = '{"model": "MODEL",  "temperature":0.0, "max_tokens": 8, "messages": [{"role":"user", "content":"h\\u00e9"}]}'
HEADERS = {"Authorization": "Bearer mine", "X-Request-Id": "42"}


def streaming(lab: Lab) -> Observation:
    with lab.host(beta="--token-rate 20") as host:
        stream = lab.ask(host, lab.kit.beta, stream=True, max_tokens=50 if lab.kit.simulated else 400, ignore_eos=True)
    text = f"first byte at {stream.first:.2f} s of a {stream.end:.2f} s stream"
    return Observation(stream.status != 200 or stream.first > stream.end / 2, text)


def unchanged(lab: Lab) -> Observation:
    """Headers and bodies, both ways: the server has written down what it got and sent."""
    body = BODY.replace("MODEL", lab.kit.beta).encode()
    with lab.host() as host:
        answer = exchange(host.port, post(host.port, CHAT, body, HEADERS))
        (call,) = host.wire.calls(lab.kit.beta, CHAT)
    head, _, got = call.request.partition("\r\n\r\n")
    sent = call.answer.partition("\r\n\r\n")[2].encode("latin-1")
    name, _, value = HEADER.decode().partition(": ")
    lost = [f"{header} dropped" for header in HEADERS if header.lower() not in head.lower()]
    lost += [f"the answer's {name} dropped"] * (answer.header(name) != value)
    lost += [f"the request rewritten{_sorted(got)}"] * (got.encode("latin-1") != body)
    lost += [f"the answer rewritten{_sorted(answer.body.decode())}"] * (answer.body != sent)
    return Observation(bool(lost), "; ".join(lost) or "headers and bodies arrive byte for byte, both ways")


def _sorted(text: str) -> str:
    keys = list(json.loads(text))
    return " with sorted keys" if keys == sorted(keys) else ""


def other_routes(lab: Lab) -> Observation:
    """What SGLang answers beside chat and completions."""
    model = lab.kit.beta
    messages = [{"role": "user", "content": "hello"}]
    bodies: dict[str, dict[str, Any]] = {
        "/v1/responses": {"model": model, "input": "hello"},
        "/v1/messages": {"model": model, "max_tokens": 8, "messages": messages},
        "/v1/tokenize": {"model": model, "prompt": "hello"},
        "/generate": {"model": model, "text": "hello"},
        "/api/chat": {"model": model, "stream": False, "messages": messages},
    }
    with lab.host() as host:
        statuses = {path: exchange(host.port, post(host.port, path, body)).status for path, body in bodies.items()}
    text = ", ".join(f"{path} {status}" for path, status in statuses.items())
    return Observation(set(statuses.values()) != {200}, text)


def metrics(lab: Lab) -> Observation:
    with lab.host() as host:
        answer = exchange(host.port, get(host.port, "/metrics"))
    families = answer.body.count(b"# TYPE ")
    told = f" with {families} metrics" if families else ""
    return Observation(answer.status != 200 or not families, f"GET /metrics: {answer.status}{told}")
