"""What an operator orders a group to do, and what a new configuration asks of it.

An order is brought forward after every event until it is done.  Only a newer order for
the same group takes its place; a client's disconnect does not.  `switch` is not among
them: it is about the GPU, not about one group, and lives in `switching`.
"""

from collections.abc import Iterable, Iterator, Sequence

from . import replicas
from .commands import (
    AnswerUnload,
    Command,
    FailOrder,
    FinishOrder,
    PersistStopped,
    ReconfigureWorker,
    RemoveWorker,
)
from .events import Verb
from .group import Group
from .host_books import in_configured_order
from .host_state import HostState
from .order import Order
from .spec import GroupSpec
from .states import AT_REST, DOWN, LOST, RUNNING, UP, WorkerState
from .switching import Switching
from .validation import Stage
from .validations import Validations, distrust_again, is_launched_otherwise, planned
from .worker import Worker

_MESSAGES = {
    Verb.STOP: "{} is stopped by an operator",
    Verb.RESTART: "{} is restarted",
    Verb.SLEEP: "{} is put to sleep by an operator",
    Verb.VALIDATE: "{} is validated by an operator",
    Verb.SCALE: "{} is scaled to 0 by an operator",
    Verb.UNLOAD: "no client has any more use of {}",
    Verb.RECONFIGURE: "the configuration of {} has changed",
    Verb.REMOVE: "{} is no longer in the configuration",
    Verb.RENEW_ROUTER: "the router of {} is started anew, as the configuration has changed",
}


