"""API keys that somebody tries out."""

from pathlib import Path

import pytest

from muxd.proxy.auth.failed_keys import MOST, FailedKeys
from tests.proxy.conftest import bearer, key
from tests.proxy.http_client import CHAT, chat, get, post
from tests.proxy.proxy_env import ProxyEnv, open_proxy_env

SECRET = "muxd-secret"
KEYS = (key("all", SECRET), key("gone", "muxd-gone", revoked=True))


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_minutes_failures_of_one_address_are_counted_from_the_first() -> None:
    clock = Clock()
    guesses = FailedKeys(clock)
    assert [guesses.failed("10.0.0.1") for _ in range(MOST)] == [0.0] * MOST
    clock.now += 20
    assert guesses.failed("10.0.0.1") == 40.0
    assert guesses.failed("10.0.0.2") == 0.0
    clock.now += 40
    assert guesses.failed("10.0.0.1") == 0.0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("10.0.0.1", "10.0.0.2", False),
        ("unix", "unix", True),
    ],
)
def test_who_has_one_address_of_a_network_has_them_all(one: str, other: str, same: bool) -> None:
    guesses = FailedKeys(Clock())
    for _ in range(MOST):
        guesses.failed(one)
    assert (guesses.failed(other) > 0) is same


def test_what_is_remembered_is_bounded_and_the_oldest_goes_first() -> None:
    clock = Clock()
    guesses = FailedKeys(clock)
    for number in range(10_000):
        clock.now += 0.001
        guesses.failed(f"10.0.{number >> 8}.{number & 255}")
    assert len(guesses) <= 4096
    for _ in range(MOST - 1):
        assert guesses.failed("10.0.39.15") == 0.0
    assert guesses.failed("10.0.39.15") > 0


async def guess(proxy_env: ProxyEnv, data: bytes, times: int) -> list[int]:
    return [(await proxy_env.ask(data)).status for _ in range(times)]


WRONG = {
    "whole": post(chat(), bearer("muxd-wrong")),
    "x-api-key": post(chat(), b"x-api-key: muxd-wrong\r\n"),
    "a list": get(b"/v1/models").replace(b"\r\n\r\n", b"\r\n" + bearer("muxd-wrong") + b"\r\n"),
    "no body yet": b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n%b\r\n" % (CHAT, bearer("muxd-wrong")),
    "metrics": get(b"/metrics").replace(b"\r\n\r\n", b"\r\n" + bearer("muxd-wrong") + b"\r\n"),
}


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG)
async def test_too_many_wrong_keys_are_told_to_wait_and_a_right_one_is_served(tmp_path: Path, data: bytes) -> None:
    async with open_proxy_env(tmp_path, keys=KEYS) as proxy_env:
        assert await guess(proxy_env, data, MOST + 1) == [401] * MOST + [429]
        reply = await proxy_env.ask(data)
        assert (reply.status, reply.code) == (429, "too_many_failed_keys")
        assert 1 <= int(reply.header(b"retry-after") or 0) <= 60
        assert reply.header(b"connection") == b"close"
        http_client = await proxy_env.connect()
        for _ in range(3):
            assert (await http_client.ask(post(chat(), bearer(SECRET)))).status == 200
        assert (await proxy_env.ask(get(b"/health"))).status == 200


async def test_who_shows_none_or_one_that_was_taken_back_does_not_guess(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, keys=KEYS) as proxy_env:
        for data in (post(chat()), post(chat(), bearer("muxd-gone"))):
            assert set(await guess(proxy_env, data, MOST + 5)) == {401}
        assert await guess(proxy_env, WRONG["whole"], 1) == [401]
