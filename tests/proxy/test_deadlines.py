"""A deadline belongs to the state that it was set for: none outlives it, and none is lost to another."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from time import monotonic
from typing import cast

import pytest

from muxd.http.request import Request
from muxd.proxy.answers import Refusal
from muxd.proxy.sockets.context import CompleteResponse, ConnectionContext, Downstream, ProxyLimits
from muxd.proxy.sockets.downstream import ClientConnection, Phase
from muxd.proxy.sockets.reactor import Reactor

from .http_client import get

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Held:
    """A journey that ends when the test says so."""

    def __init__(self, client: Downstream) -> None:
        self.client = client
        self.deadline = inf
        self.told: list[str] = []

    def on_deadline(self) -> None:
        self.told.append("deadline")
        self.deadline = inf

    def on_kept(self) -> None: ...

    def on_drained(self) -> None: ...

    def cut(self, refusal: Refusal) -> None: ...

    def abandon(self, lost: int) -> None:
        self.told.append("abandoned")

    def probe(self) -> bytes:
        self.told.append("probe")
        return b""

    def delivered(self, lost: int) -> None:
        self.told.append(f"delivered, {lost} lost")

    def end(self) -> None:
        self.client.send(ANSWER)
        self.client.answered(self, keep_alive=True)


class Holding:
    """Answers nothing by itself."""

    def __init__(self) -> None:
        self.held: list[Held] = []

    def answer(self, client: Downstream, request: Request) -> Held:
        self.held.append(Held(client))
        return self.held[-1]

    def precheck(self, address: str, head: Request) -> CompleteResponse | None:
        return None

    def reject(self, address: str, head: Request, refusal: Refusal) -> CompleteResponse:
        return CompleteResponse(refusal.response(keep_alive=False), Held(cast(Downstream, None)))


@contextmanager
def asking(**limits: float) -> Iterator[tuple[Reactor, ClientConnection, socket.socket, Holding]]:
    """A client whose request is on its way."""
    reactor, holding = Reactor(), Holding()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.settimeout(5)
    front = ConnectionContext(reactor, ProxyLimits(max_body=1 << 20, buffer_memory=1 << 20, **limits), holding)  # type: ignore[arg-type]
    client = ClientConnection(front, ours, "peer", "peer")
    theirs.sendall(get(b"/"))
    while not holding.held:
        reactor.turn(0)
    with theirs:
        yield reactor, client, theirs, holding
        reactor.close_all()
        reactor.shut()


def test_an_answer_that_ends_in_the_turn_of_a_comments_deadline_is_whole() -> None:
    with asking() as (reactor, client, peer, holding):
        pending = holding.held[0]
        pending.deadline = reactor.after(0.0)
        client.heed()
        reactor.soon(pending.end)
        reactor.turn(0)
        assert peer.recv(1000) == ANSWER
        assert not client.closed
        assert client.phase is Phase.IDLE
        assert client.deadline > monotonic() + 10  # the idle timeout alone


def test_a_journeys_deadline_ends_with_the_journey() -> None:
    with asking() as (reactor, client, _, holding):
        pending = holding.held[0]
        pending.deadline = reactor.after(0.0)
        client.heed()
        pending.end()
        assert client.deadline == inf
        assert pending.told == []  # not before it is written
        reactor.turn(0)
        assert pending.told == ["delivered, 0 lost"]


def test_of_a_client_that_is_gone_what_was_not_sent_is_told_as_lost() -> None:
    with asking() as (_, client, _peer, holding):
        holding.held[0].end()
        client.on_lost()
        assert holding.held[0].told == [f"delivered, {len(ANSWER)} lost"]


def test_what_is_wrong_is_told_once_though_its_deadline_comes_in_the_same_turn() -> None:
    with asking() as (reactor, client, peer, holding):
        reactor.soon(holding.held[0].end)
        reactor.turn(0)
        peer.sendall(b"POST / HTTP/1.1\r\nhost: x\r\n")
        reactor.turn(0)
        assert client.phase is Phase.HEAD
        client.deadline = reactor.after(0.0)
        peer.sendall(b"garbage\r\n\r\n")
        for _ in range(3):
            reactor.turn(0)
        received = peer.recv(100_000)
        assert received.removeprefix(ANSWER).count(b"HTTP/1.1 ") == 1


def test_a_second_probe_is_not_lost_to_the_journeys_own_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    with asking() as (reactor, client, peer, holding):
        pending = holding.held[0]
        peer.shutdown(socket.SHUT_WR)
        reactor.turn(0)
        assert pending.told == ["probe"]
        pending.deadline = reactor.after(0.0)
        client.heed()
        due = client.deadline
        client.on_deadline()
        assert pending.told == ["probe", "deadline"]
        assert due <= monotonic() < client.deadline < monotonic() + 5  # the second probe


def test_an_answer_after_which_nothing_is_read_is_not_ended_by_a_reset() -> None:
    """Closing while bytes are unread is one, and it may overtake the answer."""
    with asking() as (reactor, client, peer, holding):
        cast(ConnectionContext, client._context).closing = True
        peer.sendall(get(b"/"))  # pipelined: nobody reads it any more
        reactor.turn(0)
        reactor.soon(holding.held[0].end)
        for _ in range(3):
            reactor.turn(0)
        assert peer.recv(1000) == ANSWER
        assert peer.recv(1000) == b""
        assert client.phase is Phase.LINGERING
