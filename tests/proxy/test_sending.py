"""What was sent arrives whole and in order, however little of it the kernel takes at once."""

import os
import socket
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from muxd.proxy.sockets.connection import Connection
from muxd.proxy.sockets.downstream import ClientConnection
from muxd.proxy.sockets.pool import Pool
from muxd.proxy.sockets.reactor import Reactor
from muxd.proxy.sockets.upstream import UpstreamLoss

from .http_client import HttpClient, chat, get, post
from .proxy_env import ProxyEnv, open_proxy_env
from .record import PATIENCE
from .worker import OK, SSE_HEAD, Call, answer_ok, event

#: More than the kernel takes of a slow reader's answer, and less than the proxy writes before a turn's end.
LONG_BODY = b"x" * 30_000
LONG = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(LONG_BODY) + LONG_BODY


async def answer_at_length(call: Call) -> None:
    await call.send(LONG)


async def slow_reader(proxy_env: ProxyEnv) -> HttpClient:
    """A client for which the kernel keeps a few kilobytes, at the proxy's end and at its own."""
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    await sock.connect(("127.0.0.1", proxy_env.port))
    http_client = HttpClient(trio.SocketStream(sock))
    proxy_env.http_clients.append(http_client)
    assert (await http_client.ask(get(b"/health"))).status == 200
    for handler in proxy_env.proxy.front.reactor.handlers():
        if isinstance(handler, ClientConnection) and handler.sock.getpeername() == sock.getsockname():
            handler.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return http_client


async def stuck(proxy_env: ProxyEnv) -> None:
    """Return when there is something that the kernel did not take."""
    with trio.fail_after(PATIENCE):
        while not any(isinstance(h, ClientConnection) and h.outbox for h in proxy_env.proxy.front.reactor.handlers()):
            await trio.sleep(0.001)


class Hurried(socket.socket):
    """Whenever the kernel takes less than all, the other side reads what there is before the next call."""

    def read_by(self, peer: socket.socket) -> None:
        self.peer, self.got = peer, b""
        peer.setblocking(False)

    def send(self, data: bytes | memoryview, flags: int = 0) -> int:  # type: ignore[override]
        try:
            sent = super().send(data, flags)
        except BlockingIOError:
            self.drain()
            raise
        if sent < len(data):
            self.drain()
        return sent

    def drain(self) -> None:
        while True:
            try:
                self.got += self.peer.recv(1 << 20)
            except BlockingIOError:
                return


class Sender(Connection):
    def on_event(self, mask: int) -> None:
        self.flush()

    def on_lost(self) -> None:
        raise AssertionError(self.error)


@pytest.mark.parametrize("relayed", ["none", "every second", "all"])
@pytest.mark.parametrize("sizes", [(20_000, 40_000), (20_000, 20_000, 40_000, 5), (40_000, 20_000, 40_000)])
def test_pieces_never_overtake_each_other_where_the_kernel_takes_a_part(sizes: tuple[int, ...], relayed: str) -> None:
    ours, theirs = socket.socketpair()
    with Hurried(fileno=ours.detach()) as sock, theirs:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sock.read_by(theirs)
        reactor = Reactor()
        sender = Sender(reactor, sock)
        reactor.add(sock, sender)
        pieces = [bytes([number]) * size for number, size in enumerate(sizes, ord("a"))]
        for number, piece in enumerate(pieces):
            at_once = relayed == "all" or (relayed == "every second" and number % 2 == 1)
            (sender.relay if at_once else sender.send)(piece)
        while sender.unsent():
            reactor.turn(0)
            sock.drain()
        assert sock.got == b"".join(pieces)
        sender.close()
        reactor.shut()


class Ignoring:
    """Asks, and does not care what is answered."""

    takes_whole = False

    @property
    def flow(self) -> "Ignoring":
        return self

    def on_event(self, mask: int) -> None: ...

    def on_answer(self, status: int, head: bytes) -> None: ...

    def on_bytes(self, data: bytes) -> bool:
        return True

    def on_complete(self, keep_alive: bool) -> None: ...

    def on_stale(self) -> None: ...

    def on_loss(self, loss: UpstreamLoss, why: str) -> None:
        raise AssertionError(why)


