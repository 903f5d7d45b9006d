"""Streams whose head is known and streams that are parsed: whoever receives them is told the same, byte by byte."""

import random
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest

from muxd.proxy.sockets.known_answers import KnownAnswer, KnownStream, known_stream
from muxd.proxy.sockets.pool import Pool
from muxd.proxy.sockets.reactor import DATA, ENDED, Reactor
from muxd.proxy.sockets.stream_formats import EVENTS, StreamFormat, kind_of
from muxd.proxy.sockets.upstream import Upstream, UpstreamLoss

from .test_known_answers import STREAM, answer, changed
from .worker import chunk, event

LAST = b"0\r\n\r\n"
HEADS = [
    *[STREAM] * 12,
    STREAM.replace(b"chatcmpl-1", b"chatcmpl-23"),
    STREAM.replace(b"uvicorn", b"other"),
    STREAM.replace(b"200 OK", b"404 Not Found"),
    STREAM.replace(b"server: uvicorn", b"connection: close"),
    STREAM.replace(b"text/event-stream", b"application/x-ndjson"),
    b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + STREAM,
    answer(),
]
PIECES = [
    *[event(text) for text in ("a", "bc", "d" * 300, "e" * 4060, "f" * 5000)] * 4,
    chunk(b"data: half"),
    chunk(b" an event\n\n"),
    event("a").replace(b"\r\n", b";a=b\r\n", 1),
    b"0" + event("a"),
    event("z" * 200).replace(b"e0\r\n", b"E0\r\n", 1),
    chunk(b"data: a\r\n\r\n"),
    b"5\r\n",
    b"zz\r\ndata: a\n\n\r\n",
]
ENDS = [
    *[LAST] * 6,
    b"0\r\nx-trailer: 1\r\n\r\n",
    b"00\r\n\r\n",
    b"0;a\r\n\r\n",
    LAST + answer(),
    LAST + b"\r\n",
    LAST[:3],
    b"",
]


class Told:
    """What a receiver is told of one response."""

    takes_whole = True
    flow = None

    def __init__(self) -> None:
        self.status = 0
        self.passed = b""
        self.stream: StreamFormat | None = None
        self.known = False
        self.end: object = None

    def takes_stream(self, data: bytes) -> bool:
        return True

    def on_stream(self, data: bytes, head_size: int, known: KnownStream) -> bool:
        self.known = True
        self.on_answer(200, data[:head_size].lower())
        return self.on_bytes(data)

    def on_whole(self, data: bytes, known: KnownAnswer) -> None:
        self.status, self.passed, self.end = known.status, data, True

    def on_answer(self, status: int, head: bytes) -> None:
        self.status, self.stream = status, kind_of(head)

    def on_bytes(self, data: bytes) -> bool:
        self.passed += data
        return True

    def on_complete(self, keep_alive: bool) -> None:
        self.end = keep_alive

    def on_stale(self) -> None:
        self.end = "stale"

    def on_loss(self, loss: UpstreamLoss, why: str) -> None:
        self.end = (loss, why)


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    reactor = Reactor()
    yield reactor
    reactor.close_all()
    reactor.shut()


def responses(dice: random.Random) -> Iterator[list[bytes]]:
    """Yield the responses of one connection, in pieces as they are read."""
    for _ in range(dice.randrange(1, 4)):
        parts = [dice.choice(HEADS), *(dice.choice(PIECES) for _ in range(dice.randrange(6))), dice.choice(ENDS)]
        pieces = [b""]
        for part in parts:
            part = changed(part, dice) if part and dice.random() < 0.05 else part
            if dice.random() < 0.6:
                pieces.append(b"")
            pieces[-1] += part
            if len(part) > 1 and dice.random() < 0.1:
                at = dice.randrange(1, len(part))
                pieces[-1:] = [pieces[-1][: len(pieces[-1]) - len(part) + at], part[at:]]
        yield [piece for piece in pieces if piece]


def what_is_told(reactor: Reactor, seed: int, *, known: bool) -> tuple[list[object], int]:
    """Return what is told after each piece of the seed's responses, and how many began as known streams."""
    dice = random.Random(seed)
    pool = Pool(reactor, "http://127.0.0.1:1")
    if known:
        pool.known_stream = known_stream(STREAM)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    connection = Upstream(pool, ours)
    connection.connecting = False
    seen: list[object] = []
    begun = 0
    for pieces in responses(dice):
        told = Told()
        pool.idle.clear()
        connection.ask(told, b"headbody")
        reactor.turn(0)
        for piece in pieces:
            with suppress(BrokenPipeError):
                theirs.send(piece)
            if not connection.closed:
                connection.on_event(DATA)
            speaks = told.end is None and connection.between_parts(told.stream or EVENTS)
            seen.append((told.status, told.passed, told.end, speaks, connection.closed, connection in pool.idle))
        begun += told.known
        if told.end is None or connection.closed or connection not in pool.idle:
            break
    theirs.close()
    if not connection.closed:
        connection.on_event(DATA | ENDED)
        seen.append((told.passed, told.end, connection.closed))
    if not connection.closed:
        connection.close()
    return seen, begun


@pytest.mark.parametrize("seed", range(4))
def test_whoever_receives_a_stream_is_told_the_same(
    reactor: Reactor, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(Pool, "learn", lambda pool, data: None)
    monkeypatch.setattr(Pool, "learn_stream", lambda pool, head: None)
    begun = 0
    for number in range(1000 * seed, 1000 * (seed + 1)):
        of_known, count = what_is_told(reactor, number, known=True)
        begun += count
        of_parsed, none = what_is_told(reactor, number, known=False)
        assert (of_known, none) == (of_parsed, 0), number
    assert begun > 300


def test_a_chunked_answer_that_is_no_stream_leaves_a_known_stream_known(reactor: Reactor) -> None:
    pool = Pool(reactor, "http://127.0.0.1:1")
    pool.learn_stream(STREAM)
    known = pool.known_stream
    assert known is not None
    pool.learn_stream(STREAM.replace(b"text/event-stream", b"application/json"))
    assert pool.known_stream is known
    pool.learn_stream(STREAM.replace(b"uvicorn", b"other"))
    assert pool.known_stream not in (None, known)
