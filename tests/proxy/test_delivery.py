"""What the access log says of an answer is what the client was given."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from muxd.proxy.sockets import reactor
from tests.soak.delivery import deliver

from .http_client import CHAT, chat, get, post
from .proxy_env import QUIET, open_proxy_env
from .test_sending import LONG, answer_at_length, slow_reader, stuck
from .worker import SSE_HEAD, Call, event


async def test_every_answer_is_whole_and_logged_byte_for_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m tests.soak.delivery 20000` does the same for longer."""
    monkeypatch.setattr(reactor, "_SWEEP", 0.001)
    tally = await deliver(tmp_path, 500)
    assert tally.differences == []
    assert len(tally.got) == 500
    assert tally.commented > 100


@pytest.mark.parametrize("half", [False, True], ids=["nothing", "half"])
async def test_who_leaves_before_all_of_a_finished_answer_is_taken_is_not_logged_as_served(
    tmp_path: Path, half: bool
) -> None:
    logs = tmp_path / "access"
    async with open_proxy_env(tmp_path, proxy=replace(QUIET, access_log="json", access_log_dir=logs)) as proxy_env:
        proxy_env.alpha.answer = answer_at_length
        http_client = await slow_reader(proxy_env)
        await http_client.send(post(chat()))
        await stuck(proxy_env)
        if half:
            await http_client.at_least(len(LONG) // 2)
        http_client.reset()
        await proxy_env.proxy.front.empty()
    (line,) = lines_in(logs)
    assert (line["status"], line["end"]) == (200, "client_gone")
    assert line["response_bytes"] < len(LONG)


async def test_who_leaves_the_queue_is_logged_with_the_time_that_it_has_waited(tmp_path: Path) -> None:
    logs = tmp_path / "access"
    proxy = replace(QUIET, access_log="json", access_log_dir=logs, comment_interval=0.1)
    async with open_proxy_env(tmp_path, proxy=proxy) as proxy_env:
        http_client = await proxy_env.connect()
        await http_client.send(post(chat("beta", stream=True)))
        await http_client.until(b": muxd: model beta:")
        http_client.reset()
        await proxy_env.proxy.front.empty()
    (line,) = lines_in(logs)
    assert (line["status"], line["end"]) == (499, "client_gone")
    assert 0.1 <= line["wait_s"] <= line["duration_s"]


async def test_a_slow_reader_that_takes_all_is_logged_once_it_has(tmp_path: Path) -> None:
    logs = tmp_path / "access"
    async with open_proxy_env(tmp_path, proxy=replace(QUIET, access_log="json", access_log_dir=logs)) as proxy_env:
        records = proxy_env.proxy.dispatcher._recorder
        proxy_env.alpha.answer = answer_at_length
        http_client = await slow_reader(proxy_env)
        await http_client.send(post(chat()))
        await stuck(proxy_env)
        assert [visit.target for visit in records.ended if visit.target == CHAT] == []
        assert (await http_client.reply()).raw == LONG
        http_client.close()
        await proxy_env.proxy.front.empty()
    (line,) = lines_in(logs)
    assert (line["status"], line["end"], line["response_bytes"]) == (200, "ok", len(LONG))


def lines_in(folder: Path) -> list[dict[str, Any]]:
    """Of chat requests."""
    lines = [msgspec.json.decode(line) for file in folder.iterdir() for line in file.read_bytes().splitlines()]
    return [line for line in lines if line["path"] == CHAT.decode()]


@pytest.mark.parametrize("path", [b"/v1/responses/resp_1?stream=true", CHAT], ids=["read", "asked"])
async def test_a_stream_whose_events_came_one_at_a_time_is_logged_with_all_its_bytes(
    tmp_path: Path, path: bytes
) -> None:
    async def answer(call: Call) -> None:
        await call.send(SSE_HEAD)
        for number in range(5):
            await call.send(event(f"{number}"))
            await call.released.wait()
            call.released = trio.Event()
        await call.send(b"0\r\n\r\n")

    logs = tmp_path / "access"
    async with open_proxy_env(tmp_path, proxy=replace(QUIET, access_log="json", access_log_dir=logs)) as proxy_env:
        http_client = await proxy_env.connect()
        assert (await http_client.ask(post(chat()))).status == 200
        proxy_env.alpha.answer = answer
        await http_client.send(post(chat(stream=True)) if path == CHAT else get(b"/upstream/alpha" + path))
        call = await proxy_env.alpha.calls.nth(1)
        for number in range(5):
            await http_client.until(event(f"{number}"))
            call.released.set()
        reply = await http_client.reply()
        http_client.close()
        await proxy_env.proxy.front.empty()
    lines = [msgspec.json.decode(line) for file in logs.iterdir() for line in file.read_bytes().splitlines()]
    assert lines[-1]["response_bytes"] == len(reply.raw)
