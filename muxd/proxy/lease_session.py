"""The proxy's one session with muxd: the leases of all models go over one connection.

The session is opened when a lease is first asked for, and again after a muxd that died.  Demand that many leases report
within `_BATCH` goes out as one line.  Whatever ends the connection ends every lease of the session; whether its holder
then stops is the holder's own decision (see `lease`).

Who waits for a model waits for what is said here.  So the reactor reads what muxd says, and wishes and releases are
written at once: a task of trio's would be woken by a thread, and would have the next one wake the sender.
"""

import logging
import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from math import inf

import trio

from muxd.client import ControlClient, SessionConnection
from muxd.errors import MuxdError, Unreachable
from muxd.protocol import (
    CancelWish,
    DemandReport,
    KeepWish,
    LeaseClaim,
    LeaseDemand,
    LeaseFailed,
    LeaseMessage,
    LeaseOver,
    LeaseRelease,
    LeaseWish,
    MuxdMessage,
    ProxyMessage,
    RequestsWanted,
    SessionRefused,
    UnloadAnswer,
    UnloadWish,
    WaitingRequests,
)

from .sockets.reactor import Reactor
from .telemetry.activity import Activity
from .telemetry.request_record import RequestRecord

log = logging.getLogger(__name__)

_BATCH = 0.01  # seconds, at least, between two lines of demand: those of a turn go together
_RETRY = 0.25  # seconds between two attempts to reach muxd
_PACE = 1.0  # seconds between two reports of activity
_LAST_PATIENCE = 1.0  # seconds for the last one to be sent
_READ = 64 << 10


class _Attempt:
    """An attempt to open the session, which all who wait for it share."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error: MuxdError | None = None


class _SessionReader:
    """Reads the session's connection as a handler of the reactor, until it ends."""

    deadline = inf

    def __init__(self, reactor: Reactor, connection: SessionConnection, take: Callable[[MuxdMessage], None]) -> None:
        self._reactor = reactor
        self._connection = connection
        self._take = take
        self._ended = trio.Event()
        self._error: MuxdError | None = None

    async def run(self) -> None:
        """Have every message taken, until the connection ends: raises the error that ended it."""
        self._reactor.add(self._connection.socket, self)
        try:
            self._hand_on(b"")  # what came with the head of muxd's answer
            await self._ended.wait()
        finally:
            self._ended.set()
            self._reactor.forget(self._connection.socket)
        if self._error is not None:
            raise self._error

    def on_event(self, mask: int) -> None:
        self._reactor.again(self._read)  # like all that changes leases, after what befell requests in this turn

    def on_deadline(self) -> None:
        pass

    def close(self) -> None:
        self._end(self._connection.closed())

    def _read(self) -> None:
        while not self._ended.is_set():
            try:
                data = os.read(self._connection.socket.fileno(), _READ)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if data:
                self._hand_on(data)
            else:
                self.close()

    def _hand_on(self, data: bytes) -> None:
        try:
            for message in self._connection.take(data):
                self._take(message)
        except MuxdError as error:
            self._end(error)

    def _end(self, error: MuxdError) -> None:
        self._error = self._error or error
        self._ended.set()


class AskedLease:
    """One lease of the session, from the wish for it to its end.

    `on_message` is called with each message, from the reactor, until the lease is over or let go.
    """

    def __init__(self, session: "LeaseSession", number: int) -> None:
        self.number = number
        self.on_message: Callable[[LeaseMessage], None] | None = None
        self._session = session
        self._over = trio.Event()
        self._error: MuxdError | None = None

    async def ended(self) -> None:
        """Wait until muxd has ended the lease; raises the error that ended the session."""
        await self._over.wait()
        if self._error is not None:
            raise self._error.with_traceback(None)

    def let_go(self) -> None:
        """Tell muxd that the lease is not used any more, unless it is over."""
        self.on_message = None
        self._session.let_go(self)

    def report(self, demand: LeaseDemand) -> None:
        """Have muxd told of the lease's demand and the places it uses, in place of what it was not told yet."""
        self._session.report(demand)

    # Called by the session

    def take(self, message: LeaseMessage) -> None:
        if self.on_message is not None:
            self.on_message(message)
        if isinstance(message, LeaseFailed | LeaseOver):
            self._over.set()

    def lose(self, error: MuxdError) -> None:
        self._error = error
        self._over.set()


