"""The reactor: one epoll for all of the proxy's sockets, and their deadlines.

Theory of operation
-------------------
A socket is registered once, edge-triggered, for its whole life; its events are plain method calls on its `Handler`,
or on what the handler had them diverted to.  That costs a tenth of a wait in trio per event.  The price: an edge is
told only once, so that a handler which stops reading before the kernel has nothing left must remember that it did
(`again`, or a flag of its own).

A *turn* takes up to 32 events from epoll, calls their handlers, and then writes: bytes for a peer are put into its
connection's buffer during the turn and handed to the kernel after it, all together.  System calls drive Python's own
code out of the processor's caches; made one after the other they cost less, and several small parts for one client
leave in one packet.  The clock is read once a turn.

Deadlines are attributes of the handlers, swept every 50 ms: setting one costs a store and no timer.  The few that must
be exact are `Alarm`s.  A deadline waits behind the events of its moment, since the very bytes that it waits for may be
among them, but no longer than for `_MOST_PUT_OFF` turns.

A callback may not block or await.  An exception in a callback is a bug, and ends the proxy: muxd starts it again.

trio runs as the guest of the reactor (`event_loop`), for work outside the data path: leases, metrics, logs.
"""

import os
import select
import socket
from collections import deque
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Protocol

ENDED = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR  # at least one direction of the connection is closed
BROKEN = select.EPOLLHUP | select.EPOLLERR  # both directions are closed
READABLE = select.EPOLLIN | ENDED
WRITABLE = select.EPOLLOUT
DATA = select.EPOLLIN | select.EPOLLOUT  # the mask of an event that brings bytes and no end, as nearly all do

_EDGES = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_BATCH = 32  # events per turn, whose writes are made together: with more events the first would wait too long
_MOST_PUT_OFF = 64  # full batches of events that are handled before a deadline that is due
_SWEEP = 0.05  # seconds: how late a deadline may be noticed

READ_SIZE = 128 * 1024


class Descriptor(Protocol):
    """A socket of whatever library."""

    def fileno(self) -> int: ...


class EventTarget(Protocol):
    """What gets the events of a socket."""

    def on_event(self, mask: int) -> None: ...


class Handler(EventTarget, Protocol):
    """What can be registered with the reactor.  `deadline` is on the monotonic clock, inf for none."""

    deadline: float

    def on_deadline(self) -> None: ...

    def close(self) -> None: ...


class Sender(Protocol):
    """What can ask to write at the end of a turn."""

    def write(self) -> None: ...


class Alarm:
    """A callback at a time, exact to the millisecond; there are few alarms, and each lives as long as the reactor."""

    __slots__ = ("_callback", "_reactor", "deadline")

    def __init__(self, reactor: "Reactor", callback: Callable[[], None]) -> None:
        self.deadline = inf
        self._reactor = reactor
        self._callback = callback
        reactor.watch(self)

    def set(self, seconds: float) -> None:
        """Have the callback called in `seconds` seconds, in place of the time set before."""
        self.deadline = monotonic() + seconds
        self._reactor.alarm_at(self.deadline)

    def clear(self) -> None:
        self.deadline = inf

    @property
    def pending(self) -> bool:
        return self.deadline != inf

    def ring(self) -> None:
        self.deadline = inf
        self._callback()


