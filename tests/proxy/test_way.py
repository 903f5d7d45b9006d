"""Requests on a way that is known: clients, workers, log and metrics have what they have without."""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from muxd.config.schema import Key
from muxd.proxy.dispatcher import RequestDispatcher
from muxd.proxy.way import Way

from .conftest import bearer, key
from .http_client import HttpClient, chat, post
from .proxy_env import QUIET, ProxyEnv, open_proxy_env
from .test_doors_and_reloads import reload
from .test_known_and_parsed import TIMES, get
from .worker import OK, SSE_HEAD, Call, event

SECRETS = ("muxd-one", "muxd-two", "muxd-batch", "muxd-few")
KEYS = (
    key("one", SECRETS[0]),
    key("two", SECRETS[1], models=("beta",), priority=3, comments=False),
    key("batch", SECRETS[2], request_class="batch", keep_alive=60.0),
    key("few", SECRETS[3], requests_per_minute=1),
)
EDITS = {"upstream_name": "real/name", "set_params": {"temperature": 0.5}, "strip_params": ("seed",)}
USUAL = b"User-Agent: OpenAI/Python 2.8.0\r\nAccept-Encoding: gzip\r\n"
HEADS = [
    *(USUAL + line for line in (b"", b"X-Request-Id: mine-1\r\n", b"X-A: b\r\n")),
    *(USUAL + line for line in (b"X-Muxd-Class: batch\r\n", b"Content-Type: application/json; charset=utf-8\r\n")),
]
BODIES = [
    *(chat(model=model) for model in ("org/alpha", "alpha", "alpha-mini", "beta", "gamma", "alpha:x", "alpha:latest")),
    *(chat(stream=value) for value in (True, False, None, "yes")),
    *(chat(service_tier=tier) for tier in ("flex", "auto", "batch", None)),
    *(chat(**said) for said in ({"keep_alive": "5m"}, {"keep_alive": 0}, {"keep_alive": "soon"}, {"ttl": 60})),
    *(chat(messages=value) for value in ([], None, "hi", {})),
    b"\xef\xbb\xbf" + chat(),
    chat(seed=1, temperature=2),
    b'{"model":"alpha","messages":[{}],"model":"beta"}',
    b'{"model":"alpha"',
    b"[]",
    b"",
]
HOST = re.compile(rb"Host: 127.0.0.1:\d+\r\n")
SECONDS = re.compile(rb"\bin (\d+ s|1m0s|\d+m?s)\b")  # until a key is looked at, or may ask again, as an error says
PATHS = [b"/v1/chat/completions"] * 8 + [b"/chat/completions", b"/v1/messages", b"/v1/completions", b"/api/chat"]


async def answer(call: Call) -> None:
    await call.send(SSE_HEAD + event("a") + b"0\r\n\r\n" if b'"stream":true' in call.body else OK)


def drawn(chance: random.Random, count: int, *, keyed: bool) -> Iterator[bytes]:
    """So many requests of one client, whose head and path stay for a while."""
    head, path = b"", b""
    for _ in range(count):
        if not path or chance.random() < 0.1:
            secret = bearer(chance.choice([*SECRETS * 4, "unknown"])) if keyed else b""
            head, path = chance.choice(HEADS[:1] * 6 + HEADS) + secret, chance.choice(PATHS)
        yield post(chance.choice(BODIES[:4] * 8 + BODIES), head, path=path)


async def what_comes_of(
    folder: Path, seed: int, keys: tuple[Key, ...], model: dict[str, Any]
) -> tuple[list[bytes], list[tuple[bytes, bytes]], list[object], str]:
    """Return what clients and workers get, the lines of the log, and the metrics, of requests that the seed draws."""
    chance = random.Random(seed)
    proxy = replace(QUIET, access_log="json", access_log_dir=folder / "log")
    got: list[bytes] = []
    async with open_proxy_env(folder, proxy=proxy, keys=keys, model=model) as proxy_env:
        proxy_env.muxd.grants["beta"] = proxy_env.beta.url
        for worker in (proxy_env.alpha, proxy_env.beta):
            worker.answer = answer
        for _ in range(8):
            client = await proxy_env.connect()
            for request in drawn(chance, 25, keyed=bool(keys)):
                await client.send(request)
                got.append((await client.reply()).raw)
                if b"connection: close" in got[-1].lower():  # too many unknown keys
                    break
        calls = [*proxy_env.alpha.calls, *proxy_env.beta.calls]
        head = bearer(SECRETS[0]) if keys else b""
        page = await proxy_env.ask(get(b"/metrics").replace(b"\r\n\r\n", b"\r\n" + head + b"\r\n"))
        metrics = TIMES.sub("", page.body.decode())
    lines = [json.loads(line) for path in (folder / "log").iterdir() for line in path.read_text().splitlines()]
    varying = ("time", "duration_s", "wait_s", "ttft_s", "request_id", "response_bytes")  # by the clock, too
    fixed = [{name: value for name, value in line.items() if name not in varying} for line in lines]
    return got, [(HOST.sub(b"", call.head), call.body) for call in calls], fixed, metrics


