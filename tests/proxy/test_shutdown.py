"""The end of a proxy: nobody new, what is in flight finishes, then it is gone."""

import os
import signal
import socket
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

from muxd.ports import CannotListen, listen_at

from .browser import Browser, chat, get, post
from .fake_muxd import FakeMuxd
from .house import House, open_house
from .record import PATIENCE
from .worker import OK, OK_BODY, SSE_HEAD, Call, Worker, answer_when_released, event


async def test_what_is_in_flight_finishes_and_what_waits_is_told(house: House) -> None:
    house.alpha.answer = answer_when_released
    busy, waiting, idle = [await house.connect() for _ in range(3)]
    await busy.send(post(chat()))
    await waiting.send(post(chat("beta")))
    await idle.ask(get(b"/health"))
    call = await house.alpha.calls.nth(0)
    await house.lease(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.proxy.drain, 60.0)
        assert (await waiting.reply()).code == "shutting_down"
        await waiting.closed()
        await idle.closed()
        with pytest.raises(OSError, match="failed"):
            await house.connect()
        call.released.set()
        assert await busy.rest() == OK


async def test_a_request_still_arriving_is_refused(house: House) -> None:
    browser = await house.connect()
    await browser.send(post(chat())[:-1])
    await house.ask(get(b"/health"))  # by now the first one's bytes are read, too
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.proxy.drain, 60.0)
        await trio.testing.wait_all_tasks_blocked()
        await browser.send(b"}")
        assert (await browser.reply()).code == "shutting_down"
        await browser.closed()


async def silent(house: House) -> Browser:
    """Accepted, and nothing said yet: its request may be under way."""
    browser = await house.connect()
    with trio.fail_after(PATIENCE):
        while house.proxy.front.clients < len(house.browsers):
            await trio.sleep(0.001)
    return browser


async def test_who_is_silent_when_it_comes_may_still_ask_and_is_answered(house: House) -> None:
    assert (await house.ask(post(chat()))).raw == OK
    browser = await silent(house)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.proxy.drain, 60.0)
        await trio.testing.wait_all_tasks_blocked()
        await browser.send(post(chat()) + post(chat()))
        assert await browser.rest() == OK + OK  # both had been sent


async def test_who_is_silent_when_it_comes_may_not_wait_for_a_model(house: House) -> None:
    browser = await silent(house)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.proxy.drain, 60.0)
        await trio.testing.wait_all_tasks_blocked()
        assert (await browser.ask(post(chat("beta")))).code == "shutting_down"
        await browser.closed()
    assert not house.muxd.leases


async def test_who_stays_silent_is_not_waited_for(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muxd.proxy.sockets.downstream._LAST_CHANCE", 0.05, raising=False)
    browser = await silent(house)
    with trio.fail_after(PATIENCE):
        await house.proxy.drain(60.0)
    await browser.closed()


@pytest.mark.parametrize("request_", [post(chat()), get(b"/health"), post(chat()) * 2], ids=["chat", "health", "two"])
async def test_what_an_idle_connection_has_already_sent_is_answered(house: House, request_: bytes) -> None:
    browser = await house.connect()
    assert (await browser.ask(post(chat()))).raw == OK
    os.write(browser.stream.socket.fileno(), request_)  # no await: the proxy cannot have seen it
    with trio.fail_after(PATIENCE):
        await house.proxy.drain(60.0)
    for _ in range(request_.count(b" HTTP/1.1")):
        assert (await browser.reply()).status == 200
    await browser.closed()


async def test_a_body_that_an_idle_connection_has_begun_to_send_is_waited_for(house: House) -> None:
    browser = await house.connect()
    assert (await browser.ask(post(chat()))).raw == OK
    os.write(browser.stream.socket.fileno(), post(chat())[:-1])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.proxy.drain, 60.0)
        await trio.testing.wait_all_tasks_blocked()
        await browser.send(b"}")
        assert await browser.rest() == OK


async def test_what_does_not_finish_is_cut_with_an_error(house: House) -> None:
    async def endless(call: Call) -> None:
        if b'"stream":true' in call.body:
            await call.send(SSE_HEAD + event("1"))
        await call.gone.wait()

    house.alpha.answer = endless
    plain, stream = await house.connect(), await house.connect()
    await plain.send(post(chat()))
    await stream.send(post(chat(stream=True)))
    await stream.until(event("1"))
    await house.alpha.calls.nth(1)
    with trio.fail_after(PATIENCE):
        await house.proxy.drain(0.05)
    assert (await plain.reply()).code == "shutting_down"
    assert b'"code":"shutting_down"' in await stream.rest()


async def test_a_client_that_does_not_read_its_last_words_holds_nothing_up(tmp_path: Path) -> None:
    async def flood(call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n" + b"x" * 20_000_000)
        await call.gone.wait()

    async with open_house(tmp_path) as house:
        house.alpha.answer = flood
        browser = await house.connect()
        await browser.send(post(chat()))
        await browser.until(b"\r\n\r\n")
        with trio.fail_after(PATIENCE):
            await house.proxy.drain(0.05)


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
                browser = await _connect(port)
            await browser.send(post(chat("alpha")))
            call = await alpha.calls.nth(0)
            process.send_signal(signal.SIGTERM)
            if not passed:
                await _refused(port)
            call.released.set()
            answer = await browser.reply()
            assert (answer.status, answer.body) == (200, OK_BODY)
            await browser.closed()
            browser.close()
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


async def _connect(port: int) -> Browser:
    with trio.fail_after(PATIENCE * 2):
        while True:
            try:
                return Browser(await trio.open_tcp_stream("127.0.0.1", port))
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