class Orders:
    """Takes orders and brings them forward."""

    def __init__(self, host: HostState, switching: Switching) -> None:
        self.host = host
        self._placement = host.placement
        self._switching = switching
        self._validations = Validations(host, switching)
        self.measured = self._validations.measured
        self.ended_validated = self._validations.ended
        self._concerned: dict[str, Group] = {}  # groups with an order, or what a new configuration asks of them

    # Taken

    def give(
        self, group: Group, verb: Verb, ticket: int, *, now: bool, level: int | None = None, replicas: int = 0
    ) -> Iterator[Command]:
        """Give the group an order; the one before it ends as superseded, unless it says the same."""
        group.is_put_away = verb is Verb.SLEEP
        brings = verb in (Verb.START, Verb.RESTART) or (verb is Verb.SCALE and replicas > 0)
        if brings or verb is Verb.STOP:
            yield from self._hold_down(group, down=verb is Verb.STOP)
        if brings:
            self.host.retry_now(group)
        former = group.order
        is_same = former is not None and (former.verb, former.level, former.replicas) == (verb, level, replicas)
        if group.order is not None and is_same and not group.order.is_down:
            group.order.tickets.append(ticket)
            group.order.now = group.order.now or now
            group.order.for_loan = False  # the end of a loan that asked for it first does not take it back
            return
        yield from self.fail(group, "superseded", f"a newer order, {verb} {group.name}, took its place")
        self.set(group, Order(verb, [ticket], now, level, replicas=replicas))
        if verb is not Verb.START and (verb is not Verb.SCALE or replicas == 0):
            self._switching.call_off(group)

    def validate(self, group: Group, ticket: int, levels: Iterable[int], cycles: int) -> Iterator[Command]:
        """Order the group to be validated; the order before ends as superseded."""
        self.host.retry_now(group)
        newer = f"a newer order, {Verb.VALIDATE} {group.name}, took its place"
        yield from self.fail(group, "superseded", newer)
        self.set(group, Order(Verb.VALIDATE, [ticket], validation=planned(group, levels, cycles)))
        self.host.validating.append(group)

    def drop_validation(self, group: Group, ticket: int) -> None:
        """End a validation that nobody is told of; its group is to be as configured and, if there is room, ready."""
        order, validation = group.order, group.validation
        if order is not None and validation is not None and ticket in order.tickets:
            distrust_again(group, validation)
            self.set(group, Order(Verb.RESTART if is_launched_otherwise(group, validation) else Verb.START))

    def unload(self, group: Group, ticket: int) -> Iterator[Command]:
        """Let a group sleep of which a client has no more use, unless somebody else has."""
        if group.state is not WorkerState.READY:
            yield AnswerUnload(ticket, f"it is {group.shown_state.replace('_', ' ')}")
        elif group.in_use or group.order is not None:
            yield AnswerUnload(ticket, "it is in use")
        elif group.is_pinned:
            yield AnswerUnload(ticket, "it is pinned" if group.spec.pinned else "an operator holds it")
        elif self._switching.is_default(group):
            yield AnswerUnload(ticket, "it is the default model")
        else:
            self.set(group, Order(Verb.UNLOAD))
            yield AnswerUnload(ticket)

    def send_to_rest(self, group: Group, why: str, level: int | None = None) -> None:
        """Let a group sleep that nobody wants, unless somebody does meanwhile."""
        self.set(group, Order(Verb.UNLOAD, level=level, why=why))

    def _hold_down(self, group: Group, *, down: bool) -> Iterator[Command]:
        if group.stopped_by_operator is not down:
            group.stopped_by_operator = down
            for worker in group.members:
                if worker.state is WorkerState.UNLOADED:
                    worker.reason = _MESSAGES[Verb.STOP].format(group.name) if down else ""
            yield PersistStopped(group.name, down)

    def take_back(self, group: Group) -> None:
        """Take an order back that nobody waits for; a group that drains for nothing else serves on."""
        self.set(group, None)

    def set(self, group: Group, order: Order | None) -> None:
        group.order = order
        self._concerned[group.name] = group
        self.host.touch(group)

    def _end(self, group: Group) -> list[int]:
        """Take the group's order from it, and return the tickets of those who wait for its end."""
        if group.order is None:
            return []
        order = group.order
        if order.validation is not None:
            distrust_again(group, order.validation)
        self.set(group, None)
        return order.tickets

    def fail(self, group: Group, code: str, message: str) -> Iterator[Command]:
        """End the group's order, if there is one."""
        yield from (FailOrder(ticket, code, message) for ticket in self._end(group))

    def _finish(self, group: Group) -> Iterator[Command]:
        yield from (FinishOrder(ticket, group.shown_state) for ticket in self._end(group))

    # A new configuration

    def reconfigure(
        self, specs: Iterable[GroupSpec], changed: frozenset[str], routers: frozenset[str]
    ) -> Iterator[Command]:
        """Take over models that are new, gone, or `changed`: these need other processes than they have.

        Those in `routers` need but another process of their router.
        """
        wanted = {spec.name: spec for spec in specs}
        for name, group in self.host.groups.items():
            if name not in wanted:
                group.retired = True
                group.pending_spec, group.is_router_changed = None, False  # what an earlier reload wanted of it
                self._concerned[name] = group
                yield from self.fail(group, "model_not_found", _MESSAGES[Verb.REMOVE].format(name))
        for name, spec in wanted.items():
            if name not in self.host.groups:
                self.host.add(spec)
            else:
                yield from self._reconfigure(
                    self.host.groups[name], spec, changed=name in changed, is_router_changed=name in routers
                )
        self.host.sort(wanted)

    def _reconfigure(
        self, group: Group, spec: GroupSpec, *, changed: bool, is_router_changed: bool
    ) -> Iterator[Command]:
        names = {each.name for each in spec.workers}
        is_resized = names != {worker.name for worker in group.members if not worker.retired}
        is_left_alone = is_resized and bool(group.granted) and not group.answers_with(names)
        changed = changed or is_left_alone or (group.is_down and (is_resized or is_router_changed))
        if changed or group.retired or group.pending_spec is not None:
            group.pending_spec, group.retired = spec, False
            if group.validation is not None:
                yield from self.fail(group, "superseded", _MESSAGES[Verb.RECONFIGURE].format(group.name))
            self._concerned[group.name] = group
            return
        if is_resized and group.validation is not None:
            yield from self.fail(group, "superseded", _MESSAGES[Verb.RECONFIGURE].format(group.name))
        if is_resized or any(worker.retired for worker in group.members):
            yield from replicas.reconfigure(self.host, group, spec)
        else:
            self.host.update(group, spec)
        group.is_router_changed = group.is_router_changed or is_router_changed

    def _draw_consequences(self, group: Group) -> None:
        """Order what the configuration asks of the group, unless an operator's order is under way that will do."""
        order = group.order
        if group.retired:
            if order is None or order.verb is not Verb.REMOVE:
                self.set(group, Order(Verb.REMOVE))
                self._switching.call_off(group)
        elif group.pending_spec is not None and order is None and not group.is_down:
            is_at_rest = group.state in (WorkerState.ASLEEP, WorkerState.STANDBY)
            self.set(group, Order(Verb.RECONFIGURE if is_at_rest else Verb.RESTART))
        elif group.is_router_changed and order is None:
            self.set(group, Order(Verb.RENEW_ROUTER))
        elif group.lost_role and group.state in UP and order is None:
            self.set(group, Order(Verb.SLEEP))  # the others hold memory and can serve nobody

    # Brought forward

    def forward(self) -> Iterator[Command]:
        """Bring every order forward, and what a new configuration asks for; again once a validation ends."""
        yield from self._forward_all()
        while any(group.validation is None for group in self.host.validating):
            yield from self._forward_all()

    def _forward_all(self) -> Iterator[Command]:
        self.host.validating = [group for group in self.host.validating if group.validation is not None]
        self._concerned = {name: group for name, group in self._concerned.items() if _has_something_to_do(group)}
        concerned = self._concerned | {group.name: group for group in self.host.composed}
        for group in in_configured_order(concerned.values()):
            if group.is_down:
                yield from self._renew(group)
            yield from (RemoveWorker(name) for name in replicas.dismiss(self.host, group))
            yield from self._renew_router(group)
            yield from self._advance(group)

    def finish_ready(self) -> Iterator[Command]:
        """End the orders of those that the last decisions left ready."""
        for group in self.host.in_state(WorkerState.READY):
            order = group.order
            is_brought = order is not None and (order.verb is Verb.START or order.is_down)
            if is_brought or (order is not None and order.verb is Verb.SCALE and _is_scaled(group)):
                yield from self._finish(group)
                yield from self._advance(group)

    def _advance(self, group: Group) -> Iterator[Command]:
        """Bring its order forward; where that ends, what the configuration asks for comes next."""
        for _ in ("the order", "what the configuration asks for after it"):
            self._draw_consequences(group)
            order = group.order
            if order is not None:
                yield from self._forward(group, order)
            if group.order is order or group.name not in self.host.groups:
                return

    def _forward(self, group: Group, order: Order) -> Iterator[Command]:
        if group.state is WorkerState.STUCK:
            if order.verb is Verb.STOP:  # those that wait for another start do not come back once it is stuck no more
                yield from self.host.rest(group, WorkerState.BACKOFF, WorkerState.FAILED, reason=_message(group, order))
            message = f"worker {group.name} is stuck ({group.reason}); end its processes by hand or reset the GPU"
            yield from self.fail(group, "worker_stuck", message)
            return
        match order.verb:
            case Verb.START:
                yield from self._bring(group)
            case Verb.RESTART if order.is_down:
                yield from self._bring(group)
            case Verb.RESTART:
                yield from self._take_down(group, order)
                if group.is_down:
                    order.is_down = True
                    yield from self._renew(group)
                    yield from self._bring(group)
            case Verb.VALIDATE:
                yield from self._validations.forward(group, order)
                self.host.touch(group)
                if order.validation is not None and order.validation.stage is Stage.DONE:
                    yield from self._finish(group)
            case Verb.RENEW_ROUTER:
                yield from self._end_router(group, order)
            case Verb.UNLOAD if group.in_use:
                self.set(group, None)  # while it drained a request came: it serves on
            case Verb.SCALE if order.replicas > 0:
                yield from self._scale(group)
            case Verb.SLEEP | Verb.UNLOAD | Verb.SCALE:
                yield from self._put_to_sleep(group, order)
            case _:
                yield from self._take_down(group, order)
                if group.state is WorkerState.UNLOADED:
                    yield from self._finish(group)
                    if group.retired and group.is_down:
                        del self._concerned[group.name]
                        self._switching.forget(group)
                        self.host.remove(group)
                        yield from (RemoveWorker(worker.name) for worker in group.members)

    def _renew(self, group: Group) -> Iterator[Command]:
        """Let a new configuration take hold; a switch that has not begun was about the GPUs of the old one."""
        if group.pending_spec is not None:
            self._switching.drop(group)
            former = {worker.name for worker in group.members}
            self.host.renew(group)
            group.is_router_changed = False
            yield from (RemoveWorker(name) for name in sorted(former - {worker.name for worker in group.members}))
            yield from (ReconfigureWorker(worker.name) for worker in group.members)

    def _end_router(self, group: Group, order: Order) -> Iterator[Command]:
        """Have the group's clients wait, and end its router once they have nothing in flight."""
        assert group.router is not None
        message = _message(group, order)
        if group.granted and not order.killed:
            order.killed, group.drain_deadline = True, self.host.now + group.spec.drain_timeout
            group.drained_for = (_reason(order), message)
            yield from self.host.leases.revoke_all(group, *group.drained_for, group.drain_deadline)
        if group.state is WorkerState.READY:
            yield from self.host.leases.end_overdue(group)
        if not group.granted and group.router.state in RUNNING:
            yield from self.host.stop_worker(group.router, message, kill=False)

    def _renew_router(self, group: Group) -> Iterator[Command]:
        """Let a new configuration of a router that has ended take hold."""
        if group.is_router_changed and group.router is not None and group.router.is_down:
            group.is_router_changed = False
            yield ReconfigureWorker(group.router.name)
            if group.is_cut_off:
                self.set(group, None)

    def _bring(self, group: Group) -> Iterator[Command]:
        """Bring the group to its GPUs, if there is room."""
        self._placement.place(group)
        if group.state is WorkerState.READY:
            yield from self._finish(group)
        elif group.state not in AT_REST or self._switching.is_coming(group):
            return
        elif self.host.now < group.retry_at:
            return  # it is started again by itself, or its order is refused
        elif never := self._placement.never_loads(group):
            yield from self.fail(group, never.code, f"model {group.name} {never}")
        elif not self.host.lent.isdisjoint(group.gpus):
            message = f"{group.name} may run, but its GPU is lent; a request for it brings it once that is over"
            yield from self.fail(group, "gpu_lent", message)
        elif crowded := self._placement.crowded_out(group):
            yield from self.fail(group, "gpu_memory_taken", f"model {group.name} {crowded}")
        elif self._switching.claimants(group) and self._placement.fits(group):
            return  # there will be room, or none, once the others have come
        elif holders := self._placement.evictions(group):
            who = " and ".join(f"{w.name} ({w.state.replace('_', ' ')})" for w, _ in holders)
            message = (
                f"{group.name} may run, but there is no room on its GPU: {who} has it; a request for {group.name} "
                f"brings it in its turn, `muxctl switch {group.name}` at once"
            )
            yield from self.fail(group, "no_room", message)
        else:
            yield from self._switching.begin_unopposed(group)

    def _scale(self, group: Group) -> Iterator[Command]:
        """See that as many replicas are ready as were ordered."""
        failed = next((worker for worker in group.enlisted if worker.state in LOST), None)
        if group.state is not WorkerState.READY:
            yield from self._bring(group)
        elif failed is not None:
            message = f"replica {failed.name} has failed: {failed.reason}; see `muxctl logs {failed.name}`"
            yield from self.fail(group, failed.ended_code or "model_failed", message)
        elif _is_scaled(group):
            yield from self._finish(group)
        elif any(self._is_kept_out(worker) for worker in group.enlisted):
            lacks = self._placement.lack_of_room(group, len(group.enlisted))
            yield from self.fail(group, "no_room", f"others have come to GPUs of {group.name} meanwhile: {lacks}")

    def _is_kept_out(self, worker: Worker) -> bool:
        """Say whether a replica that is to serve waits for nothing but room."""
        return worker.may_come(self.host.now) and not self._placement.with_room([worker], self.host.lent)

    def _put_to_sleep(self, group: Group, order: Order) -> Iterator[Command]:
        if group.state is WorkerState.BACKOFF and not group.wanted:
            yield from self.host.rest(group, WorkerState.BACKOFF)
        level = group.sleep_level if order.level is None else order.level
        if group.state in AT_REST and group.sleeps_at(level):
            if order.verb is Verb.SCALE and len(group.enlisted) > group.least:
                yield from replicas.let_spare(self.host, group, group.enlisted[group.least :], _message(group, order))
            yield from self._finish(group)
        elif group.state in (WorkerState.ASLEEP, WorkerState.FALLING_ASLEEP):
            yield from self.host.deepen(group, level, _message(group, order))
        elif group.state in UP and (group.lost_role or any(w.state is WorkerState.READY for w in group.serving)):
            yield from self._drain(group, order)
        if group.state is WorkerState.DRAINING:
            yield from self._hurry_drain(group, order)
            yield from self.host.leases.end_overdue(group)
            if not group.granted:
                yield from self.host.deactivate(group, level)

    def _take_down(self, group: Group, order: Order) -> Iterator[Command]:
        """Bring the group towards UNLOADED, from whatever state."""
        message = _message(group, order)
        if group.state is WorkerState.READY:
            yield from self._drain(group, order)
        if group.state is WorkerState.DRAINING:
            yield from self._hurry_drain(group, order)
            yield from self.host.leases.end_overdue(group)
            if not group.granted:
                yield from self.host.stop(group, message, kill=False)
        elif group.state in (WorkerState.STARTING, WorkerState.WAKING, WorkerState.ASLEEP, WorkerState.STANDBY):
            yield from self.host.stop(group, message, kill=True)  # nothing runs in it; one that is paused cannot drain
        elif group.state is WorkerState.STOPPING and order.now and not order.killed:
            order.killed = True
            yield from self.host.hurry(group)
        elif group.state in DOWN:
            yield from self.host.rest(group, WorkerState.BACKOFF, WorkerState.FAILED, reason=message)

    def _hurry_drain(self, group: Group, order: Order) -> Iterator[Command]:
        """Let a drain that has begun end at once, where the order says so."""
        if order.now and group.drain_deadline > self.host.now:
            group.drain_deadline = self.host.now
            yield from self.host.leases.revoke_all(group, _reason(order), _message(group, order), self.host.now)

    def _drain(self, group: Group, order: Order) -> Iterator[Command]:
        deadline = self.host.now if order.now else self.host.now + group.spec.drain_timeout
        yield from self.host.drain(group, _reason(order), _message(group, order), deadline)


