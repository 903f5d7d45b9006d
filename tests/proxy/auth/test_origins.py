"""Browsers' pages: what they may read, and that they switch nothing that the operator did not open to them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.conftest import bearer, key
from tests.proxy.http_client import CHAT, Reply, chat, get, post
from tests.proxy.proxy_env import QUIET, ProxyEnv, open_proxy_env
from tests.proxy.worker import SSE_HEAD, Call, event
from tests.seeds import thorough

PAGE, EVIL = b"https://chat.example", b"https://evil.example"
SECRET = "muxd-secret"
KEYED: dict[str, Any] = {"keys": (key("all", SECRET),)}
LISTED: dict[str, Any] = {"proxy": replace(QUIET, allow_origins=(PAGE.decode(), "http://localhost:3000"))}
NONE: dict[str, Any] = {"proxy": replace(QUIET, allow_origins=())}
OPEN: dict[str, Any] = {"proxy": replace(QUIET, allow_origins=("*",))}


def of(origin: bytes, data: bytes) -> bytes:
    return data.replace(b"\r\n", b"\r\nOrigin: %b\r\n" % origin, 1)


def preflight(origin: bytes, path: bytes = CHAT, more: bytes = b"") -> bytes:
    asks = b"Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization,content-type\r\n"
    return b"OPTIONS %b HTTP/1.1\r\nHost: muxd.test\r\nOrigin: %b\r\n%b%b\r\n" % (path, origin, asks, more)


def allowed(reply: Reply) -> list[bytes]:
    head = b"\r\n" + reply.head
    return [
        line.partition(b": ")[2] for line in head.split(b"\r\n") if line.lower().startswith(b"access-control-allow-o")
    ]


async def sglang(call: Call) -> None:
    """As its CORSMiddleware answers, asked or not."""
    said = b"Access-Control-Allow-Origin: *\r\naccess-control-allow-credentials: true\r\n"
    await call.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n" + said + b"content-length: 2\r\n\r\n{}")


OWN = {
    "list": (get(b"/v1/models"), 200),
    "one": (get(b"/v1/models/alpha"), 200),
    "tags": (get(b"/api/tags"), 200),
    "metrics": (get(b"/metrics"), 200),
    "health": (get(b"/health"), 200),
    "no model": (post(chat("gamma")), 404),
    "no route": (get(b"/nowhere"), 404),
    "no json": (post(b"{"), 400),
    "no content type": (post(chat(), b"Content-Type: text/plain\r\n"), 415),
    "too large": (b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999\r\n\r\n" % CHAT, 413),
}


@pytest.mark.parametrize(("data", "status"), OWN.values(), ids=OWN)
async def test_on_loopback_without_keys_every_page_may_read_the_proxys_own_answers(
    proxy_env: ProxyEnv, data: bytes, status: int
) -> None:
    reply = await proxy_env.ask(of(EVIL, data))
    assert (reply.status, allowed(reply)) == (status, [b"*"])
    assert not allowed(await proxy_env.ask(data))  # no page asks


@pytest.mark.parametrize("path", [CHAT, b"/v1/models", b"/api/chat", b"/upstream/alpha/ready"])
async def test_a_preflight_is_answered_with_what_the_page_wants_to_send(proxy_env: ProxyEnv, path: bytes) -> None:
    http_client = await proxy_env.connect()
    reply = await http_client.ask(preflight(PAGE, path))
    assert (reply.status, allowed(reply), reply.body) == (200, [b"*"], b"")
    assert reply.header(b"access-control-allow-headers") == b"authorization,content-type"
    assert b"POST" in (reply.header(b"access-control-allow-methods") or b"")
    assert int(reply.header(b"access-control-max-age") or 0) > 0
    assert (await http_client.ask(post(chat()))).status == 200
    assert len(proxy_env.muxd.leases) == 1


async def test_options_that_no_page_asks_for_are_no_preflight(proxy_env: ProxyEnv) -> None:
    assert (await proxy_env.ask(get(CHAT, method=b"OPTIONS"))).status == 405
    assert (await proxy_env.ask(of(PAGE, get(CHAT, method=b"OPTIONS")))).status == 405


async def test_what_the_worker_says_passes_where_nothing_is_configured(tmp_path: Path) -> None:
    for more in ({}, KEYED):
        async with open_proxy_env(tmp_path, **more) as proxy_env:
            proxy_env.alpha.answer = sglang
            reply = await proxy_env.ask(of(EVIL, post(chat(), bearer(SECRET))))
            assert allowed(reply) == [b"*"]
            assert reply.header(b"access-control-allow-credentials") == b"true"


async def test_the_head_of_a_stream_of_comments_may_be_read_too(tmp_path: Path) -> None:
    for more, wanted in (({"proxy": QUIET}, b"*"), (LISTED, PAGE)):
        proxy = replace(more["proxy"], comment_interval=0.05)
        async with open_proxy_env(tmp_path, granted=False, proxy=proxy) as proxy_env:
            http_client = await proxy_env.connect()
            await http_client.send(of(PAGE, post(chat(stream=True))))
            head = bytes(await http_client.until(b": muxd:")).partition(b"\r\n\r\n")[0]
            assert allowed(Reply(head, b"")) == [wanted]


async def test_elsewhere_the_proxys_own_answers_say_nothing(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, **KEYED) as proxy_env:
        for data in (get(b"/health"), get(b"/v1/models")):
            assert not allowed(await proxy_env.ask(of(PAGE, data)))
        reply = await proxy_env.ask(preflight(PAGE))
        assert (reply.status, reply.code, allowed(reply)) == (403, "origin_not_allowed", [])
        assert "allow_origins" in reply.message
        assert (await proxy_env.ask(of(PAGE, post(chat(), bearer(SECRET))))).status == 200


async def test_a_configured_origin_is_named_on_every_answer_once(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, **LISTED, **KEYED) as proxy_env:
        proxy_env.alpha.answer = sglang
        asked = await proxy_env.ask(preflight(PAGE))
        assert (asked.status, allowed(asked)) == (200, [PAGE])  # without a key: a http_client sends none
        for data, status in (
            (get(b"/v1/models"), 401),
            (post(chat()), 401),
            (NO_BODY_YET, 401),
            (post(chat("gamma"), bearer(SECRET)), 404),
            (post(chat(), bearer(SECRET)), 200),
        ):
            reply = await proxy_env.ask(of(PAGE, data))
            assert (reply.status, allowed(reply)) == (status, [PAGE])
            assert reply.header(b"vary") == b"Origin"
            assert reply.header(b"access-control-allow-credentials") is None


NO_BODY_YET = b"POST %b HTTP/1.1\r\nHost: muxd.test\r\nContent-Length: 100\r\n\r\n" % CHAT
FORM = (
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nalpha\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n--b--\r\n'
)
SENT_UNASKED = {
    "json": post(chat()),
    "form": post(FORM, b"Content-Type: multipart/form-data; boundary=b\r\n", path=b"/v1/audio/transcriptions"),
    "text": post(chat(), b"Content-Type: text/plain\r\n"),
    "a read": get(b"/upstream/alpha/model_info"),
    "the list": get(b"/v1/models"),
    "preflight": preflight(EVIL).replace(b"Origin: " + EVIL + b"\r\n", b""),
    "no body yet": NO_BODY_YET,
}


OTHERS = (b"null", b"https://chat.example.evil.example", b"http://chat.example", b"")


@pytest.mark.parametrize("config", [LISTED, NONE], ids=["others listed", "none"])
@pytest.mark.parametrize(
    ("sent", "origin"),
    [
        *((sent, EVIL) for sent in SENT_UNASKED),
        *(("json", origin) for origin in OTHERS),
        *thorough(*((sent, origin) for sent in SENT_UNASKED if sent != "json" for origin in OTHERS)),
    ],
)
async def test_a_page_of_another_origin_switches_nothing(
    tmp_path: Path, config: dict[str, Any], sent: str, origin: bytes
) -> None:
    data = SENT_UNASKED[sent]
    async with open_proxy_env(tmp_path, **config) as proxy_env:
        proxy_env.alpha.answer = sglang
        reply = await proxy_env.ask(of(origin, data))
        assert (reply.status, reply.code, allowed(reply)) == (403, "origin_not_allowed", [])
        assert not proxy_env.muxd.leases
        assert (await proxy_env.ask(post(chat()))).status == 200  # whoever is no page
        assert not allowed(await proxy_env.ask(post(chat())))


async def test_the_proxys_own_address_is_no_other_origin(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, **NONE) as proxy_env:
        assert (await proxy_env.ask(of(b"http://muxd.test", post(chat())))).status == 200
        assert (await proxy_env.ask(of(b"http://muxd.test:1", post(chat())))).status == 403


async def test_a_star_is_every_page_and_holds_for_the_worker_as_well(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, **OPEN, **KEYED) as proxy_env:
        proxy_env.alpha.answer = sglang
        for data in (get(b"/v1/models"), post(chat(), bearer(SECRET)), preflight(EVIL)):
            data = data.replace(b"Origin: " + EVIL + b"\r\n", b"")
            assert allowed(await proxy_env.ask(of(EVIL, data))) == [b"*"]


async def test_a_page_on_the_local_network_may_be_asked_for_by_name_alone(tmp_path: Path) -> None:
    wants = b"Access-Control-Request-Private-Network: true\r\n"
    for config, granted in ((LISTED, b"true"), ({}, None)):
        async with open_proxy_env(tmp_path, **config) as proxy_env:
            reply = await proxy_env.ask(preflight(PAGE, more=wants))
            assert reply.header(b"access-control-allow-private-network") == granted


async def test_a_streams_head_is_the_configurations_with_its_bytes_whole(tmp_path: Path) -> None:
    async def answer(call: Call) -> None:
        await call.send(SSE_HEAD[:-2] + b"Access-Control-Allow-Origin: *\r\nX-Up: 1\r\n\r\n" + event("a"))
        await call.send(event("b") + b"0\r\n\r\n")

    async with open_proxy_env(tmp_path, **LISTED) as proxy_env:
        proxy_env.alpha.answer = answer
        reply = await proxy_env.ask(of(PAGE, post(chat(stream=True))))
        assert (allowed(reply), reply.header(b"x-up")) == ([PAGE], b"1")
        assert reply.body == event("a") + event("b") + b"0\r\n\r\n"