class Reactor:
    """The loop around one epoll; the owner calls `turn` again and again."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(READ_SIZE))  # shared: its content is valid within one callback
        self.now = monotonic()  # when this turn's events were returned, on the monotonic clock
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._alarms: list[Alarm] = []
        self._soon: deque[Callable[[], object]] = deque()  # called after this turn's events; other threads append to it
        self._closing: list[socket.socket] = []
        self.unsent: list[Sender] = []  # their `write` is called at this turn's end; see `Connection.send`
        self._put_off = 0  # turns for which deadlines have been put off
        self.turning = False
        self.next_sweep = inf
        self._last_sweep = 0.0
        self._next_alarm = inf
        self._due = inf  # the earlier one of the next sweep and the next alarm
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN | select.EPOLLET)
        #: Who gets the events, by descriptor.  Neither a dict nor bound methods: those are more places in memory, and
        #: in the midst of many streams each of them is out of the caches.
        self._targets: list[EventTarget | None] = [None] * (self._wake + 1)

    # Called by the handlers

    def add(self, sock: Descriptor, handler: Handler) -> None:
        fd, targets = sock.fileno(), self._targets
        if fd >= len(targets):
            targets += [None] * (fd + 1 - len(targets))
        self._handlers[fd] = targets[fd] = handler
        self._epoll.register(fd, _EDGES)

    def divert(self, sock: socket.socket, target: EventTarget) -> None:
        """Give the socket's events to `target` from now on; its handler keeps its deadline, and gets none of them."""
        self._targets[sock.fileno()] = target

    def forget(self, sock: Descriptor) -> None:
        """Unregister the socket, which somebody else closes, after the events of this turn."""
        fd = sock.fileno()
        del self._handlers[fd]
        self._targets[fd] = None
        self._epoll.unregister(fd)

    def close(self, sock: socket.socket) -> None:
        """Unregister and close the socket.

        Within a turn the socket is closed only at the turn's end: else a new socket could get
        the same descriptor, and its handler the events of the closed one.
        """
        self.forget(sock)
        if self.turning:
            self._closing.append(sock)
        else:
            sock.close()

    def again(self, callback: Callable[[], None]) -> None:
        """Have `callback` called after this turn's events; where another callback asks, in the next turn."""
        self._soon.append(callback)
        if not self.turning:
            self.rouse()

    def soon(self, callback: Callable[[], object]) -> None:
        """Have `callback` called within a turn; this method may be called from any thread."""
        self._soon.append(callback)
        self.rouse()

    def rouse(self) -> None:
        """Have a turn made, as there is something to do without any event; for callers outside a turn."""
        os.eventfd_write(self._wake, 1)

    def watch(self, alarm: Alarm) -> None:
        self._alarms.append(alarm)

    def alarm_at(self, at: float) -> None:
        if at < self._next_alarm:
            self._next_alarm = at
            self._set_due()

    def after(self, seconds: float) -> float:
        """Return the deadline that is `seconds` seconds from now, to be set on a handler."""
        return self.at(monotonic() + seconds)

    def at(self, at: float) -> float:
        """Return the deadline `at`, to be set on a handler, after making sure that a sweep comes in time for it.

        A deadline that was not made by `at` or `after` may be missed.
        """
        if at < self.next_sweep:
            self.next_sweep = at
            self._set_due()
        return at

    def _set_due(self) -> None:
        """Set the time at which alarms or deadlines are looked at next.

        A sweep looks at all handlers, so it comes at most every 50 ms: it takes 50 us for 1000 connections.  A timer
        for each request would cost more.
        """
        self._due = min(self._next_alarm, max(self.next_sweep, self._last_sweep + _SWEEP))
        if not self.turning:
            self.rouse()

    def handlers(self) -> list[Handler]:
        return list(self._handlers.values())

    # Called by the main loop

    def fileno(self) -> int:
        """Return the epoll's descriptor, which is readable when there is something to do before `patience` is over."""
        return self._epoll.fileno()

    def patience(self) -> float:
        """Return the seconds until something is due without any event; inf for never."""
        if self._soon:
            return 0.0
        return inf if self._due == inf else max(0.0, self._due - monotonic())

    def turn(self, patience: float | None = None) -> None:
        """Wait for events, at most `patience` seconds or `patience()`, and call the handlers and callbacks due."""
        if patience is None:  # then as `patience` says, without its calls
            if self._soon:
                patience = 0.0
            elif (due := self._due) != inf:
                patience = due - monotonic()
                if patience < 0.0:
                    patience = 0.0
        events = self._epoll.poll(patience, _BATCH)
        self.now = now = monotonic()
        self.turning = True
        targets = self._targets
        for fd, mask in events:
            if (target := targets[fd]) is not None:
                target.on_event(mask)
        if self._soon:
            self._run_callbacks()
        if self.unsent:
            self._write()
        if self._due <= now:
            self._expire_or_put_off(now, more=len(events) == _BATCH)
        self.turning = False
        while self._closing:
            self._closing.pop().close()

    def _run_callbacks(self) -> None:
        """Call the callbacks registered so far; those registered meanwhile are called in the next turn."""
        soon = self._soon
        for _ in range(len(soon)):
            soon.popleft()()

    def _write(self) -> None:
        while unsent := self.unsent:
            self.unsent = []
            for sender in unsent:
                sender.write()

    def _expire_or_put_off(self, now: float, *, more: bool) -> None:
        """Handle deadlines that are over, unless further events may wait.

        This comes after the turn's events and writes, so that no deadline is taken for missed whose bytes have arrived
        or were sent already.  `more` says that further events may wait, perhaps many after a stall of the process.
        """
        if more and self._put_off < _MOST_PUT_OFF:
            self._put_off += 1
            return
        self._put_off = 0
        self._expire(now)
        self._write()

    def _expire(self, now: float) -> None:
        if self._next_alarm <= now:
            self._next_alarm = inf
            for alarm in self._alarms:
                if alarm.deadline <= now:
                    alarm.ring()
            self._next_alarm = min(self._next_alarm, min(alarm.deadline for alarm in self._alarms))
        if self.next_sweep <= now and self._last_sweep + _SWEEP <= now:
            self._sweep(now)
        self._set_due()

    def _sweep(self, now: float) -> None:
        self._last_sweep = now
        self.next_sweep = inf  # `at` lowers it for deadlines that are set during the sweep
        for handler in self.handlers():
            if handler.deadline <= now:
                handler.deadline = inf
                handler.on_deadline()
        self.next_sweep = min(self.next_sweep, min((h.deadline for h in self._handlers.values()), default=inf))

    def close_all(self) -> None:
        """Close all registered handlers."""
        for handler in self.handlers():
            handler.close()

    def shut(self) -> None:
        """Close the epoll; nothing may be registered after this."""
        self._epoll.close()
        os.close(self._wake)