def _message(group: Group, order: Order) -> str:
    return order.why or _MESSAGES[order.verb].format(group.name)


def _reason(order: Order) -> str:
    """Return why leases are revoked: a group that is scaled to 0 sleeps."""
    return {Verb.SCALE: Verb.SLEEP, Verb.RENEW_ROUTER: Verb.RECONFIGURE}.get(order.verb, order.verb)


def _is_scaled(group: Group) -> bool:
    """Say whether all who are to serve do, and the others have left their GPUs."""
    known = group.routed if group.router is not None else {worker.url for worker in group.enlisted}
    is_there = all(w.state is WorkerState.READY and w.url in known for w in group.enlisted)
    return is_there and all(w.state in AT_REST or w.state is WorkerState.STUCK for w in group.spares)


def why_not_to_validate(group: Group, levels: Iterable[int]) -> str:
    """Return why the group cannot be validated at these levels; "" where it can."""
    possible = [level for level in range(4) if all(worker.spec.can_ever_sleep_at(level) for worker in group.serving)]
    missing = [level for level in sorted(set(levels)) if level not in possible]
    if not missing:
        return ""
    return f"{group.name} has no level {' and no level '.join(map(str, missing))}, only {_listed(possible)}"


def why_not_to_level(group: Group, level: int) -> str:
    """Return why the group cannot be put to sleep at `level`; "" where it can."""
    name = group.name
    if level < group.level < 3:
        way = f"only a wake leads from there to level {level}: `muxctl start {name}`, then sleep again"
        return f"{name} sleeps at level {group.level} already; {way}"
    possible = [each for each in range(4) if all(worker.can_sleep_at(each) for worker in group.serving)]
    if level in possible:
        return ""
    way = "what its process can is settled by its sleep_level"
    return f"{name} cannot sleep at level {level}, only at {_listed(possible)}: {way}"


def _listed(levels: Sequence[int]) -> str:
    return f"levels {', '.join(map(str, levels[:-1]))} and {levels[-1]}" if len(levels) > 1 else f"level {levels[0]}"


def _has_something_to_do(group: Group) -> bool:
    """Say whether there is an order, or something that may lead to one."""
    return group.order is not None or group.retired or group.pending_spec is not None
