"""The end of a proxy: nobody new, what is in flight finishes, then it is gone."""

import json
import os
import signal
import socket
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from muxd.ports import CannotListen, listen_at

from .fake_muxd import FakeMuxd
from .http_client import HttpClient, chat, get, post
from .proxy_env import QUIET, ProxyEnv, open_proxy_env
from .record import PATIENCE
from .worker import OK, OK_BODY, SSE_HEAD, Call, Worker, answer_when_released, event


async def test_what_is_in_flight_finishes_and_what_waits_is_told(proxy_env: ProxyEnv) -> None:
    proxy_env.alpha.answer = answer_when_released
    busy, waiting, idle = [await proxy_env.connect() for _ in range(3)]
    await busy.send(post(chat()))
    await waiting.send(post(chat("beta")))
    await idle.ask(get(b"/health"))
    call = await proxy_env.alpha.calls.nth(0)
    await proxy_env.lease(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(proxy_env.proxy.drain, 60.0)
        assert (await waiting.reply()).code == "shutting_down"
        await waiting.closed()
        await idle.closed()
        with pytest.raises(OSError, match="failed"):
            await proxy_env.connect()
        call.released.set()
        assert await busy.rest() == OK


async def test_a_request_still_arriving_is_refused(proxy_env: ProxyEnv) -> None:
    http_client = await proxy_env.connect()
    await http_client.send(post(chat())[:-1])
    await proxy_env.ask(get(b"/health"))  # by now the first one's bytes are read, too
    async with trio.open_nursery() as nursery:
        nursery.start_soon(proxy_env.proxy.drain, 60.0)
        await trio.testing.wait_all_tasks_blocked()
        await http_client.send(b"}")
        assert (await http_client.reply()).code == "shutting_down"
        await http_client.closed()


async def silent(proxy_env: ProxyEnv) -> HttpClient:
    """Accepted, and nothing said yet: its request may be under way."""
    http_client = await proxy_env.connect()
    with trio.fail_after(PATIENCE):
        while proxy_env.proxy.front.clients < len(proxy_env.http_clients):
            await trio.sleep(0.001)
    return http_client


async def test_who_is_silent_when_it_comes_may_still_ask_and_is_answered(proxy_env: ProxyEnv) -> None:
    assert (await proxy_env.ask(post(chat()))).raw == OK
    http_client = await silent(proxy_env)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(proxy_env.proxy.drain, 60.0)
        await trio.testing.wait_all_tasks_blocked()
        await http_client.send(post(chat()) + post(chat()))
        assert await http_client.rest() == OK + OK  # both had been sent


async def test_who_is_silent_when_it_comes_may_not_wait_for_a_model(proxy_env: ProxyEnv) -> None:
    http_client = await silent(proxy_env)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(proxy_env.proxy.drain, 60.0)
        await trio.testing.wait_all_tasks_blocked()
        assert (await http_client.ask(post(chat("beta")))).code == "shutting_down"
        await http_client.closed()
    assert not proxy_env.muxd.leases


async def test_who_stays_silent_is_not_waited_for(proxy_env: ProxyEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muxd.proxy.sockets.downstream._LAST_CHANCE", 0.05, raising=False)
    http_client = await silent(proxy_env)
    with trio.fail_after(PATIENCE):
        await proxy_env.proxy.drain(60.0)
    await http_client.closed()


@pytest.mark.parametrize("request_", [post(chat()), get(b"/health"), post(chat()) * 2], ids=["chat", "health", "two"])
async def test_what_an_idle_connection_has_already_sent_is_answered(proxy_env: ProxyEnv, request_: bytes) -> None:
    http_client = await proxy_env.connect()
    assert (await http_client.ask(post(chat()))).raw == OK
    os.write(http_client.stream.socket.fileno(), request_)  # no await: the proxy cannot have seen it
    with trio.fail_after(PATIENCE):
        await proxy_env.proxy.drain(60.0)
    for _ in range(request_.count(b" HTTP/1.1")):
        assert (await http_client.reply()).status == 200
    await http_client.closed()


async def test_a_body_that_an_idle_connection_has_begun_to_send_is_waited_for(proxy_env: ProxyEnv) -> None:
    http_client = await proxy_env.connect()
    assert (await http_client.ask(post(chat()))).raw == OK
    os.write(http_client.stream.socket.fileno(), post(chat())[:-1])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(proxy_env.proxy.drain, 60.0)
        await trio.testing.wait_all_tasks_blocked()
        await http_client.send(b"}")
        assert await http_client.rest() == OK


async def test_what_does_not_finish_is_cut_with_an_error(proxy_env: ProxyEnv) -> None:
    async def endless(call: Call) -> None:
        if b'"stream":true' in call.body:
            await call.send(SSE_HEAD + event("1"))
        await call.gone.wait()

    proxy_env.alpha.answer = endless
    plain, stream = await proxy_env.connect(), await proxy_env.connect()
    await plain.send(post(chat()))
    await stream.send(post(chat(stream=True)))
    await stream.until(event("1"))
    await proxy_env.alpha.calls.nth(1)
    with trio.fail_after(PATIENCE):
        await proxy_env.proxy.drain(0.05)
    assert (await plain.reply()).code == "shutting_down"
    assert b'"code":"shutting_down"' in await stream.rest()


async def test_a_client_that_does_not_read_its_last_words_holds_nothing_up(tmp_path: Path) -> None:
    async def flood(call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n" + b"x" * 20_000_000)
        await call.gone.wait()

    async with open_proxy_env(tmp_path) as proxy_env:
        proxy_env.alpha.answer = flood
        http_client = await proxy_env.connect()
        await http_client.send(post(chat()))
        await http_client.until(b"\r\n\r\n")
        with trio.fail_after(PATIENCE):
            await proxy_env.proxy.drain(0.05)


async def test_a_second_signal_loses_no_line_of_the_access_log(tmp_path: Path) -> None:
    logs = tmp_path / "access"
    with trio.CancelScope() as scope:
        async with open_proxy_env(
            tmp_path, proxy=replace(QUIET, access_log="json", access_log_dir=logs, request_id_headers=("x-id",))
        ) as proxy_env:
            await proxy_env.ask(post(chat(), b"X-Id: ended\r\n"))
            proxy_env.alpha.answer = answer_when_released
            await (await proxy_env.connect()).send(post(chat(keep_alive=0), b"X-Id: running\r\n", path=b"/api/chat"))
            await proxy_env.alpha.calls.nth(1)
            waiting = post(chat("beta", keep_alive=0), b"X-Id: waiting\r\n", path=b"/api/chat")
            await (await proxy_env.connect()).send(waiting)
            await proxy_env.lease(1)
            scope.cancel()
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()  # all of the proxy's tasks have ended
            await trio.sleep_forever()
    lines = [json.loads(line) for path in logs.iterdir() for line in path.read_text().splitlines()]
    assert lines[0]["request_id"] == "ended"
    assert {line["request_id"]: (line["status"], line["end"], line["code"]) for line in lines} == {
        "ended": (200, "ok", ""),
        "running": (503, "refused", "shutting_down"),
        "waiting": (503, "refused", "shutting_down"),
    }


def test_an_address_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotListen, match=f"127.0.0.1:{port}: address already in use"):
            listen_at("127.0.0.1", port)


@pytest.mark.parametrize("passed", [True, False], ids=["passed socket", "own socket"])
async def test_sigterm_ends_the_process_with_status_0_after_what_is_in_flight(tmp_path: Path, passed: bool) -> None:
    async with Worker().running_as(answer_when_released) as alpha:
        muxd = FakeMuxd(tmp_path / "muxd.sock")
        muxd.models = [
            {"name": "alpha", "served_names": [], "state": "ready", "switch_timeout_s": 600.0, "removed": False}
        ]
        muxd.grants["alpha"] = alpha.url
        async with muxd.running(), trio.open_nursery() as nursery:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                port = listener.getsockname()[1]
                if not passed:
                    listener.close()
                config = _config(tmp_path, port)
                run = partial(_run, config, listener.fileno() if passed else None)
                process: trio.Process = await nursery.start(run)
                http_client = await _connect(port)
            await http_client.send(post(chat("alpha")))
            call = await alpha.calls.nth(0)
            process.send_signal(signal.SIGTERM)
            if not passed:
                await _refused(port)
            call.released.set()
            answer = await http_client.reply()
            assert (answer.status, answer.body) == (200, OK_BODY)
            await http_client.closed()
            http_client.close()
            with trio.fail_after(PATIENCE):
                assert await process.wait() == 0


def _config(tmp_path: Path, port: int) -> Path:
    path = tmp_path / "muxd.toml"
    path.write_text(
        f'[muxd]\nsocket = "{tmp_path}/muxd.sock"\nstate_dir = "{tmp_path}"\n'
        f'[proxy]\nlisten = "127.0.0.1:{port}"\nhosts = ["*"]\n'
        '[models.alpha]\nengine = "simulator"\n'
    )
    return path


_PROGRAM = """
import socket, sys
from pathlib import Path
from muxd.config.load import load_config
from muxd.notify import Notifier
from muxd.proxy.app import run_proxy
listen = socket.socket(fileno=int(sys.argv[2])) if sys.argv[2] else None
run_proxy(load_config(Path(sys.argv[1]), {}), listen, None, Notifier(None))
"""


async def _run(config: Path, fd: int | None, task_status: trio.TaskStatus[trio.Process]) -> None:
    argv = [sys.executable, "-c", _PROGRAM, str(config), "" if fd is None else str(fd)]
    await trio.run_process(
        argv, pass_fds=() if fd is None else (fd,), env=dict(os.environ), check=False, task_status=task_status
    )


async def _connect(port: int) -> HttpClient:
    with trio.fail_after(PATIENCE * 2):
        while True:
            try:
                return HttpClient(await trio.open_tcp_stream("127.0.0.1", port))
            except OSError:
                await trio.sleep(0.05)


async def _refused(port: int) -> None:
    with trio.fail_after(PATIENCE):
        while True:
            try:
                await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
            except OSError:
                return
            await trio.sleep(0.01)
