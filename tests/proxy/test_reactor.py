"""The epoll loop's own promises."""

import logging
import os
import resource
import select
import socket
from collections.abc import AsyncIterator
from math import inf
from types import SimpleNamespace

import pytest
import trio
import trio.lowlevel

from muxd.proxy.sockets.connection import Connection
from muxd.proxy.sockets.reactor import Alarm, Reactor

from .http_client import HttpClient, get
from .proxy_env import ProxyEnv, turning
from .record import PATIENCE, Record


class Probe(Connection):
    """Records what it is told."""

    def __init__(self, reactor: Reactor, sock: socket.socket) -> None:
        super().__init__(reactor, sock)
        self.told: Record[str] = Record()
        reactor.add(sock, self)

    def on_event(self, mask: int) -> None:
        self.told.append("event")

    def on_deadline(self) -> None:
        self.told.append("deadline")

    def on_lost(self) -> None:
        self.told.append("lost")


def pair(reactor: Reactor, kind: type[Probe] = Probe) -> tuple[Probe, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return kind(reactor, ours), theirs


@pytest.fixture
async def reactor() -> AsyncIterator[Reactor]:
    async with turning() as reactor:
        yield reactor


async def test_a_new_socket_never_gets_the_events_of_a_closed_one_with_its_number(reactor: Reactor) -> None:
    victim, peer_of_victim = pair(reactor)
    await victim.told.nth(0)
    heirs: list[Probe] = []
    number = victim.sock.fileno()

    class Killer(Probe):
        def on_event(self, mask: int) -> None:
            if not victim.closed:
                victim.close()
                sock = socket.socket(socket.AF_UNIX)
                heirs.append(Probe(self.reactor, sock))

    sock, peer_of_killer = socket.socketpair()
    sock.setblocking(False)
    peer_of_killer.send(b"first")
    Killer(reactor, sock)
    peer_of_victim.send(b"second, in the same batch")
    with trio.fail_after(PATIENCE):
        while not heirs:
            await trio.lowlevel.checkpoint()
    assert heirs[0].sock.fileno() != number
    for peer in (peer_of_victim, peer_of_killer):
        peer.close()


def test_a_sockets_events_go_to_whom_its_handler_had_them_diverted() -> None:
    reactor = Reactor()
    probe, peer = pair(reactor)
    other, its_peer = pair(reactor)
    reactor.turn(0)
    probe.told.clear()
    for target, told in ((other, []), (probe, ["event"])):
        reactor.divert(probe.sock, target)
        peer.send(b"x")
        reactor.turn(0)
        assert list(probe.told) == told
    assert list(other.told) == ["event"] * 2  # the first is of its own socket
    for each in (probe, other):
        each.close()
    peer.close()
    its_peer.close()
    reactor.shut()


def test_a_socket_with_a_high_descriptor_gets_its_events_and_the_descriptors_below_it_have_none() -> None:
    reactor = Reactor()
    ours, peer = socket.socketpair()
    high = os.dup2(ours.fileno(), 500)
    ours.close()
    probe = Probe(reactor, socket.socket(fileno=high))
    probe.sock.setblocking(False)
    reactor.soon(lambda: None)  # the reactor is roused by a descriptor that no handler has
    reactor.turn(0)
    assert list(probe.told) == ["event"]
    probe.close()
    peer.close()
    reactor.shut()


async def test_deadlines_come_in_their_order_and_moved_ones_do_not(reactor: Reactor) -> None:
    probes, peers = zip(*(pair(reactor) for _ in range(3)), strict=True)
    probes[0].deadline = reactor.after(1000.0)
    probes[1].deadline = reactor.after(0.2)
    probes[2].deadline = reactor.after(0.1)
    probes[2].deadline = inf
    await probes[1].told.has("deadline")
    assert "deadline" not in probes[0].told
    assert "deadline" not in probes[2].told
    for peer in peers:
        peer.close()


async def test_a_deadline_that_comes_near_during_a_turn_is_waited_for_no_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def busy() -> None:
        clock[0] += 5.0
        alarm.set(0.01)

    clock, reactor = [100.0], Reactor()
    monkeypatch.setattr("muxd.proxy.sockets.reactor.monotonic", lambda: clock[0])
    waits: list[float | None] = []
    monkeypatch.setattr(reactor, "_epoll", SimpleNamespace(poll=lambda patience, most: waits.append(patience) or []))
    alarm = Alarm(reactor, lambda: None)
    reactor.soon(busy)
    reactor.turn()
    reactor.turn()
    assert waits == [0.0, pytest.approx(0.01)]


async def test_what_the_kernel_does_not_take_is_kept_in_order(reactor: Reactor) -> None:
    probe, peer = pair(reactor)
    data = os.urandom(100_000)
    sent = [probe.send(memoryview(data)) for _ in range(20)]
    assert not all(sent)
    received = b""
    while len(received) < 20 * len(data):
        received += peer.recv(1 << 20)
        probe.flush()
    assert received == data * 20
    assert not probe.outbox
    peer.close()


async def test_a_peer_found_gone_while_sending_is_told_after_the_call(reactor: Reactor) -> None:
    probe, peer = pair(reactor)
    peer.close()
    probe.send(b"x")
    assert "lost" not in probe.told
    await probe.told.has("lost")


async def test_without_descriptors_left_clients_wait_until_there_are_some(
    proxy_env: ProxyEnv, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    client = socket.create_connection(("127.0.0.1", proxy_env.port))  # not yet accepted: the proxy had no turn
    free = os.dup(client.fileno())
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        with trio.fail_after(PATIENCE):
            while "cannot accept" not in caplog.text:
                await trio.sleep(0.01)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    client.setblocking(False)
    async with trio.SocketStream(trio.socket.from_stdlib_socket(client)) as stream:
        assert (await HttpClient(stream).ask(get(b"/health"))).status == 200


class Idle(Probe):
    """Told of what it is sent, and of its deadline."""

    def on_event(self, mask: int) -> None:
        if mask & select.EPOLLIN:
            self.told.append("data")
            self.deadline = inf


def test_what_came_during_a_stall_goes_before_the_deadlines_that_passed_in_it() -> None:
    reactor = Reactor()
    pairs = [pair(reactor, Idle) for _ in range(100)]
    reactor.turn(0)
    for probe, peer in pairs:
        probe.deadline = reactor.after(0.0)
        peer.send(b"in time")
    for _ in range(10):
        reactor.turn(0)
    assert [list(probe.told) for probe, _ in pairs] == [["data"]] * 100
    for probe, peer in pairs:
        probe.close()
        peer.close()
    reactor.shut()


def test_deadlines_pass_even_where_events_never_end(monkeypatch: pytest.MonkeyPatch) -> None:
    reactor = Reactor()
    probe, peer = pair(reactor)
    reactor.turn(0)
    full = [(0, select.EPOLLIN)] * 32  # of a descriptor that is not registered
    monkeypatch.setattr(
        reactor, "_epoll", SimpleNamespace(poll=lambda patience, most: full, unregister=lambda fd: None, close=int)
    )
    probe.deadline = reactor.after(0.0)
    for _ in range(100):
        reactor.turn(0)
    assert "deadline" in probe.told
    probe.close()
    peer.close()
    reactor.shut()


def test_what_is_sent_in_a_turn_is_written_before_the_deadlines_of_that_turn() -> None:
    """A deadline that closes the connection else throws it away."""

    class Answering(Probe):
        def on_event(self, mask: int) -> None:
            if mask & select.EPOLLIN:
                self.send(b"answer")

        def on_deadline(self) -> None:
            self.close()

    reactor = Reactor()
    probe, peer = pair(reactor, Answering)
    reactor.turn(0)
    peer.send(b"question")
    probe.deadline = reactor.after(0.0)
    reactor.turn(0)
    assert probe.closed
    assert peer.recv(100) == b"answer"
    peer.close()
    reactor.shut()