def timeless(raw: bytes) -> bytes:
    """Return an answer without what depends on the clock: seconds, and how many digits they have."""
    bare = SECONDS.sub(b"", raw)
    names = (b"x-ratelimit-reset", b"retry-after", *((b"content-length",) if bare != raw else ()))
    return b"\r\n".join(line for line in bare.split(b"\r\n") if not line.lower().startswith(names))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("model", [{}, EDITS], ids=["as it is", "edited"])
@pytest.mark.parametrize("keys", [(), KEYS], ids=["open", "keyed"])
async def test_a_known_way_gives_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: tuple[Key, ...], model: dict[str, Any], seed: int
) -> None:
    taken: list[bool] = []  # of each request, whether another had come by its way before
    ways: set[Way] = set()
    on_way = RequestDispatcher._on_way

    def noted(dispatcher: RequestDispatcher, client: Any, request: Any, record: Any, way: Way, *more: Any) -> Any:
        taken.append(way in ways)
        ways.add(way)
        return on_way(dispatcher, client, request, record, way, *more)

    monkeypatch.setattr(RequestDispatcher, "_on_way", noted)
    (tmp_path / "known").mkdir()
    (tmp_path / "found").mkdir()
    known = await what_comes_of(tmp_path / "known", seed, keys, model)
    assert taken.count(True) > 15
    taken.clear()
    monkeypatch.setattr(Way, "keep_beside", lambda way, request, asked: None)
    found = await what_comes_of(tmp_path / "found", seed, keys, model)
    assert not any(taken)
    for of_known, of_found in zip(known[0], found[0], strict=True):
        assert timeless(of_known) == timeless(of_found)
    assert known[1:] == found[1:]


async def known(proxy_env: ProxyEnv) -> HttpClient:
    """A connection on which a way is known."""
    client = await proxy_env.connect()
    for _ in range(3):
        assert (await client.ask(post(chat(), USUAL))).raw == OK
    return client


async def test_a_model_that_has_gone_or_may_not_be_asked_so_any_more_is_refused(proxy_env: ProxyEnv) -> None:
    client, catalogue = await known(proxy_env), proxy_env.proxy.catalogue
    entry = catalogue.by_name["org/alpha"]
    entry.routes = frozenset({"/v1/embeddings"})
    assert (await client.ask(post(chat(), USUAL))).status == 400
    entry.routes = None
    assert (await client.ask(post(chat(), USUAL))).raw == OK
    proxy_env.muxd.settings["models"]["alpha"]["served_names"].remove("org/alpha")
    await reload(proxy_env)
    assert (await client.ask(post(chat(), USUAL))).code == "model_not_found"


async def test_a_key_that_a_reload_has_made_one_is_passed_on_no_more(tmp_path: Path) -> None:
    asked = post(chat(), USUAL + bearer(SECRETS[0]))
    async with open_proxy_env(tmp_path, keys=KEYS[:1]) as proxy_env:
        (told,) = proxy_env.muxd.settings["keys"]
        client = await proxy_env.connect()
        for keys in ([], [told], [told | {"name": "other", "secret_sha256": "0" * 64}], []):
            await reload(proxy_env, keys=keys)
            seen = len(proxy_env.alpha.calls)
            statuses = [(await client.ask(asked)).status for _ in range(3)]
            assert statuses == [200 if not keys or keys == [told] else 401] * 3
            shown = [SECRETS[0].encode() in call.head for call in proxy_env.alpha.calls[seen:]]
            assert shown == ([] if statuses[0] == 401 else [not keys] * 3)


async def test_of_many_names_some_are_kept(proxy_env: ProxyEnv) -> None:
    client, catalogue = await known(proxy_env), proxy_env.proxy.catalogue
    for number in range(100):
        catalogue.by_name[f"name-{number}"] = catalogue.by_name["alpha"]
        assert (await client.ask(post(chat(model=f"name-{number}"), USUAL))).raw == OK
    head = proxy_env.proxy.front.known_heads.latest
    assert head is not None
    assert 0 < len(head.ways) < 20


async def test_of_names_without_end_none_is_kept(proxy_env: ProxyEnv) -> None:
    client, catalogue = await known(proxy_env), proxy_env.proxy.catalogue
    catalogue._of_any_name = catalogue.by_name["alpha"]
    for number in range(3):
        assert (await client.ask(post(chat(model=f"name-{number}"), USUAL))).raw == OK
    head = proxy_env.proxy.front.known_heads.latest
    assert head is not None
    assert [*head.ways] == ["org/alpha"]


async def test_a_request_for_which_there_is_no_memory_is_refused_by_its_own_name(tmp_path: Path) -> None:
    proxy, named = replace(QUIET, request_id_headers=("x-request-id",)), USUAL + b"X-Request-Id: mine\r\n"
    path = b"/v1/messages"
    async with open_proxy_env(tmp_path, proxy=proxy, buffer_memory=200) as proxy_env:
        client = await proxy_env.connect()
        for _ in range(3):
            assert (await client.ask(post(chat(), named, path=path))).status == 200
        reply = await client.ask(post(chat(pad="x" * 200), named, path=path))
        assert (reply.status, reply.json["error"]["code"]) == (503, "buffer_memory_exhausted")
        assert reply.json["type"] == "error"  # as Anthropic's clients know it
        assert (reply.header(b"x-request-id"), reply.header(b"connection")) == (b"mine", b"close")
        await client.closed()
        assert proxy_env.proxy.front.held == 0