def test_a_worker_that_streams_before_it_has_read_the_request_gets_all_of_it() -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        reactor = Reactor()
        upstream = Pool(reactor, f"http://127.0.0.1:{listener.getsockname()[1]}").connect()
        upstream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        upstream.ask(Ignoring(), b"POST / HTTP/1.1\r\n\r\n", b"x" * 300_000)
        worker, _ = listener.accept()
        reactor.turn(0.1)
        worker.setblocking(False)
        worker.send(SSE_HEAD)
        for _ in range(2000):
            worker.send(event("1"))
            with suppress(BlockingIOError):
                while worker.recv(1 << 20):
                    pass
            reactor.turn(0.01)
            if not upstream.unsent():
                break
        assert not upstream.unsent()
        upstream.close()
        worker.close()
        reactor.shut()


async def test_a_slow_reader_gets_all_of_the_answer_after_which_the_connection_closes(proxy_env: ProxyEnv) -> None:
    proxy_env.alpha.answer = answer_at_length
    http_client = await slow_reader(proxy_env)
    await http_client.send(post(chat(), b"Connection: close\r\n"))
    assert await http_client.rest() == LONG


async def test_a_slow_http_1_0_reader_gets_all_of_its_answer(proxy_env: ProxyEnv) -> None:
    proxy_env.alpha.answer = answer_at_length
    http_client = await slow_reader(proxy_env)
    await http_client.send(post(chat(), version=b"1.0"))
    assert (await http_client.rest()).partition(b"\r\n\r\n")[2] == LONG_BODY


async def test_a_slow_reader_of_a_stream_that_breaks_gets_all_of_it_and_then_the_error(proxy_env: ProxyEnv) -> None:
    async def break_off(call: Call) -> bool:
        os.write(call.stream.socket.fileno(), SSE_HEAD + event("1" * 20_000))  # no await: the proxy learns of
        return False  # its end at once, too

    proxy_env.alpha.answer = break_off
    http_client = await slow_reader(proxy_env)
    await http_client.send(post(chat(stream=True)))
    rest = await http_client.rest()
    assert rest.startswith(SSE_HEAD + event("1" * 20_000))
    assert b'"code":"worker_died"' in rest
    assert rest.endswith(b"}\n\n\r\n")


async def test_a_slow_reader_that_has_read_all_of_it_asks_again_on_the_same_connection(proxy_env: ProxyEnv) -> None:
    proxy_env.alpha.answer = answer_at_length
    http_client = await slow_reader(proxy_env)
    for _ in range(2):
        await http_client.send(post(chat()) + get(b"/health"))
        await stuck(proxy_env)
        assert (await http_client.reply()).raw == LONG
        assert (await http_client.reply()).json["status"] == "ok"
    proxy_env.alpha.answer = answer_ok
    assert (await http_client.ask(post(chat()))).raw == OK


async def test_the_idle_timeout_runs_once_a_slow_reader_has_read_its_answer(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, idle_timeout=0.2) as proxy_env:
        proxy_env.alpha.answer = answer_at_length
        http_client = await slow_reader(proxy_env)
        await http_client.send(post(chat()))
        await stuck(proxy_env)
        assert (await http_client.reply()).raw == LONG
        await http_client.closed()


async def test_a_slow_reader_that_stops_before_a_last_answers_end_is_given_up(tmp_path: Path) -> None:
    async with open_proxy_env(tmp_path, write_timeout=0.2) as proxy_env:
        proxy_env.alpha.answer = answer_at_length
        http_client = await slow_reader(proxy_env)
        await http_client.send(post(chat(), b"Connection: close\r\n"))
        await stuck(proxy_env)
        with trio.fail_after(PATIENCE):
            await proxy_env.proxy.front.empty()
