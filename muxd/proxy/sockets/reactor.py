"""One epoll for all of the proxy's sockets, turned by one trio task.

A socket is registered once, edge-triggered, for its whole life; events are plain method
calls.  That costs a tenth of a trio wait per event.  The price: an edge is told only once,
so who stops reading before the kernel has nothing left must remember it (`again`, or a
flag of its own).

Nothing in a callback may block or await.  An exception in one is a bug and ends the proxy.
"""

import select
import socket
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Protocol

import trio

ENDED = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR  # at least one direction is over
BROKEN = select.EPOLLHUP | select.EPOLLERR  # both are
READABLE = select.EPOLLIN | ENDED
WRITABLE = select.EPOLLOUT

_EDGES = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_BATCH = 256  # events per epoll_wait
_BURST = 0.005  # seconds of callbacks until trio's other tasks get their turn
# While events come this close together, wait for the next in our own epoll: a trio cycle
# costs 15-40 us, more than most callbacks.  Other tasks are held up by at most this.
# (One millisecond is epoll_wait's own resolution.)
_DENSE = 0.001
_SWEEP = 0.05  # seconds: how late a deadline may be noticed

READ_SIZE = 128 * 1024


class Handler(Protocol):
    """What can be registered.  `deadline` is on the monotonic clock, inf for none."""

    deadline: float

    def on_event(self, mask: int) -> None: ...

    def on_deadline(self) -> None: ...

    def close(self) -> None: ...


class Reactor:
    """Needs its two tasks: `run` for the sockets, `sweep` for the deadlines."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(READ_SIZE))  # one for everybody: nothing in it outlives a callback
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._again: list[Callable[[], None]] = []
        self._closing: list[socket.socket] = []
        self._dispatching = False
        self._next_sweep = inf
        self._earlier = trio.Event()

    # For the handlers

    def add(self, sock: socket.socket, handler: Handler) -> None:
        self._handlers[sock.fileno()] = handler
        self._epoll.register(sock.fileno(), _EDGES)

    def close(self, sock: socket.socket) -> None:
        """Forget and close it.

        Within a batch of events it is closed after the batch: a new socket could get the
        same number, and its handler the old one's events.
        """
        del self._handlers[sock.fileno()]
        self._epoll.unregister(sock.fileno())
        if self._dispatching:
            self._closing.append(sock)
        else:
            sock.close()

    def again(self, callback: Callable[[], None]) -> None:
        """Call it after the other events: who asks stopped only to let others have a turn."""
        if self._dispatching:
            self._again.append(callback)
        else:
            trio.lowlevel.current_trio_token().run_sync_soon(callback)

    def after(self, seconds: float) -> float:
        """The deadline so far from now, to be set on a handler."""
        return self.at(monotonic() + seconds)

    def at(self, at: float) -> float:
        """This deadline, to be set on a handler: one not asked for here or by `after` may be missed."""
        if at < self._next_sweep:
            self._next_sweep = at
            self._earlier.set()
        return at

    def handlers(self) -> list[Handler]:
        return list(self._handlers.values())

    # The two tasks

    async def run(self) -> None:
        """Turn until cancelled."""
        last = 0.0
        while True:
            if self._again:
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(self._epoll)
            self._burst(dense=monotonic() - last < _DENSE)
            last = monotonic()

    def _burst(self, dense: bool) -> None:
        """Dispatch what there is; if `dense`, also what comes within a millisecond each."""
        until = monotonic() + _BURST
        events = self._epoll.poll(0, _BATCH)
        while events or self._again:
            self._dispatch(events)
            if not dense or monotonic() > until:
                return
            events = self._epoll.poll(0 if self._again else _DENSE, _BATCH)

    def _dispatch(self, events: list[tuple[int, int]]) -> None:
        self._dispatching = True
        handlers = self._handlers
        for fd, mask in events:
            handler = handlers.get(fd)
            if handler is not None:
                handler.on_event(mask)
        if self._again:
            again, self._again = self._again, []
            for callback in again:
                callback()
        self._dispatching = False
        while self._closing:
            self._closing.pop().close()

    async def sweep(self) -> None:
        """Call `on_deadline` of every handler whose deadline has passed, until cancelled.

        A scan of all handlers, and only when the earliest deadline is due: 1000 connections
        take 50 us.  A timer object per request would cost more.
        """
        while True:
            self._earlier = trio.Event()
            with trio.move_on_after(max(_SWEEP, self._next_sweep - monotonic())):
                await self._earlier.wait()
                continue
            self._expire()

    def _expire(self) -> None:
        now = monotonic()
        for handler in self.handlers():
            if handler.deadline <= now:
                handler.deadline = inf
                handler.on_deadline()
        self._next_sweep = min((handler.deadline for handler in self._handlers.values()), default=inf)

    def shut(self) -> None:
        """Close everything that is registered."""
        for handler in self.handlers():
            handler.close()
        self._epoll.close()
