"""Events that come one at a time, each a chunk of its own: they pass without being parsed, and nothing else does."""

import os
from pathlib import Path

import pytest
import trio
import trio.testing

from muxd.proxy.sockets.downstream import ClientConnection
from muxd.proxy.sockets.reactor import READ_SIZE

from .http_client import HttpClient, chat, post
from .proxy_env import ProxyEnv, open_proxy_env
from .record import PATIENCE
from .test_lost_workers import metric
from .test_sending import slow_reader, stuck
from .test_waiting import TALKATIVE, waiting
from .worker import SSE_HEAD, Call, answer_when_released, chunk

END = b"0\r\n\r\n"


def sized(size: int) -> bytes:
    """A chunk of so many bytes that is one event."""
    return chunk(b"data: ".ljust(size - 2, b"x") + b"\n\n")


class Hand:
    """A worker that sends a stream piece by piece, each when it is told to."""

    def __init__(self, proxy_env: ProxyEnv, http_client: HttpClient) -> None:
        self._pieces, pieces = trio.open_memory_channel[bytes | None](0)
        self._browser = http_client

        async def answer(call: Call) -> bool:
            await call.send(SSE_HEAD)
            async for piece in pieces:
                if piece is None:
                    return False
                await call.send(piece)
            return True

        proxy_env.alpha.answer = answer

    async def gives(self, piece: bytes) -> None:
        """And the client has it."""
        await self.sends(piece)
        await self._browser.until(piece)

    async def dies(self) -> None:
        await self.sends(None)

    async def sends(self, piece: bytes | None) -> None:
        with trio.fail_after(PATIENCE):
            await self._pieces.send(piece)


@pytest.fixture
async def http_client(proxy_env: ProxyEnv) -> HttpClient:
    return await proxy_env.connect()


@pytest.fixture(params=["a new head", "a known head"])
async def hand(proxy_env: ProxyEnv, http_client: HttpClient, request: pytest.FixtureRequest) -> Hand:
    if request.param == "a known head":

        async def answer(call: Call) -> None:
            await call.send(SSE_HEAD + END)

        proxy_env.alpha.answer = answer
        await http_client.ask(post(chat(stream=True)))
    hand = Hand(proxy_env, http_client)
    await http_client.send(post(chat(stream=True)))
    await http_client.until(SSE_HEAD)
    return hand


async def test_events_of_every_size_pass_byte_for_byte(hand: Hand, http_client: HttpClient) -> None:
    pieces = [sized(size) for size in (8, 15, 16, 17, 255, 256, 257, 4092, 4095, 4096, 4097, 9000)]
    for piece in pieces:
        await hand.gives(piece)
    await hand.sends(END)
    assert (await http_client.reply()).body == b"".join(pieces) + END


@pytest.mark.parametrize(
    "piece",
    [
        b"0010\r\ndata: 12345678\n\n\r\n",
        b"F\r\ndata: 1234567\n\n\r\n",
        b"10;a=b\r\ndata: 12345678\n\n\r\n",
        b"8\r\ndata: 12\r\n8\r\n345678\n\n\r\n",
        sized(16) + sized(20),
        sized(16) + b"1",
    ],
    ids=["zeros first", "upper case", "an extension", "two chunks", "two events", "more than an event"],
)
async def test_what_is_not_quite_one_event_passes_too(hand: Hand, http_client: HttpClient, piece: bytes) -> None:
    rest = b"0\r\ndata: 12345678\n\n\r\n" if piece.endswith(b"\r\n1") else b""
    for part in (sized(20), piece, rest, sized(30)):
        if part:
            await hand.gives(part)
    await hand.sends(END)
    assert (await http_client.reply()).body == sized(20) + piece + rest + sized(30) + END


@pytest.mark.parametrize(
    "piece",
    [
        b"zz\r\ndata: 12345678\n\n\r\n",
        b"+10\r\ndata: 12345678\n\n\r\n",
        b"data: 12345678\n\n\r\n",
        b"\0f\r\ndata: 1234567\n\n\r\n",
    ],
    ids=["no figure", "a sign", "no size", "a length that no chunk has"],
)
async def test_what_is_no_chunk_is_found_out_behind_events(hand: Hand, http_client: HttpClient, piece: bytes) -> None:
    await hand.gives(sized(20))
    await hand.gives(sized(30))
    await hand.sends(piece)
    assert b'"code":"worker_garbled"' in await http_client.rest()


@pytest.mark.parametrize("off", [-1, 1])
async def test_a_size_that_is_off_by_one_is_found_out(hand: Hand, http_client: HttpClient, off: int) -> None:
    await hand.gives(sized(20))
    await hand.sends(b"%x\r\n" % (30 + off) + sized(30).partition(b"\r\n")[2])
    await hand.sends(sized(20))
    assert b'"code":"worker_garbled"' in await http_client.rest()


async def test_a_worker_that_dies_behind_an_event_is_told_of_in_an_event(hand: Hand, http_client: HttpClient) -> None:
    await hand.gives(sized(20))
    await hand.gives(sized(30))
    await hand.dies()
    last = (await http_client.rest()).rpartition(sized(30))[2]
    size, _, data = last.partition(b"\r\n")
    assert int(size, 16) == len(data) - 2
    assert data.startswith(b"event: error\n")


