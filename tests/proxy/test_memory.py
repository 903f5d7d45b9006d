"""What a client has sent is held as long as it is needed, counted meanwhile, and freed without a collection."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from muxd.http.request import RequestParser
from muxd.proxy.sockets.reframing import ChunkDecoder

from .http_client import CHAT, HttpClient, chat, get, post
from .proxy_env import ProxyEnv, open_proxy_env
from .record import PATIENCE
from .worker import SSE_HEAD, Call, chunk, event

_BIG = chat(pad="x" * 900_000)


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def held(proxy_env: ProxyEnv) -> list[object]:
    """Parsers of clients, and what reframes their answers."""
    most = proxy_env.proxy.front.limits.max_body
    return [
        one
        for one in gc.get_objects()
        if (isinstance(one, RequestParser) and one._max_body == most) or isinstance(one, ChunkDecoder)
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
async def test_nothing_stays_of_a_client_that_left(proxy_env: ProxyEnv, sent: bytes) -> None:
    http_client = await proxy_env.connect()
    await http_client.send(sent)
    http_client.close()
    await proxy_env.proxy.front.empty()
    await trio.testing.wait_all_tasks_blocked()
    assert held(proxy_env) == []
    assert proxy_env.proxy.front.held == 0


async def test_a_body_half_received_is_counted(proxy_env: ProxyEnv) -> None:
    http_client = await proxy_env.connect()
    await http_client.send(post(_BIG)[:-1])
    with trio.fail_after(PATIENCE):
        while proxy_env.proxy._gauges().buffered_bytes < len(_BIG) - 1:
            await trio.sleep(0.001)
    assert proxy_env.proxy._gauges().buffered_bytes == len(_BIG) - 1


async def test_what_is_refused_in_its_midst_is_let_go_before_the_client_has_left(proxy_env: ProxyEnv) -> None:
    http_client = await proxy_env.connect()
    await http_client.send(LEFT_BEHIND["too much"])
    assert (await http_client.reply()).status == 413
    assert proxy_env.proxy.front.held == 0
    (parser,) = held(proxy_env)
    assert isinstance(parser, RequestParser)
    assert (parser.buffered, parser._parts, parser._parser) == (0, [], None)


async def test_nothing_stays_of_an_answer_that_was_framed_anew(proxy_env: ProxyEnv) -> None:
    async def stream(call: Call) -> None:
        await call.send(SSE_HEAD + event("1") + b"0\r\n\r\n")

    proxy_env.alpha.answer = stream
    http_client: HttpClient = await proxy_env.connect()
    await http_client.send(post(chat(), version=b"1.0"))
    await http_client.rest()
    http_client.close()
    await proxy_env.proxy.front.empty()
    assert (await proxy_env.ask(get(b"/health"))).status == 200
    assert [one for one in held(proxy_env) if isinstance(one, ChunkDecoder)] == []


async def test_a_body_counts_until_its_worker_has_taken_it_though_the_answer_has_begun(tmp_path: Path) -> None:
    large = {"max_body": 32 << 20, "buffer_memory": 64 << 20}
    async with open_proxy_env(tmp_path, **large) as proxy_env:
        with trio.socket.socket() as listener:
            listener.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
            await listener.bind(("127.0.0.1", 0))
            listener.listen()
            proxy_env.muxd.grants["alpha"] = f"http://127.0.0.1:{listener.getsockname()[1]}"
            http_client = await proxy_env.connect()
            big = chat(pad="x" * (24 << 20))
            await http_client.send(post(big))
            worker, _ = await listener.accept()
            with worker:
                await worker.send(SSE_HEAD + event("1"))
                await http_client.until(event("1"))
                assert proxy_env.proxy.front.held == len(big)
                await worker.send(b"0\r\n\r\n")
                await http_client.until(b"0\r\n\r\n")
                assert proxy_env.proxy.front.held == 0
