"""What is refused before it reaches the desk: it leaves the same traces, costs little, and tells no secret."""

import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from .conftest import bearer, key
from .http_client import CHAT, HttpClient, Reply, chat, get, post
from .proxy_env import QUIET, ProxyEnv, open_proxy_env
from .record import PATIENCE
from .worker import OK, answer_when_released

SECRET = "muxd-secret"
KEYS = (key("all", SECRET),)
NO_BODY_YET = (
    b"POST %b HTTP/1.1\r\nHost: muxd.test\r\nContent-Type: application/json\r\n%%bContent-Length: 100000\r\n\r\n" % CHAT
)


def logged(tmp_path: Path) -> list[dict[str, Any]]:
    """Its lines, once the house is closed."""
    files = sorted((tmp_path / "access").iterdir())
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def talkative(tmp_path: Path, **more: Any) -> dict[str, Any]:
    """For a house that names every request, and logs it."""
    usual = replace(QUIET, access_log="json", access_log_dir=tmp_path / "access", request_id_headers=("x-request-id",))
    return {"proxy": replace(usual, **more)}


async def rejections(proxy_env: ProxyEnv, code: str, http_client: HttpClient | None = None) -> float:
    request = get(b"/metrics")[:-2] + bearer(SECRET) + b"\r\n"
    page = await (http_client.ask(request) if http_client is not None else proxy_env.ask(request))
    told = re.search(rb'(?m)^muxd_rejections_total\{code="%b"\} (\S+)$' % code.encode(), page.body)
    return float(told[1]) if told else 0.0


# A trace of every refusal

