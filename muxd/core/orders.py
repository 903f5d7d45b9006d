"""What an operator orders a worker to do, and what a new configuration asks of it.

An order is brought forward after every event until it is done.  Only a newer order for
the same worker takes its place; a client's disconnect does not.  `switch` is not among
them: it is about the GPU, not about one worker, and lives in `switching`.
"""

from collections.abc import Iterable, Iterator

from .commands import (
    AnswerUnload,
    Command,
    FailOrder,
    FinishOrder,
    PersistStopped,
    ReconfigureWorker,
    RemoveWorker,
    StopWorker,
)
from .events import Verb
from .host_state import HostState
from .spec import WorkerSpec
from .states import DOWN, WorkerState
from .switching import AT_REST, Switching
from .worker import Order, Worker

_MESSAGES = {
    Verb.STOP: "{} is stopped by an operator",
    Verb.RESTART: "{} is restarted",
    Verb.SLEEP: "{} is put to sleep by an operator",
    Verb.UNLOAD: "no client has any more use of {}",
    Verb.RECONFIGURE: "the configuration of {} has changed",
    Verb.REMOVE: "{} is no longer in the configuration",
}


class Orders:
    """Takes orders and brings them forward."""

    def __init__(self, host: HostState, switching: Switching) -> None:
        self.host = host
        self._switching = switching

    # Taken

    def give(self, worker: Worker, verb: Verb, ticket: int, *, now: bool) -> Iterator[Command]:
        """Give the worker an order; the one before it ends as superseded, unless it says the same."""
        if verb in (Verb.START, Verb.STOP, Verb.RESTART):
            yield from self._hold_down(worker, down=verb is Verb.STOP)
        if verb in (Verb.START, Verb.RESTART):
            worker.retry_at = min(worker.retry_at, self.host.now)  # the operator knows better than a back-off
        if worker.order is not None and worker.order.verb is verb and not worker.order.is_down:
            worker.order.tickets.append(ticket)
            worker.order.now = worker.order.now or now
            return
        yield from self.fail(worker, "superseded", f"a newer order, {verb} {worker.name}, took its place")
        worker.order = Order(verb, [ticket], now)
        if verb is not Verb.START:
            self._switching.call_off(worker)

    def unload(self, worker: Worker, ticket: int) -> Iterator[Command]:
        """Let a worker sleep of which a client has no more use, unless somebody else has."""
        if worker.state is not WorkerState.READY:
            yield AnswerUnload(ticket, f"it is {worker.shown_state.replace('_', ' ')}")
        elif worker.in_use or worker.order is not None:
            yield AnswerUnload(ticket, "it is in use")
        else:
            worker.order = Order(Verb.UNLOAD)
            yield AnswerUnload(ticket)

    def _hold_down(self, worker: Worker, *, down: bool) -> Iterator[Command]:
        if worker.stopped_by_operator is not down:
            worker.stopped_by_operator = down
            if worker.state is WorkerState.UNLOADED:
                worker.reason = _MESSAGES[Verb.STOP].format(worker.name) if down else ""
            yield PersistStopped(worker.name, down)

    def fail(self, worker: Worker, code: str, message: str) -> Iterator[Command]:
        """End the worker's order, if there is one."""
        yield from (FailOrder(ticket, code, message) for ticket in _ended(worker))

    def _finish(self, worker: Worker) -> Iterator[Command]:
        yield from (FinishOrder(ticket, worker.shown_state) for ticket in _ended(worker))

    # A new configuration

    def reconfigure(self, specs: Iterable[WorkerSpec], changed: frozenset[str]) -> Iterator[Command]:
        """Take over models that are new, gone, or `changed`: these need other processes than they have."""
        wanted = {spec.name: spec for spec in specs}
        for name, worker in self.host.workers.items():
            if name not in wanted:
                worker.retired = True
                yield from self.fail(worker, "model_not_found", _MESSAGES[Verb.REMOVE].format(name))
        for name, spec in wanted.items():
            if name not in self.host.workers:
                self.host.add(spec)
            else:
                self._reconfigure(self.host.workers[name], spec, changed=name in changed)
        self.host.sort(wanted)

    def _reconfigure(self, worker: Worker, spec: WorkerSpec, *, changed: bool) -> None:
        if changed or worker.retired or worker.pending_spec is not None:
            worker.pending_spec, worker.retired = spec, False
        else:
            worker.spec = spec
            self.host.ledger.narrow(worker.name, spec.gpus)

    def _draw_consequences(self, worker: Worker) -> None:
        """Order what the configuration asks of the worker, unless an operator's order is under way that will do."""
        order = worker.order
        if worker.retired:
            if order is None or order.verb is not Verb.REMOVE:
                worker.order = Order(Verb.REMOVE)
                self._switching.call_off(worker)
        elif worker.pending_spec is not None and order is None and worker.state not in DOWN:
            worker.order = Order(Verb.RECONFIGURE if worker.state is WorkerState.ASLEEP else Verb.RESTART)

    # Brought forward

    def forward(self) -> Iterator[Command]:
        for worker in list(self.host.workers.values()):
            if worker.state in DOWN:
                yield from self._renew(worker)
            yield from self._advance(worker)

    def finish_ready(self) -> Iterator[Command]:
        """End the orders of those that the last decisions left ready."""
        for worker in list(self.host.workers.values()):
            order = worker.order
            if worker.state is WorkerState.READY and order is not None and (order.verb is Verb.START or order.is_down):
                yield from self._finish(worker)
                yield from self._advance(worker)

    def _advance(self, worker: Worker) -> Iterator[Command]:
        """Bring its order forward; where that ends, what the configuration asks for comes next."""
        for _ in ("the order", "what the configuration asks for after it"):
            self._draw_consequences(worker)
            order = worker.order
            if order is not None:
                yield from self._forward(worker, order)
            if worker.order is order or worker.name not in self.host.workers:
                return

    def _forward(self, worker: Worker, order: Order) -> Iterator[Command]:
        if worker.state is WorkerState.STUCK:
            message = f"worker {worker.name} is stuck ({worker.reason}); end its processes by hand or reset the GPU"
            yield from self.fail(worker, "worker_stuck", message)
            return
        match order.verb:
            case Verb.START:
                yield from self._bring(worker)
            case Verb.RESTART if order.is_down:
                yield from self._bring(worker)
            case Verb.RESTART:
                yield from self._take_down(worker, order)
                if worker.state in DOWN:
                    order.is_down = True
                    yield from self._renew(worker)
                    yield from self._bring(worker)
            case Verb.UNLOAD if worker.in_use:
                worker.order = None  # while it drained a request came: it serves on
            case Verb.SLEEP | Verb.UNLOAD:
                yield from self._put_to_sleep(worker, order)
            case _:
                yield from self._take_down(worker, order)
                if worker.state is WorkerState.UNLOADED:
                    yield from self._finish(worker)
                    if worker.retired:
                        self._switching.forget(worker)
                        self.host.remove(worker)
                        yield RemoveWorker(worker.name)

    def _renew(self, worker: Worker) -> Iterator[Command]:
        """Let a new configuration take hold; a switch that has not begun was about the GPUs of the old one."""
        if worker.pending_spec is not None:
            self._switching.drop(worker)
            self.host.renew(worker)
            yield ReconfigureWorker(worker.name)

    def _bring(self, worker: Worker) -> Iterator[Command]:
        """Bring the worker to its GPUs, if there is room."""
        if worker.state is WorkerState.READY:
            yield from self._finish(worker)
        elif worker.state not in AT_REST or self._switching.is_coming(worker):
            return
        elif worker.state in (WorkerState.BACKOFF, WorkerState.FAILED) and self.host.now < worker.retry_at:
            return  # it is started again by itself, or its order is refused
        elif never := self.host.never_loads(worker):
            yield from self.fail(worker, never.code, f"model {worker.name} {never}")
        elif self._switching.claimants(worker) and self.host.fits(worker):
            return  # there will be room, or none, once the others have come
        elif holders := self.host.evictions(worker):
            who = " and ".join(f"{w.name} ({w.state.replace('_', ' ')})" for w in holders)
            message = (
                f"{worker.name} may run, but there is no room on its GPU: {who} has it; a request for {worker.name} "
                f"brings it in its turn, `muxctl switch {worker.name}` at once"
            )
            yield from self.fail(worker, "no_room", message)
        else:
            yield from self._switching.begin_unopposed(worker)

    def _put_to_sleep(self, worker: Worker, order: Order) -> Iterator[Command]:
        if worker.state is WorkerState.BACKOFF and not worker.wanted:
            yield self.host.move(worker, WorkerState.UNLOADED, worker.reason)
        if worker.state in AT_REST:
            yield from self._finish(worker)
        elif worker.state is WorkerState.READY:
            yield from self._drain(worker, order)
        if worker.state is WorkerState.DRAINING:
            yield from self.host.end_overdue(worker)
            if not worker.granted and self.host.is_quiet(worker):
                yield from self.host.deactivate(worker)

    def _take_down(self, worker: Worker, order: Order) -> Iterator[Command]:
        """Bring the worker towards UNLOADED, from whatever state."""
        message = _MESSAGES[order.verb].format(worker.name)
        if worker.state is WorkerState.READY:
            yield from self._drain(worker, order)
        if worker.state is WorkerState.DRAINING:
            if order.now and worker.drain_deadline > self.host.now:
                worker.drain_deadline = self.host.now
                yield from self.host.revoke_all(worker, order.verb, message, self.host.now)
            yield from self.host.end_overdue(worker)
            if not worker.granted:
                yield from self.host.stop(worker, message, kill=False)
        elif worker.state in (WorkerState.STARTING, WorkerState.WAKING, WorkerState.ASLEEP):
            yield from self.host.stop(worker, message, kill=True)  # nothing runs in it; one that is paused cannot drain
        elif worker.state is WorkerState.STOPPING and order.now and not order.killed:
            order.killed = True
            yield StopWorker(worker.name, kill=True)
        elif worker.state in DOWN and worker.state is not WorkerState.UNLOADED:
            yield self.host.move(worker, WorkerState.UNLOADED, message)

    def _drain(self, worker: Worker, order: Order) -> Iterator[Command]:
        deadline = self.host.now if order.now else self.host.now + worker.spec.drain_timeout
        yield from self.host.drain(worker, order.verb, _MESSAGES[order.verb].format(worker.name), deadline)


def _ended(worker: Worker) -> list[int]:
    """Take the worker's order from it, and return the tickets of those who wait for its end."""
    order, worker.order = worker.order, None
    return order.tickets if order is not None else []
