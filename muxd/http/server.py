"""A small HTTP/1.1 server on trio, for the control socket and the simulator.

Each connection has one task, which answers its requests in order.  Every wait for a client
has a deadline, and a client that does not read blocks only its own task.  The proxy does
not use this server, which is too slow to relay streams (see muxd/proxy/sockets).
"""

import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import trio

from muxd.errors import HeadTimeout, MuxdError

from .accepting import Spare, accept
from .connection_limiter import ConnectionLimiter, Judge, Peers
from .request import Request, RequestParser
from .response import CONTINUE
from .response_writer import READ, ResponseWriter, linger, refuse, send
from .server_limits import SPREAD, ServerLimits

Handler = Callable[[Request, ResponseWriter], Awaitable[None]]


class _Connection:
    """One client's connection, from its first byte to its close."""

    def __init__(self, stream: trio.SocketStream, handler: Handler, limits: ServerLimits, peers: Peers) -> None:
        self._stream = stream
        self._handler = handler
        self._limits = limits
        self._peers = peers
        self._parser = RequestParser(limits.max_head, limits.max_body, limits.upgrades)
        self._requests: deque[Request] = deque()
        self._stretch = random.uniform(1.0, 1.0 + SPREAD)

    async def serve(self) -> None:
        """Answer requests until the client or the server ends the connection."""
        patience = self._limits.head_timeout * self._stretch
        try:
            while request := await self._next_request(patience):
                if delay := max((peer.requests.count() for peer in self._peers), default=0.0):
                    await trio.sleep(delay)
                if not await self._answer(request):
                    return
                patience = self._limits.idle_timeout * self._stretch
        except MuxdError as error:  # the bytes that arrived are no usable request
            await refuse(self._stream, error, self._limits)
        finally:
            self._parser.release()

    async def _next_request(self, patience: float) -> Request | None:
        """Return the next request; None where the client closes, or sends nothing for `patience` seconds.

        Raise the error of a request that cannot be read, HeadTimeout of one that does not arrive in time.
        """
        parser, phase = self._parser, 0
        with trio.move_on_after(patience) as scope:
            while not self._requests:
                if parser.broken is not None:
                    raise parser.broken
                if parser.mid_message + parser.head_seen > phase:
                    phase = parser.mid_message + parser.head_seen
                    scope.deadline = trio.current_time() + self._patience(phase) * self._stretch
                if parser.expects_continue:
                    parser.expects_continue = False
                    await send(self._stream, CONTINUE, self._limits.write_timeout)
                if not await self._receive():
                    return None
            return self._requests.popleft()
        if parser.mid_message:
            raise HeadTimeout(f"the request was not complete within {self._patience(phase):g} seconds")
        return None

    def _patience(self, phase: int) -> float:
        return self._limits.body_timeout if phase == 2 else self._limits.head_timeout

    async def _receive(self) -> bool:
        """Parse the bytes that arrive next; return False where the client is gone."""
        try:
            data = await self._stream.receive_some(READ)
        except trio.BrokenResourceError:
            return False
        self._requests.extend(self._parser.feed(data))
        return bool(data)

    async def _answer(self, request: Request) -> bool:
        """Answer one request; return whether another may follow on the connection."""
        exchange = ResponseWriter(self._stream, request, self._limits)
        exchange.early = self._parser.rest
        try:
            await self._handler(request, exchange)
            await exchange.finish()
        except MuxdError as error:
            if exchange.started:
                return False  # only an unclean end can still tell the client
            await exchange.send_error(error)
        if not exchange.keep_alive:
            await linger(self._stream, self._limits)
            return False
        self._requests.extend(self._parser.feed(exchange.early))
        return True


async def serve_http(
    handler: Handler,
    listeners: Sequence[trio.SocketListener],
    limits: ServerLimits | None = None,
    *,
    judge: Judge | None = None,
    task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled, and close the listeners; or until they were closed and the last client has gone.

    A MuxdError that `handler` raises before it has sent anything is sent as the response; where it raises one later,
    the connection ends uncleanly.  Any other exception is a bug, and is raised from here.
    `judge` returns the standing of a connection; without `judge` all are of rank 0.  Clients of the highest rank that
    connections are reserved for are accepted even where no descriptor is left for others.
    """
    allowed = limits or ServerLimits()

    async def serve(stream: trio.SocketStream, peers: Peers) -> None:
        await _Connection(stream, handler, allowed, peers).serve()

    limiter = ConnectionLimiter(serve, allowed, judge)
    async with trio.open_nursery() as nursery:
        for listener in listeners:
            nursery.start_soon(accept, listener, limiter, nursery, Spare())
        task_status.started(listeners)
