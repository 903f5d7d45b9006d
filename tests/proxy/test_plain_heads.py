"""Requests whose heads need no further look: they are served as the first of them, until the rules change."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from muxd.config.schema import Proxy
from muxd.proxy.auth.api_keys import Keyring
from muxd.proxy.auth.hosts import Hosts
from muxd.proxy.auth.origins import Origins

from .conftest import bearer, key
from .http_client import HttpClient, chat, post
from .proxy_env import QUIET, ProxyEnv, open_proxy_env
from .worker import OK

USUAL = b"Accept-Encoding: gzip\r\nUser-Agent: OpenAI/Python 2.8.0\r\nConnection: keep-alive\r\n"
SECRET = "muxd-secret"


@pytest.fixture
async def keyed(tmp_path: Path) -> AsyncIterator[ProxyEnv]:
    proxy = replace(QUIET, request_id_headers=("x-request-id",))
    async with open_proxy_env(tmp_path, keys=(key("one", SECRET),), proxy=proxy) as proxy_env:
        yield proxy_env


async def known(proxy_env: ProxyEnv, data: bytes) -> HttpClient:
    """A connection with whose head two requests were served."""
    client = await proxy_env.connect()
    for _ in range(2):
        assert (await client.ask(data)).status == 200
    return client


async def test_workers_get_the_same_head_each_time_but_for_length_and_id(keyed: ProxyEnv) -> None:
    client = await keyed.connect()
    for number in (1, 20, 300):
        body = chat(user="x" * number)
        assert (await client.ask(post(body, USUAL + bearer(SECRET)))).status == 200
        call = keyed.alpha.calls[-1]
        assert call.body == body
        assert b"\r\nContent-Length: %d\r\n" % len(body) in call.head
        assert b"uthorization" not in call.head
        assert b"Connection" not in call.head
    lines = [call.head.split(b"\r\n") for call in keyed.alpha.calls]
    told = [[line for line in head if not line.startswith((b"Content-Length", b"x-request-id"))] for head in lines]
    assert told[0] == told[1] == told[2]
    ids = {line for head in lines for line in head if line.startswith(b"x-request-id")}
    assert len(ids) == 3


async def test_an_id_of_the_clients_is_passed_on_and_answered_each_time(keyed: ProxyEnv) -> None:
    client = await keyed.connect()
    for number in (1, 2, 3):
        line = b"X-Request-Id: mine-%d\r\n" % number
        reply = await client.ask(post(chat(), USUAL + line + bearer(SECRET)))
        assert reply.header(b"x-request-id") == b"mine-%d" % number
        head = keyed.alpha.calls[-1].head
        assert line in head
        assert head.lower().count(b"x-request-id") == 1
        assert b"uthorization" not in head
    two = post(chat(), USUAL + b"X-Request-Id: a\r\nX-Request-Id: b\r\n" + bearer(SECRET))
    for _ in range(3):
        assert (await client.ask(two)).header(b"x-request-id") == b"a"


async def test_an_id_in_a_header_with_another_meaning_is_read_each_time(tmp_path: Path) -> None:
    proxy = replace(QUIET, request_id_headers=("content-type",))
    async with open_proxy_env(tmp_path, proxy=proxy) as proxy_env:
        client = await known(proxy_env, post(chat(), USUAL))
        assert (await client.ask(post(chat(), USUAL + b"Content-Type: text/plain\r\n"))).status == 415


async def test_a_stream_is_asked_for_plain_and_an_answer_as_the_client_wants_it(keyed: ProxyEnv) -> None:
    """Both by one head, whose first request says nothing of the second."""
    client = await keyed.connect()
    for streams in (False, True, False, True):
        assert (await client.ask(post(chat(stream=streams), USUAL + bearer(SECRET)))).status == 200
        assert (b"Accept-Encoding" in keyed.alpha.calls[-1].head) is not streams


async def test_a_key_is_checked_each_time(keyed: ProxyEnv) -> None:
    client = await known(keyed, post(chat(), USUAL + bearer(SECRET)))
    keyed.proxy.dispatcher.keyring = Keyring([replace(key("one", SECRET), revoked=True)])
    assert (await client.ask(post(chat(), USUAL + bearer(SECRET)))).status == 401


async def test_a_head_that_others_have_sent_opens_no_connection_to_who_has_not_their_key(keyed: ProxyEnv) -> None:
    await known(keyed, post(chat(), USUAL + bearer(SECRET)))
    for head in (USUAL, USUAL + bearer(SECRET[:-1]), USUAL + bearer(SECRET[:-1] + "x"), USUAL + bearer(SECRET + "x")):
        stranger = await keyed.connect()
        assert (await stranger.ask(post(chat(), head))).status == 401
    calls = len(keyed.alpha.calls)
    assert (await (await keyed.connect()).ask(post(chat(), USUAL + bearer(SECRET)))).status == 200
    assert len(keyed.alpha.calls) == calls + 1


async def test_other_rules_for_hosts_hold_from_the_next_request_on(proxy_env: ProxyEnv) -> None:
    client = await known(proxy_env, post(chat(), USUAL))
    proxy_env.proxy.dispatcher.set_rules(Hosts(("other.test",)), Origins(None, at_home=False))
    assert (await client.ask(post(chat(), USUAL))).code == "host_not_allowed"
    proxy_env.proxy.dispatcher.set_rules(Hosts(("muxd.test",)), Origins(None, at_home=False))
    assert (await client.ask(post(chat(), USUAL))).raw == OK


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"Origin: http://a.test\r\n", b"access-control-allow-origin"),
        (b"x-request-id: mine\r\n", b"x-request-id: mine"),
    ],
)
async def test_what_concerns_the_proxy_is_looked_at_each_time(tmp_path: Path, line: bytes, shown: bytes) -> None:
    proxy = Proxy(access_log="off", request_id_headers=("x-request-id",), hosts=("*",))
    async with open_proxy_env(tmp_path, proxy=proxy) as proxy_env:
        client = await proxy_env.connect()
        for _ in range(3):
            assert shown in (await client.ask(post(chat("nobody"), USUAL + line))).head


async def test_a_class_that_does_not_exist_is_refused_each_time(proxy_env: ProxyEnv) -> None:
    client = await proxy_env.connect()
    for _ in range(3):
        assert (await client.ask(post(chat(), USUAL + b"x-muxd-class: none\r\n"))).code == "invalid_class"


async def test_what_is_no_json_is_refused_each_time(proxy_env: ProxyEnv) -> None:
    client = await proxy_env.connect()
    for _ in range(3):
        assert (await client.ask(post(chat(), b"Content-Type: text/plain\r\n"))).code == "invalid_content_type"
