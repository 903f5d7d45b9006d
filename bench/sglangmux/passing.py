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
    bodies: dict[str, dict[str, Any]] = {
        "responses": {"model": model, "input": "hello"},
        "messages": {"model": model, "max_tokens": 8, "messages": [{"role": "user", "content": "hello"}]},
        "tokenize": {"model": model, "prompt": "hello"},
    }
    with lab.host() as host:
        statuses = {name: exchange(host.port, post(host.port, f"/v1/{name}", b)).status for name, b in bodies.items()}
    text = ", ".join(f"{name} {status}" for name, status in statuses.items())
    return Observation(set(statuses.values()) != {200}, text)


def metrics(lab: Lab) -> Observation:
    with lab.host() as host:
        answer = exchange(host.port, get(host.port, "/metrics"))
    return Observation(answer.status != 200, f"GET /metrics: {answer.status}")
