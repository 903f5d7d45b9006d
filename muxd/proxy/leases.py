"""One lease per model: the queue before it, and what is in flight behind it.

While a lease is granted a request needs no round trip: it is counted, and goes.  The task
that holds the lease's connection runs beside, and so does the one that reports demand.

    nobody asks -> asked (requests wait) -> granted -> revoked (draining) -> over
When muxd is gone under a granted lease the lease goes on: the worker does too, and a fresh
muxd sweeps it before it starts another.  Once muxd answers again the lease is over, and
asked for anew.
"""

import logging
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Any, Protocol

import trio

from muxd.client import Client, Stream
from muxd.core.events import Waiting
from muxd.errors import LeaseNotFound, ModelNotFound, MuxdError, Unreachable

from .answers import BAD_GATEWAY, UNAVAILABLE, Refusal
from .sockets.reactor import Reactor
from .sockets.upstream import Pool

log = logging.getLogger(__name__)

_REPORT_GAP = 0.05  # seconds between two reports, at least
_REPORT_EVERY = 1.0  # seconds until it is reported that more or less is in flight than before
_IDLE_GRACE = 0.02  # seconds without a request in flight that are not called idle: a client between two
_RETRY = 0.25  # seconds between two attempts to reach muxd
_CUT_GRACE = 0.2  # seconds for what a dead worker had sent already to be read

_WORKER_LOST = frozenset(("worker_exited", "worker_unresponsive"))


class Ticket(Protocol):
    """A request that wants the model."""

    asked_at: float  # monotonic

    def forward(self, grant: "Grant") -> None: ...

    def refuse(self, refusal: Refusal) -> None: ...

    def cut(self, refusal: Refusal) -> None: ...


class Grant:
    """The right to send to a worker, and the requests that do."""

    __slots__ = ("drained", "generation", "in_flight", "pool")

    def __init__(self, pool: Pool, generation: int) -> None:
        self.pool = pool
        self.generation = generation
        self.in_flight: set[Ticket] = set()
        self.drained = trio.Event()  # while it drains: set with the last request's end

    def cut(self, refusal: Refusal) -> None:
        """End what is in flight."""
        for ticket in list(self.in_flight):
            ticket.cut(refusal)


class Leases:
    """All leases of a proxy; their tasks live in `run`."""

    def __init__(self, control: Client, reactor: Reactor, switch_timeout: Callable[[str], float]) -> None:
        """`switch_timeout`: how long a request may wait for a model, in seconds."""
        self._control = control
        self._reactor = reactor
        self.switch_timeout = switch_timeout
        self._leases: dict[str, Lease] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold leases until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def of(self, model: str) -> "Lease":
        lease = self._leases.get(model)
        if lease is None:
            lease = self._leases[model] = Lease(model, self)
        return lease

    def granted(self) -> list[str]:
        return [lease.name for lease in self._leases.values() if lease.grant is not None]

    def refuse_waiting(self, refusal: Refusal) -> None:
        for lease in self._leases.values():
            lease.refuse_waiting(refusal)

    # For the leases

    def start(self, lease: "Lease") -> None:
        assert self._nursery is not None
        self._nursery.start_soon(lease.hold, self._control, name=f"lease {lease.name}")

    def pool(self, url: str) -> Pool:
        return Pool(self._reactor, url)


