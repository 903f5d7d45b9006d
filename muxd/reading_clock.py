"""Sockets that trio's loop reads between its tasks: to wake a task costs more than what most lines of a proxy ask for.

Theory of operation
-------------------
A turn of trio's loop is dear: deadlines, the wait, a task that is rescheduled, and a system call by which it waits
again.  trio asks its clock how long it may sleep whenever no task can go on.  `ReadingClock` sleeps then itself: on an
epoll that has the sockets, each registered once and for all, and the epoll of trio, which is found by what the kernel
tells of this process's descriptors (proc(5), fdinfo).  What arrives at a socket is handed to a function.  Only where
that says so, or where there is something for trio, the clock returns, and trio has its turn.

While tasks go on all the time, trio asks for no sleep: then the sockets are read every LOOK seconds between two turns.

Without such a clock (in tests, which have one of their own) a task reads, by the same functions.
"""

import os
import select
from collections.abc import Callable
from math import inf
from pathlib import Path
from time import perf_counter

import trio

#: Seconds after which sockets are read although tasks go on.
LOOK = 0.01

#: Seconds that are slept at most at a time: more than an epoll can be told would be an error.
_LONGEST = 3600.0

#: Sockets that are read at most before the time is looked at.
_AT_ONCE = 64

_READ = 64 * 1024

#: Takes what has arrived at a socket; returns whether all is done: no task is to go on, no deadline is another.
Take = Callable[[bytes], bool]


async def read_all(connection: int, take: Take) -> None:
    """Have whatever arrives at a socket that does not block taken, until its other end closes; raise what `take` does.

    `take` is called between two tasks, so that it may not ask which one runs.
    """
    clock = trio.lowlevel.current_clock()
    if isinstance(clock, ReadingClock) and await clock.is_beside_trio():
        await clock.read_all(connection, take)
        return
    while True:
        await trio.lowlevel.wait_readable(connection)
        if (data := _arrived(connection)) == b"":
            return
        if data is not None:
            take(data)


def _arrived(connection: int) -> bytes | None:
    """Return what has arrived; b"" where the other end is closed, None for nothing."""
    try:
        return os.read(connection, _READ)
    except BlockingIOError:
        return None
    except OSError:
        return b""


class ReadingClock(trio.abc.Clock, trio.abc.Instrument):
    """trio's clock, on which muxd reads the proxies' sessions."""

    def __init__(self) -> None:
        self._callbacks: dict[int, Callable[[], bool]] = {}  # by socket
        self._both = select.epoll()  # the sockets, and trio's own epoll
        self._is_beside_trio: bool | None = None  # None: trio's epoll was not looked for yet
        self._looked = 0.0

    async def is_beside_trio(self) -> bool:
        """Say whether the clock knows what trio waits for, so that it can wait for that and more."""
        if self._is_beside_trio is None:
            found = await _epoll_of_trio()
            if self._is_beside_trio is None:  # nobody else has looked meanwhile
                self._is_beside_trio = found is not None
                if found is not None:
                    self._both.register(found, select.EPOLLIN)
                    trio.lowlevel.add_instrument(self)
        return self._is_beside_trio

    async def read_all(self, connection: int, take: Take) -> None:
        """Do what the function of that name does, between the tasks."""
        ended = trio.Event()
        errors: list[Exception] = []

        def read() -> bool:
            try:
                if data := _arrived(connection):
                    return take(data)
                if data is None:
                    return True
            except Exception as error:
                errors.append(error)
            self._forget(connection)
            ended.set()
            return False

        self._callbacks[connection] = read
        self._both.register(connection, select.EPOLLIN)
        try:
            await ended.wait()
        finally:
            self._forget(connection)
        if errors:
            raise errors[0]

    def _forget(self, connection: int) -> None:
        if self._callbacks.pop(connection, None) is not None:
            self._both.unregister(connection)

    # What trio asks

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return perf_counter()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Sleep until the deadline, or until trio has something to do, and return 0; without sockets, leave it to trio.

        trio asks when no task can go on.
        """
        while self._callbacks:
            patience = deadline - perf_counter()
            if patience <= 0.0:
                return 0.0
            if not self._look(patience):
                self._looked = perf_counter()
                return 0.0
        return inf if deadline == inf else deadline - perf_counter()

    def before_io_wait(self, timeout: float) -> None:
        """Read the sockets although trio has more to do: it asks this between any two turns."""
        if self._callbacks and perf_counter() - self._looked > LOOK:
            self._look(0.0)
            self._looked = perf_counter()

    def _look(self, patience: float) -> bool:
        """Wait for what arrives, at most so many seconds, and have it taken; say whether there is nothing for trio."""
        events = self._both.poll(min(patience, _LONGEST), _AT_ONCE)
        is_done = bool(events)
        for connection, _ in events:
            callback = self._callbacks.get(connection)
            if callback is None or not callback():  # it is trio's, or one that was just forgotten
                is_done = False
        return is_done


async def _epoll_of_trio() -> int | None:
    """Return the descriptor of the epoll by which trio waits; None where it cannot be found."""
    asked = os.eventfd(1, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    try:
        await trio.lowlevel.wait_readable(asked)  # trio's epoll keeps it, though nobody waits for it any more
        return _epoll_with(asked)
    finally:
        trio.lowlevel.notify_closing(asked)
        os.close(asked)


def _epoll_with(descriptor: int) -> int | None:
    try:
        found = [int(name) for name in os.listdir("/proc/self/fdinfo")]
    except (OSError, ValueError):
        return None
    return next((each for each in found if descriptor in _waited_for(each)), None)


def _waited_for(epoll: int) -> list[int]:
    """Return what an epoll waits for; nothing for any other descriptor, and one that is closed by now."""
    try:
        told = Path(f"/proc/self/fdinfo/{epoll}").read_text()
        return [int(line.split()[1]) for line in told.splitlines() if line.startswith("tfd:")]
    except (OSError, ValueError, IndexError):
        return []
