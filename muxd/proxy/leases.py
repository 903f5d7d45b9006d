"""One lease per model: the queue before it, and what is in flight behind it.

Theory of operation
-------------------
A request may go to a worker only while the proxy holds the model's lease.  Most requests find it granted: they are
counted in, sent, and counted out, without a word to muxd.  The first request for a model that has no lease asks for one
and waits in the model's queue, highest priority first; `POST /v1/leases` on the control socket is that question, and
the connection it came by *is* the lease: muxd takes the lease back when the connection ends, whoever closed it.

    no lease -> asked (requests wait) -> granted -> revoked (draining) -> over

Two tasks of trio run beside the data path.  One reads the lease's connection: progress while it waits, the grant with
the worker's URL, a revocation with its deadline, a restoration, the end.  The other reports demand, at most every 50
ms: how many requests wait and run.  muxd decides by that whose turn it is, and whether a worker is idle.

On a revocation nothing more is admitted; what is in flight has until the deadline.  When the last of it has ended, or
was cut, the connection is closed, and that tells muxd that the worker is free to sleep.  Requests that came meanwhile
wait, and the next lease is asked for on their behalf.

A worker that was lost to a request before it answered makes its grant *suspected*: nothing is admitted until muxd has
revoked the lease, or a moment has passed in which it did not.  Such a request, and others that had no byte of an answer
yet, wait again and are sent to the next worker.

When muxd is gone under a granted lease, the lease goes on: the worker does too, and a fresh muxd ends both before it
starts another worker.  Once muxd answers again the lease is over, and asked for anew.

Everything here runs in the reactor's thread, the tasks of trio included, so that no lock is needed.
"""

import logging
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Any

import trio

from muxd.client import ControlClient, MessageStream
from muxd.core.events import Waiting
from muxd.errors import LeaseNotFound, ModelNotFound, MuxdError, Unreachable

from .answers import UNAVAILABLE, Refusal
from .grant import Grant, ModelLimits, QueuedRequest
from .queue import Queue
from .refusals import WORKER_LOST, failed, progress_text, revoked, unreachable
from .sockets.pool import Pool
from .sockets.reactor import Alarm, Reactor
from .telemetry.metrics import ModelMetrics, ProxyMetrics

log = logging.getLogger(__name__)

_REPORT_GAP = 0.05  # seconds between two reports, at least
_REPORT_EVERY = 1.0  # seconds until it is reported that more or less is in flight than before
_IDLE_GRACE = 0.02  # seconds without a request in flight that are not called idle: a client between two
_RETRY = 0.25  # seconds between two attempts to reach muxd
_SUSPICION = 0.25  # seconds until a worker that was lost to a request is tried again, if muxd does not revoke it
_CUT_GRACE = 0.2  # seconds for what a dead worker had sent already to be read
_NO_ETA = 10.0  # seconds: Retry-After where nothing is known


class Leases:
    """All leases of a proxy; their tasks live in `run`."""

    def __init__(
        self,
        control: ControlClient,
        reactor: Reactor,
        terms: Callable[[str], ModelLimits],
        meters: ProxyMetrics,
        most_idle: int,
    ) -> None:
        """`most_idle`: connections to one worker that are kept for later."""
        self._most_idle = most_idle
        self._control = control
        self._meters = meters
        self._terms = terms
        self._leases: dict[str, ModelLease] = {}
        self._nursery: trio.Nursery | None = None
        self.reactor = reactor

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold leases until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def of(self, model: str) -> "ModelLease":
        lease = self._leases.get(model)
        if lease is None:
            lease = self._leases[model] = ModelLease(model, self, self._terms(model), self._meters.of(model))
        return lease

    def all(self) -> list["ModelLease"]:
        return list(self._leases.values())

    def renew(self) -> None:
        """The configuration has changed."""
        for lease in self._leases.values():
            lease.renew(self._terms(lease.name))

    def granted(self) -> list[str]:
        return [lease.name for lease in self._leases.values() if lease.grant is not None]

    def refuse_waiting(self, refusal: Refusal) -> None:
        for lease in self._leases.values():
            lease.refuse_waiting(refusal)

    # For the leases

    def start(self, lease: "ModelLease") -> None:
        assert self._nursery is not None
        self._nursery.start_soon(lease.hold, self._control, name=f"lease {lease.name}")

    def start_unload(self, lease: "ModelLease") -> None:
        assert self._nursery is not None
        self._nursery.start_soon(lease.unload_unheld, self._control, name=f"unload {lease.name}")

    def pool(self, url: str) -> Pool:
        return Pool(self.reactor, url, self._most_idle)


