"""The lease of one model, with the queue of requests that wait for it and the requests in flight under it.

Theory of operation
-------------------
A request may go to a worker only while the proxy holds the model's lease.  Most requests find the lease granted: they
are counted in, sent, and counted out, without a word to muxd.  The first request for a model without a lease has one
asked for in the proxy's session with muxd (`lease_session`), and waits in the model's queue, highest priority first.

    not asked -> asked (requests wait) -> granted -> draining -> asked or not asked
                                             ^-> suspected

`states` has every move.  Requests that wait are admitted once a turn of the reactor, in their order, when the turn's
events were handled: what ends, fails or is granted meanwhile only says that there may be places.

What muxd says is handled after the events of the reactor's turn in which it came: progress while requests wait, the
grant with the worker's URL, a revocation with its deadline, a restoration, the end.  Two trio tasks run for each lease
beside the data path.  One asks for it, and waits for its end.  The other reports the demand, at most every 50 ms: how
many requests wait and run.  From that muxd decides which model's turn it is, and whether a worker is idle.

After a revocation no request is admitted; requests in flight may finish until the deadline (drain).  When the last of
them has ended, or was cut, the proxy releases the lease in the same turn, which tells muxd that the worker is free to
sleep.  Requests that arrived meanwhile wait, and the next lease is asked for on their behalf.

A request that loses its worker before the response began makes the grant *suspected*: no request is admitted until muxd
revokes the lease, or a pause has passed without a revocation (`_suspicion`).  Requests without a byte of their response
wait again, and are sent to the next worker.  After the pause one of them is tried: the others follow once it was not
refused, so that a router that still has no worker is not asked by all that wait, each time with their bodies.

A granted lease outlives a muxd that dies: the worker goes on too, and what was revoked is not revoked any more.  Once a
muxd answers again, the lease is re-claimed there with the worker's URL: a muxd that has taken the worker over grants
it, one that has ended the worker says that the lease is over.

Everything here runs in the reactor's thread, the tasks of trio included, so that no lock is needed.
"""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import inf
from time import monotonic
from typing import Protocol

import trio

from muxd.errors import MuxdError, Unreachable
from muxd.protocol import (
    WORKER_LOST,
    LeaseComing,
    LeaseDemand,
    LeaseFailed,
    LeaseGranted,
    LeaseMessage,
    LeaseOver,
    LeasePlaces,
    LeaseProgress,
    LeaseQueued,
    LeaseRestored,
    LeaseRevoked,
    WaitingRequests,
)

from .answers import UNAVAILABLE, Refusal
from .grant import Grant, ModelLimits, QueuedRequest
from .lease_session import AskedLease, LeaseSession
from .queue import Queue
from .refusals import failed, progress_text, revoked, unreachable
from .sockets.pool import Pool
from .sockets.reactor import Alarm, Reactor
from .sockets.router_errors import REFUSED_WITHIN
from .states import LEASE_MOVES, LeaseState
from .telemetry.metrics import ModelMetrics
from .telemetry.request_record import RequestRecord

log = logging.getLogger(__name__)

_REPORT_GAP = 0.05  # seconds, at least, between two reports of demand
_REPORT_EVERY = 1.0  # seconds between reports of the number in flight, unless idleness changes
#: Seconds without a request in flight before idleness is reported, unless requests wait for another model.
_IDLE_GRACE = 0.02  # clients pause between two
_RETRY = 0.25  # seconds between two attempts to reach muxd
_RESTART = 5.0  # seconds for which waiting requests wait on after muxd's end: for its successor, which takes less
_SUSPICION = 0.25  # seconds before a suspected grant is used again, unless muxd revokes the lease
_MOST_SUSPICION = 1.0  # the same where it is lost again and again, as with a router that has no worker
_CUT_GRACE = 0.2  # seconds to read what a dead worker had sent already
_NO_ETA = 10.0  # seconds: the Retry-After where muxd told no time


class AllLeases(Protocol):
    """All leases of the proxy, as one of them sees them."""

    asked: int  # leases for which requests wait: every look at who is idle may let one come
    batch_max_wait: float  # seconds that batch requests wait at most while others go before them
    lost_at: Callable[[], float]  # when muxd was last lost; monotonic
    reactor: Reactor

    def start(self, lease: "ModelLease") -> None:
        """Start the task that holds the lease."""

    def start_unload(self, lease: "ModelLease") -> None:
        """Start a task that tells muxd of an unload."""

    def pool(self, url: str) -> Pool:
        """Return a new pool of connections to the worker at `url`."""
        ...


