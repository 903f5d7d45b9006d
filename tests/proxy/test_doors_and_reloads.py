"""A reload changes who may ask, and never opens a socket that others reach."""

import logging
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from .conftest import bearer, key
from .http_client import chat, get, post
from .proxy_env import QUIET, ProxyEnv, open_proxy_env
from .record import PATIENCE
from .worker import OK

OLD, NEW = "muxd-old", "muxd-new"


@pytest.fixture
async def reached(tmp_path: Path) -> AsyncIterator[ProxyEnv]:
    """Behind a socket as systemd passes it, which muxd knows nothing of: other machines reach it."""
    async with open_proxy_env(tmp_path, keys=(key("old", OLD),), host="0.0.0.0") as proxy_env:
        yield proxy_env


async def ask(proxy_env: ProxyEnv, secret: str | None = None) -> int:
    return (await proxy_env.ask(post(chat(), b"" if secret is None else bearer(secret)))).status


async def reload(proxy_env: ProxyEnv, **settings: Any) -> None:
    """Return when the proxy has what muxd runs with now."""
    proxy_env.muxd.settings |= settings
    names = proxy_env.muxd.settings["models"]["alpha"]["served_names"]
    names.append(f"name-{len(names)}")
    proxy_env.muxd.tell("reload")
    with trio.fail_after(PATIENCE):
        while proxy_env.proxy.catalogue.find(names[-1]) is None:
            await trio.sleep(0.001)


async def test_a_reload_without_keys_does_not_open_a_socket_that_others_reach(
    reached: ProxyEnv, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    await reload(reached, keys=[])
    assert await ask(reached) == 401
    assert (await reached.ask(post(chat("name-2"), bearer(OLD)))).raw == OK  # the rest of it is in force
    error = caplog.messages[0]
    assert "no API key" in error
    assert "0.0.0.0" in error
    assert "the old keys stay" in error


async def test_a_reload_with_other_keys_changes_them_there_too(reached: ProxyEnv) -> None:
    (other,) = reached.muxd.settings["keys"]
    new = key("new", NEW)
    await reload(reached, keys=[other | {"name": new.name, "secret_sha256": new.secret_sha256}])
    assert [await ask(reached, secret) for secret in (None, OLD, NEW)] == [401, 401, 200]


async def test_keys_that_come_back_replace_those_that_stayed(reached: ProxyEnv) -> None:
    (other,) = reached.muxd.settings["keys"]
    await reload(reached, keys=[])
    new = key("new", NEW)
    await reload(reached, keys=[other | {"name": new.name, "secret_sha256": new.secret_sha256}])
    assert [await ask(reached, secret) for secret in (None, OLD, NEW)] == [401, 401, 200]


async def test_a_reload_that_says_so_opens_it(reached: ProxyEnv) -> None:
    await reload(reached, keys=[], proxy=reached.muxd.settings["proxy"] | {"allow_anonymous": True})
    assert await ask(reached) == 200


async def test_a_reload_without_keys_opens_what_only_this_machine_reaches(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, keys=(key("old", OLD),)) as proxy_env:
        assert await ask(proxy_env) == 401
        await reload(proxy_env, keys=[])
        assert await ask(proxy_env) == 200


async def test_a_muxd_without_keys_that_is_found_later_does_not_open_it_either(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, keys=(key("old", OLD),), host="0.0.0.0", muxd_up=False) as proxy_env:
        proxy_env.muxd.settings["keys"] = []
        async with proxy_env.muxd.running():
            with trio.fail_after(PATIENCE):
                while not proxy_env.proxy.catalogue.connected:
                    await trio.sleep(0.001)
            assert await ask(proxy_env) == 401
            assert await ask(proxy_env, OLD) == 200


async def test_a_muxd_that_says_nothing_keeps_no_client_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muxd.proxy.app._FIRST_WORD", 0.05, raising=False)
    with socket.socket(socket.AF_UNIX) as silent, trio.fail_after(PATIENCE):
        silent.bind(str(tmp_path / "muxd.sock"))
        silent.listen(10)
        async with open_proxy_env(tmp_path, proxy=replace(QUIET), muxd_up=False) as proxy_env:
            assert (await proxy_env.ask(get(b"/health"))).json["muxd"] == "unreachable"


async def test_who_may_ask_from_a_browser_follows_the_keys(tmp_path: Path) -> None:
    page = get(b"/health").replace(b"\r\n", b"\r\nOrigin: https://chat.example\r\n", 1)
    async with open_proxy_env(tmp_path, proxy=replace(QUIET, hosts=())) as proxy_env:
        local = page.replace(b"muxd.test", b"localhost")
        assert (await proxy_env.ask(page)).code == "host_not_allowed"
        assert (await proxy_env.ask(local)).header(b"access-control-allow-origin") == b"*"
        new = key("new", NEW)
        await reload(proxy_env, keys=[{"name": new.name, "secret_sha256": new.secret_sha256}])
        reply = await proxy_env.ask(page)
        assert (reply.status, reply.header(b"access-control-allow-origin")) == (200, None)