class ModelLease:
    """One model's.  `acquire` and `release` are the hot path."""

    def __init__(self, name: str, leases: Leases, terms: ModelLimits, meter: ModelMetrics) -> None:
        self.name = name
        self.terms = terms
        self.meter = meter
        self.grant: Grant | None = None  # while requests are admitted
        self._leases = leases
        self._limit: float = terms.concurrency_limit or inf
        self._waiting: Queue[QueuedRequest] = Queue()
        self._holding = False
        self._filling = False
        self._suspected: Grant | None = None
        self._draining: Grant | None = None
        self._drain_scope = trio.CancelScope()
        self._revocation: dict[str, Any] = {}  # it drains
        self._changed = trio.Event()
        self._unloads = False  # a client has no more use of the model; muxd does not know yet
        self._last_report: tuple[int, int] | None = None  # the figures that muxd has
        self._last_progress: dict[str, Any] | None = None  # what muxd last said about the wait
        self._news_at = 0.0
        self._idle = Alarm(leases.reactor, self._tell)
        self._trust_again = Alarm(leases.reactor, self._trust)

    # For the requests

    def acquire(self, ticket: QueuedRequest) -> None:
        """Forward it now, or when there is a place for it; or refuse it."""
        grant = self.grant
        if grant is None or len(grant.in_flight) >= self._limit:
            self._queue(ticket)
        else:
            self._admit(ticket, grant)

    def _admit(self, ticket: QueuedRequest, grant: Grant) -> None:
        grant.in_flight.add(ticket)
        if len(grant.in_flight) == 1:
            # To wake the reporting task costs more than a request: muxd need not hear of a pause that is over.
            self._idle.clear()
            self._unloads = False
            if self._last_report is not None and not self._last_report[0]:
                self._changed.set()
        ticket.forward(grant)

    def _queue(self, ticket: QueuedRequest) -> None:
        limit = self.terms.queue_limit
        if len(self._waiting) >= limit:
            wait = "1 request waits" if limit == 1 else f"{limit} requests wait"
            message = f"model {self.name}: {wait} for it already (queue_limit): {self.progress_text()}"
            ticket.refuse(Refusal(429, "queue_full", f"{message}; try again later", retry_after=self.eta() or 1.0))
            return
        self._wait(ticket)

    def _wait(self, ticket: QueuedRequest) -> None:
        self._waiting.put(ticket)
        self._changed.set()
        if not self._holding:
            self._holding = True
            self._leases.start(self)

    def release(self, ticket: QueuedRequest, grant: Grant | None) -> None:
        """It waits no longer, or its answer has ended.  Idempotent."""
        if grant is None:
            if self._waiting.discard(ticket):
                self._changed.set()
            return
        grant.in_flight.discard(ticket)
        if self._waiting:
            self._admit_waiting(grant)
        if not grant.in_flight:
            self._idle.set(_IDLE_GRACE)
            grant.drained.set()

    def _admit_waiting(self, grant: Grant) -> None:
        """Admit those who wait for a place.  Never within itself: who fails at once is back here."""
        if self._filling:
            return
        self._filling = True
        while grant is self.grant and self._waiting and len(grant.in_flight) < self._limit:
            ticket = self._waiting.pop()
            ticket.waited(monotonic() - ticket.since)
            self._admit(ticket, grant)
            self._changed.set()
        self._filling = False

    def retry(self, ticket: QueuedRequest, grant: Grant) -> None:
        """Its worker was lost before it answered: keep it until there is one again."""
        if grant is self.grant:  # before it leaves: nobody who waits for its place is to have it
            self.grant, self._suspected = None, grant
            self._trust_again.set(_SUSPICION)
        self.release(ticket, grant)
        self._wait(ticket)
        if self.grant is not None:
            self._admit_waiting(self.grant)

    def _trust(self) -> None:
        """muxd knows of no loss: the worker lives, and only that connection died."""
        grant, self._suspected = self._suspected, None
        if grant is not None:
            self._let_in(grant)

    def renew(self, terms: ModelLimits) -> None:
        self.terms = terms
        self._limit = terms.concurrency_limit or inf
        if self.grant is not None:
            self._admit_waiting(self.grant)

    def refuse_waiting(self, refusal: Refusal, *, but_replayed: bool = False) -> None:
        for ticket in list(self._waiting):
            if not (but_replayed and ticket.replayed):
                ticket.refuse(refusal)

    def unload(self) -> None:
        """A client has no more use of the model: muxd is to let it sleep, unless others have."""
        if self._unloads:
            return
        self._unloads = True
        if self._holding:
            self._changed.set()  # muxd first hears that nothing is in flight
        else:
            self._leases.start_unload(self)

    # How it goes

    def eta(self) -> float | None:
        """Seconds until the model is ready, where muxd knows."""
        if self._last_progress is None or (eta := self._last_progress.get("eta_s")) is None:
            return None
        return max(0.0, float(eta) - (monotonic() - self._news_at))

    def progress_text(self) -> str:
        """How it goes with those who wait, in a few words."""
        if self.grant is not None:
            return f"waiting for a free place ({len(self.grant.in_flight)} in flight, {len(self._waiting)} waiting)"
        if self._suspected is not None:
            return "its worker was lost"
        return "queued" if self._last_progress is None else progress_text(self._last_progress, self.eta())

    def late(self) -> Refusal:
        """For who has waited as long as they may."""
        seconds = f"{self.terms.switch_timeout:g} s (switch_timeout)"
        eta = self.eta()
        if self.grant is not None:
            message = f"model {self.name} had no free place within {seconds}: {self.progress_text()}"
            return Refusal(UNAVAILABLE, "switch_timeout", message, retry_after=1)
        message = f"model {self.name} was not ready within {seconds}: {self.progress_text()}"
        return Refusal(UNAVAILABLE, "switch_timeout", message, retry_after=_NO_ETA if eta is None else eta)

    def figures(self) -> tuple[int, int]:
        """How many are in flight, and how many wait."""
        grant = self._current or self._draining
        return (len(grant.in_flight) if grant is not None else 0), len(self._waiting)

    def _work(self) -> tuple[int, int]:
        """The same for muxd: who waits for a place at a worker that this lease holds is work in hand."""
        in_flight, waiting = self.figures()
        return (in_flight + waiting, 0) if self._current is not None else (in_flight, waiting)

    @property
    def _current(self) -> Grant | None:
        return self.grant or self._suspected

    # Its task

    async def hold(self, control: ControlClient) -> None:
        """Hold a lease for as long as there is reason to."""
        while self._waiting:
            self._last_report = self._work()
            try:
                async with control.lease(self.name, self._demand()) as messages:
                    await self._follow(control, messages)
            except Unreachable as error:
                self.refuse_waiting(unreachable(error), but_replayed=True)
                if self._waiting:
                    await trio.sleep(_RETRY)
            except ModelNotFound as error:
                self.refuse_waiting(Refusal(404, error.code, error.message, param="model"))
            except MuxdError as error:
                self.refuse_waiting(Refusal(UNAVAILABLE, error.code, error.message, retry_after=1))
        self._holding = self._unloads = False

    async def _follow(self, control: ControlClient, messages: MessageStream) -> None:
        """From the first message to the end of the lease; nothing is admitted by it afterwards."""
        async with trio.open_nursery() as nursery:
            reporting = False
            try:
                async for message in messages:
                    if not reporting:
                        reporting = True
                        nursery.start_soon(self._report, control, message["lease"])
                    self._hear(message, nursery)
                self._over()
            except Unreachable as error:
                if self._current is None:
                    self.refuse_waiting(unreachable(error), but_replayed=True)
                else:  # who waits for a place at its worker gets one still
                    await self._outlive_muxd(control)
            if self._draining is not None:
                await trio.sleep_forever()  # until `_drain` has finished
            nursery.cancel_scope.cancel()
        self._last_progress = None
        if (grant := self._take_grant()) is not None:
            grant.pool.close()
        self._draining = None

    def _take_grant(self) -> Grant | None:
        """From now on nothing is admitted by it."""
        grant = self._current
        self.grant = self._suspected = None
        return grant

    def _hear(self, message: dict[str, Any], nursery: trio.Nursery) -> None:
        match message["type"]:
            case "queued" | "switching":
                self._last_progress, self._news_at = message, monotonic()
            case "granted":
                self._be_granted(message["url"], message["generation"])
            case "revoked":
                self._revoke(message, nursery)
            case "restored":
                self._restore()
            case "failed":
                self.refuse_waiting(failed(message))

    def _be_granted(self, url: str, generation: int) -> None:
        log.info("lease on %s granted: %s, generation %d, %d waiting", self.name, url, generation, len(self._waiting))
        self._last_report = None  # muxd counts all that waited as in flight until it is told
        self._let_in(Grant(self._leases.pool(url), generation))

    def _let_in(self, grant: Grant) -> None:
        self.grant = grant
        self._last_progress = None  # it was about the wait that is over
        self._changed.set()
        self._admit_waiting(grant)

    def _revoke(self, message: dict[str, Any], nursery: trio.Nursery) -> None:
        """Admit nothing more.  A second revocation can only bring the deadline forward."""
        given = message.get("deadline_s")
        seconds = inf if given is None else max(float(given), _CUT_GRACE)
        if self._draining is not None:
            self._drain_scope.deadline = min(self._drain_scope.deadline, trio.current_time() + seconds)
            self._revocation = message
        elif (grant := self._take_grant()) is not None:
            log.info("lease on %s revoked: %s, %d in flight", self.name, message["reason"], len(grant.in_flight))
            self._draining, self._revocation = grant, message
            self._drain_scope = trio.CancelScope(deadline=trio.current_time() + seconds)
            nursery.start_soon(self._drain, grant, self._drain_scope, nursery)

    def _restore(self) -> None:
        """What it drained for was called off: the lease is as good as it was."""
        if self._draining is not None:
            log.info("lease on %s restored: what it drained for was called off", self.name)
            grant, self._draining = self._draining, None
            self._drain_scope.cancel()
            self._let_in(grant)

    async def _drain(self, grant: Grant, scope: trio.CancelScope, nursery: trio.Nursery) -> None:
        with scope:
            if grant.in_flight:
                grant.drained = trio.Event()
                await grant.drained.wait()
        if self._draining is not grant or self._drain_scope is not scope:
            return  # restored, and perhaps revoked anew
        grant.pool.close()
        self._end(grant, self._revocation)
        nursery.cancel_scope.cancel()

    def _end(self, grant: Grant, message: dict[str, Any]) -> None:
        """End what is in flight still."""
        refusal, lost = revoked(self.name, message), message["reason"] in WORKER_LOST
        for ticket in list(grant.in_flight):
            if lost:
                ticket.lose(refusal)
            else:
                ticket.cut(refusal)

    def _over(self) -> None:
        """muxd has ended the lease: from now on the worker may be put to sleep at any time."""
        if self._draining is None or self._revocation["reason"] not in WORKER_LOST:
            self._drain_scope.cancel()
        grant = self._take_grant()
        if grant is not None:
            grant.pool.close()
            why = f"model {self.name} was taken off the GPU before this request ended: its lease is over"
            for ticket in list(grant.in_flight):
                ticket.cut(Refusal(UNAVAILABLE, "lease_over", why, retry_after=1))

    async def _outlive_muxd(self, control: ControlClient) -> None:
        """Return once a muxd answers again: it knows nothing of this lease."""
        log.warning("muxd is gone; the lease on %s goes on until it is back", self.name)
        while True:
            await trio.sleep(_RETRY)
            try:
                await control.version()
            except MuxdError:
                continue
            return

    async def unload_unheld(self, control: ControlClient) -> None:
        """The same where requests of this proxy have nothing to do with the model."""
        await self._ask_to_unload(control)
        self._unloads = False

    async def _ask_to_unload(self, control: ControlClient) -> None:
        """Say that a client has no more use of the model; whether others have is for muxd to know."""
        try:
            answer = await control.unload(self.name)
            log.info("a client lets %s go: %s", self.name, answer["reason"] or "it is put to sleep")
        except MuxdError as error:
            log.warning("muxd could not be told that a client lets %s go: %s", self.name, error)

    # Reports

    def _tell(self) -> None:
        self._changed.set()

    def _demand(self) -> tuple[Waiting, ...]:
        return self._waiting.demand(monotonic()) if self._current is None else ()

    async def _report(self, control: ControlClient, lease: str) -> None:
        """Tell muxd what waits and whether something is in flight at once, and how much of it now and then."""
        while True:
            with trio.move_on_after(_REPORT_EVERY if self._last_report is None or any(self._work()) else inf):
                await self._changed.wait()
            self._changed = trio.Event()
            figures = self._work()
            if self._idle.pending and self._last_report is not None and self._last_report[0] and not figures[0]:
                continue  # the alarm will say so
            unloads, self._unloads = self._unloads, False
            if figures != self._last_report:
                try:
                    self._last_report = figures
                    await control.report_demand(lease, figures[0], self._demand())
                except LeaseNotFound:
                    return  # the stream is about to say so
                except MuxdError as error:
                    self._last_report = None
                    log.warning("demand for %s could not be reported: %s", self.name, error)
                    await trio.sleep(_REPORT_EVERY)
            if unloads and not any(self._work()):
                await self._ask_to_unload(control)
            await trio.sleep(_REPORT_GAP)
