"""What a client has sent is held as long as it is needed, counted meanwhile, and freed without a collection."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from muxd.http.request import RequestParser
from muxd.proxy.sockets.reframing import Unframer

from .browser import CHAT, Browser, chat, get, post
from .house import House, open_house
from .record import PATIENCE
from .worker import SSE_HEAD, Call, chunk, event

_BIG = chat(pad="x" * 900_000)


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def held(house: House) -> list[object]:
    """Parsers of clients, and what reframes their answers."""
    most = house.proxy.front.limits.max_body
    return [
        one
        for one in gc.get_objects()
        if (isinstance(one, RequestParser) and one._max_body == most) or isinstance(one, Unframer)
    ]


LEFT_BEHIND = {
    "nothing": b"",
    "half a head": b"POST /v1/chat",
    "half a body": post(_BIG)[:-1],
    "half a body in chunks": b"POST %b HTTP/1.1\r\nHost: muxd.test\r\nTransfer-Encoding: chunked\r\n\r\n" % CHAT
    + chunk(_BIG),
    "a body behind an upgrade": post(_BIG, b"Connection: upgrade\r\nUpgrade: h2c\r\n")[:-1],
    "a body after an answer": post(chat()) + post(_BIG)[:-1],
    "garbage": post(chat()) + b"garbage\r\n\r\n",
    "too much": b"POST %b HTTP/1.1\r\nHost: muxd.test\r\nTransfer-Encoding: chunked\r\n\r\n" % CHAT
    + chunk(b"x" * 1_100_000),
}


@pytest.mark.parametrize("sent", LEFT_BEHIND.values(), ids=LEFT_BEHIND)
async def test_nothing_stays_of_a_client_that_left(house: House, sent: bytes) -> None:
    browser = await house.connect()
    await browser.send(sent)
    browser.close()
    await house.proxy.front.empty()
    await trio.testing.wait_all_tasks_blocked()
    assert held(house) == []
    assert house.proxy.front.held == 0


async def test_a_body_half_received_is_counted(house: House) -> None:
    browser = await house.connect()
    await browser.send(post(_BIG)[:-1])
    with trio.fail_after(PATIENCE):
        while house.proxy._gauges().buffered_bytes < len(_BIG) - 1:
            await trio.sleep(0.001)
    assert house.proxy._gauges().buffered_bytes == len(_BIG) - 1


async def test_what_is_refused_in_its_midst_is_let_go_before_the_client_has_left(house: House) -> None:
    browser = await house.connect()
    await browser.send(LEFT_BEHIND["too much"])
    assert (await browser.reply()).status == 413
    assert house.proxy.front.held == 0
    (parser,) = held(house)
    assert isinstance(parser, RequestParser)
    assert (parser.buffered, parser._parts, parser._parser) == (0, [], None)


async def test_nothing_stays_of_an_answer_that_was_framed_anew(house: House) -> None:
    async def stream(call: Call) -> None:
        await call.send(SSE_HEAD + event("1") + b"0\r\n\r\n")

    house.alpha.answer = stream
    browser: Browser = await house.connect()
    await browser.send(post(chat(), version=b"1.0"))
    await browser.rest()
    browser.close()
    await house.proxy.front.empty()
    assert (await house.ask(get(b"/health"))).status == 200
    assert [one for one in held(house) if isinstance(one, Unframer)] == []


async def test_a_body_counts_until_its_worker_has_taken_it_though_the_answer_has_begun(tmp_path: Path) -> None:
    large = {"max_body": 32 << 20, "buffer_memory": 64 << 20}
    async with open_house(tmp_path, **large) as house:
        with trio.socket.socket() as listener:
            listener.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
            await listener.bind(("127.0.0.1", 0))
            listener.listen()
            house.muxd.grants["alpha"] = f"http://127.0.0.1:{listener.getsockname()[1]}"
            browser = await house.connect()
            big = chat(pad="x" * (24 << 20))
            await browser.send(post(big))
            worker, _ = await listener.accept()
            with worker:
                await worker.send(SSE_HEAD + event("1"))
                await browser.until(event("1"))
                assert house.proxy.front.held == len(big)
                await worker.send(b"0\r\n\r\n")
                await browser.until(b"0\r\n\r\n")
                assert house.proxy.front.held == 0
