"""By which names the proxy may be called: no page whose name is made to lead here reaches the models."""

from dataclasses import replace
from pathlib import Path

import pytest

from muxd.http.request import Request
from muxd.proxy.answers import Refusal
from muxd.proxy.auth.hosts import Hosts
from tests.proxy.conftest import bearer, key
from tests.proxy.http_client import CHAT, chat, get, post
from tests.proxy.proxy_env import QUIET, open_proxy_env

HOME = replace(QUIET, hosts=())


def ask(host: bytes | None, target: bytes = b"/") -> Request:
    return Request("GET", target, [] if host is None else [(b"hOST", host)], b"", "1.1", True)


def takes(hosts: Hosts, host: bytes | None, target: bytes = b"/") -> bool:
    try:
        hosts.check(ask(host, target))
    except Refusal as refusal:
        return (refusal.status, refusal.code) != (403, "host_not_allowed")
    return True


LOOPBACK = (
    b"localhost:30100\t",
    b"localhost", b"LocalHost:30100", b"localhost.", b"localhost.:1", b"127.0.0.1", b"127.0.0.1:30100", b"127.9.9.9:1",
    b"[::1]", b"[::1]:30100", b"[0:0:0:0:0:0:0:1]", b"[::ffff:127.0.0.1]:1", b"muxd.localhost:30100", b"a.b.localhost",
)  # fmt: skip
FOREIGN = (
    b"evil.example", b"evil.example:30100", b"localhost.evil.example", b"127.0.0.1.evil.example", b"evillocalhost",
    b"192.168.0.7:30100", b"0.0.0.0:30100", b"[::]:30100", b"[fe80::1]", b"8.8.8.8", b"", b":30100", b"localhost:80:80",
    b"localhost@evil.example", b"evil.example, localhost", b"localhost evil", b"[::1", b"::1", b"[localhost.evil]",
    b"localhost\xe9", b"127.1", b"2130706433", b"localhost:x",
)  # fmt: skip


@pytest.mark.parametrize("host", LOOPBACK)
def test_loopbacks_names_are_taken_with_any_port(host: bytes) -> None:
    hosts = Hosts(())
    assert takes(hosts, host)
    assert takes(hosts, host)  # as one that is known


@pytest.mark.parametrize("host", FOREIGN)
def test_any_other_is_not(host: bytes) -> None:
    hosts = Hosts(())
    assert not takes(hosts, host)
    assert not takes(hosts, host)


def test_a_client_of_http_1_0_needs_no_name() -> None:
    assert takes(Hosts(()), None)


def test_the_name_in_the_target_counts_too() -> None:
    hosts = Hosts(())
    assert takes(hosts, b"localhost", b"http://127.0.0.1:1/v1/models")
    assert not takes(hosts, b"localhost", b"http://evil.example/v1/models")
    assert not takes(hosts, b"localhost", b"http://localhost@evil.example/v1/models")
    assert takes(hosts, b"localhost", b"/?x=http://evil.example/")


def test_more_names_are_taken_beside_them() -> None:
    hosts = Hosts(("gpu1.example", "*.lan", "10.0.0.7", "fd00::1"))
    for host in (b"GPU1.example:80", b"a.lan", b"a.b.lan:1", b"10.0.0.7:30100", b"[fd00::1]:1", b"localhost"):
        assert takes(hosts, host)
    for host in (b"gpu2.example", b"x.gpu1.example", b"lan", b"evillan", b"10.0.0.8"):
        assert not takes(hosts, host)


def test_what_is_remembered_is_bounded() -> None:
    hosts = Hosts(("*.lan",))
    for number in range(1000):
        assert takes(hosts, b"%d.lan" % number)
    assert len(hosts._known) <= 64


def test_the_refusal_says_what_to_write() -> None:
    with pytest.raises(Refusal, match=r'not to be called evil.example:1: use .*hosts = \["evil.example"\]'):
        Hosts(()).check(ask(b"evil.example:1"))


REBOUND = {
    "chat": post(chat()),
    "list": get(b"/v1/models"),
    "health": get(b"/health"),
    "metrics": get(b"/metrics"),
    "nowhere": get(b"/nowhere"),
    "preflight": b"OPTIONS %b HTTP/1.1\r\nHost: evil.test\r\nOrigin: http://evil.test\r\n"
    b"Access-Control-Request-Method: POST\r\n\r\n" % CHAT,
    "a body that never comes": b"POST %b HTTP/1.1\r\nHost: evil.test\r\nContent-Length: 99\r\n\r\n" % CHAT,
}


@pytest.mark.parametrize("data", REBOUND.values(), ids=REBOUND)
async def test_a_foreign_name_is_refused_on_every_route_and_nothing_is_asked_of_muxd(
    tmp_path: Path, data: bytes
) -> None:
    async with open_proxy_env(tmp_path, proxy=HOME) as proxy_env:
        reply = await proxy_env.ask(data.replace(b"muxd.test", b"evil.test"))
        assert (reply.status, reply.code) == (403, "host_not_allowed")
        assert not proxy_env.muxd.leases
        assert (await proxy_env.ask(post(chat()).replace(b"muxd.test", b"localhost:%d" % proxy_env.port))).status == 200


async def test_with_keys_or_for_anybody_it_is_called_by_any_name_unless_names_are_given(tmp_path: Path) -> None:
    keys = (key("all", "muxd-secret"),)
    request = post(chat(), bearer("muxd-secret"))
    async with open_proxy_env(tmp_path, proxy=HOME, keys=keys) as proxy_env:
        assert (await proxy_env.ask(request)).status == 200
    async with open_proxy_env(tmp_path, proxy=replace(HOME, allow_anonymous=True)) as proxy_env:
        assert (await proxy_env.ask(request)).status == 200
    async with open_proxy_env(tmp_path, proxy=replace(HOME, hosts=("*",))) as proxy_env:
        assert (await proxy_env.ask(request)).status == 200
    async with open_proxy_env(tmp_path, proxy=replace(HOME, hosts=("gpu1.test",)), keys=keys) as proxy_env:
        assert (await proxy_env.ask(request)).code == "host_not_allowed"
        assert (await proxy_env.ask(request.replace(b"muxd.test", b"gpu1.test"))).status == 200