ID = b"X-Request-Id: mine\r\n"
HEAD = b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n" % CHAT + ID
TIMES: dict[str, Any] = {"head_timeout": 0.2, "body_timeout": 0.2}
REFUSED: dict[str, tuple[bytes, int, str, str, dict[str, Any]]] = {
    "a body too large": (HEAD + b"Content-Length: 9999999\r\n\r\n", 413, "body_too_large", "mine", {}),
    "chunks too large": (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nfff\r\n" + b"x" * 0xFFF,
        413,
        "body_too_large",
        "mine",
        {"max_body": 1000},
    ),
    "two lengths": (HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n", 400, "bad_request", "mine", {}),
    "no host": (b"GET /health HTTP/1.1\r\n" + ID + b"\r\n", 400, "bad_request", "mine", {}),
    "no http": (b"hello\r\n\r\n", 400, "bad_request", "", {}),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xaa" * 500, 400, "tls_not_supported", "", {}),
    "a head too large": (HEAD + b"X: " + b"x" * 3000, 431, "head_too_large", "", {"max_head": 2000}),
    "half a head": (HEAD + b"X", 408, "request_timeout", "mine", TIMES),
    "half a body": (post(chat(), ID)[:-1], 408, "request_timeout", "mine", TIMES),
    "no memory": (post(chat(), ID)[:-1], 503, "buffer_memory_exhausted", "mine", {"buffer_memory": 10}),
    "no memory for a whole one": (post(chat(), ID), 503, "buffer_memory_exhausted", "mine", {"buffer_memory": 10}),
}


@pytest.mark.parametrize(("data", "status", "code", "id", "limits"), REFUSED.values(), ids=REFUSED)
async def test_a_request_that_is_refused_early_is_named_counted_and_logged(
    tmp_path: Path, data: bytes, status: int, code: str, id: str, limits: dict[str, Any]
) -> None:
    async with open_proxy_env(tmp_path, **talkative(tmp_path), **limits) as proxy_env:
        reply = await proxy_env.ask(data)
        assert (reply.status, reply.code) == (status, code)
        assert await rejections(proxy_env, code) == 1.0
    line, _ = logged(tmp_path)
    assert_told(reply, line)
    assert id in ("", line["request_id"])
    assert line["method"] in ("", "POST", "GET")


def assert_told(reply: Reply, line: dict[str, Any]) -> None:
    """The log has the line of this refusal."""
    assert (reply.header(b"x-request-id") or b"").decode() == line["request_id"] != ""
    assert (line["client"], line["end"], line["model"]) == ("127.0.0.1", "refused", "")
    assert (line["status"], line["code"]) == (reply.status, reply.code)
    assert line["response_bytes"] > 0


async def test_a_connection_too_many_is_named_counted_and_logged(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, **talkative(tmp_path), max_clients=1) as proxy_env:
        first = await proxy_env.connect()
        assert (await first.ask(get(b"/v1/models"))).status == 200
        reply = await (await proxy_env.connect()).reply()
        assert (reply.status, reply.code) == (503, "too_many_connections")
        assert await rejections(proxy_env, "too_many_connections", first) == 1.0
    assert_told(reply, logged(tmp_path)[1])


async def test_without_headers_for_it_a_refusal_has_no_request_id(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, **talkative(tmp_path, request_id_headers=())) as proxy_env:
        assert (await proxy_env.ask(b"hello\r\n\r\n")).header(b"x-request-id") is None


with_and_without_ids = pytest.mark.parametrize(
    "id_headers",
    [
        pytest.param((), id="no id"),
        pytest.param(("x-request-id",), id="id"),
    ],
)

ANSWERED_HERE = {
    "models": get(b"/v1/models"),
    "metrics": get(b"/metrics"),
    "HEAD": get(b"/v1/models", method=b"HEAD"),
    "no such route": get(b"/nothing"),
    "no such model": post(chat("gamma")),
    "malformed": b"hello\r\n\r\n",
}


@with_and_without_ids
@pytest.mark.parametrize("data", ANSWERED_HERE.values(), ids=ANSWERED_HERE)
async def test_the_size_of_the_proxys_own_answers_is_logged(
    tmp_path: Path, data: bytes, id_headers: tuple[str, ...]
) -> None:
    async with open_proxy_env(tmp_path, **talkative(tmp_path, request_id_headers=id_headers)) as proxy_env:
        http_client = await proxy_env.connect()
        await http_client.send(data)
        reply = await http_client.reply(to_head=data.startswith(b"HEAD"))
    assert [line["response_bytes"] for line in logged(tmp_path)] == [len(reply.raw)]


@with_and_without_ids
async def test_the_size_of_a_refusal_after_a_wait_is_logged(tmp_path: Path, id_headers: tuple[str, ...]) -> None:
    settings = talkative(tmp_path, request_id_headers=id_headers)
    async with open_proxy_env(tmp_path, **settings, model={"switch_timeout": 0.1}) as proxy_env:
        reply = await proxy_env.ask(post(chat("beta")))
        assert reply.code == "switch_timeout"
    assert [line["response_bytes"] for line in logged(tmp_path)] == [len(reply.raw)]


# Passwords

ABSOLUTE = {
    "answered": b"GET http://user:hunter2@muxd.test/v1/models?key=hunter2 HTTP/1.1\r\nHost: h\r\n\r\n",
    "unknown": b"GET http://user:hunter2@muxd.test HTTP/1.1\r\nHost: h\r\n\r\n",
    "without a host": b"GET http://user:hunter2@muxd.test/health#hunter2 HTTP/1.1\r\n\r\n",
    "to a model": post(chat()).replace(CHAT, b"http://user:hunter2@muxd.test" + CHAT + b"?a=hunter2", 1),
    "too large": HEAD.replace(CHAT, b"http://user:hunter2@muxd.test/") + b"Content-Length: 9999999\r\n\r\n",
    "half a head": b"GET http://user:hunter2@muxd.test/health HTTP/1.1\r\nHost: h\r\n",
    "half a target": b"GET http://user:hunter2@muxd.te",
    "a tunnel": b"CONNECT user:hunter2@muxd.test:443 HTTP/1.1\r\nHost: h\r\n\r\n",
}


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("data", ABSOLUTE.values(), ids=ABSOLUTE)
async def test_a_password_in_a_target_is_not_logged(
    tmp_path: Path, data: bytes, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    async with open_proxy_env(tmp_path, **talkative(tmp_path, access_log=form), **TIMES) as proxy_env:
        await proxy_env.ask(data)
    (file,) = (tmp_path / "access").iterdir()
    text = file.read_text()
    assert text.count("\n") == 1
    assert "hunter2" not in text + caplog.text


# Bodies without a key


@pytest.fixture
async def locked(tmp_path: Path) -> AsyncIterator[ProxyEnv]:
    async with open_proxy_env(tmp_path, keys=KEYS) as proxy_env:
        yield proxy_env


WITHOUT_A_KEY = {
    "none": NO_BODY_YET % b"",
    "unknown": NO_BODY_YET % bearer("muxd-guessed"),
    "expecting": NO_BODY_YET % b"Expect: 100-continue\r\n",
    "chunked": b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    % CHAT,
    "some of the body": NO_BODY_YET % b"" + b"x" * 5000,
    "to a route that is not there": b"POST /nothing HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n",
}


@pytest.mark.parametrize("data", WITHOUT_A_KEY.values(), ids=WITHOUT_A_KEY)
async def test_who_has_no_key_is_refused_before_the_body_comes(tmp_path: Path, data: bytes) -> None:
    async with open_proxy_env(tmp_path, **talkative(tmp_path), keys=KEYS) as proxy_env:
        http_client = await proxy_env.connect()
        reply = await http_client.ask(data)
        assert (reply.status, reply.code, reply.header(b"connection")) == (401, "invalid_api_key", b"close")
        assert reply.header(b"www-authenticate") == b"Bearer"
        await http_client.closed()
        assert await rejections(proxy_env, "invalid_api_key") == 1.0
        assert proxy_env.proxy.front.held == 0
    assert_told(reply, logged(tmp_path)[0])


async def test_who_has_no_key_is_refused_behind_one_who_has(locked: ProxyEnv) -> None:
    http_client = await locked.connect()
    await http_client.send(post(chat(), bearer(SECRET)) + NO_BODY_YET % b"")
    assert (await http_client.reply()).status == 200
    assert (await http_client.reply()).status == 401
    await http_client.closed()


async def test_a_body_is_asked_for_and_waited_for_once_its_head_shows_a_key(locked: ProxyEnv) -> None:
    http_client = await locked.connect()
    for _ in range(2):
        body = chat()
        await http_client.send(post(body, bearer(SECRET) + b"Expect: 100-continue\r\n").removesuffix(body))
        assert (await http_client.reply()).raw == b"HTTP/1.1 100 Continue\r\n\r\n"
        await http_client.send(body[:5])
        await http_client.send(body[5:])
        assert (await http_client.reply()).body == OK.partition(b"\r\n\r\n")[2]


async def test_a_body_to_an_open_route_needs_no_key(locked: ProxyEnv) -> None:
    http_client = await locked.connect()
    await http_client.send(b"GET /health HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n")
    await http_client.send(b"body")
    assert (await http_client.reply()).status == 200


async def test_a_request_in_pieces_counts_once_against_its_keys_rate(tmp_path: Path) -> None:
    keys = (key("some", SECRET, requests_per_minute=2),)
    async with open_proxy_env(tmp_path, keys=keys) as proxy_env:
        for left in (b"1", b"0"):
            http_client, body = await proxy_env.connect(), chat()
            await http_client.send(post(body, bearer(SECRET) + b"Expect: 100-continue\r\n").removesuffix(body))
            await http_client.reply()
            await http_client.send(body)
            reply = await http_client.reply()
            assert (reply.status, reply.header(b"x-ratelimit-remaining-requests")) == (200, left)


# Memory for heads

BIG = b"X: " + b"x" * 60_000 + b"\r\n"


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[ProxyEnv]:
    """Room for two heads of 60 KB."""
    limits: dict[str, Any] = {"head_memory": 150_000}
    async with open_proxy_env(tmp_path, granted=False, **limits) as proxy_env:
        yield proxy_env


async def held(proxy_env: ProxyEnv, heads: int) -> None:
    """Return when the proxy holds so many big heads."""
    with trio.fail_after(PATIENCE):
        while round(proxy_env.proxy.front.heads / 60_000) != heads:
            await trio.sleep(0.001)


async def test_big_halves_of_heads_are_refused_beyond_head_memory_and_counted(small: ProxyEnv) -> None:
    http_clients = [await small.connect() for _ in range(3)]
    for number, http_client in enumerate(http_clients[:2], 1):
        await http_client.send(get(b"/health")[:-2] + BIG)
        await held(small, number)
    reply = await http_clients[2].ask(get(b"/health")[:-2] + BIG)
    assert (reply.status, reply.code, reply.header(b"retry-after")) == (503, "buffer_memory_exhausted", b"1")
    await http_clients[2].closed()
    assert await rejections(small, "buffer_memory_exhausted") == 1.0
    await http_clients[0].send(b"\r\n")
    assert (await http_clients[0].reply()).status == 200
    http_clients[1].close()
    await held(small, 0)
    assert small.proxy.front.heads == 0


async def test_requests_with_big_heads_that_wait_are_bounded_too_and_give_the_memory_back(small: ProxyEnv) -> None:
    http_clients = [await small.connect() for _ in range(2)]
    for number, http_client in enumerate(http_clients, 1):
        await http_client.send(post(chat(), BIG))
        await held(small, number)
    assert (await small.ask(post(chat(), BIG))).code == "buffer_memory_exhausted"
    assert (await small.ask(get(b"/health"))).status == 200  # small ones are not worth counting
    http_clients[0].close()
    await held(small, 1)
    small.alpha.answer = answer_when_released
    (await small.lease()).grant(small.alpha.url)
    (await small.alpha.calls.nth(0)).released.set()
    assert (await http_clients[1].reply()).raw == OK
    await held(small, 0)
    assert small.proxy.front.heads == 0