class Lease:
    """One model's.  `enter` and `leave` are the hot path."""

    def __init__(self, name: str, leases: Leases) -> None:
        self.name = name
        self.grant: Grant | None = None  # while requests are admitted
        self._leases = leases
        self._waiting: dict[Ticket, None] = {}
        self._holding = False
        self._draining: Grant | None = None
        self._drain_scope = trio.CancelScope()
        self._changed = trio.Event()
        self._told: tuple[int, int] | None = None  # the figures that muxd has
        self._progress = ""  # what muxd last said about the wait

    @property
    def switch_timeout(self) -> float:
        """As muxd says it now: a reload can change it."""
        return self._leases.switch_timeout(self.name)

    # For the requests

    def enter(self, ticket: Ticket) -> None:
        """Forward it now, or when the lease is granted; or refuse it."""
        grant = self.grant
        if grant is None:
            self._queue(ticket)
            return
        grant.in_flight.add(ticket)
        if len(grant.in_flight) == 1:
            self._changed.set()
        ticket.forward(grant)

    def _queue(self, ticket: Ticket) -> None:
        self._waiting[ticket] = None
        self._changed.set()
        if not self._holding:
            self._holding = True
            self._leases.start(self)

    def leave(self, ticket: Ticket, grant: Grant | None) -> None:
        """It waits no longer, or its answer has ended.  Idempotent."""
        if grant is not None:
            grant.in_flight.discard(ticket)
            if not grant.in_flight:
                self._changed.set()
                grant.drained.set()
        elif ticket in self._waiting:
            del self._waiting[ticket]
            self._changed.set()

    def give_up(self, ticket: Ticket) -> None:
        """It has waited as long as it may."""
        message = f"model {self.name} was not ready within {self.switch_timeout:g} s (switch_timeout){self._progress}"
        ticket.refuse(Refusal(UNAVAILABLE, "switch_timeout", message, retry_after=10))

    def refuse_waiting(self, refusal: Refusal) -> None:
        for ticket in list(self._waiting):
            ticket.refuse(refusal)

    # Its task

    async def hold(self, control: Client) -> None:
        """Hold a lease for as long as there is reason to."""
        while self._waiting:
            self._told = self._figures()
            try:
                async with control.lease(self.name, self._demand()[1]) as messages:
                    await self._follow(control, messages)
            except Unreachable as error:
                self.refuse_waiting(_unreachable(error))
            except ModelNotFound as error:
                self.refuse_waiting(Refusal(404, error.code, error.message, param="model"))
            except MuxdError as error:
                self.refuse_waiting(Refusal(UNAVAILABLE, error.code, error.message, retry_after=1))
        self._holding = False

    async def _follow(self, control: Client, messages: Stream) -> None:
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
                self.refuse_waiting(_unreachable(error))
                if self.grant is not None:
                    await self._outlive_muxd(control)
            if self._draining is not None:
                await trio.sleep_forever()  # until `_drain` has finished
            nursery.cancel_scope.cancel()
        self._progress = ""
        if self.grant is not None:
            self.grant.pool.close()
        self.grant = self._draining = None

    def _hear(self, message: dict[str, Any], nursery: trio.Nursery) -> None:
        match message["type"]:
            case "queued" | "switching":
                self._progress = _progress(message)
            case "granted":
                self._admit(message["url"], message["generation"])
            case "revoked":
                self._revoke(message, nursery)
            case "restored":
                self._restore()
            case "failed":
                self.refuse_waiting(_failed(message))

    def _admit(self, url: str, generation: int) -> None:
        log.info("lease on %s granted: %s, generation %d, %d waiting", self.name, url, generation, len(self._waiting))
        self._told = None  # muxd counts all that waited as in flight until it is told
        self._let_in(Grant(self._leases.pool(url), generation))

    def _let_in(self, grant: Grant) -> None:
        self.grant = grant
        waiting, self._waiting = self._waiting, {}
        grant.in_flight.update(waiting)
        self._changed.set()
        for ticket in waiting:
            ticket.forward(grant)

    def _revoke(self, message: dict[str, Any], nursery: trio.Nursery) -> None:
        """Admit nothing more.  A second revocation can only bring the deadline forward."""
        given = message.get("deadline_s")
        seconds = inf if given is None else max(float(given), _CUT_GRACE)
        if self._draining is not None:
            self._drain_scope.deadline = min(self._drain_scope.deadline, trio.current_time() + seconds)
        elif self.grant is not None:
            grant, self.grant = self.grant, None
            log.info("lease on %s revoked: %s, %d in flight", self.name, message["reason"], len(grant.in_flight))
            self._draining = grant
            self._drain_scope = trio.CancelScope(deadline=trio.current_time() + seconds)
            nursery.start_soon(self._drain, grant, self._drain_scope, _revoked(self.name, message), nursery)

    def _restore(self) -> None:
        """The switch was called off: the lease is as good as it was."""
        if self._draining is not None:
            log.info("lease on %s restored: its switch was called off", self.name)
            grant, self._draining = self._draining, None
            self._drain_scope.cancel()
            self._let_in(grant)

    async def _drain(self, grant: Grant, scope: trio.CancelScope, refusal: Refusal, nursery: trio.Nursery) -> None:
        with scope:
            if grant.in_flight:
                grant.drained = trio.Event()
                await grant.drained.wait()
        if self._draining is not grant or self._drain_scope is not scope:
            return  # restored, and perhaps revoked anew
        grant.pool.close()
        grant.cut(refusal)
        nursery.cancel_scope.cancel()

    def _over(self) -> None:
        """muxd has ended the lease: from now on the worker may be put to sleep at any time."""
        self._drain_scope.cancel()
        grant, self.grant = self.grant, None
        if grant is not None:
            grant.pool.close()
            why = f"model {self.name} was taken off the GPU before this request ended: its lease is over"
            grant.cut(Refusal(UNAVAILABLE, "lease_over", why, retry_after=1))

    async def _outlive_muxd(self, control: Client) -> None:
        """Return once a muxd answers again: it knows nothing of this lease."""
        log.warning("muxd is gone; the lease on %s goes on until it is back", self.name)
        while True:
            await trio.sleep(_RETRY)
            try:
                await control.version()
            except MuxdError:
                continue
            return

    # Reports

    def _demand(self) -> tuple[int, tuple[Waiting, ...]]:
        grant = self.grant or self._draining
        in_flight = len(grant.in_flight) if grant is not None else 0
        if not self._waiting:
            return in_flight, ()
        oldest = monotonic() - next(iter(self._waiting)).asked_at  # they queue in order
        return in_flight, (Waiting(len(self._waiting), oldest),)

    def _figures(self) -> tuple[int, int]:
        grant = self.grant or self._draining
        return (len(grant.in_flight) if grant is not None else 0), len(self._waiting)

    async def _report(self, control: Client, lease: str) -> None:
        """Tell muxd what waits and whether something is in flight at once, and how much of it now and then."""
        while True:
            with trio.move_on_after(_REPORT_EVERY if any(self._figures()) else inf):
                await self._changed.wait()
            self._changed = trio.Event()
            if self._told is not None and self._told[0] and not self._figures()[0]:
                await trio.sleep(_IDLE_GRACE)
            figures = self._figures()
            if figures != self._told:
                try:
                    self._told = figures
                    await control.report_demand(lease, *self._demand())
                except LeaseNotFound:
                    return  # the stream is about to say so
                except MuxdError as error:
                    self._told = None
                    log.warning("demand for %s could not be reported: %s", self.name, error)
                    await trio.sleep(_REPORT_EVERY)
            await trio.sleep(_REPORT_GAP)


