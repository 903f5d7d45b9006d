"""What only reads, of a model that is awake or not: it wakes nobody, and is no use of its model."""

import pytest

from .conftest import OTHER, with_key
from .http_client import chat, get, post
from .proxy_env import ProxyEnv
from .worker import OK, Call, answer_when_released

READS = b"ready ping metrics v1/loads model_info get_model_info v1/responses/resp_1".split()


@pytest.mark.parametrize("state", ["stopped", "asleep", "starting", "waking", "draining", "failed", "unloaded"])
async def test_reading_of_a_model_that_is_not_awake_asks_for_nothing(proxy_env: ProxyEnv, state: str) -> None:
    proxy_env.muxd.set_state("beta", state)
    http_client = await proxy_env.connect()
    while (await http_client.ask(get(b"/v1/models/beta"))).json["state"] != state:
        pass
    for path in READS:
        reply = await http_client.ask(get(b"/upstream/beta/" + path))
        assert (reply.status, reply.code, reply.header(b"retry-after")) == (503, "model_asleep", None)
        assert f"beta is not awake ({state})" in reply.message
        assert f"muxctl {'start' if state == 'stopped' else 'switch'} beta" in reply.message
    listed = (await http_client.ask(get(b"/upstream/beta/v1/models"))).json
    assert [card["id"] for card in listed["data"]] == ["beta"]
    assert not proxy_env.muxd.leases
    assert not proxy_env.beta.calls


async def test_reading_of_an_awake_model_needs_no_lease(proxy_env: ProxyEnv) -> None:
    proxy_env.muxd.models[1]["url"] = proxy_env.beta.url
    proxy_env.muxd.set_state("beta", "ready")
    http_client = await proxy_env.connect()
    while (reply := await http_client.ask(get(b"/upstream/beta/metrics"))).status == 503:
        pass
    assert reply.raw == OK
    assert not proxy_env.muxd.leases


async def test_reading_is_no_use_of_its_model(proxy_env: ProxyEnv) -> None:
    """Whoever is told that it is in use would let it keep its turn, and drain it first."""
    proxy_env.alpha.answer = answer_when_released
    client, http_client = await proxy_env.connect(), await proxy_env.connect()
    await client.send(post(chat()))
    await proxy_env.alpha.calls.nth(0)
    await http_client.send(get(b"/upstream/alpha/ready"))
    await proxy_env.alpha.calls.nth(1)
    assert proxy_env.proxy.leases.of("alpha").figures() == (1, 0)
    proxy_env.alpha.calls[0].released.set()
    await (await proxy_env.lease()).reports.until((0, 0))
    proxy_env.alpha.calls[1].released.set()
    assert (await http_client.reply()).raw == OK


async def test_a_reading_that_loses_its_worker_wakes_no_other(proxy_env: ProxyEnv) -> None:
    async def answer_last(call: Call) -> None:
        await call.send(OK.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))

    proxy_env.alpha.answer = answer_last  # on a connection that is kept, the reading might be sent a second time
    await proxy_env.ask(post(chat()))
    proxy_env.alpha.answer = answer_when_released
    http_client = await proxy_env.connect()
    await http_client.send(get(b"/upstream/alpha/ready"))
    (await proxy_env.alpha.calls.nth(1)).reset()
    reply = await http_client.reply()
    assert (reply.status, reply.code) == (502, "worker_died")
    assert len(proxy_env.muxd.leases) == 1


async def test_a_key_for_another_model_reads_nothing_of_this_one(locked: ProxyEnv) -> None:
    for path in (b"ready", b"v1/models"):
        reply = await locked.ask(with_key(get(b"/upstream/alpha/" + path), OTHER))
        assert (reply.status, reply.code) == (403, "model_not_allowed")


async def test_upstream_reaches_what_only_reads(proxy_env: ProxyEnv) -> None:
    await proxy_env.ask(post(chat()))
    assert (await proxy_env.ask(get(b"/upstream/org/alpha/model_info"))).raw == OK
    assert proxy_env.alpha.calls[1].head.startswith(b"GET /model_info HTTP/1.1\r\n")
    assert b"ontent-" not in proxy_env.alpha.calls[1].head
    for path in (b"server_info", b"flush_cache", b"v1/chat/completions"):
        assert (await proxy_env.ask(get(b"/upstream/alpha/" + path))).status == 404
