"""Doors and names at the proxy: who may use which model, what it is called, and what reaches its worker."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from muxd.proxy.answers import Refusal
from muxd.proxy.sockets.stream_formats import EVENTS
from tests.seeds import thorough

from .conftest import OTHER, SECRET, bearer, with_key
from .http_client import chat, get, post
from .proxy_env import QUIET, ProxyEnv, open_proxy_env
from .worker import OK, OK_BODY

WITH_ADAPTERS = {"args": ("--enable-lora",)}


async def test_without_a_key_nothing_but_health_is_told(locked: ProxyEnv) -> None:
    for request in (post(chat()), get(b"/v1/models"), get(b"/metrics"), get(b"/api/tags")):
        reply = await locked.ask(request)
        assert (reply.status, reply.header(b"www-authenticate")) == (401, b"Bearer")
    for path in (b"/health", b"/health/", b"//health", b"/health?x"):
        assert (await locked.ask(get(path))).json == {"status": "ok", "muxd": "connected"}
    assert not locked.alpha.calls


async def test_a_key_opens_and_stays_with_the_proxy(locked: ProxyEnv) -> None:
    assert (await locked.ask(post(chat(), bearer(SECRET)))).raw == OK
    assert b"uthorization" not in locked.alpha.calls[0].head


async def test_a_workers_own_credentials_pass_where_there_are_no_keys(proxy_env: ProxyEnv) -> None:
    await proxy_env.ask(post(chat(), bearer("hf_something")))
    assert bearer("hf_something").strip() in proxy_env.alpha.calls[0].head


async def test_a_key_for_some_models_is_for_no_other_and_shows_no_other(locked: ProxyEnv) -> None:
    reply = await locked.ask(post(chat(), bearer(OTHER)))
    assert (reply.status, reply.code) == (403, "model_not_allowed")
    models = (await locked.ask(with_key(get(b"/v1/models"), OTHER))).json["data"]
    assert [model["id"] for model in models] == ["beta"]
    assert (await locked.ask(with_key(get(b"/v1/models/alpha"), OTHER))).status == 403
    assert "alpha" not in (await locked.ask(post(chat("gamma"), bearer(OTHER)))).message


async def test_too_many_requests_of_a_key_are_refused_and_each_answer_tells_how_many_are_left(locked: ProxyEnv) -> None:
    first = await locked.ask(post(chat("beta"), bearer(OTHER)))
    assert (first.status, first.header(b"x-ratelimit-remaining-requests")) == (200, b"1")
    await locked.ask(post(chat("beta"), bearer(OTHER)))
    refused = await locked.ask(post(chat("beta"), bearer(OTHER)))
    assert (refused.status, refused.code) == (429, "rate_limit_exceeded")
    assert refused.json["error"]["type"] == "rate_limit_error"
    assert int(refused.header(b"retry-after") or b"0") in range(1, 31)
    assert refused.header(b"x-ratelimit-limit-requests") == b"2"


async def test_a_revoked_key_is_refused_with_the_next_request(locked: ProxyEnv) -> None:
    http_client = await locked.connect()
    assert (await http_client.ask(post(chat(), bearer(SECRET)))).status == 200
    for entry in locked.muxd.settings["keys"]:
        entry["revoked"] = True
    locked.muxd.tell("reload")
    while (reply := await http_client.ask(post(chat(), bearer(SECRET)))).status == 200:
        pass
    assert (reply.status, reply.code) == (401, "invalid_api_key")


async def test_metrics_are_for_keys_that_may_use_everything(locked: ProxyEnv) -> None:
    reply = await locked.ask(with_key(get(b"/metrics")))
    assert (reply.status, reply.header(b"content-type")[:10]) == (200, b"text/plain")  # type: ignore[index]
    assert (await locked.ask(with_key(get(b"/metrics"), OTHER))).code == "metrics_not_allowed"


async def test_a_keys_priority_is_told_to_muxd(locked: ProxyEnv) -> None:
    locked.muxd.grants.clear()
    http_client = await locked.connect()
    await http_client.send(post(chat(), bearer(SECRET)))
    assert (await locked.lease()).asked[0].priority == 2


async def test_metrics_tell_of_a_request_as_soon_as_it_has_ended(proxy_env: ProxyEnv) -> None:
    await proxy_env.ask(post(chat()))
    page = (await proxy_env.ask(get(b"/metrics"))).body
    told = b'muxd_requests_total{model="alpha",route="/v1/chat/completions",status="200"} 1.0'
    assert told in page
    assert b"muxd_up 0.0" in page or b"muxd_up 1.0" in page


@pytest.mark.parametrize("asked", ["org/alpha", "alpha-mini", "alpha", "org/alpha:my-adapter"])
async def test_a_model_has_several_names_and_adapters(tmp_path: Path, asked: str) -> None:
    async with open_proxy_env(tmp_path, model=WITH_ADAPTERS) as proxy_env:
        body = chat(asked)
        assert (await proxy_env.ask(post(body))).raw == OK
        assert proxy_env.alpha.calls[0].body == body


@pytest.mark.parametrize("asked", ["gpt-4o", "someone/else:and:this", "nobody:adapter"])
async def test_a_model_of_any_name_takes_those_that_no_model_has_as_they_are(tmp_path: Path, asked: str) -> None:
    async with open_proxy_env(tmp_path, model={"any_name": True}) as proxy_env:
        body = chat(asked)
        assert (await proxy_env.ask(post(body))).raw == OK
        assert proxy_env.alpha.calls[0].body == body
        assert b'"gpt-4o"' not in (await proxy_env.ask(get(b"/v1/models"))).body


@pytest.mark.parametrize(
    "path", [b"/v1/chat/completions", b"/v1/completions", b"/v1/messages", b"/v1/embeddings", b"/tokenize"]
)
async def test_a_model_that_takes_no_adapters_is_not_switched_to_for_one(proxy_env: ProxyEnv, path: bytes) -> None:
    body = msgspec.json.encode({"model": "alpha-mini:foo", "messages": [{}], "prompt": "x", "input": "x"})
    reply = await proxy_env.ask(post(body, path=path))
    assert (reply.status, reply.json["error"]["code"]) == (404, "model_not_found")
    assert reply.json["error"]["message"] == (
        "there is no model 'alpha-mini:foo'; did you mean org/alpha? "
        "It takes no adapters, without --enable-lora or --lora-paths in its args"
    )
    assert not proxy_env.muxd.leases
    assert (await proxy_env.ask(get(b"/v1/models/alpha:foo"))).code == "model_not_found"
    assert (await proxy_env.ask(post(chat("alpha:latest")))).status == 200, "a tag that means nothing"


async def test_a_key_learns_nothing_of_the_adapters_of_models_that_are_not_for_it(locked: ProxyEnv) -> None:
    assert (await locked.ask(post(chat("alpha:foo"), bearer(OTHER)))).status == 403


@pytest.mark.parametrize(("asked", "status"), [("alpha:latest", 200), ("alpha", 200), ("alpha:70b", 404)])
async def test_ollamas_clients_may_add_a_tag_that_means_nothing(proxy_env: ProxyEnv, asked: str, status: int) -> None:
    reply = await proxy_env.ask(post(chat(asked), path=b"/api/chat"))
    assert reply.status == status
    if status == 404:
        assert set(reply.json) == {"error"}


async def test_what_cannot_be_read_is_refused_in_the_shape_of_the_route(proxy_env: ProxyEnv) -> None:
    assert set((await proxy_env.ask(post(b"{", path=b"/api/chat"))).json) == {"error"}
    anthropic = (await proxy_env.ask(post(chat("gamma"), path=b"/v1/messages"))).json
    assert (anthropic["type"], anthropic["error"]["code"]) == ("error", "model_not_found")


async def test_a_models_settings_change_its_requests_and_nothing_else(tmp_path: Path) -> None:
    terms = {"upstream_name": "real/name", "set_params": {"temperature": 0.5}, "strip_params": ("seed",)}
    async with open_proxy_env(tmp_path, model=terms) as proxy_env:
        body = b'{"model": "alpha",  "seed": 7, "x": "\\u00e4", "temperature": 2}'
        assert (await proxy_env.ask(post(body, path=b"/v1/completions"))).raw == OK
        call = proxy_env.alpha.calls[0]
        assert call.body == b'{"model": "real/name", "x": "\\u00e4", "temperature": 0.5}'
        assert b"Content-Length: %d" % len(call.body) in call.head
        assert proxy_env.proxy.front.held == 0


async def test_an_adapter_is_asked_for_by_the_models_upstream_name_and_ollamas_tag_is_none(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, model={"upstream_name": "real/name", **WITH_ADAPTERS}) as proxy_env:
        await proxy_env.ask(post(chat("alpha:ad1")))
        await proxy_env.ask(post(chat("alpha:latest"), path=b"/api/chat"))
        assert b'"real/name:ad1"' in proxy_env.alpha.calls[0].body
        assert b'"real/name"' in proxy_env.alpha.calls[1].body


async def test_a_server_that_may_be_older_than_its_other_names_is_asked_by_the_first(tmp_path: Path) -> None:
    terms = {"engine": "vllm", "model_path": "o/a", "any_name": True}  # org/alpha, and alpha-mini
    async with open_proxy_env(tmp_path, model=terms) as proxy_env:
        for name in ("alpha-mini", "alpha", "org/alpha", "unknown"):
            assert (await proxy_env.ask(post(chat(name)))).status == 200
        asked = [msgspec.json.decode(call.body)["model"] for call in proxy_env.alpha.calls]
        assert asked == ["org/alpha", "org/alpha", "org/alpha", "unknown"]


async def test_a_model_of_embeddings_is_not_asked_for_text(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, model={"args": ("--is-embedding",)}) as proxy_env:
        reply = await proxy_env.ask(post(chat()))
        assert (reply.status, reply.code) == (400, "not_a_text_model")
        assert not proxy_env.alpha.calls
        assert (await proxy_env.ask(post(chat(), path=b"/v1/embeddings"))).raw == OK
        for keep_alive, reason in ((0, "unload"), (60, "load")):  # by that route `ollama stop` has any model let go
            body = msgspec.json.encode({"model": "alpha", "keep_alive": keep_alive})
            assert (await proxy_env.ask(post(body, path=b"/api/generate"))).json["done_reason"] == reason


@pytest.mark.parametrize("path", [b"/v1/embeddings", b"/embeddings", b"/encode", b"/api/embed", b"/api/embeddings"])
async def test_a_model_whose_server_generates_text_is_not_switched_to_for_embeddings(
    tmp_path: Path, path: bytes
) -> None:
    async with open_proxy_env(tmp_path) as proxy_env:
        beta = proxy_env.muxd.models[1]
        body = msgspec.json.encode({"model": "beta", "input": "x", "prompt": "x", "text": "x"})
        beta["is_generation"] = True
        proxy_env.muxd.set_state("beta", "asleep")
        catalogue = proxy_env.proxy.catalogue
        while not (found := catalogue.find("beta")) or found.makes != "text":
            await trio.sleep(0.01)
        reply = await proxy_env.ask(post(body, path=path))
        assert reply.status == 400
        assert b"generates text, its server said" in reply.body
        assert not proxy_env.muxd.leases
        beta["is_generation"] = None
        proxy_env.muxd.set_state("beta", "unloaded")
        while found.makes == "text":
            await trio.sleep(0.01)


async def test_a_model_whose_server_makes_vectors_is_not_switched_to_for_text(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path) as proxy_env:
        proxy_env.muxd.models[1]["is_generation"] = False
        proxy_env.muxd.set_state("beta", "asleep")
        catalogue = proxy_env.proxy.catalogue
        while not (found := catalogue.find("beta")) or found.makes != "embeddings":
            await trio.sleep(0.01)
        body = msgspec.json.encode({"model": "beta", "messages": [{"role": "user", "content": "x"}]})
        reply = await proxy_env.ask(post(body))
        assert (reply.status, reply.code) == (400, "not_a_text_model")
        assert not proxy_env.muxd.leases


async def test_a_request_id_goes_to_the_worker_and_back(tmp_path: Path) -> None:
    async with open_proxy_env(
        tmp_path, proxy=replace(QUIET, request_id_headers=("x-request-id", "x-trace-id"))
    ) as proxy_env:
        made = await proxy_env.ask(post(chat()))
        id = made.header(b"x-request-id") or b""
        assert id
        assert b"x-request-id: " + id in proxy_env.alpha.calls[0].head
        given = await proxy_env.ask(post(chat(), b"X-Trace-Id: mine\r\n"))
        assert given.header(b"x-trace-id") == b"mine"
        assert given.body == OK_BODY
        assert (await proxy_env.ask(post(chat("gamma"), b"X-Trace-Id: mine\r\n"))).header(b"x-trace-id") == b"mine"


@pytest.mark.parametrize(
    ("asked", "told"),
    [("alpha:latest", "alpha"), ("org/alpha:latest", "alpha"), ("alpha:ad1:latest", "alpha:ad1"), ("a:14b", "alpha")],
)
async def test_a_worker_sees_no_colon_but_an_adapters(tmp_path: Path, asked: str, told: str) -> None:
    """What follows one is an adapter to SGLang, whatever muxd knows by that name."""
    async with open_proxy_env(tmp_path, model=WITH_ADAPTERS) as proxy_env:
        proxy_env.muxd.settings["models"]["alpha"]["served_names"] += ["a:14b"]
        proxy_env.muxd.tell("reload")
        http_client = await proxy_env.connect()
        while (await http_client.ask(get(b"/v1/models/a:14b"))).status == 404:
            pass
        assert (await http_client.ask(post(chat(asked)))).status == 200
        assert proxy_env.alpha.calls[0].body == chat(told)


async def test_anthropics_clients_are_told_in_anthropics_words(locked: ProxyEnv) -> None:
    """Their retries go by it."""
    for path in (b"/v1/messages", b"/messages", b"/v1//messages/?beta=true"):
        told = []
        for request in (
            post(chat(), path=path),
            post(b"{", bearer(SECRET), path=path),
            post(chat("gamma"), bearer(SECRET), path=path),
            post(chat(), bearer(OTHER), path=path),
        ):
            error = (await locked.ask(request)).json
            told.append((error["type"], error["error"]["type"]))
        kinds = ["authentication_error", "invalid_request_error", "not_found_error", "permission_error"]
        assert told == [("error", kind) for kind in kinds]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(429, "rate_limit_error"), (503, "overloaded_error"), (502, "api_error"), (504, "timeout_error")],
)
def test_anthropics_kinds_of_errors(status: int, kind: str) -> None:
    refusal = Refusal(status, "x", "y")
    assert refusal.as_json("/v1/v1/messages")["error"]["type"] == kind  # base_url has one /v1 too many
    assert refusal.as_json("/v1/messages/count_tokens")["error"]["type"] == kind
    assert b'"type":"%b"' % kind.encode() in refusal.part(EVENTS, "/v1/messages")
    assert refusal.as_json("/v1/messages2")["error"]["type"] != kind or status == 429


async def test_the_route_of_a_model_in_a_form(proxy_env: ProxyEnv) -> None:
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n\x00\xff\r\n'
    form += b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nalpha-mini\r\n--b--\r\n'
    head = b"Content-Type: multipart/form-data; boundary=b\r\n"
    assert (await proxy_env.ask(post(form, head, path=b"/v1/audio/transcriptions"))).raw == OK
    assert proxy_env.alpha.calls[0].body == form


NO_TIME = [b"0", b'"0"', b'"0s"', b'"0m"', b"0.0", b"-0", b"0e1", b'"-0s"', b'"0h0m0.0s"', '"0µs"'.encode()]
NO_PROMPT = [b"", b', "prompt": ""', b', "messages": [ ]', b', "prompt": null, "stream": false']


@pytest.mark.parametrize(
    ("keep_alive", "rest"),
    [
        *((keep_alive, b"") for keep_alive in NO_TIME),
        *((b"0", rest) for rest in NO_PROMPT[1:]),
        *thorough(*product(NO_TIME[1:], NO_PROMPT[1:])),
    ],
)
async def test_ollamas_unload_wakes_nothing(proxy_env: ProxyEnv, keep_alive: bytes, rest: bytes) -> None:
    for path in (b"/api/generate", b"/api/chat"):
        told = (
            await proxy_env.ask(post(b'{"model": "beta", "keep_alive": %b%b}' % (keep_alive, rest), path=path))
        ).json
        assert (told["model"], told["done"], told["done_reason"]) == ("beta", True, "unload")
        assert told.get("response", told.get("message", {}).get("content")) == ""
    assert not proxy_env.muxd.leases


async def test_only_who_may_use_a_model_lets_it_go(locked: ProxyEnv) -> None:
    for model, status in (("alpha", 403), ("beta", 200)):
        body = msgspec.json.encode({"model": model, "keep_alive": 0})
        assert (await locked.ask(post(body, bearer(OTHER), path=b"/api/generate"))).status == status
    assert await locked.muxd.unloads.nth(0) == "beta"
    assert len(locked.muxd.unloads) == 1


@pytest.mark.parametrize("more", [{"keep_alive": 0}, {"keep_alive": "0s", "prompt": "hi"}, {"keep_alive": "5m"}, {}])
async def test_ollamas_requests_with_something_to_answer_are_answered(
    proxy_env: ProxyEnv, more: dict[str, Any]
) -> None:
    body = chat("alpha", **more)
    assert (await proxy_env.ask(post(body, path=b"/api/chat"))).raw == OK
    assert proxy_env.alpha.calls[0].body == body


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"prompt": ""},
        {"messages": [], "keep_alive": -1},
        {"keep_alive": "-0.1s"},
        {"keep_alive": "5m0s", "stream": False},
    ],
)
async def test_ollamas_preload_waits_for_its_model_and_asks_it_nothing(
    proxy_env: ProxyEnv, more: dict[str, Any]
) -> None:
    for path in (b"/api/generate", b"/api/chat"):
        body = msgspec.json.encode({"model": "alpha", **more})
        told = (await proxy_env.ask(post(body, path=path))).json
        assert (told["model"], told["done"], told["done_reason"]) == ("alpha", True, "load")
    assert len(proxy_env.muxd.leases) == 1
    assert not proxy_env.alpha.calls
    assert proxy_env.proxy.leases.of("alpha").figures() == (0, 0)