def _unreachable(error: MuxdError) -> Refusal:
    return Refusal(UNAVAILABLE, error.code, f"no model can be loaded now: {error.message}", retry_after=1)


def _failed(message: dict[str, Any]) -> Refusal:
    error = message["error"]
    status = 404 if error["code"] == ModelNotFound.code else UNAVAILABLE
    param = "model" if status == 404 else None
    retry_after = message.get("retry_after_s")
    if retry_after is None and status == UNAVAILABLE:
        retry_after = 5
    return Refusal(status, error["code"], error["message"], param=param, retry_after=retry_after)


def _revoked(name: str, message: dict[str, Any]) -> Refusal:
    """What a request is told that was still in flight at the deadline."""
    reason, why = message["reason"], message.get("message") or ""
    if reason in _WORKER_LOST:
        return Refusal(BAD_GATEWAY, reason, f"model {name}: {why or 'its worker is gone'}")
    code = "shutting_down" if reason == "shutdown" else "drain_timeout"
    message_ = f"model {name} was taken off the GPU before this request ended: {why or reason}"
    return Refusal(UNAVAILABLE, code, message_, retry_after=1)


def _progress(message: dict[str, Any]) -> str:
    eta = message.get("eta_s")
    what = f"{message['phase']}" if message["type"] == "switching" else f"number {message['position']} in the queue"
    return f": {what}" + (f", about {eta:.0f} s to go" if eta is not None else "")
