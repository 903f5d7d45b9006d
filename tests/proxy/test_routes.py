"""What may be asked for, and how the rest is refused."""

from pathlib import Path

import pytest
import trio

from muxd.config.names import few
from tests.proxy.nameless import NAMELESS

from .http_client import chat, get, post
from .proxy_env import ProxyEnv, open_proxy_env
from .record import PATIENCE

GENERATE = (
    b"chat/completions completions embeddings classify score rerank responses tokenize detokenize "
    b"messages messages/count_tokens"
).split()
CONTROL = (
    b"release_memory_occupation resume_memory_occupation pause_generation continue_generation flush_cache "
    b"abort_request update_weights_from_disk v1/loads get_server_info server_info v1 v1/chat v1/v1/completions "
    b"v1/%2fcompletions v1/chat/completions%00 v1/chat/../flush_cache v1/chat/completions;x"
).split()


async def test_every_generating_route_is_passed_on(proxy_env: ProxyEnv) -> None:
    for route in GENERATE:
        assert (await proxy_env.ask(post(chat(), path=b"/v1/" + route))).status == 200
        assert proxy_env.alpha.calls[-1].head.startswith(b"POST /v1/" + route + b" HTTP/1.1\r\n")


async def test_nothing_else_reaches_a_worker(proxy_env: ProxyEnv) -> None:
    """As tests/proxy/requests/test_routes judges it; here it is seen on the wire."""
    for route in CONTROL:
        for data in (post(chat(), path=b"/" + route), get(b"/" + route)):
            reply = await proxy_env.ask(data)
            assert (route, reply.status, reply.code) == (route, 404, "route_not_found")
    assert not proxy_env.alpha.calls


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [(b"GET", b"/v1/completions", b"POST"), (b"PUT", b"/health", b"GET"), (b"DELETE", b"/v1/models/beta", b"GET")],
)
async def test_a_wrong_method_is_told_the_right_one(
    proxy_env: ProxyEnv, method: bytes, path: bytes, allowed: bytes
) -> None:
    reply = await proxy_env.ask(get(path, method))
    assert (reply.status, reply.code, reply.header(b"allow")) == (405, "method_not_allowed", allowed)


@pytest.mark.parametrize(("body", "code"), NAMELESS)
async def test_a_body_that_names_no_model_is_a_bad_request(proxy_env: ProxyEnv, body: bytes, code: str) -> None:
    reply = await proxy_env.ask(post(body))
    assert (reply.status, reply.code) == (400, code)


async def test_a_bad_request_leaves_the_connection_usable(proxy_env: ProxyEnv) -> None:
    http_client = await proxy_env.connect()
    assert (await http_client.ask(post(b"{}"))).status == 400
    assert (await http_client.ask(post(chat()))).status == 200


async def test_of_two_models_in_a_body_the_last_counts_as_it_does_in_the_worker(proxy_env: ProxyEnv) -> None:
    assert (await proxy_env.ask(post(b'{"model": "nobody", "model": "alpha"}', path=b"/v1/completions"))).status == 200


async def test_an_unknown_model_is_told_what_there_is(proxy_env: ProxyEnv) -> None:
    reply = await proxy_env.ask(post(chat("gpt-9")))
    assert (reply.status, reply.code, reply.json["error"]["param"]) == (404, "model_not_found", "model")
    assert reply.message == "there is no model 'gpt-9'; there are: alpha, org/alpha, alpha-mini, beta"


async def test_of_thousands_of_models_a_few_are_told(proxy_env: ProxyEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muxd.proxy.dispatcher.few", lambda names: few(names, 2))
    said = (await proxy_env.ask(post(chat("gpt-9")))).message
    assert said.endswith("; there are: alpha, org/alpha and 2 more: GET /v1/models lists them all")


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("BETA", "beta"),
        ("betta", "beta"),
        ("Org/Alpha", "org/alpha"),
        ("alpha_mini", "alpha-mini"),
        ("Beta:latest", "beta"),
        ("BETA:70b-q4", "beta"),
    ],
)
async def test_a_model_misspelt_is_told_which_was_meant(proxy_env: ProxyEnv, asked: str, meant: str) -> None:
    assert f"{asked!r}; did you mean {meant}? There are: alpha, " in (await proxy_env.ask(post(chat(asked)))).message
    assert f"did you mean {meant}?" in (await proxy_env.ask(get(b"/v1/models/" + asked.encode()))).message


async def test_models_are_listed_by_their_own_names_and_their_served_ones(proxy_env: ProxyEnv) -> None:
    proxy_env.muxd.set_state("beta", "ready")
    await proxy_env.muxd.calls.until("GET /v1/status")
    for path in (b"/models", b"/v1/models", b"/v1/models/"):
        listing = (await proxy_env.ask(get(path))).json
        assert listing["object"] == "list"
        assert [card["id"] for card in listing["data"]] == ["alpha", "org/alpha", "alpha-mini", "beta"]
        assert [card["root"] for card in listing["data"]] == ["alpha", "alpha", "alpha", "beta"]
        assert set(listing["data"][0]) == {
            "id", "object", "created", "owned_by", "permission", "root", "parent", "state",
        }  # fmt: skip