class LeaseSession:
    """The session: `run` keeps its connection while it is there; `lease` and `unload` open it."""

    def __init__(self, control: ControlClient, activity: Activity, reactor: Reactor) -> None:
        self._control = control
        self._activity = activity
        self._reactor = reactor
        self._attempt: _Attempt | None = None
        self._wanted = trio.Event()
        self._connection: SessionConnection | None = None  # while it is open
        self._is_sending = False
        self.count = 0  # of the sessions that were opened, this one included
        self._last_number = 0
        self._leases: dict[int, AskedLease] = {}
        self._outgoing: list[ProxyMessage] = []  # wishes and releases that are not sent yet
        self._demand: dict[int, LeaseDemand] = {}  # likewise, by lease; sent behind the wishes
        self._unloads: list[UnloadWish] = []  # likewise; sent behind the demand, by which muxd judges them
        self._has_news = trio.Event()
        self._is_urgent = trio.Event()
        self._sent = trio.Event()

    async def run(self) -> None:
        """Open the session when it is wanted, and follow it, until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            try:
                async with self._control.session() as connection:
                    self._note_open(connection)
                    await self._follow(connection)
            except* MuxdError as errors:
                self._note_lost(_first(errors))

    @asynccontextmanager
    async def lease(
        self, model: str, waiting: Iterable[WaitingRequests], first: RequestRecord | None
    ) -> AsyncIterator[AskedLease]:
        """Ask for a lease, and hold it until the scope is left; raises what keeps the session from opening.

        `first`: the record of the request that waits longest.
        """
        await self.open()
        id, key = (first.id.text, first.key) if first is not None else ("", "")
        async with self._hold(LeaseWish(self._new_number(), model, tuple(waiting), id, key)) as lease:
            yield lease

    @asynccontextmanager
    async def reclaim(
        self, model: str, url: str, in_flight: int, waiting: Iterable[WaitingRequests], places: int | None
    ) -> AsyncIterator[AskedLease]:
        """Go on with a lease on the worker at `url` that was granted in a session that is over, as `lease` does."""
        await self.open()
        number = self._new_number()
        async with self._hold(LeaseClaim(number, model, url, in_flight, tuple(waiting), places)) as lease:
            yield lease

    def _new_number(self) -> int:
        self._last_number += 1
        return self._last_number

    @asynccontextmanager
    async def _hold(self, wish: LeaseWish | LeaseClaim) -> AsyncIterator[AskedLease]:
        lease = self._leases[wish.lease] = AskedLease(self, wish.lease)
        self._say(wish)
        try:
            yield lease
        finally:
            lease.let_go()

    def let_go(self, lease: AskedLease) -> None:
        self._demand.pop(lease.number, None)
        if self._leases.pop(lease.number, None) is not None:
            self._say(LeaseRelease(lease.number))

    def keep(self, model: str, seconds: float, age: float) -> None:
        """Say how long a client wants a model kept awake, and how many seconds ago it said so.

        On an open session, else nobody is told.
        """
        self._outgoing.append(KeepWish(model, None if seconds == inf else seconds, age))
        self._has_news.set()

    async def unload(self, model: str) -> None:
        """Say that a client has no more use of a model, after all that was reported; the log tells muxd's answer."""
        await self.open()
        self._unloads.append(UnloadWish(model))
        self._hasten()

    def report(self, demand: LeaseDemand) -> None:
        if demand.lease in self._leases:  # else muxd has ended it
            self._demand[demand.lease] = demand
            self._has_news.set()

    async def open(self) -> None:
        """Open the session where it is not open; raises the error with which that failed."""
        if self._connection is not None:
            return
        if self._attempt is None:
            self._attempt = _Attempt()
            self._wanted.set()
        attempt = self._attempt
        await attempt.done.wait()
        if attempt.error is not None:
            raise attempt.error.with_traceback(None)

    async def reopen(self) -> None:
        """Try to open the session until that works."""
        while True:
            await trio.sleep(_RETRY)
            try:
                await self.open()
            except MuxdError:
                continue
            return

    async def finish(self) -> None:
        """Tell muxd what was done since the last report, and wait until it is sent; nothing where no session is open.

        A muxd that does not take it has `_LAST_PATIENCE` seconds.
        """
        if self._connection is not None:
            self._tell_activity()
            self._hasten()
            with trio.move_on_after(_LAST_PATIENCE):
                while self._outgoing or self._demand or self._unloads:
                    await self._sent.wait()

    # The connection

    def _note_open(self, connection: SessionConnection) -> None:
        self._connection, self._is_sending = connection, False
        self.count += 1
        self._outgoing, self._demand, self._unloads = [], {}, []
        self._end_attempt(None)

    def _note_lost(self, error: MuxdError) -> None:
        """Tell every holder that the session is over, and whoever wants it opened that it could not be."""
        if not isinstance(error, Unreachable):  # the catalogue says when muxd is not there
            log.error("no session with muxd: %s", error.message)
        self._connection = None
        leases, self._leases = self._leases, {}
        for lease in leases.values():
            lease.lose(error)
        self._end_attempt(error)

    def _end_attempt(self, error: MuxdError | None) -> None:
        if self._attempt is not None:
            self._attempt.error = error
            self._attempt.done.set()
            self._attempt = None

    async def _follow(self, connection: SessionConnection) -> None:
        """Send what is said and hand on what is told, until the connection ends: raises the error that ended it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_all, connection)
            nursery.start_soon(self._report_activity)
            await _SessionReader(self._reactor, connection, self._take).run()

    async def _send_all(self, connection: SessionConnection) -> None:
        while True:
            await self._has_news.wait()
            self._has_news, self._is_urgent = trio.Event(), trio.Event()
            report = [DemandReport(tuple(self._demand.values()))] if self._demand else []
            messages = [*self._outgoing, *report, *self._unloads]
            self._outgoing, self._demand, self._unloads = [], {}, []
            self._is_sending = True
            await connection.send(messages)
            self._is_sending = False
            self._sent.set()
            self._sent = trio.Event()
            with trio.move_on_after(_BATCH):
                await self._is_urgent.wait()

    async def _report_activity(self) -> None:
        while True:
            await trio.sleep(_PACE)
            self._tell_activity()

    def _tell_activity(self) -> None:
        if (report := self._activity.take()) is not None:
            self._outgoing.append(report)
            self._has_news.set()

    def _say(self, message: ProxyMessage) -> None:
        """Send a message at once, and all that waits before it, but for demand."""
        self._outgoing.append(message)
        if self._connection is None or self._is_sending:
            self._hasten()
            return
        outgoing, self._outgoing = self._outgoing, []
        if not self._connection.send_now(outgoing):
            self._hasten()

    def _hasten(self) -> None:
        """Have what is said sent at once: it does not wait for more demand."""
        self._has_news.set()
        self._is_urgent.set()

    def _take(self, message: MuxdMessage) -> None:
        match message:
            case UnloadAnswer(model, reason):
                log.info("a client lets %s go: %s", model, reason or "it is put to sleep")
            case RequestsWanted() | CancelWish():
                self._tell_activity()  # who asks for requests sees those that have just ended, too
                self._say(self._activity.answer(message))
            case SessionRefused():
                raise AssertionError("the connection has raised it")
            case _:
                ends = isinstance(message, LeaseFailed | LeaseOver)
                lease = self._leases.pop(message.lease, None) if ends else self._leases.get(message.lease)
                if lease is not None:  # else it was let go meanwhile
                    lease.take(message)


def _first(errors: BaseExceptionGroup[MuxdError]) -> MuxdError:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, MuxdError)
    return error
