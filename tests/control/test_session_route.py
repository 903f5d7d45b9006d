"""A proxy's session at the real control socket: how it begins, what passes, how it ends."""

import json
import logging
import os
import random
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from muxd.client import ControlClient
from muxd.control import ControlSocket, Rights, serve_control
from muxd.protocol import (
    LONGEST_LINE,
    VERSION,
    DemandReport,
    LeaseDemand,
    LeaseGranted,
    LeaseWish,
    UnloadWish,
    WaitingRequests,
)

from .conftest import Desk, until, until_closed
from .office import FakeOffice

WISH = b'{"type":"ask","lease":1,"model":"qwen","waiting":[{"key":"k","count":3,"oldest_s":1.5,"new":1}]}\n'
REPORT = b'{"type": "report", "leases": [{"lease": 1, "in_flight": 4}, {"lease": 2, "waiting": [{}]}]}\n'


def told(received: bytes) -> list[dict[str, Any]]:
    """Return what came behind the head, as JSON."""
    return [json.loads(line) for line in received.partition(b"\r\n\r\n")[2].splitlines()]


async def test_lines_pass_both_ways_until_the_proxy_is_gone(desk: Desk) -> None:
    stream = await desk.begin_session(lines=WISH)
    received = await until(stream, b"}\n")
    assert received.startswith(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: muxd-session\r\n")
    assert b"\r\nmuxd-protocol: %d\r\n" % VERSION in received
    assert told(received) == [{"type": "queued", "lease": 1, "position": 1, "eta_s": None}]
    await stream.send_all(REPORT[:20])
    await stream.send_all(REPORT[20:] + b'{"type": "unload", "model": "qwen"}\n')
    desk.office.sessions[0].say(LeaseGranted(1, "http://é", 2))
    assert json.loads(await until(stream, b"\n")) == {
        "type": "granted",
        "lease": 1,
        "url": "http://é",
        "generation": 2,
    }
    await stream.aclose()
    await desk.office.closed.wait()
    assert desk.office.asked == [
        LeaseWish(1, "qwen", (WaitingRequests("k", 0, 3, 1.5),)),
        DemandReport((LeaseDemand(1, 4), LeaseDemand(2, 0, (WaitingRequests(),)))),
        UnloadWish("qwen"),
        "closed",
    ]


async def test_a_proxy_that_only_ends_its_side_has_ended_its_session(desk: Desk) -> None:
    stream = await desk.begin_session()
    await until(stream, b"\r\n\r\n")
    await stream.send_eof()
    assert await until_closed(stream) == b""
    assert desk.office.asked == ["closed"]


async def test_a_session_that_the_office_ends_ends_the_connection(desk: Desk) -> None:
    stream = await desk.begin_session(lines=WISH)
    await until(stream, b"}\n")
    desk.office.sessions[0].say(LeaseGranted(1, "http://a", 1))
    desk.office.sessions[0].end()
    assert (await until_closed(stream)).endswith(b'"generation":1}\n')
    assert desk.office.asked[-1] == "closed"


async def test_a_proxy_that_stops_reading_is_dropped(desk: Desk) -> None:
    await until(await desk.begin_session(), b"\r\n\r\n")
    await desk.office.opened.wait()
    session = desk.office.sessions[0]
    while not desk.office.closed.is_set():
        with trio.move_on_after(0.1):
            await session._tell.send(LeaseGranted(1, "x" * 100_000, 1))


@pytest.mark.parametrize(
    ("version", "advice"),
    [
        (b"1", "the proxy is the older one"),
        (b"%d" % (VERSION + 1), "muxd is the older one"),
        (b"two", "the proxy is the older one"),
        (b"9" * 5000, "the proxy is the older one"),
    ],
)
async def test_another_version_is_refused_in_words_on_both_sides(
    desk: Desk, caplog: pytest.LogCaptureFixture, version: bytes, advice: str
) -> None:
    with caplog.at_level(logging.WARNING):
        answer = await until_closed(await desk.begin_session(version))
    assert answer.startswith(b"HTTP/1.1 409 ")
    error = told(answer)[0]["error"]
    assert (error["code"], error["details"]["muxd"]) == ("protocol_mismatch", VERSION)
    assert f"and this muxd version {VERSION}; {advice}: restart it" in error["message"]
    assert error["message"] in caplog.text
    assert desk.office.sessions == []


async def test_a_question_that_is_no_session_is_answered_as_such(desk: Desk) -> None:
    status, _, body = await desk.ask("GET", "/v1/session")
    assert (status, json.loads(body)["error"]["code"]) == (400, "bad_request")
    stream = await desk.connect()
    await stream.send_all(
        b"GET /v1/version HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: muxd-session\r\n\r\n"
    )
    assert (await until_closed(stream)).startswith(b"HTTP/1.1 200 ")
    assert desk.office.sessions == []


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"{}\n", "type"),
        (b"\n", "truncated"),
        (b"\xff\n", "malformed"),
        (b'{"type": "granted", "lease": 1}\n', "granted"),
        (b'{"type": "ask", "lease": "1", "model": "qwen"}\n', "$.lease"),
        (b'{"type": "ask", "lease": 1}\n', "model"),
        (b'{"type": "ask", "lease": 1, "model": "qwen", "waiting": {}}\n', "$.waiting"),
        (b'{"type": "ask", "lease": 1, "model": "qwen", "waiting": [{"count": "2"}]}\n', "$.waiting[0].count"),
        (b'{"type": "ask", "lease": 1, "model": "qwen", "waiting": [{"count": -2}]}\n', "$.waiting[0].count"),
        (b'{"type": "ask", "lease": 1, "model": "qwen", "waiting": [{"priority": 1e300}]}\n', "$.waiting[0].priority"),
        (b'{"type": "ask", "lease": 1, "model": "qwen", "waiting": [{}, {"oldest_s": -1}]}\n', "$.waiting[1].oldest_s"),
        (b'{"type": "report", "leases": [{"lease": 1, "in_flight": 1.5}]}\n', "$.leases[0].in_flight"),
        (b'{"type": "report", "leases": [{"lease": 1, "in_flight": 99999999999999999999999}]}\n', "in_flight"),
        (b'{"type": "release", "lease": -1}\n', "$.lease"),
        (b'{"type": "release", "lease": 13}\n', "13 brings no luck"),
        (b"[" * 100_000 + b"\n", "no message of a session"),
        (b"x" * (LONGEST_LINE + 1), f"at most {LONGEST_LINE} bytes"),
    ],
    ids=range(17),
)
async def test_what_is_no_message_ends_the_session_and_says_why(desk: Desk, line: bytes, complaint: str) -> None:
    stream = await desk.begin_session()
    received = await until(stream, b"\r\n\r\n")
    await stream.send_all(line)
    received += await until_closed(stream)
    (refused,) = told(received)
    assert (refused["type"], refused["error"]["code"]) == ("refused", "bad_request")
    assert complaint in refused["error"]["message"]
    assert desk.office.asked == ["closed"]


