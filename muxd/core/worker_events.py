"""What became of workers: what their events mean for them, their groups, and the leases on these."""

from collections.abc import Iterator

from .commands import Command, StopWorker
from .events import (
    ActivationFailed,
    Failure,
    PortFreed,
    SleepFailed,
    StandbyPrepared,
    WakeFailed,
    WorkerAsleep,
    WorkerDied,
    WorkerEvent,
    WorkerExited,
    WorkerHung,
    WorkerReady,
    WorkerStuck,
)
from .host_state import HostState
from .orders import Orders
from .quorum import carries
from .shutdown import Shutdown
from .spec import Role
from .standby import prepared
from .states import DOWN, UP, WorkerState
from .worker import PORT_TAKEN, PendingFailure, Worker

#: States of a worker that has processes and of which nobody has asked to end them.
LIVING = UP | {WorkerState.DRAINING, WorkerState.FALLING_ASLEEP}

#: States of a worker that is probed.
PROBED = frozenset({WorkerState.READY, WorkerState.DRAINING, WorkerState.ASLEEP})


class WorkerEvents:
    """Takes in what became of workers."""

    def __init__(self, host: HostState, orders: Orders, shutdown: Shutdown) -> None:
        self._host = host
        self._orders = orders
        self._shutdown = shutdown

    def take_in(self, event: WorkerEvent, worker: Worker) -> Iterator[Command]:
        """Take in what became of a worker; an answer that comes after its question lapsed changes nothing."""
        match event:
            case WorkerReady(_, _, url, note) if worker.state in (WorkerState.STARTING, WorkerState.WAKING):
                worker.became_ready(self._host.now, url, unproved=event.unproved)
                yield from self._host.move(worker, WorkerState.READY, note)
            case WorkerAsleep(_, _, kept, taken) if worker.state is WorkerState.FALLING_ASLEEP:
                if kept is not None:
                    worker.kept[worker.level] = kept
                if len(self._host.groups[worker.group].members) == 1:  # one of several comes back to where it was
                    worker.peak = max(worker.peak, taken or 0)
                    self._host.forget_excess()
                self._host.ledger.keep(worker.name, worker.holding_asleep(worker.level))
                yield from self._host.move(worker, WorkerState.ASLEEP)
            case StandbyPrepared(_, _, size) if worker.state is WorkerState.STANDBY:
                prepared(self._host, worker, size)
            case ActivationFailed(_, _, reason, code) if worker.state is WorkerState.STARTING:
                why = f"its process at the gate did not go on: {reason}"
                worker.pending_failure = PendingFailure(why, counts=False, code=code)
                yield from self._host.stop_worker(worker, why, kill=True)
            case SleepFailed(_, _, reason) if worker.state is WorkerState.FALLING_ASLEEP:
                worker.level_failed(f"its sleep failed: {reason}")
                yield from self._host.stop_worker(worker, worker.level_trouble, kill=True)
            case WakeFailed(_, _, reason, code, is_wrong) if worker.state is WorkerState.WAKING:
                if is_wrong:
                    why = worker.woke_wrong(reason, counts=not self._host.groups[worker.group].is_validated)
                else:
                    why = worker.level_failed(f"its wake failed: {reason}")
                worker.pending_failure = PendingFailure(why, counts=False, code=code)
                yield from self._host.stop_worker(worker, why, kill=True)
            case WorkerHung(_, _, reason) if worker.state in PROBED:
                why = f"stopped answering: {reason}"
                yield from self._lost(worker, WorkerState.UNRESPONSIVE, "worker_unresponsive", why)
                yield StopWorker(worker.name, kill=True)
            case WorkerDied(_, _, reason) if worker.state in LIVING | {WorkerState.ASLEEP}:
                yield from self._lost(worker, WorkerState.STOPPING, "worker_exited", reason)
            case WorkerExited(_, _, failure, reason, code):
                yield from self._exited(worker, failure, reason, code)
            case PortFreed():
                worker.gate_retry_at = min(worker.gate_retry_at, self._host.now)
                if worker.state is WorkerState.FAILED:
                    worker.retry_at = self._host.now
                    yield from self._host.move(worker, WorkerState.BACKOFF, "its port is free again")
            case WorkerStuck(_, _, reason) if worker.state not in DOWN | {WorkerState.STUCK}:
                yield from self._lost(worker, WorkerState.STUCK, "worker_exited", reason)

    def _lost(self, worker: Worker, to: WorkerState, code: str, reason: str) -> Iterator[Command]:
        """Take in that a worker serves no more; it holds its GPUs until nothing of it is left."""
        if worker.state in UP and to is not WorkerState.STUCK:
            worker.pending_failure = PendingFailure(reason)
        yield from self._move_lost(worker, to, reason, code, reason)

    def _exited(self, worker: Worker, failure: Failure, reason: str, code: str) -> Iterator[Command]:
        was, pending_failure, worker.pending_failure = worker.state, worker.pending_failure, None
        if was in DOWN:
            return
        if pending_failure is not None:
            reason, code = pending_failure.reason, pending_failure.code or code
        was_ending = was in (WorkerState.STOPPING, WorkerState.STUCK)
        if self._shutdown.is_under_way or (was_ending and pending_failure is None):
            worker.ready_since = None  # it ended because it was told to
            is_told_why = self._host.groups[worker.group].stopped_by_operator or self._shutdown.is_under_way
            why = worker.reason if is_told_why else ""
            yield from self._move_lost(worker, WorkerState.UNLOADED, why, "worker_exited", reason)
            return
        worker.ended, worker.ended_code, worker.ended_at = reason, code, self._host.now
        worker.awaits_port = failure is Failure.REFUSED and code == PORT_TAKEN
        if was is WorkerState.STANDBY:
            yield from self._host.move(worker, WorkerState.UNLOADED, f"its process at the gate: {reason}")
            worker.standby_failed(failure)
            return
        counts = pending_failure is None or pending_failure.counts
        if counts and self._orders.ended_validated(self._host.groups[worker.group], worker):
            counts = False
        lead = worker.fail(self._host.now, failure, counts=counts)
        serving = was in UP or pending_failure is not None
        to = lead if serving and was is not WorkerState.STUCK else WorkerState.UNLOADED
        yield from self._move_lost(worker, to, reason, "worker_exited", reason)

    def _move_lost(self, worker: Worker, to: WorkerState, why: str, code: str, message: str) -> Iterator[Command]:
        """Move a lost worker; first take its group's leases where nothing carries their requests without it."""
        group = self._host.groups[worker.group]
        is_waited_for = worker.spec.role is Role.PREFILL and worker.state in (WorkerState.READY, WorkerState.DRAINING)
        if is_waited_for or not carries(group, but=worker):  # who decodes would wait for its prompts for ever
            message = f"the worker of {worker.name} {message}"
            yield from self._host.leases.cut_off(group, code, message)
        yield from self._host.move(worker, to, why)
