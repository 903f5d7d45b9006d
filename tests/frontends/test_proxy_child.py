"""The managed proxy as a child: a real `muxd proxy`, without a muxd behind it."""

import functools
import os
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import trio
import trio.testing

from muxd.children import Children
from muxd.config import load_config
from muxd.config.readers import Address
from muxd.demo import write_demo_config
from muxd.engines.engine_client import open_http
from muxd.frontends import proxy_child
from muxd.frontends.proxy_pool import ProxyPool
from muxd.frontends.proxy_ports import ProxyPorts
from muxd.notify import Notifier
from muxd.saved_state import StateFile


async def eventually(condition: Callable[[], object]) -> None:
    with trio.fail_after(20):
        while not condition():
            await trio.sleep(0.02)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_child, "PROBE_INTERVAL", 0.1)
    monkeypatch.setattr(proxy_child, "PROBE_TIMEOUT", 0.5)


def a_proxy(folder: Path, *, processes: int = 1, **addresses: tuple[str, int]) -> ProxyPool:
    for name in ("run", "state", "logs"):
        (folder / name).mkdir()
    config = load_config(write_demo_config(folder, port=0), os.environ)
    config = replace(config, proxy=replace(config.proxy, **{key: Address(*where) for key, where in addresses.items()}))
    config = replace(config, proxy=replace(config.proxy, processes=processes))
    ports = ProxyPorts(config.proxy, Notifier(None), processes)
    return ProxyPool(config, Children(folder / "run"), StateFile(folder / "state" / "state.json"), ports)


async def test_a_proxy_that_stops_answering_is_replaced(tmp_path, quick, nursery, monkeypatch):
    proxy, told = a_proxy(tmp_path), []
    patient = functools.partial(monkeypatch.setattr, proxy_child, "PROBE_FAILURES", 1_000_000)
    patient()  # while it starts, which may take long on a busy machine
    async with httpx.AsyncClient(trust_env=False) as http, open_http() as probes:
        nursery.start_soon(proxy.run, lambda kind, **facts: told.append((kind, facts)), probes)
        await eventually(lambda: proxy.status()["pid"])
        first = proxy.status()["pid"]
        assert (await http.get(f"http://127.0.0.1:{proxy.ports.port}/health", timeout=20)).status_code == 200
        monkeypatch.setattr(proxy_child, "PROBE_FAILURES", 3)
        os.kill(first, signal.SIGSTOP)
        await eventually(lambda: proxy.status()["pid"] not in (None, first))
        patient()
        assert (await http.get(f"http://127.0.0.1:{proxy.ports.port}/health", timeout=20)).status_code == 200
        assert told == [("proxy_exited", {"reason": "killed by SIGKILL"})]
        await proxy.stop(trio.Event())
    assert proxy.status()["state"] == "stopped"


async def test_each_of_several_processes_is_asked_at_its_own_socket_and_only_one_that_is_silent_is_replaced(
    tmp_path, quick, nursery, monkeypatch
):
    patient = functools.partial(monkeypatch.setattr, proxy_child, "PROBE_FAILURES", 1_000_000)
    patient()  # while they start
    answers, told = {"proxy-1": [], "proxy-2": []}, []
    really_answers = proxy_child._answers

    async def noted(http: httpx.AsyncHTTPTransport, url: str) -> bool:
        found = await really_answers(http, url)
        answers[f"proxy-{str(http.unix)[-6]}"].append(found)
        return found

    monkeypatch.setattr(proxy_child, "_answers", noted)
    proxy = a_proxy(tmp_path, processes=2)
    async with open_http() as http:
        nursery.start_soon(proxy.run, lambda kind, **facts: told.append((kind, facts)), http)
        await eventually(lambda: all(found[-5:] == [True] * 5 for found in answers.values()))
        first, second = (each.pid for each in proxy.processes)
        monkeypatch.setattr(proxy_child, "PROBE_FAILURES", 3)
        os.kill(second, signal.SIGSTOP)
        await eventually(lambda: proxy.processes[1].pid not in (None, second))
        patient()
        assert proxy.processes[0].pid == first
        assert told == [("proxy_exited", {"reason": "killed by SIGKILL", "process": 2})]
        await eventually(lambda: answers["proxy-2"][-2:] == [True, True])
        assert proxy.status()["state"] == "running"
        await proxy.stop(trio.Event())
    assert [each["state"] for each in proxy.status()["processes"]] == ["stopped", "stopped"]


async def test_a_hurried_stop_does_not_wait_for_a_proxy_that_cannot_hear(tmp_path, nursery):
    proxy = a_proxy(tmp_path)
    async with open_http() as http:
        nursery.start_soon(proxy.run, lambda *_: None, http)
        await eventually(lambda: proxy.status()["pid"])
        os.kill(proxy.status()["pid"], signal.SIGSTOP)
        await eventually(lambda: proxy.status()["state"] == "unresponsive")
        hurried = trio.Event()
        hurried.set()
        with trio.fail_after(10):
            await proxy.stop(hurried)


async def test_a_port_for_metrics_that_somebody_has_keeps_no_client_out_and_is_served_once_it_is_free(
    tmp_path, nursery
):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host, port = taken.getsockname()
        proxy = a_proxy(tmp_path, metrics_listen=(host, port))
        async with httpx.AsyncClient(trust_env=False) as http, open_http() as probes:
            nursery.start_soon(proxy.run, lambda *_, **__: None, probes)
            await eventually(lambda: proxy.status()["pid"])
            assert (await http.get(f"http://127.0.0.1:{proxy.ports.port}/health", timeout=20)).status_code == 200
            await eventually(lambda: "see [proxy] metrics_listen" in proxy.log_files["stderr"].read_text())
            taken.close()
            assert "muxd_up" in await page(http, f"http://{host}:{port}/metrics")
            await proxy.stop(trio.Event())


