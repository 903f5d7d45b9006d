"""The core's one face: `Scheduler.handle(event)` takes what happened and says what to do.

First the event is taken in: what it means for a worker, a lease or an operator's wish.
Then `_settle` draws the conclusions: grants, switches, shutdown, and the timer for the
next look.  Owned by one task; synchronous; no I/O.
"""

from collections.abc import Iterable, Iterator
from math import inf

from .commands import (
    AnswerUnload,
    Command,
    FailLease,
    FailOrder,
    FailSwitch,
    FinishShutdown,
    FinishSwitch,
    SetTimer,
    StopWorker,
)
from .events import (
    DemandReported,
    Event,
    Failure,
    GpusMeasured,
    LeaseAsked,
    LeaseEnded,
    OrderGiven,
    Reconfigured,
    ShutdownAsked,
    SleepFailed,
    Started,
    SwitchAsked,
    TimerFired,
    UnloadAsked,
    Verb,
    WakeFailed,
    WeightsSeen,
    WorkerAsleep,
    WorkerDied,
    WorkerExited,
    WorkerHung,
    WorkerReady,
    WorkerStuck,
)
from .host_state import HostState
from .orders import Orders
from .spec import WorkerSpec
from .states import DOWN, WorkerState
from .switching import OperatorSwitch, Switching
from .worker import PendingFailure, Worker

WorkerEvent = (
    WorkerReady | WorkerAsleep | SleepFailed | WakeFailed | WorkerHung | WorkerDied | WorkerExited | WorkerStuck
)


#: States of a worker that is to serve: when it dies, it is started again.
SERVING = frozenset({WorkerState.STARTING, WorkerState.WAKING, WorkerState.READY})

#: States of a worker that has processes and of which nobody has asked to end them.
LIVING = SERVING | {WorkerState.DRAINING, WorkerState.FALLING_ASLEEP}