@pytest.mark.parametrize("asked", [b"org/alpha", b"org%2Falpha", b"alpha"])
async def test_one_model_is_shown_by_any_of_its_names(proxy_env: ProxyEnv, asked: bytes) -> None:
    card = (await proxy_env.ask(get(b"/v1/models/" + asked))).json
    assert (card["id"], card["root"], card["state"]) == (asked.replace(b"%2F", b"/").decode(), "alpha", "unloaded")


@pytest.mark.parametrize("args", [("--tp", "2", "--context-length", "32768"), ("--context-length=32768",)])
async def test_how_long_a_text_may_be_is_listed_where_the_flags_say(tmp_path: Path, args: tuple[str, ...]) -> None:
    async with open_proxy_env(tmp_path, model={"args": args}) as proxy_env:
        http_client = await proxy_env.connect()
        assert (await http_client.ask(get(b"/v1/models/beta"))).json["max_model_len"] == 32768


async def test_how_long_a_text_may_be_is_listed_where_the_worker_said_so_and_remembered_without_muxd(
    tmp_path: Path,
) -> None:
    async with open_proxy_env(tmp_path, model={"args": ("--context-length=8",)}, muxd_up=False) as proxy_env:
        http_client = await proxy_env.connect()
        assert (await http_client.ask(get(b"/v1/models/beta"))).json["max_model_len"] == 8
        proxy_env.muxd.models[1]["max_model_len"] = 4096
        async with proxy_env.muxd.running():
            while (await http_client.ask(get(b"/v1/models/beta"))).json["max_model_len"] == 8:
                await trio.sleep(0.01)
        while b"degraded" not in (await http_client.ask(get(b"/health"))).body:
            await trio.sleep(0.01)
        cards = (await http_client.ask(get(b"/v1/models"))).json["data"]
        assert [card["max_model_len"] for card in cards] == [8, 8, 8, 4096]


async def test_native_routes_need_no_name_of_a_model_where_there_is_one_only(proxy_env: ProxyEnv) -> None:
    nameless = post(b'{"text": "hi"}', path=b"/generate")
    reply = await proxy_env.ask(nameless)
    assert (reply.status, reply.code) == (400, "invalid_model")
    assert "x-muxd-model" in reply.message
    proxy_env.muxd.models.pop()
    proxy_env.muxd.settings["models"].pop("beta")
    proxy_env.muxd.tell("reload")
    http_client = await proxy_env.connect()
    while (reply := await http_client.ask(nameless)).status == 400:
        pass
    assert reply.status == 200
    assert proxy_env.alpha.calls[0].body == b'{"text": "hi"}'


async def test_a_model_that_is_not_there_is_not_shown(proxy_env: ProxyEnv) -> None:
    assert (await proxy_env.ask(get(b"/v1/models/nobody"))).code == "model_not_found"


async def test_a_models_state_follows_muxds_events(proxy_env: ProxyEnv) -> None:
    http_client = await proxy_env.connect()
    proxy_env.muxd.set_state("alpha", "ready")
    seen = len(proxy_env.muxd.calls)
    while (await http_client.ask(get(b"/v1/models/alpha"))).json["state"] != "ready":
        await proxy_env.muxd.calls.nth(seen)


async def test_head_gets_the_head_alone(proxy_env: ProxyEnv) -> None:
    http_client = await proxy_env.connect()
    await http_client.send(get(b"/v1/models", b"HEAD") + get(b"/v1/models"))
    bare = await http_client.reply(to_head=True)
    whole = await http_client.reply()
    assert bare.head == whole.head
    assert whole.json["object"] == "list"


async def test_health_tells_the_active_model(proxy_env: ProxyEnv) -> None:
    health = await proxy_env.ask(get(b"/health"))
    assert (health.status, health.json) == (200, {"status": "ok", "active_model": None, "muxd": "connected"})
    await proxy_env.ask(post(chat()))
    assert (await proxy_env.ask(get(b"/health"))).json["active_model"] == "org/alpha", "as it is listed, and asked for"


async def test_without_muxd_health_is_degraded_and_the_configured_models_are_still_listed(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, muxd_up=False) as proxy_env:
        health = await proxy_env.ask(get(b"/health"))
        assert (health.status, health.json) == (
            200,
            {"status": "degraded", "active_model": None, "muxd": "unreachable"},
        )
        listing = (await proxy_env.ask(get(b"/v1/models"))).json
        assert {card["state"] for card in listing["data"]} == {"unknown"}


async def test_what_a_muxd_that_is_gone_said_of_a_model_is_not_said_on(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, muxd_up=False) as proxy_env:
        async with proxy_env.muxd.running():
            proxy_env.muxd.set_state("alpha", "ready")
            await _states(proxy_env, {"ready", "unloaded"})
        await _states(proxy_env, {"unknown"})


async def _states(proxy_env: ProxyEnv, expected: set[str]) -> None:
    """Return once these are what the listing says."""
    with trio.fail_after(PATIENCE):
        while {card["state"] for card in (await proxy_env.ask(get(b"/v1/models"))).json["data"]} != expected:
            await trio.sleep(0.01)
