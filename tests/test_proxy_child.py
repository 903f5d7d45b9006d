"""The managed proxy as a child: a real `muxd proxy`, without a muxd behind it."""

import os
import signal
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from muxd import proxy_child
from muxd.children import Children
from muxd.config import load_config
from muxd.demo import write_demo_config
from muxd.ports import CannotListen
from muxd.proxy_child import ProxyChild
from muxd.state import StateFile


async def eventually(condition: Callable[[], object]) -> None:
    with trio.fail_after(20):
        while not condition():
            await trio.sleep(0.02)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_child, "PROBE_INTERVAL", 0.1)
    monkeypatch.setattr(proxy_child, "PROBE_TIMEOUT", 0.5)


def a_proxy(folder: Path, **settings: Any) -> ProxyChild:
    for name in ("run", "state", "logs"):
        (folder / name).mkdir()
    config = load_config(write_demo_config(folder, port=0), os.environ)
    config = replace(config, proxy=replace(config.proxy, **settings))
    return ProxyChild(config, Children(folder / "run"), StateFile(folder / "state" / "state.json"))


async def test_a_proxy_that_stops_answering_is_replaced(tmp_path, quick, nursery):
    proxy, told = a_proxy(tmp_path), []
    async with httpx.AsyncClient(trust_env=False) as http:
        nursery.start_soon(proxy.run, lambda kind, **facts: told.append((kind, facts)), http)
        await eventually(lambda: proxy.status()["pid"])
        first = proxy.status()["pid"]
        assert (await http.get(f"http://127.0.0.1:{proxy.port}/health", timeout=20)).status_code == 200
        os.kill(first, signal.SIGSTOP)
        await eventually(lambda: proxy.status()["pid"] not in (None, first))
        assert (await http.get(f"http://127.0.0.1:{proxy.port}/health", timeout=20)).status_code == 200
        assert told == [("proxy_exited", {"reason": "killed by SIGKILL"})]
        await proxy.stop(trio.Event())
    assert proxy.status()["state"] == "stopped"


async def test_a_hurried_stop_does_not_wait_for_a_proxy_that_cannot_hear(tmp_path, nursery):
    proxy = a_proxy(tmp_path)
    async with httpx.AsyncClient(trust_env=False) as http:
        nursery.start_soon(proxy.run, lambda *_: None, http)
        await eventually(lambda: proxy.status()["pid"])
        os.kill(proxy.status()["pid"], signal.SIGSTOP)
        hurried = trio.Event()
        hurried.set()
        with trio.fail_after(10):
            await proxy.stop(hurried)


def test_a_port_for_metrics_that_somebody_has_is_named_before_anything_is_started(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = taken.getsockname()
        with pytest.raises(CannotListen, match=f"metrics_listen|{where[1]}"):
            a_proxy(tmp_path, metrics_listen=where)


async def test_a_stopped_proxy_is_replaced_before_its_health_is_asked_for(tmp_path, monkeypatch, nursery, caplog):
    monkeypatch.setattr(proxy_child, "STATE_INTERVAL", 0.05)
    monkeypatch.setattr(proxy_child, "PROBE_INTERVAL", 3600.0)
    proxy = a_proxy(tmp_path)
    async with httpx.AsyncClient(trust_env=False) as http:
        nursery.start_soon(proxy.run, lambda *_, **__: None, http)
        await eventually(lambda: proxy.status()["pid"])
        first = proxy.status()["pid"]
        os.kill(first, signal.SIGSTOP)
        await eventually(lambda: proxy.status()["pid"] not in (None, first))
        assert "has been stopped (SIGSTOP)" in caplog.text
        await proxy.stop(trio.Event())


def test_a_proxy_is_noticed_to_be_stopped_within_five_seconds():
    assert proxy_child.STATE_INTERVAL * (proxy_child.STATE_STOPPED + 1) < 5.0


async def test_the_proxy_inherits_no_secrets(tmp_path, monkeypatch, nursery):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    proxy = a_proxy(tmp_path)
    async with httpx.AsyncClient(trust_env=False) as http:
        nursery.start_soon(proxy.run, lambda *_, **__: None, http)
        await eventually(lambda: proxy.status()["pid"])
        await eventually(lambda: b"LISTEN_FDS=1" in environ_of(proxy))
        assert b"hf_secret" not in environ_of(proxy)
        await proxy.stop(trio.Event())


def environ_of(proxy: ProxyChild) -> bytes:
    return Path(f"/proc/{proxy.status()['pid']}/environ").read_bytes()


def test_a_port_that_was_kept_is_taken_over_where_it_is_still_the_configured_one(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as kept, socket.create_server(("127.0.0.1", 0)) as other:
        port = kept.getsockname()[1]
        for name in ("run", "state", "logs"):
            (tmp_path / name).mkdir()
        config = load_config(write_demo_config(tmp_path, port=port), os.environ)
        around = Children(tmp_path / "run"), StateFile(tmp_path / "state" / "state.json")
        assert ProxyChild(config, *around, kept).listener is kept
        with pytest.raises(CannotListen):  # it is not the configured one, which is taken
            ProxyChild(config, *around, other)
        assert other.fileno() == -1