class Scheduler:
    def __init__(self, specs: Iterable[WorkerSpec], wait_target: float = 30.0, *, keep_turns: bool = True) -> None:
        self.host = HostState(specs)
        self.switching = Switching(self.host, wait_target, keep_turns=keep_turns)
        self._orders = Orders(self.host, self.switching)
        self._shutdown_deadline: float | None = None
        self._timer: float | None = None
        self._hurried = False
        self._finished = False

    def handle(self, event: Event) -> list[Command]:
        self.host.now = max(self.host.now, event.time)
        return [*self._take_in(event), *self._settle()]

    # What happened

    def _take_in(self, event: Event) -> Iterator[Command]:
        match event:
            case Started(_, stopped_by_operator):
                for worker in self.host.workers.values():
                    worker.since = self.host.now
                    worker.stopped_by_operator = worker.name in stopped_by_operator
                    worker.reason = "an operator stopped it" if worker.stopped_by_operator else ""
                self._plan_preload(self.host.workers.values())
            case LeaseAsked():
                yield from self._lease_asked(event)
            case DemandReported(_, lease, in_flight, waiting):
                self.host.report(lease, in_flight, waiting)
            case LeaseEnded(_, lease):
                self.host.forget(lease)
            case SwitchAsked(_, ticket, name) | OrderGiven(_, ticket, name) if name not in self.host.workers:
                fail = FailSwitch if isinstance(event, SwitchAsked) else FailOrder
                yield fail(ticket, *_not_configured(name)[:2])
            case SwitchAsked(_, ticket, name):
                yield from self._switch_asked(ticket, self.host.workers[name])
            case OrderGiven(_, ticket, name, verb, now):
                yield from self._order_given(ticket, self.host.workers[name], verb, now=now)
            case UnloadAsked(_, ticket, name) if name not in self.host.workers:
                yield AnswerUnload(ticket, _not_configured(name)[1])
            case UnloadAsked(_, ticket, name):
                yield from self._orders.unload(self.host.workers[name], ticket)
            case Reconfigured():
                yield from self._reconfigured(event)
            case GpusMeasured(_, totals, there):
                for gpu, size in totals.items():
                    self.host.ledger.capacity[gpu] = size
                self.host.gpus_there = there or self.host.gpus_there
            case WeightsSeen(_, sizes):
                self.host.weights = dict(sizes)
            case ShutdownAsked(_, deadline):
                yield from self._shutdown_asked(deadline)
            case TimerFired():
                self._timer = None
            case _ if event.worker in self.host.workers:
                yield from self._worker_changed(event, self.host.workers[event.worker])

    def _plan_preload(self, workers: Iterable[Worker]) -> None:
        self.switching.preload += [w.name for w in workers if w.spec.preload and not w.stopped_by_operator]

    def _reconfigured(self, event: Reconfigured) -> Iterator[Command]:
        known = {name for name, worker in self.host.workers.items() if not worker.retired}
        self.switching.wait_target, self.switching.keep_turns = event.wait_target, event.keep_turns
        yield from self._orders.reconfigure(event.specs, event.changed)
        self._plan_preload(w for name, w in self.host.workers.items() if name not in known)

    def _lease_asked(self, asked: LeaseAsked) -> Iterator[Command]:
        worker = self.host.workers.get(asked.worker)
        refusal = self._refusal(worker) if worker is not None else _not_configured(asked.worker)
        if worker is not None and refusal is None:
            self.host.ask(asked.lease, worker, asked.waiting)
        elif refusal is not None:
            yield FailLease(asked.lease, *refusal)

    def _switch_asked(self, ticket: int, worker: Worker) -> Iterator[Command]:
        worker.retry_at = min(worker.retry_at, self.host.now)  # the operator knows better than a back-off
        refusal = self._refusal(worker)
        if refusal is not None:
            yield FailSwitch(ticket, refusal[0], refusal[1])
            return
        if worker.order is not None and worker.order.verb in (Verb.SLEEP, Verb.UNLOAD):
            yield from self._orders.fail(worker, "superseded", f"a newer switch to {worker.name} took its place")
        operator_switch = self.switching.operator_switch
        if operator_switch is not None and operator_switch.worker == worker.name:
            operator_switch.tickets.append(ticket)
            return
        yield from self._end_wish("superseded", f"a newer switch, to {worker.name}, took its place")
        self.switching.operator_switch = OperatorSwitch(worker.name, [ticket])
        self.switching.drop_unbegun(worker)

    def _order_given(self, ticket: int, worker: Worker, verb: Verb, *, now: bool) -> Iterator[Command]:
        is_over = self._shutdown_deadline is not None or worker.retired
        refusal = self._refusal(worker)
        if refusal is not None and (is_over or (verb is Verb.SLEEP and worker.stopped_by_operator)):
            yield FailOrder(ticket, refusal[0], refusal[1])
            return
        if verb is Verb.SLEEP and self.switching.is_wished(worker):
            yield from self._end_wish("superseded", f"a newer order, sleep {worker.name}, took its place")
        yield from self._orders.give(worker, verb, ticket, now=now)

    def _worker_changed(self, event: WorkerEvent, worker: Worker) -> Iterator[Command]:
        """Take in what became of a worker; an answer that comes after its question lapsed changes nothing."""
        match event:
            case WorkerReady(_, _, url) if worker.state in (WorkerState.STARTING, WorkerState.WAKING):
                worker.became_ready(self.host.now, url)
                if worker.state is WorkerState.WAKING:
                    worker.bad_levels, worker.level_trouble = 0, ""
                yield self.host.move(worker, WorkerState.READY)
            case WorkerAsleep(_, _, kept) if worker.state is WorkerState.FALLING_ASLEEP:
                worker.kept = kept
                self.host.ledger.keep(worker.name, worker.claim_asleep(worker.sleep_level))
                yield self.host.move(worker, WorkerState.ASLEEP)
            case SleepFailed(_, _, reason) if worker.state is WorkerState.FALLING_ASLEEP:
                worker.level_failed(f"its sleep failed: {reason}")
                yield from self.host.stop(worker, worker.level_trouble, kill=True)
            case WakeFailed(_, _, reason, code) if worker.state is WorkerState.WAKING:
                worker.level_failed(f"its wake failed: {reason}")
                worker.pending_failure = PendingFailure(worker.level_trouble, counts=False, code=code)
                yield from self.host.stop(worker, worker.level_trouble, kill=True)
            case WorkerHung(_, _, reason) if worker.state in (
                WorkerState.READY,
                WorkerState.DRAINING,
                WorkerState.ASLEEP,
            ):
                yield from self._lost(
                    worker, WorkerState.UNRESPONSIVE, "worker_unresponsive", f"stopped answering: {reason}"
                )
                yield StopWorker(worker.name, kill=True)
            case WorkerDied(_, _, reason) if worker.state in LIVING:
                yield from self._lost(worker, WorkerState.STOPPING, "worker_exited", reason)
            case WorkerExited(_, _, failure, reason, code):
                yield from self._exited(worker, failure, reason, code)
            case WorkerStuck(_, _, reason) if worker.state not in DOWN | {WorkerState.STUCK}:
                yield from self._take_leases(worker, "worker_exited", reason)
                yield self.host.move(worker, WorkerState.STUCK, reason)

    def _lost(self, worker: Worker, to: WorkerState, code: str, reason: str) -> Iterator[Command]:
        """Take a lost worker's leases; it holds its GPUs until nothing of it is left."""
        if worker.state in SERVING:
            worker.pending_failure = PendingFailure(reason)
        yield from self._take_leases(worker, code, reason)
        yield self.host.move(worker, to, reason)

    def _exited(self, worker: Worker, failure: Failure, reason: str, code: str) -> Iterator[Command]:
        self.host.ledger.give_back(worker.name)
        was, pending_failure, worker.pending_failure = worker.state, worker.pending_failure, None
        if was in DOWN:
            return
        reason, code = (
            (pending_failure.reason, pending_failure.code or code) if pending_failure is not None else (reason, code)
        )
        yield from self._take_leases(worker, "worker_exited", reason)
        if self._shutdown_deadline is not None or (
            was in (WorkerState.STOPPING, WorkerState.STUCK) and pending_failure is None
        ):
            worker.ready_since = None  # it ended because it was told to
            is_told_why = worker.stopped_by_operator or self._shutdown_deadline is not None
            yield self.host.move(worker, WorkerState.UNLOADED, worker.reason if is_told_why else "")
            return
        worker.ended, worker.ended_code, worker.ended_at = reason, code, self.host.now
        lead = worker.fail(self.host.now, failure, counts=pending_failure is None or pending_failure.counts)
        serving = was in SERVING or pending_failure is not None
        yield self.host.move(worker, lead if serving and was is not WorkerState.STUCK else WorkerState.UNLOADED, reason)

    def _take_leases(self, worker: Worker, reason: str, message: str) -> Iterator[Command]:
        yield from self.host.revoke_all(worker, reason, f"the worker of {worker.name} {message}", self.host.now)
        yield from self.host.end_all(worker)

    # What cannot be had

    def _refusal(self, worker: Worker) -> tuple[str, str, float | None] | None:
        """Return why nobody need wait for this worker: code, message, seconds until it is worth another try."""
        if self._shutdown_deadline is not None:
            return "shutting_down", "muxd is shutting down; send the request again when it is back", None
        if worker.retired:
            return _not_configured(worker.name)
        if worker.stopped_by_operator:
            what = f"model {worker.name} is stopped by an operator"
            return "model_stopped", f"{what}; `muxctl start {worker.name}` lets it run again", None
        if never := self.host.never_loads(worker):
            return never.code, f"model {worker.name} {never}", None
        stuck = [w for w in (worker, *self.host.evictions(worker)) if w.state is WorkerState.STUCK]
        if stuck:
            what = f"model {worker.name} cannot be loaded: worker {stuck[0].name} is stuck ({stuck[0].reason})"
            return "worker_stuck", f"{what}; end its processes by hand or reset the GPU", 30.0
        if worker.state is WorkerState.FAILED and self.host.now < worker.retry_at:
            wait = worker.retry_at - self.host.now
            what = f"model {worker.name} failed: {worker.reason}"
            return (
                worker.ended_code or "model_failed",
                f"{what}; see `muxctl logs {worker.name}`; tried again in {wait:.0f} s",
                wait,
            )
        return None

    def _refuse_hopeless(self) -> Iterator[Command]:
        """End the waits that no switch can end."""
        for worker in self.host.workers.values():
            wished = self.switching.is_wished(worker)
            is_started = worker.order is not None and worker.order.verb in (Verb.START, Verb.RESTART)
            refusal = self._refusal(worker) if worker.waiting or wished or is_started else None
            if refusal is None:
                continue
            if is_started and worker.state is not WorkerState.STUCK:
                yield from self._orders.fail(worker, refusal[0], refusal[1])
            for lease in list(worker.waiting):
                self.host.forget(lease)
                yield FailLease(lease, *refusal)
            if wished:
                yield from self._end_wish(refusal[0], refusal[1])

    def _end_wish(self, code: str, message: str) -> Iterator[Command]:
        operator_switch, self.switching.operator_switch = self.switching.operator_switch, None
        for ticket in operator_switch.tickets if operator_switch is not None else ():
            yield FailSwitch(ticket, code, message)

    # Shutdown

    def _shutdown_asked(self, deadline: float) -> Iterator[Command]:
        first = self._shutdown_deadline is None
        self._hurried = not first
        self._shutdown_deadline = deadline if first else min(deadline, self._shutdown_deadline or deadline)
        self.switching.stop_deciding()
        for worker in self.host.workers.values():
            yield from self._orders.fail(worker, "shutting_down", "muxd is shutting down")
        for worker in self.host.workers.values():
            if worker.state is WorkerState.READY:
                yield from self.host.drain(worker, "shutdown", "muxd is shutting down", self._shutdown_deadline)
            elif worker.state is WorkerState.DRAINING:
                worker.drain_deadline = min(worker.drain_deadline, self._shutdown_deadline)
                yield from self.host.revoke_all(worker, "shutdown", "muxd is shutting down", worker.drain_deadline)
            elif worker.state in (
                WorkerState.STARTING,
                WorkerState.WAKING,
                WorkerState.FALLING_ASLEEP,
                WorkerState.ASLEEP,
            ):
                yield from self.host.stop(worker, "muxd is shutting down", kill=True)
            elif worker.state is WorkerState.STOPPING and not first:
                yield StopWorker(worker.name, kill=True)
            elif worker.state in (WorkerState.BACKOFF, WorkerState.FAILED):
                yield self.host.move(worker, WorkerState.UNLOADED, worker.reason)

    def _settle_shutdown(self) -> Iterator[Command]:
        for worker in self.host.workers.values():
            if worker.state is WorkerState.DRAINING:
                yield from self.host.end_overdue(worker)
                if not worker.granted:
                    yield from self.host.stop(worker, "muxd is shutting down", kill=self._hurried)
        if not self._finished and all(
            w.state in (WorkerState.UNLOADED, WorkerState.STUCK) for w in self.host.workers.values()
        ):
            self._finished = True
            yield FinishShutdown()

    # What follows

    def _settle(self) -> Iterator[Command]:
        yield from self._refuse_hopeless()
        yield from self._grant()
        self.switching.skip_preloaded()
        if self._shutdown_deadline is not None:
            yield from self._settle_shutdown()
        else:
            yield from self._orders.forward()
            yield from self.switching.settle()
            yield from self._grant()
            yield from self._orders.finish_ready()
        yield from self._set_timer()

    def _grant(self) -> Iterator[Command]:
        operator_switch = self.switching.operator_switch
        for worker in self.host.workers.values():
            if worker.state is not WorkerState.READY:
                continue
            yield from self.host.grant_all(worker)
            if operator_switch is not None and operator_switch.worker == worker.name:
                self.switching.operator_switch = None
                for ticket in operator_switch.tickets:
                    yield FinishSwitch(ticket, worker.url)

    def _set_timer(self) -> Iterator[Command]:
        at = min(self.switching.deadlines())
        wanted = None if at == inf else at
        if wanted != self._timer:
            self._timer = wanted
            yield SetTimer(wanted)


def _not_configured(name: str) -> tuple[str, str, float | None]:
    return "model_not_found", f"model {name} is no longer in the configuration", None
