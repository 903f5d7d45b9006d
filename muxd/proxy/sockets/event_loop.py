"""The proxy's main loop: the reactor is the host, and trio is its guest.

A cycle of trio's own loop costs 15 to 40 us, as much as all the work for one event of a
stream.  As a guest (trio.lowlevel.start_guest_run) trio waits in a thread of its own, and
costs nothing until one of its tasks has something to do.  All trio tasks still run in the
thread of the reactor, so nothing needs a lock.
"""

import os
import resource
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import outcome
import trio

from .reactor import Reactor

T = TypeVar("T")

_DESCRIPTORS = 16384  # the kernel's descriptor table is grown to so many at the start


def run_with_trio_guest(main: Callable[[Reactor], Awaitable[T]]) -> T:
    """Run `main` as trio.run would, on a reactor that turns meanwhile; return or raise what `main` does."""
    _grow_descriptor_table()
    reactor = Reactor()
    ended: list[outcome.Outcome[T]] = []
    try:
        trio.lowlevel.start_guest_run(main, reactor, run_sync_soon_threadsafe=reactor.soon, done_callback=ended.append)
        turn = reactor.turn
        while not ended:
            turn()
    finally:
        reactor.shut()
    return ended[0].unwrap()


def _grow_descriptor_table() -> None:
    """Grow the kernel's table of descriptors now, to its final size.

    In a process with threads each doubling of the table waits for RCU: that stops the process for 7 to 14 ms.
    """
    highest = min(_DESCRIPTORS, resource.getrlimit(resource.RLIMIT_NOFILE)[0]) - 1
    with suppress(OSError):
        os.close(os.dup2(0, highest))