async def test_a_refusal_comes_behind_what_is_told_with_it(desk: Desk) -> None:
    for _ in range(20):  # either task of the session may have its turn first
        stream = await desk.begin_session(lines=WISH + b"{bad\n")
        assert [each["type"] for each in told(await until_closed(stream))] == ["queued", "refused"]


async def test_damaged_lines_never_show_a_traceback_nor_leave_a_session(desk: Desk) -> None:
    chance = random.Random(18)
    for _ in range(200):
        data = bytearray(WISH + REPORT)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        stream = await desk.begin_session(lines=bytes(data[: chance.choice((len(data), chance.randrange(len(data))))]))
        await stream.send_eof()
        assert b"Traceback" not in await until_closed(stream)
    assert desk.office.asked.count("closed") == len(desk.office.sessions) == 200


async def test_a_hundred_models_of_eight_proxies_beside_a_thousand_clients_are_all_served(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    """Under the limits that muxd has: nobody who has a right is refused."""
    office, control = FakeOffice(tmp_path), ControlSocket(tmp_path / "muxd.sock")
    await nursery.start(partial(serve_control, office, control.listener, Rights(own_uid=os.geteuid())))
    wishes = [LeaseWish(number, "qwen") for number in range(100)]
    heard: list[int] = []

    async def hold(stack: AsyncExitStack) -> None:
        session = await stack.enter_async_context(ControlClient([control.path]).session())
        await session.send(wishes)
        count = 0
        while count < len(wishes):
            count += len(await session.receive())
        heard.append(count)

    async with AsyncExitStack() as stack:
        stack.callback(control.close)
        for _ in range(1000):
            client = await stack.enter_async_context(await trio.open_unix_socket(control.path))
            await client.send_all(b"GET /v1/version HTTP/1.1\r\nHost: muxd\r\n\r\n")
            assert (await client.receive_some()).startswith(b"HTTP/1.1 200 ")
        async with trio.open_nursery() as proxies:
            for _ in range(8):
                proxies.start_soon(hold, stack)
        assert heard == [100] * 8
        assert len(office.sessions) == 8