async def test_a_client_that_reads_late_gets_every_event_and_little_is_kept_for_it(proxy_env: ProxyEnv) -> None:
    http_client = await slow_reader(proxy_env)
    hand = Hand(proxy_env, http_client)
    events = [sized(4000 + number % 9) for number in range(50)]

    async def send_all() -> None:
        for piece in (*events, END):
            await hand.sends(piece)  # which waits when neither the proxy nor the kernel takes more
            await trio.testing.wait_all_tasks_blocked()

    await http_client.send(post(chat(stream=True)))
    with trio.fail_after(2 * PATIENCE):  # a proxy that never rests would keep `wait_all_tasks_blocked` for ever
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all)
            await stuck(proxy_env)
            await trio.testing.wait_all_tasks_blocked(0.01)
            handlers = proxy_env.proxy.front.reactor.handlers()
            assert sum(h.unsent() for h in handlers if isinstance(h, ClientConnection)) < READ_SIZE + 5000
            assert (await http_client.reply()).body == b"".join(events) + END


async def test_tokens_told_in_an_event_of_two_chunks_are_counted(
    proxy_env: ProxyEnv, hand: Hand, http_client: HttpClient
) -> None:
    told = b'data: {"choices":[],"usage":{"prompt_tokens":7,"total_tokens":12,"completion_tokens":5}}\n\n'
    first = told.rindex(b"_tokens") + 3
    for piece in (sized(20), chunk(told[:first]), chunk(told[first:]), sized(20)):
        await hand.gives(piece)
    await hand.sends(END)
    await http_client.reply()
    assert await metric(proxy_env, "muxd_tokens_total") == "7.0 0.0 5.0"


async def test_tokens_told_in_an_event_of_its_own_are_counted(
    proxy_env: ProxyEnv, hand: Hand, http_client: HttpClient
) -> None:
    usage = chunk(b'data: {"choices":[],"usage":{"prompt_tokens":7,"total_tokens":12,"completion_tokens":5}}\n\n')
    for piece in (sized(20), usage, chunk(b"data: [DONE]\n\n")):
        await hand.gives(piece)
    await hand.sends(END)
    await http_client.reply()
    assert await metric(proxy_env, "muxd_tokens_total") == "7.0 0.0 5.0"


async def test_a_client_without_chunks_gets_events_that_come_one_at_a_time(
    proxy_env: ProxyEnv, http_client: HttpClient
) -> None:
    hand = Hand(proxy_env, http_client)
    await http_client.send(post(chat(stream=True), version=b"1.0"))
    for number in range(4):
        await hand.sends(chunk(b"data: %d\n\n" % number))
        await http_client.until(b"data: %d\n\n" % number)
    await hand.sends(END)
    assert (await http_client.rest()).partition(b"\r\n\r\n")[2] == b"data: 0\n\ndata: 1\n\ndata: 2\n\ndata: 3\n\n"


async def test_events_behind_comments_pass_one_at_a_time_and_their_tokens_are_counted(tmp_path: Path) -> None:
    usage = chunk(b'data: {"choices":[],"usage":{"prompt_tokens":7,"total_tokens":12,"completion_tokens":5}}\n\n')
    async with open_proxy_env(tmp_path, proxy=TALKATIVE) as proxy_env:
        client = await waiting(proxy_env)
        pieces, piece_of = trio.open_memory_channel[bytes](0)

        async def answer(call: Call) -> None:
            await call.send(SSE_HEAD)
            async for piece in piece_of:
                await call.send(piece)

        proxy_env.beta.answer = answer
        (await proxy_env.lease()).grant(proxy_env.beta.url)
        told = (sized(20), sized(300), usage, sized(40), END)
        for piece in told:
            await pieces.send(piece)
            await client.until(piece)
        assert client.buffer.endswith(b"".join(told))
        pieces.close()
        assert await metric(proxy_env, "muxd_tokens_total") == "7.0 0.0 5.0"


async def test_the_time_between_events_is_counted(proxy_env: ProxyEnv, hand: Hand) -> None:
    for size in range(20, 320):
        await hand.gives(sized(size))
    assert await metric(proxy_env, "muxd_event_gap_seconds_count") == "299.0"


async def test_an_event_does_not_overtake_what_its_client_is_sent_in_the_same_turn(
    proxy_env: ProxyEnv, http_client: HttpClient
) -> None:
    proxy_env.alpha.answer = answer_when_released
    await http_client.send(post(chat(stream=True)))
    call = await proxy_env.alpha.calls.nth(0)
    await call.send(SSE_HEAD + sized(100))
    await http_client.until(sized(100))
    http_client.finish_sending()  # is asked by a comment whether it is still there; the reactor has no turn meanwhile
    os.write(call.stream.socket.fileno(), sized(101))
    assert (await http_client.until(sized(101))).endswith(sized(100) + chunk(b":\n\n") + sized(101))