async def page(http: httpx.AsyncClient, url: str) -> str:
    with trio.fail_after(30):
        while True:
            try:
                return (await http.get(url, timeout=20)).text
            except httpx.TransportError:
                await trio.sleep(0.1)


async def test_both_ports_stay_while_the_proxy_is_killed(tmp_path, nursery):
    proxy = a_proxy(tmp_path, metrics_listen=("127.0.0.1", 0))
    with socket.socket(fileno=os.dup(proxy.ports.descriptors()["metrics"])) as copy:
        ports = proxy.ports.port, copy.getsockname()[1]
    async with httpx.AsyncClient(trust_env=False) as http, open_http() as probes:
        nursery.start_soon(proxy.run, lambda *_, **__: None, probes)
        await eventually(lambda: proxy.status()["pid"])
        os.kill(first := proxy.status()["pid"], signal.SIGKILL)
        for port in ports:
            await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
        await eventually(lambda: proxy.status()["pid"] not in (None, first))
        for port in ports:
            assert "muxd_up" in (await http.get(f"http://127.0.0.1:{port}/metrics", timeout=20)).text
        await proxy.stop(trio.Event())


async def test_a_port_that_somebody_has_is_waited_for(tmp_path, nursery):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        proxy = a_proxy(tmp_path, listen=("127.0.0.1", port))
        async with httpx.AsyncClient(trust_env=False) as http, open_http() as probes:
            nursery.start_soon(proxy.run, lambda *_, **__: None, probes)
            status = proxy.status()
            assert (status["listen"], status["state"]) == (f"127.0.0.1:{port}", "backoff")
            assert f"process {os.getpid()} listens on it" in status["reason"]
            taken.close()
            await eventually(lambda: proxy.status()["state"] == "running")
            assert proxy.status()["reason"] is None
            assert (await http.get(f"http://127.0.0.1:{port}/health", timeout=20)).status_code == 200
            await proxy.stop(trio.Event())


async def test_muxd_ends_while_its_proxy_waits_for_a_port(tmp_path, nursery):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        proxy = a_proxy(tmp_path, listen=("127.0.0.1", taken.getsockname()[1]))
        async with open_http() as http:
            nursery.start_soon(proxy.run, lambda *_, **__: None, http)
            with trio.fail_after(10):
                await proxy.stop(trio.Event())


async def test_a_stop_while_it_starts_leaves_no_proxy(tmp_path, nursery, monkeypatch):
    proxy, stopped = a_proxy(tmp_path), threading.Event()
    bind = proxy.ports.bind
    monkeypatch.setattr(proxy.ports, "bind", lambda: stopped.wait(20) and bind())
    async with open_http() as http:
        with trio.fail_after(20):
            async with trio.open_nursery() as running:
                running.start_soon(proxy.run, lambda *_, **__: None, http)
                await trio.testing.wait_all_tasks_blocked()  # it binds
                running.start_soon(proxy.stop, trio.Event())
                await trio.testing.wait_all_tasks_blocked()
                stopped.set()
    assert proxy.status()["state"] == "stopped"


async def test_one_that_an_earlier_muxd_left_is_ended_by_a_stop_before_anything_else(tmp_path, nursery):
    earlier = a_proxy(tmp_path)
    async with open_http() as http:
        async with trio.open_nursery() as life:
            life.start_soon(earlier.run, lambda *_, **__: None, http)
            await eventually(lambda: earlier.status()["pid"])
            life.cancel_scope.cancel()
        one, children = earlier.processes[0], Children(tmp_path / "run")
        left = {name: children.adopt(record) for name, record in earlier._state.state.proxies.items()}
        proxy = ProxyPool(one._config, children, earlier._state, earlier.ports, left)
        with trio.fail_after(20):
            async with trio.open_nursery() as running:
                running.start_soon(proxy.stop, trio.Event())
                running.start_soon(proxy.run, lambda *_, **__: None, http)
        await one._child.wait()


async def test_a_stopped_proxy_is_replaced_before_its_health_is_asked_for(tmp_path, monkeypatch, nursery, caplog):
    monkeypatch.setattr(proxy_child, "STATE_INTERVAL", 0.05)
    monkeypatch.setattr(proxy_child, "PROBE_INTERVAL", 3600.0)
    proxy = a_proxy(tmp_path)
    async with open_http() as http:
        nursery.start_soon(proxy.run, lambda *_, **__: None, http)
        await eventually(lambda: proxy.status()["pid"])
        first = proxy.status()["pid"]
        os.kill(first, signal.SIGSTOP)
        await eventually(lambda: proxy.status()["pid"] not in (None, first))
        assert "has been stopped (SIGSTOP)" in caplog.text
        await proxy.stop(trio.Event())


def test_a_proxy_is_noticed_to_be_stopped_within_five_seconds():
    assert proxy_child.STATE_INTERVAL * proxy_child.STATE_STOPPED < 5.0


async def test_the_proxy_inherits_no_secrets(tmp_path, monkeypatch, nursery):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    proxy = a_proxy(tmp_path)
    async with open_http() as http:
        nursery.start_soon(proxy.run, lambda *_, **__: None, http)
        await eventually(lambda: proxy.status()["pid"])
        await eventually(lambda: b"LISTEN_FDS=1" in environ_of(proxy))
        assert b"hf_secret" not in environ_of(proxy)
        await proxy.stop(trio.Event())


def environ_of(proxy: ProxyPool) -> bytes:
    return Path(f"/proc/{proxy.status()['pid']}/environ").read_bytes()
