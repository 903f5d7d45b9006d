"""Logs over the control socket, followed while they are written and rotated."""

import json
import os
import select
from pathlib import Path

import trio

from muxd.shim.log import Log
from tests.test_logfiles import append, rotate

from .conftest import Desk, until

LINES = 30_000


async def numbers(stream: trio.SocketStream, last: int) -> list[int]:
    """The numbered lines of a followed log, up to `last`; chunks are dropped with what is not a line."""
    received = await until(stream, b'"line":"%d","time":null}\n' % last)
    return [int(json.loads(line)["line"]) for line in received.split(b"\n") if line.startswith(b"{")]


async def test_a_followed_log_comes_whole_over_rotations(desk: Desk, tmp_path: Path) -> None:
    log = tmp_path / "qwen.stderr.log"
    append(log, b"1\n2\n3\n")
    stream = await desk.send("GET", "/v1/models/qwen/logs?follow=1&lines=2")
    await until(stream, b"\r\n\r\n")
    async with trio.open_nursery() as nursery:

        async def write() -> None:
            for start in range(4, LINES, 500):
                append(log, b"".join(b"%d\n" % number for number in range(start, min(start + 500, LINES))))
                if start % 3 == 0:
                    rotate(log, backups=100)
                    append(log, b"")
                await trio.lowlevel.checkpoint()

        nursery.start_soon(write)
        assert await numbers(stream, LINES - 1) == list(range(2, LINES))


async def test_both_streams_come_with_their_names(desk: Desk, tmp_path: Path) -> None:
    append(tmp_path / "qwen.stdout.log", b"out\n")
    os.utime(tmp_path / "qwen.stdout.log", (10, 10))
    Log(str(tmp_path / "qwen.stderr.log"), 1000, 1).write(b"\xff\n", 20_500_000_000)
    _, _, body = await desk.ask("GET", "/v1/models/qwen/logs")
    both = [
        {"stream": "stdout", "line": "out", "time": None},
        {"stream": "stderr", "line": "\ufffd", "time": 20.5},
    ]
    assert json.loads(body) == {"lines": both}
    _, _, body = await desk.ask("GET", "/v1/models/qwen/logs?stream=stderr")
    assert json.loads(body) == {"lines": both[1:]}
    _, _, body = await desk.ask("GET", "/v1/models/qwen/logs?lines=0")
    assert json.loads(body) == {"lines": []}
    _, _, body = await desk.ask("GET", "/v1/models/qwen/logs?since=20&until=21")
    assert [json.loads(line) for line in body.splitlines() if line.startswith(b"{")] == both[1:]
    status, _, body = await desk.ask("GET", "/v1/models/qwen/logs?until=21&follow=1")
    assert (status, json.loads(body)["error"]["code"]) == (400, "bad_request")


async def test_a_log_that_cannot_be_read_is_an_error_not_a_crash(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "qwen.stdout.log").mkdir()
    status, _, body = await desk.ask("GET", "/v1/models/qwen/logs")
    assert (status, json.loads(body)["error"]["code"]) == (503, "unavailable")
    status, _, body = await desk.ask("GET", "/v1/models/qwen/logs?follow=1")
    assert (status, json.loads(body)["error"]["code"]) == (503, "unavailable")


async def test_a_follower_that_does_not_read_holds_up_nobody(desk: Desk, tmp_path: Path) -> None:
    log = tmp_path / "qwen.stdout.log"
    append(log, b"x" * 60_000 + b"\n")
    stuck = await desk.send("GET", "/v1/models/qwen/logs?follow=1")
    reading = await desk.send("GET", "/v1/models/qwen/logs?follow=1&lines=0")
    await until(reading, b"\r\n\r\n")
    for _ in range(30):
        append(log, b"x" * 60_000 + b"\n")
    append(log, b"last\n")
    await until(reading, b'"last",')
    assert (await desk.ask("GET", "/v1/status"))[0] == 200
    await until_hung_up(stuck)
    received = b""
    while data := await stuck.receive_some():
        received += data
    assert not received.endswith(b"0\r\n\r\n")


async def until_hung_up(stream: trio.SocketStream) -> None:
    """Wait for the server to close, without reading."""
    poll = select.poll()
    poll.register(stream.socket, select.POLLHUP)
    while not await trio.to_thread.run_sync(poll.poll, 100):
        pass


async def test_a_follower_that_leaves_is_noticed_in_silence(desk: Desk) -> None:
    before = len(desk.nursery.child_tasks)
    stream = await desk.send("GET", "/v1/models/qwen/logs?follow=1")
    await until(stream, b"\r\n\r\n")
    await stream.send_eof()
    await until(stream, b"0\r\n\r\n")
    assert len(desk.nursery.child_tasks) == before


async def test_what_the_disk_refused_of_a_log_is_in_the_answer(desk: Desk) -> None:
    desk.office.lost = {"bytes": 105, "reason": "no space left on device"}
    _, _, body = await desk.ask("GET", "/v1/models/qwen/logs")
    assert json.loads(body) == {"lines": [], "lost": desk.office.lost}