class ModelLease:
    """The lease of one model, held or not.  `acquire` and `release` are the hot path."""

    def __init__(self, name: str, leases: AllLeases, terms: ModelLimits, meter: ModelMetrics) -> None:
        self.name = name
        self.terms = terms
        self.meter = meter
        self.state = LeaseState.NOT_ASKED
        self.grant: Grant | None = None  # while the state is GRANTED
        self._held: Grant | None = None  # the same, and while the state is SUSPECTED or DRAINING
        self._leases = leases
        self._deal = 0  # the number of muxd's last word on them
        self._limit: float = inf  # places: how many requests may be at the worker at once, as muxd told with the grant
        self._waiting: Queue[QueuedRequest] = Queue()
        self._lines = self._waiting.lines
        self._is_admitting = False  # waiting requests are admitted at the end of this turn
        self._drain_scope = trio.CancelScope()
        self._following: tuple[AskedLease, trio.Nursery] | None = None  # the lease that is held, and its tasks
        self._revocation: LeaseRevoked | None = None  # muxd's message, while the lease drains
        self._changed = trio.Event()
        self._kept: float | None = None  # seconds for which a client wants it kept awake; None: nobody said
        self._kept_at = -inf  # monotonic time at which a client last said so
        self._keep_told_in = 0  # the session in which muxd was told so; 0: none
        self._keep_told_at = -inf  # monotonic time of that
        self._unloads = False  # a client has let go of the model, and muxd has not been told yet
        self._last_report: tuple[int, int, int, int] | None = None  # as last reported to muxd, see `_demand_figures`
        self._oldest_told: float | None = None  # likewise, see `_oldest_since`
        self._last_progress: LeaseProgress | None = None  # muxd's last message about the wait
        self._last_progress_at = 0.0  # monotonic time of that message
        self._lost_at = -inf  # monotonic time at which a session with muxd was last lost
        self._idle = Alarm(leases.reactor, self._wake_reporter)
        self._suspicion_over = Alarm(leases.reactor, self._use_suspected)
        self._tried: QueuedRequest | None = None  # was sent to the suspected grant, for the others to follow

    def _move(self, state: LeaseState, grant: Grant | None = None) -> None:
        """Go over to another state, with the grant that it has."""
        if state not in LEASE_MOVES[self.state]:
            raise AssertionError(f"lease on {self.name}: {self.state} -> {state} is no move")
        self._leases.asked += (state is LeaseState.ASKED) - (self.state is LeaseState.ASKED)
        self.state, self._held = state, grant
        self.grant = grant if state is LeaseState.GRANTED else None
        self._tried = None

    # Called by the requests

    def acquire(self, ticket: QueuedRequest) -> None:
        """Forward the request now, queue it until there is a place at a worker, or refuse it for a full queue."""
        grant = self.grant
        if grant is None or len(grant.in_flight) >= self._limit or self._is_admitting:
            ticket.begin_wait()
            self._queue(ticket)
        elif grant.in_flight:  # else it is the first one: then `_admit` does more
            grant.in_flight.add(ticket)
            ticket.forward(grant)
        else:
            self._admit(ticket, grant)

    def _admit(self, ticket: QueuedRequest, grant: Grant) -> None:
        if not grant.in_flight:
            # muxd need not hear of a pause that is over: to wake the reporting task costs more than a request.
            self._idle.clear()
            self._unloads = False
            if self._last_report is not None and not self._last_report[0]:
                self._changed.set()
        grant.in_flight.add(ticket)
        ticket.forward(grant)

    def _queue(self, ticket: QueuedRequest) -> None:
        limit = self.terms.queue_limit
        if len(self._waiting) - self._leaving() >= limit:
            wait = "1 request waits" if limit == 1 else f"{limit} requests wait"
            message = f"model {self.name}: {wait} for it already (queue_limit): {self.progress_text()}"
            ticket.refuse(Refusal(429, "queue_full", f"{message}; try again later", retry_after=self.eta() or 1.0))
            return
        self._wait(ticket)

    def _leaving(self) -> float:
        """Return how many of the waiting requests are admitted at the end of this turn."""
        grant = self.grant
        if grant is None or not self._is_admitting:
            return 0
        return min(len(self._waiting), max(0.0, self._limit - len(grant.in_flight)))

    def _wait(self, ticket: QueuedRequest) -> None:
        self._waiting.put(ticket)
        self._changed.set()
        if self.state is LeaseState.NOT_ASKED:
            self._move(LeaseState.ASKED)
            self._leases.start(self)

    def release(self, ticket: QueuedRequest, grant: Grant | None) -> None:
        """Remove a request that has ended from the queue (`grant` is None) or from `grant`.  Idempotent."""
        if grant is None:
            if self._waiting.discard(ticket):
                self._changed.set()
            return
        in_flight = grant.in_flight
        in_flight.discard(ticket)
        if len(in_flight) >= self._limit:
            self._changed.set()  # a place is given back that muxd has taken away
        if self._lines:
            self._admit_soon()
        if not in_flight:
            self._idle.set(0.0 if self._leases.asked else _IDLE_GRACE)
            if self.state is LeaseState.DRAINING:
                self._leases.reactor.again(self._note_drained)

    def _admit_soon(self) -> None:
        """Have waiting requests admitted at the end of this turn; until then no other request is."""
        if self.grant is not None and self._waiting and not self._is_admitting:
            self._is_admitting = True
            self._leases.reactor.again(self._admit_waiting)

    def _admit_waiting(self) -> None:
        """Admit waiting requests while there are places; one that fails at once gives its place to the next."""
        while (grant := self.grant) is not None and self._waiting and len(grant.in_flight) < self._limit:
            self._admit(self._next_waiting(), grant)
        self._is_admitting = False

    def _next_waiting(self) -> QueuedRequest:
        """Take the next request out of the queue."""
        ticket = self._waiting.pop(monotonic(), self._leases.batch_max_wait)
        ticket.waited(monotonic() - ticket.since)
        self._changed.set()
        return ticket

    def retry(self, ticket: QueuedRequest, grant: Grant) -> None:
        """Queue a request whose worker was lost before the response began, and suspect `grant`."""
        if grant is self.grant:  # before the release, which would admit a waiting request to the lost worker
            self._move(LeaseState.SUSPECTED, grant)
            self._tried = ticket
        if self.state is LeaseState.SUSPECTED and ticket is self._tried:
            self._tried = None
            self._suspicion_over.set(_suspicion(ticket.losses))
        self.release(ticket, grant)
        self._wait(ticket)
        self._admit_soon()

    def _use_suspected(self) -> None:
        """Admit requests to a suspected grant again: muxd did not revoke it, so only one connection was lost.

        Of several that wait one goes first: where a refusal would have come by now, the others go, too.
        """
        grant = self._held
        if self.state is not LeaseState.SUSPECTED or grant is None:
            return
        if self._tried is None and len(self._waiting) > 1 and len(grant.in_flight) < self._limit:
            self._suspicion_over.set(REFUSED_WITHIN)
            self._tried = self._next_waiting()
            self._admit(self._tried, grant)
        else:
            self._use_grant(grant)

    def renew(self, terms: ModelLimits) -> None:
        """Apply new limits."""
        self.terms = terms

    def refuse_waiting(self, refusal: Refusal, *, but_replayed: bool = False) -> None:
        """Refuse the waiting requests; with `but_replayed` those stay that have lost a worker."""
        for ticket in list(self._waiting):
            if not (but_replayed and ticket.losses):
                ticket.refuse(refusal)

    def keep(self, seconds: float) -> None:
        """Have muxd told how long a client wants the model kept awake after its last use.

        Told again is the same, too, once `_REPORT_EVERY`, the last time after all others: another proxy may have told
        another time meanwhile.
        """
        now = monotonic()
        if seconds != self._kept or now >= self._keep_told_at + _REPORT_EVERY:
            self._keep_told_in = 0
            self._changed.set()
        self._kept, self._kept_at = seconds, now

    def _is_keep_due(self, session: LeaseSession) -> bool:
        """Say whether muxd is to be told how long the model is to be kept: it does not know, or may know otherwise."""
        is_newer = self._kept_at > self._keep_told_at
        return self._keep_told_in != session.count or (is_newer and monotonic() >= self._keep_told_at + _REPORT_EVERY)

    def unload(self) -> None:
        """Tell muxd that a client has let go of the model, so that it may sleep unless other clients use it."""
        if self._unloads:
            return
        self._unloads = True
        if self.state is not LeaseState.NOT_ASKED:
            self._changed.set()  # the reporting task first tells muxd that nothing is in flight
        else:
            self._leases.start_unload(self)

    # Progress and figures

    def eta(self) -> float | None:
        """Return the seconds until the model is ready; None where muxd told none."""
        if self._last_progress is None or (eta := self._last_progress.eta_s) is None:
            return None
        return max(0.0, eta - (monotonic() - self._last_progress_at))

    def progress_text(self) -> str:
        """Return in a few words what the waiting requests wait for."""
        if self.grant is not None:
            return f"waiting for a free place ({len(self.grant.in_flight)} in flight, {len(self._waiting)} waiting)"
        if self.state is LeaseState.SUSPECTED:
            return "its worker was lost"
        return "queued" if self._last_progress is None else progress_text(self._last_progress, self.eta())

    def late(self) -> Refusal:
        """Return the refusal for a request that has waited for `switch_timeout`."""
        seconds = f"{self.terms.switch_timeout:g} s (switch_timeout)"
        eta = self.eta()
        if self.grant is not None:
            message = f"model {self.name} had no free place within {seconds}: {self.progress_text()}"
            return Refusal(UNAVAILABLE, "switch_timeout", message, retry_after=1)
        message = f"model {self.name} was not ready within {seconds}: {self.progress_text()}"
        return Refusal(UNAVAILABLE, "switch_timeout", message, retry_after=_NO_ETA if eta is None else eta)

    def figures(self) -> tuple[int, int]:
        """Return how many requests are in flight, and how many wait."""
        return (len(self._held.in_flight) if self._held is not None else 0), len(self._waiting)

    def batch_figures(self) -> tuple[int, int]:
        """Return how many of the requests in flight, and of those that wait, are batch."""
        running = self._held.in_flight if self._held is not None else ()
        return sum(request.is_batch for request in running), sum(request.is_batch for request in self._waiting)

    def under_way(self) -> list[QueuedRequest]:
        """Return the requests in flight, the oldest first, and then those that wait, the next one first."""
        running = self._held.in_flight if self._held is not None else ()
        return [*sorted(running, key=lambda request: request.record.arrived), *self._waiting]

    def _demand_figures(self) -> tuple[int, int, int, int]:
        """Return the figures as muxd is told them: in flight, waiting, places in use, and the last deal's number.

        While a grant is held, waiting requests count as in flight.  The places are those that muxd has given, or more
        that it has taken away, while as many requests are still at the worker.
        """
        in_flight, waiting = self.figures()
        places = 0 if self._limit == inf else max(int(self._limit), in_flight)
        if self._held_grant is not None:
            in_flight, waiting = in_flight + waiting, 0
        return in_flight, waiting, places, self._deal

    @property
    def _held_grant(self) -> Grant | None:
        """Return the grant that is held, suspected or not, and not revoked."""
        return None if self.state is LeaseState.DRAINING else self._held

    # The task that holds the lease

    async def hold(self, session: LeaseSession) -> None:
        """Ask for a lease and follow it, again and again while requests wait."""
        while self._waiting or self._held_grant is not None:
            try:
                async with self._lease(session) as lease:
                    await self._follow(session, lease)
            except Unreachable as error:
                if monotonic() >= max(self._lost_at, self._leases.lost_at()) + _RESTART:
                    self.refuse_waiting(unreachable(error), but_replayed=True)
                if self._waiting:
                    await trio.sleep(_RETRY)
            except MuxdError as error:
                self.refuse_waiting(Refusal(UNAVAILABLE, error.code, error.message, retry_after=1))
        self._move(LeaseState.NOT_ASKED)
        self._unloads = False

    @asynccontextmanager
    async def _lease(self, session: LeaseSession) -> AsyncIterator[AskedLease]:
        """Ask for a lease or, while a grant is held that an earlier session gave, re-claim that as soon as possible."""
        if self._held_grant is not None:
            await session.reopen()
        self._last_report = self._demand_figures()
        if (grant := self._held_grant) is None:
            # Not the request itself in a variable, which lives here as long as the lease.
            async with session.lease(self.name, self._demand(), self._longest_wait()) as lease:
                yield lease
        else:
            in_flight, _, used, _ = self._last_report
            places = None if self._limit == inf else used
            async with session.reclaim(self.name, grant.pool.url, in_flight, self._demand(), places) as lease:
                yield lease

    def _longest_wait(self) -> RequestRecord | None:
        """Return the record of the request that waits longest."""
        first = next(iter(self._waiting), None)
        return first.record if first is not None else None

    async def _follow(self, session: LeaseSession, lease: AskedLease) -> None:
        """Handle the messages of one lease until the lease ends; no request is admitted by it afterwards."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._report, session, lease)
            lease.on_message, self._following = self._handle_message, (lease, nursery)
            try:
                await lease.ended()
            except MuxdError as error:
                if not isinstance(error, Unreachable):
                    self.refuse_waiting(unreachable(error), but_replayed=True)
                self._lost_at = monotonic()
                if not self._has_lost_worker:
                    self._on_restored()  # what it drained for is called off with the muxd that wanted it
                    if self._held_grant is not None:  # waiting requests still get places at the worker
                        log.warning("muxd is gone; the lease on %s goes on until it is back", self.name)
                    nursery.cancel_scope.cancel()
                    return
            if self.state is LeaseState.DRAINING:
                await trio.sleep_forever()  # until `_drain` has finished
            nursery.cancel_scope.cancel()
        self._last_progress = None
        if self._held is not None:
            self._held.pool.close()
            self._move(LeaseState.ASKED)

    @property
    def _has_lost_worker(self) -> bool:
        """Say whether the lease drains because its worker is gone."""
        is_draining = self.state is LeaseState.DRAINING
        return is_draining and self._revocation is not None and self._revocation.reason in WORKER_LOST

    def _handle_message(self, message: LeaseMessage) -> None:
        match message:
            case LeaseQueued() | LeaseComing():
                self._last_progress, self._last_progress_at = message, monotonic()
            case LeaseGranted(_, url, generation, places, deal):
                self._have_places(places, deal)
                if self.state is LeaseState.ASKED:  # else it was re-claimed
                    self._on_granted(url, generation)
            case LeasePlaces(_, places, deal):
                self._have_places(places, deal)
            case LeaseRevoked():
                self._on_revoked(message)
            case LeaseRestored():
                self._on_restored()
            case LeaseFailed():
                self.refuse_waiting(failed(message))
                self._end_lease()
            case LeaseOver():
                self._end_lease()

    def _have_places(self, places: int | None, deal: int) -> None:
        """Take over another number of places: more of them admit waiting requests at once."""
        self._limit, self._deal = inf if places is None else places, deal
        self._changed.set()  # muxd is told from when on it is kept to
        self._admit_soon()

    def _on_granted(self, url: str, generation: int) -> None:
        log.info("lease on %s granted: %s, generation %d, %d waiting", self.name, url, generation, len(self._waiting))
        self._last_report = None  # until the next report muxd counts every request that waited as in flight
        self._use_grant(Grant(self._leases.pool(url), generation))

    def _use_grant(self, grant: Grant) -> None:
        self._move(LeaseState.GRANTED, grant)
        self._last_progress = None  # the last progress described the wait, which is over
        self._changed.set()
        self._admit_soon()

    def _on_revoked(self, message: LeaseRevoked) -> None:
        """Admit no more requests and start to drain.  A second revocation can only bring the deadline forward."""
        seconds = inf if message.deadline_s is None else max(message.deadline_s, _CUT_GRACE)
        if self.state is LeaseState.DRAINING:
            self._drain_scope.deadline = min(self._drain_scope.deadline, trio.current_time() + seconds)
            self._revocation = message
        elif (grant := self._held) is not None:
            log.info("lease on %s revoked: %s, %d in flight", self.name, message.reason, len(grant.in_flight))
            self._move(LeaseState.DRAINING, grant)
            self._revocation = message
            self._drain_scope = trio.CancelScope(deadline=trio.current_time() + seconds)
            if grant.in_flight:
                assert self._following is not None
                self._following[1].start_soon(self._drain, grant, self._drain_scope)
                self._changed.set()  # how long the drain takes is estimated by what is in flight
            else:
                self._end_drain(grant)

    def _on_restored(self) -> None:
        """End the drain and admit requests again: muxd has called off the switch."""
        if self.state is LeaseState.DRAINING and self._held is not None:
            log.info("lease on %s restored: what it drained for was called off", self.name)
            self._drain_scope.cancel()
            self._use_grant(self._held)

    async def _drain(self, grant: Grant, scope: trio.CancelScope) -> None:
        """Wait until the drain's deadline has come, cut what is left, and end the lease."""
        with scope:
            await trio.sleep_forever()
        if self.state is LeaseState.DRAINING and self._drain_scope is scope:
            self._end_drain(grant)  # else the lease was restored, and perhaps revoked again

    def _note_drained(self) -> None:
        if self.state is LeaseState.DRAINING and (grant := self._held) is not None and not grant.in_flight:
            self._end_drain(grant)

    def _end_drain(self, grant: Grant) -> None:
        """Let the lease go: nothing is in flight, or what still is ends now."""
        assert self._revocation is not None
        assert self._following is not None
        lease, nursery = self._following
        grant.pool.close()
        self._end_in_flight(grant, self._revocation)
        self._move(LeaseState.ASKED)
        lease.let_go()
        nursery.cancel_scope.cancel()

    def _end_in_flight(self, grant: Grant, message: LeaseRevoked) -> None:
        """End the requests that are still in flight; those of a lost worker may be replayed."""
        refusal, lost = revoked(self.name, message), message.reason in WORKER_LOST
        for ticket in list(grant.in_flight):
            if lost:
                ticket.lose(refusal)
            else:
                ticket.cut(refusal)

    def _end_lease(self) -> None:
        """Cut the requests in flight: muxd has ended the lease, and may put the worker to sleep at any time."""
        if not self._has_lost_worker:
            self._drain_scope.cancel()
        if (grant := self._held_grant) is not None:
            self._move(LeaseState.ASKED)
            grant.pool.close()
            why = f"model {self.name} was taken off the GPU before this request ended: its lease is over"
            for ticket in list(grant.in_flight):
                ticket.cut(Refusal(UNAVAILABLE, "lease_over", why, retry_after=1))

    async def unload_unheld(self, session: LeaseSession) -> None:
        """Tell muxd that a client has let go of the model, where this proxy holds no lease on it."""
        await self._ask_to_unload(session)
        self._unloads = False

    async def _ask_to_unload(self, session: LeaseSession) -> None:
        """Send muxd the unload; muxd knows whether other clients use the model."""
        try:
            await session.unload(self.name)
        except MuxdError as error:
            log.warning("muxd could not be told that a client lets %s go: %s", self.name, error)

    # Reports

    def _wake_reporter(self) -> None:
        self._changed.set()

    def _demand(self) -> tuple[WaitingRequests, ...]:
        return self._waiting.demand(monotonic()) if self._held_grant is None else ()

    def _oldest_since(self) -> float | None:
        """Return when the oldest of the requests in flight was sent to the worker; monotonic."""
        running = self._held.in_flight if self._held is not None else ()
        return min((request.record.arrived + request.record.waited for request in running), default=None)

    def _told(self, number: int, oldest: float | None) -> LeaseDemand:
        """Return what muxd is told of the demand."""
        in_flight, _, places, deal = self._demand_figures()
        batch, waiting_batch = self.batch_figures()
        batch += waiting_batch if self._held_grant is not None else 0
        age = None if oldest is None else max(0.0, monotonic() - oldest)
        return LeaseDemand(number, in_flight, self._demand(), places, deal, batch, age, self.meter.usual_answer())

    async def _report(self, session: LeaseSession, lease: AskedLease) -> None:
        """Report demand to muxd: queue and idleness when they change, the number in flight every `_REPORT_EVERY`."""
        while True:
            more = self._last_report is None or any(self._demand_figures()[:2]) or self._kept_at > self._keep_told_at
            with trio.move_on_after(_REPORT_EVERY if more else inf):
                await self._changed.wait()
            self._changed = trio.Event()
            figures = self._demand_figures()
            if self._idle.pending and self._last_report is not None and self._last_report[0] and not figures[0]:
                continue  # `_idle` will wake this task if the pause lasts
            unloads, self._unloads = self._unloads, False
            if self._kept is not None and self._is_keep_due(session):
                self._keep_told_in, self._keep_told_at = session.count, monotonic()
                session.keep(self.name, self._kept, self._keep_told_at - self._kept_at)
            oldest = self._oldest_since()
            if figures != self._last_report or oldest != self._oldest_told:
                self._last_report, self._oldest_told = figures, oldest
                lease.report(self._told(lease.number, oldest))
            if unloads and not any(self._demand_figures()[:2]):
                await self._ask_to_unload(session)
            await trio.sleep(_REPORT_GAP)


def _suspicion(losses: int) -> float:
    """Return the seconds for which a grant is suspected after a request has lost its worker for the `losses`th time.

    The second pause is no longer than the first: of a group's two workers a router may name the dead one twice.
    """
    return min(_MOST_SUSPICION, _SUSPICION * 2.0 ** max(0, min(losses, 10) - 2))
