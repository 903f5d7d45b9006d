"""Answers whose head is known and answers that are parsed: to clients, log and metrics they are the same."""

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from muxd.proxy import lease
from muxd.proxy.proxied_request import ProxiedRequest
from muxd.proxy.sockets.known_answers import KnownAnswer
from muxd.proxy.sockets.pool import Pool

from .http_client import HttpClient, chat, get, post
from .proxy_env import QUIET, open_proxy_env
from .test_known_answers import HEAD, answer, with_usage
from .worker import SSE_HEAD, Call, chunk, event

USUAL = [with_usage(figure, 2 * figure) for figure in (1, 20, 300)]
WITH_USAGE, FILLING = with_usage(5, 6), 16 * 1024 - len(HEAD % (200, 10_000))
ENDED = [  # by the worker, which closes the connection
    b"",
    SSE_HEAD,
    SSE_HEAD + event("a"),
    answer()[:-1],
    answer()[:40],
    WITH_USAGE.replace(b"server: uvicorn", b"connection: close"),
]
OTHERS = [
    *(answer(b"x" * size) for size in (0, 1, FILLING - 1, FILLING, FILLING + 1, 70_000)),
    *(answer(b'{"error": {}}', status) for status in (202, 204, 304, 400, 404, 429, 500, 503)),
    answer(status=503).replace(b"server: uvicorn", b"x-smg-error-code: no_available_workers"),
    WITH_USAGE.replace(b"server: uvicorn", b"set-cookie: a=1"),
    WITH_USAGE.replace(b"server: uvicorn", b"content-encoding: gzip"),
    WITH_USAGE.replace(b"content-length", b"Content-Length"),
    WITH_USAGE.replace(b"server: uvicorn", b"server: uvicorn\r\n folded"),
    WITH_USAGE.replace(b"content-length: ", b"content-length: +"),
    answer().replace(b"content-length: 11", b"content-length: 11\r\ncontent-length: 11"),
    answer().replace(b"content-length: 11", b"content-length: 0011"),
    answer().replace(b"content-length: 11", b"content-length: 9"),
    answer().replace(b"content-length: 11", b"transfer-encoding: chunked")[:-11] + chunk(b"{}") + b"0\r\n\r\n",
    answer() + answer(b"another"),
    answer() + b"\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" + answer(),
    SSE_HEAD + event("a") + event("b") + b"0\r\n\r\n",
]
HEADERS = [b""] * 4 + [b"Connection: close\r\n", b"Origin: http://web.test\r\n", b"Accept-Encoding: gzip\r\n"]
ID = re.compile(rb"(?<=request )[0-9a-f]{10}")
TIMES = re.compile(r"(?m)^.*(?:_seconds|_bytes\b|_start_time).*$")


async def what_comes_of(folder: Path, seed: int) -> tuple[list[bytes], list[object], str]:
    """Return what clients get of the answers that the seed draws, the lines of the log, and the metrics."""
    at_worker, at_client = random.Random(seed), random.Random(seed)

    async def answer_next(call: Call) -> bool:
        kind = at_worker.random()
        data = at_worker.choice(USUAL if kind < 0.7 else OTHERS if kind < 0.93 else ENDED)
        await call.send(data)
        return data not in ENDED

    proxy = replace(QUIET, access_log="json", access_log_dir=folder / "log")
    got: list[bytes] = []
    async with open_proxy_env(folder, proxy=proxy) as proxy_env:
        proxy_env.alpha.answer = answer_next
        client: HttpClient | None = None
        for _ in range(150):
            client = client or await proxy_env.connect()
            version = b"1.0" if at_client.random() < 0.1 else b"1.1"
            headers = at_client.choice(HEADERS)
            await client.send(post(chat(stream=at_client.random() < 0.2), headers, version=version))
            try:
                got.append(ID.sub(b"ID", (await client.reply()).raw))
            except (AssertionError, trio.BrokenResourceError):  # the connection has ended in the midst of the answer
                got.append(bytes(client.buffer) + b" cut")
                client = None
            if version == b"1.0" or b"close" in headers or b"connection: close" in got[-1].lower():
                client = None
        metrics = TIMES.sub("", (await proxy_env.ask(get(b"/metrics"))).body.decode())
    lines = [json.loads(line) for path in (folder / "log").iterdir() for line in path.read_text().splitlines()]
    varying = ("time", "duration_s", "wait_s", "ttft_s", "request_id")
    fixed = [{name: value for name, value in line.items() if name not in varying} for line in lines if line["model"]]
    return got, fixed, metrics


@pytest.mark.parametrize("seed", range(4))
async def test_both_ways_give_clients_log_and_metrics_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    whole: list[bytes] = []
    on_whole = ProxiedRequest.on_whole

    def noted(request: ProxiedRequest, data: bytes, known: KnownAnswer) -> None:
        whole.append(data)
        on_whole(request, data, known)

    monkeypatch.setattr(ProxiedRequest, "on_whole", noted)
    monkeypatch.setattr(lease, "_SUSPICION", 0.01)
    (tmp_path / "known").mkdir()
    (tmp_path / "parsed").mkdir()
    known = await what_comes_of(tmp_path / "known", seed)
    assert len(whole) > 40
    whole.clear()
    monkeypatch.setattr(Pool, "learn", lambda pool, data: None)
    parsed = await what_comes_of(tmp_path / "parsed", seed)
    assert not whole
    for of_known, of_parsed in zip(zip(*known[:2], strict=True), zip(*parsed[:2], strict=True), strict=True):
        assert of_known == of_parsed
    assert known[2] == parsed[2]
