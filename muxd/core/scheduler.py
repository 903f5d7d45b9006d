"""The core's one face: `Scheduler.handle(event)` takes what happened and says what to do.

First the event is taken in: what it means for a worker and its group, a lease or an operator's wish.
Then `_settle` draws the conclusions: grants, switches, shutdown, and the timer for the
next look.  Owned by one task; synchronous; no I/O.
"""

from collections.abc import Iterable, Iterator, Sequence
from math import inf

from . import adoption, replicas
from .commands import (
    AnswerUnload,
    Command,
    EndLease,
    FailLease,
    FailLoan,
    FailOrder,
    FailSwitch,
    FinishHandover,
    FinishShutdown,
    FinishSwitch,
    RecordScale,
    RevokeLease,
    SetTimer,
    StopWorker,
)
from .events import (
    ActivationFailed,
    DemandReported,
    Event,
    Failure,
    GpusMeasured,
    HandoverAsked,
    HandoverWithdrawn,
    HoldAsked,
    HoldEnded,
    HostRamLimited,
    KeepAsked,
    LeaseAsked,
    LeaseEnded,
    LeaseReclaimed,
    LoanAsked,
    LoanEnded,
    OrderGiven,
    PortFreed,
    Reconfigured,
    RouterSynced,
    ShutdownAsked,
    SleepFailed,
    StandbyPrepared,
    Started,
    SwitchAsked,
    TimerFired,
    UnloadAsked,
    ValidationEnded,
    Verb,
    WakeFailed,
    WeightsSeen,
    WorkerAsleep,
    WorkerDied,
    WorkerDrained,
    WorkerEvent,
    WorkerExited,
    WorkerHung,
    WorkerMeasured,
    WorkerReady,
    WorkerStuck,
)
from .group import Group
from .host_state import HostState
from .idling import Idling
from .ledger import HOST_RAM
from .lineup import AT_ONCE
from .loans import Loans
from .orders import Orders, why_not_to_level, why_not_to_validate
from .placement import why_kept_out
from .prefetching import Prefetching
from .scaling import Scaler, dispensable, spares_in_order, why_not_to_scale
from .spec import NO_DEFAULT, DefaultGroup, GroupSpec, Role
from .standby import Standbys, prepared
from .states import AT_REST, DOWN, UP, WorkerState
from .switching import OperatorSwitch, Switching
from .worker import PORT_TAKEN, PendingFailure, Worker

#: States of a worker that has processes and of which nobody has asked to end them.
LIVING = UP | {WorkerState.DRAINING, WorkerState.FALLING_ASLEEP}


#: States in which a worker can be left to the next muxd.
LEAVABLE = AT_REST | {WorkerState.READY, WorkerState.DRAINING, WorkerState.STUCK}

#: Orders that lead to a group that is ready, and are refused where it can never be.
BRINGING = frozenset({Verb.START, Verb.RESTART, Verb.SCALE, Verb.VALIDATE})


#: Seconds after which it is worth another try to load a model for which strangers leave no room.
CROWDED_RETRY = 30.0


class Scheduler:
    def __init__(
        self,
        specs: Iterable[GroupSpec],
        wait_target: float = 30.0,
        *,
        keep_turns: bool = True,
        default: DefaultGroup = NO_DEFAULT,
        batch_max_wait: float = 600.0,
    ) -> None:
        self.host = HostState(specs)
        self._placement = self.host.placement
        self._leases = self.host.leases
        self.switching = Switching(self.host, wait_target, keep_turns=keep_turns, default=default)
        self.switching.lineup.batch_max_wait = batch_max_wait
        self._orders = Orders(self.host, self.switching)
        self.scaler = Scaler(self.host, self.switching, self._orders)
        self.loans = Loans(self.host, self._orders, self.switching)
        self._prefetching = Prefetching(self.host, self.switching)
        self._standbys = Standbys(self.host, self.switching.is_to_be_preloaded)
        self.idling = Idling(self.host, self._orders, self.switching.is_default)
        self._shutdown_deadline: float | None = None
        self._timer: float | None = None
        self._is_settled = False  # the last decision changed nothing: made again it would be the same
        self._hurried = False
        self._is_handing_over = False  # nothing is begun any more: the next muxd decides
        self._finished = False

    def handle(self, event: Event) -> list[Command]:
        self.host.now = max(self.host.now, event.time)
        if isinstance(event, DemandReported) and (group := self._leases.group_of(event.lease)) is not None:
            before = group.use
            self._leases.report(group, event)
            if before == group.use and self._leaves_all_as_it_is(group):
                return self._hasten_timer()
        commands = [*self._take_in(event)]
        conclusions = [*self._settle()]
        self._is_settled = all(isinstance(command, SetTimer) for command in conclusions)
        return [*commands, *conclusions]

    def _leaves_all_as_it_is(self, group: Group) -> bool:
        """Say whether nothing is to be decided anew because the requests of one group changed in number or age alone.

        Such reports come many times a second from every proxy, and a whole decision looks at every group.
        """
        is_due = self._timer is not None and self._timer <= self.host.now + AT_ONCE
        is_same = self._is_settled and not is_due and self.scaler.still_holds(group)
        return is_same and self.switching.still_waits(group)

    def _hasten_timer(self) -> list[Command]:
        """Return the command to look again earlier than was thought, where that is needed."""
        if self.switching.next_decision >= (inf if self._timer is None else self._timer):
            return []
        self._timer = self.switching.next_decision
        return [SetTimer(self._timer)]

    # What happened

    def _take_in(self, event: Event) -> Iterator[Command]:
        match event:
            case Started():
                yield from self._started(event)
            case LeaseReclaimed():
                yield from self._lease_reclaimed(event)
            case LeaseAsked():
                yield from self._lease_asked(event)
            case DemandReported():
                pass  # it was taken in first, as it may change nothing
            case LeaseEnded(_, lease):
                self._leases.forget(lease)
            case SwitchAsked(_, ticket, name) | HoldAsked(_, ticket, name) | OrderGiven(_, ticket, name) if (
                name not in self.host.groups
            ):
                fail = FailOrder if isinstance(event, OrderGiven) else FailSwitch
                yield fail(ticket, *_not_configured(name)[:2])
            case HoldAsked(_, ticket, name, until):
                yield from self._hold_asked(ticket, self.host.groups[name], until)
            case HoldEnded(_, name) if name in self.host.groups:
                yield from self.idling.unhold(self.host.groups[name])
            case KeepAsked(_, name, seconds) if name in self.host.groups:
                self.host.groups[name].keep_alive = seconds
                self.host.touch(self.host.groups[name])
            case HoldEnded() | KeepAsked():
                pass
            case LoanAsked(_, number) if self._shutdown_deadline is not None:
                yield FailLoan(number, "shutting_down", "muxd is shutting down")
            case LoanAsked():
                yield from self.loans.ask(event)
            case LoanEnded(_, number):
                self.loans.end(number)
            case SwitchAsked(_, ticket, name):
                yield from self._switch_asked(ticket, self.host.groups[name])
            case OrderGiven(_, _, name):
                yield from self._order_given(event, self.host.groups[name])
            case ValidationEnded(_, ticket, name) if name in self.host.groups:
                self._orders.drop_validation(self.host.groups[name], ticket)
            case WorkerMeasured(_, name) if name in self.host.workers:
                self._orders.measured(self.host.groups[self.host.workers[name].group], event)
            case ValidationEnded() | WorkerMeasured():
                pass
            case UnloadAsked(_, ticket, name) if name not in self.host.groups:
                yield AnswerUnload(ticket, _not_configured(name)[1])
            case UnloadAsked(_, ticket, name):
                yield from self._orders.unload(self.host.groups[name], ticket)
            case Reconfigured():
                yield from self._reconfigured(event)
            case GpusMeasured(_, totals, there, strangers, left):
                self.host.sizes |= totals
                self.host.gpus_there = there or self.host.gpus_there
                self.host.ledger.capacity |= {**self.host.sizes, **left}
                self.host.forget_excess()
                self.host.strangers = dict(strangers)
                self.host.learned += 1
            case HostRamLimited(_, size):
                self.host.ledger.capacity[HOST_RAM] = size
                self.host.learned += 1
            case WeightsSeen(_, sizes):
                self.host.weights = dict(sizes)
                self.host.learned += 1
            case ShutdownAsked(_, deadline):
                yield from self._shutdown_asked(deadline)
            case HandoverAsked():
                self._is_handing_over = True
            case HandoverWithdrawn():
                self._is_handing_over = False
            case TimerFired():
                self._timer = None
            case WorkerDrained(_, name) if name in self.host.workers:
                self.host.workers[name].is_drained = True
            case WorkerDrained():
                pass
            case RouterSynced(_, name, urls) if name in self.host.groups:
                yield from self._router_synced(self.host.groups[name], urls)
            case RouterSynced():
                pass
            case _ if event.worker in self.host.workers:
                yield from self._worker_changed(event, self.host.workers[event.worker])

    def _started(self, event: Started) -> Iterator[Command]:
        """Take in what an earlier muxd has left."""
        yield from adoption.recall(self.host, event)
        for name in event.held.keys() & self.host.groups.keys():
            yield from self.idling.hold(self.host.groups[name], event.held[name])
        self.loans.recall(event.loans)
        yield from adoption.take_over(self.host, event)
        came = {self.host.workers[found.worker].group for found in event.adopted if not found.waits}
        self._plan_preload(group for name, group in self.host.groups.items() if name not in came)
        self.host.is_started = True

    def _plan_preload(self, groups: Iterable[Group]) -> None:
        self.switching.preload += [w.name for w in groups if w.spec.preload and not w.stopped_by_operator]

    def _reconfigured(self, event: Reconfigured) -> Iterator[Command]:
        known = {name for name, group in self.host.groups.items() if not group.retired}
        lineup = self.switching.lineup
        lineup.wait_target, lineup.keep_turns = event.wait_target, event.keep_turns
        self.switching.default, lineup.batch_max_wait = event.default, event.batch_max_wait
        yield from self._orders.reconfigure(event.specs, event.changed, event.routers)
        self._plan_preload(w for name, w in self.host.groups.items() if name not in known)

    def _lease_reclaimed(self, claimed: LeaseReclaimed) -> Iterator[Command]:
        """Take a lease of an earlier muxd for granted; the model may already drain for another one, or for a stop."""
        group = self.host.groups.get(claimed.group)
        serves = group is not None and group.state in (WorkerState.READY, WorkerState.DRAINING)
        if group is None or not serves or group.url != claimed.url:
            yield EndLease(claimed.lease)
            return
        yield from self._leases.grant_again(claimed.lease, group, claimed.in_flight, claimed.waiting)
        if group.state is WorkerState.DRAINING:
            yield RevokeLease(claimed.lease, *group.drained_for, group.drain_deadline)

    def _lease_asked(self, asked: LeaseAsked) -> Iterator[Command]:
        group = self.host.groups.get(asked.group)
        refusal = self._refusal(group) if group is not None else _not_configured(asked.group)
        if group is not None and refusal is None:
            self._leases.ask(asked.lease, group, asked.waiting)
        elif refusal is not None:
            yield FailLease(asked.lease, *refusal)

    def _hold_asked(self, ticket: int, group: Group, until: float) -> Iterator[Command]:
        """Bring a group as an operator's switch does, and hold it unless that is refused."""
        switched = [*self._switch_asked(ticket, group)]
        if not any(isinstance(command, FailSwitch) and command.ticket == ticket for command in switched):
            yield from self.idling.hold(group, until)
        yield from switched

    def _switch_asked(self, ticket: int, group: Group) -> Iterator[Command]:
        self.host.retry_now(group)
        self._placement.place(group)
        if (loan := self.loans.keeps_off(group)) is not None:
            yield FailSwitch(ticket, *self.loans.refusal(loan, group)[:2])
            return
        for other in self._placement.fixed_in_the_way(group):
            if not other.is_pinned:
                self.idling.expose(other)
        refusal = self._refusal(group)
        if refusal is not None:
            yield FailSwitch(ticket, refusal[0], refusal[1])
            return
        if group.order is not None and group.order.verb in (Verb.SLEEP, Verb.UNLOAD):
            yield from self._orders.fail(group, "superseded", f"a newer switch to {group.name} took its place")
        operator_switch = self.switching.operator_switch
        if operator_switch is not None and operator_switch.group == group.name:
            operator_switch.tickets.append(ticket)
            return
        yield from self._end_wish("superseded", f"a newer switch, to {group.name}, took its place")
        self.switching.operator_switch = OperatorSwitch(group.name, [ticket])
        self.switching.drop_unbegun(group)

    def _order_given(self, order: OrderGiven, group: Group) -> Iterator[Command]:
        verb, ticket = order.verb, order.ticket
        is_over = self._shutdown_deadline is not None or group.retired
        refusal = self._refusal(group)
        is_no_start = verb in (Verb.SLEEP, Verb.VALIDATE) or (verb is Verb.SCALE and order.replicas == 0)
        if refusal is not None and (is_over or (is_no_start and group.stopped_by_operator)):
            yield FailOrder(ticket, refusal[0], refusal[1])
            return
        if order.level is not None and (why := why_not_to_level(group, order.level)):
            yield FailOrder(ticket, "level_refused", why)
            return
        if verb is Verb.VALIDATE and not self.host.lent.isdisjoint(group.gpus):
            yield FailOrder(ticket, "gpu_lent", f"{group.name} cannot be validated: its GPU is lent")
            return
        if verb is Verb.VALIDATE:
            yield from self._validation_ordered(order, group)
            return
        if verb is Verb.SCALE:
            yield from self._scaling_ordered(order, group)
            return
        if verb is Verb.SLEEP and self.switching.is_wished(group):
            yield from self._end_wish("superseded", f"a newer order, sleep {group.name}, took its place")
        yield from self._orders.give(group, verb, ticket, now=order.now, level=order.level)

    def _scaling_ordered(self, order: OrderGiven, group: Group) -> Iterator[Command]:
        """Let so many replicas serve, where there is room for them: nobody leaves for them."""
        wanted, size, ticket = order.replicas, len(group.enlisted), order.ticket
        if why := why_not_to_scale(group, wanted):
            yield FailOrder(ticket, "scale_refused", why)
            return
        if group.pending_spec is not None or group.validation is not None:
            why = "a new configuration of it is about to hold" if group.pending_spec is not None else "it is validated"
            yield FailOrder(ticket, "superseded", f"{group.name} cannot be scaled now: {why}; scale it after that")
            return
        spares = spares_in_order(group)
        if wanted > 0 and (why := self._too_many(group, wanted, spares)):
            yield FailOrder(ticket, "no_room", why)
            return
        yield from self._orders.give(group, Verb.SCALE, ticket, now=order.now, replicas=wanted)
        ordered = "an operator ordered it"
        if wanted == 0:
            yield RecordScale(group.name, size if group.state is WorkerState.READY else 0, 0, ordered)
        elif wanted > size:
            coming = self._placement.with_room(spares, self.host.lent)
            yield from replicas.enlist(self.host, group, coming[: wanted - size], ordered)
            if group.stays_up:
                yield from self.host.complete(group)
        elif wanted < size:
            yield from replicas.let_spare(self.host, group, dispensable(group, size - wanted), ordered)

    def _too_many(self, group: Group, wanted: int, spares: Sequence[Worker]) -> str:
        """Return why there is no room for so many replicas of the group, and for how many there is; else ""."""
        there = [worker for worker in group.enlisted if self.host.ledger.is_awake(worker.name)]
        others = [worker for worker in group.enlisted if worker not in there]
        fit = len(there) + len(self._placement.with_room([*others, *spares], self.host.lent))
        if fit >= wanted:
            return ""
        lacks = self._placement.lack_of_room(group, wanted)
        return f"{fit} of {wanted} replicas of {group.name} fit now; {lacks}; ask for fewer, or make room"

    def _validation_ordered(self, order: OrderGiven, group: Group) -> Iterator[Command]:
        if why := why_not_to_validate(group, order.levels):
            yield FailOrder(order.ticket, "level_refused", why)
        elif group.pending_spec is not None:
            why = f"a new configuration of {group.name} is about to hold; validate it after that"
            yield FailOrder(order.ticket, "superseded", why)
        else:
            yield from self._orders.validate(group, order.ticket, order.levels, order.cycles)

    def _worker_changed(self, event: WorkerEvent, worker: Worker) -> Iterator[Command]:
        """Take in what became of a worker; an answer that comes after its question lapsed changes nothing."""
        match event:
            case WorkerReady(_, _, url, note) if worker.state in (WorkerState.STARTING, WorkerState.WAKING):
                worker.became_ready(self.host.now, url, unproved=event.unproved)
                yield from self.host.move(worker, WorkerState.READY, note)
            case WorkerAsleep(_, _, kept, taken) if worker.state is WorkerState.FALLING_ASLEEP:
                if kept is not None:
                    worker.kept[worker.level] = kept
                if len(self.host.groups[worker.group].members) == 1:  # one of several comes back to where it was
                    worker.peak = max(worker.peak, taken or 0)
                    self.host.forget_excess()
                self.host.ledger.keep(worker.name, worker.holding_asleep(worker.level))
                yield from self.host.move(worker, WorkerState.ASLEEP)
            case StandbyPrepared(_, _, size) if worker.state is WorkerState.STANDBY:
                prepared(self.host, worker, size)
            case ActivationFailed(_, _, reason, code) if worker.state is WorkerState.STARTING:
                why = f"its process at the gate did not go on: {reason}"
                worker.pending_failure = PendingFailure(why, counts=False, code=code)
                yield from self.host.stop_worker(worker, why, kill=True)
            case SleepFailed(_, _, reason) if worker.state is WorkerState.FALLING_ASLEEP:
                worker.level_failed(f"its sleep failed: {reason}")
                yield from self.host.stop_worker(worker, worker.level_trouble, kill=True)
            case WakeFailed(_, _, reason, code, is_wrong) if worker.state is WorkerState.WAKING:
                if is_wrong:
                    why = worker.woke_wrong(reason, counts=not self.host.groups[worker.group].is_validated)
                else:
                    why = worker.level_failed(f"its wake failed: {reason}")
                worker.pending_failure = PendingFailure(why, counts=False, code=code)
                yield from self.host.stop_worker(worker, why, kill=True)
            case WorkerHung(_, _, reason) if worker.state in (
                WorkerState.READY,
                WorkerState.DRAINING,
                WorkerState.ASLEEP,
            ):
                yield from self._lost(
                    worker, WorkerState.UNRESPONSIVE, "worker_unresponsive", f"stopped answering: {reason}"
                )
                yield StopWorker(worker.name, kill=True)
            case WorkerDied(_, _, reason) if worker.state in LIVING | {WorkerState.ASLEEP}:
                yield from self._lost(worker, WorkerState.STOPPING, "worker_exited", reason)
            case WorkerExited(_, _, failure, reason, code):
                yield from self._exited(worker, failure, reason, code)
            case PortFreed():
                worker.gate_retry_at = min(worker.gate_retry_at, self.host.now)
                if worker.state is WorkerState.FAILED:
                    worker.retry_at = self.host.now
                    yield from self.host.move(worker, WorkerState.BACKOFF, "its port is free again")
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
        reason, code = (
            (pending_failure.reason, pending_failure.code or code) if pending_failure is not None else (reason, code)
        )
        if self._shutdown_deadline is not None or (
            was in (WorkerState.STOPPING, WorkerState.STUCK) and pending_failure is None
        ):
            worker.ready_since = None  # it ended because it was told to
            is_told_why = self.host.groups[worker.group].stopped_by_operator or self._shutdown_deadline is not None
            why = worker.reason if is_told_why else ""
            yield from self._move_lost(worker, WorkerState.UNLOADED, why, "worker_exited", reason)
            return
        worker.ended, worker.ended_code, worker.ended_at = reason, code, self.host.now
        worker.awaits_port = failure is Failure.REFUSED and code == PORT_TAKEN
        if was is WorkerState.STANDBY:
            yield from self.host.move(worker, WorkerState.UNLOADED, f"its process at the gate: {reason}")
            worker.standby_failed(failure)
            return
        counts = pending_failure is None or pending_failure.counts
        if counts and self._orders.ended_validated(self.host.groups[worker.group], worker):
            counts = False
        lead = worker.fail(self.host.now, failure, counts=counts)
        serving = was in UP or pending_failure is not None
        to = lead if serving and was is not WorkerState.STUCK else WorkerState.UNLOADED
        yield from self._move_lost(worker, to, reason, "worker_exited", reason)

    def _move_lost(self, worker: Worker, to: WorkerState, why: str, code: str, message: str) -> Iterator[Command]:
        """Move a lost worker; first take its group's leases where nothing carries their requests without it."""
        group = self.host.groups[worker.group]
        is_waited_for = worker.spec.role is Role.PREFILL and worker.state in (WorkerState.READY, WorkerState.DRAINING)
        if is_waited_for or not group.carries(but=worker):  # who decodes would wait for its prompts for ever
            yield from self._leases.revoke_all(group, code, f"the worker of {worker.name} {message}", self.host.now)
            yield from self._leases.end_all(group)
        yield from self.host.move(worker, to, why)

    def _router_synced(self, group: Group, urls: tuple[str, ...]) -> Iterator[Command]:
        """Take in whom a group's router passes requests to, of those that it was last told."""
        group.routed, group.listed = frozenset(group.told or ()).intersection(urls), frozenset(urls)
        yield from self.host.derive(group)
        if not group.carries():
            message = f"the router of {group.name} knows no worker that answers"
            yield from self._leases.revoke_all(group, "worker_exited", message, self.host.now)
            yield from self._leases.end_all(group)

    # What cannot be had

    def _refusal(self, group: Group) -> tuple[str, str, float | None] | None:
        """Return why nobody need wait for this group: code, message, seconds until it is worth another try."""
        if self._shutdown_deadline is not None:
            return "shutting_down", "muxd is shutting down; send the request again when it is back", None
        if group.retired:
            return _not_configured(group.name)
        if group.stopped_by_operator:
            what = f"model {group.name} is stopped by an operator"
            return "model_stopped", f"{what}; `muxctl start {group.name}` lets it run again", None
        self._placement.place(group)
        if (loan := self.loans.keeps_off(group)) is not None:
            return self.loans.refusal(loan, group) if loan.terms.refuses else None
        if never := self._placement.never_loads(group):
            return never.code, f"model {group.name} {never}", None
        if few := self._placement.too_few_places(group):
            return "gpu_memory_taken", f"model {group.name} {few}", CROWDED_RETRY
        own = group.members if group.state is WorkerState.STUCK else ()
        stuck = [worker for worker in own if worker.state is WorkerState.STUCK]
        in_the_way = self._placement.evictions(group) if self.host.stuck else ()
        stuck += [w for other in in_the_way if (w := other.group.stuck_on(group.gpus)) is not None]
        if stuck:
            what = f"model {group.name} cannot be loaded: worker {stuck[0].name} is stuck ({stuck[0].reason})"
            return "worker_stuck", f"{what}; end its processes by hand or reset the GPU", 30.0
        if self._placement.must_start_anew(group):
            return None  # it is started anew elsewhere
        if fixed := self._placement.fixed_in_the_way(group):
            text = f"model {group.name} {why_kept_out(group, fixed)}"
            if any(other.is_pinned for other in fixed):
                return "pinned_in_the_way", text, None
            return "model_in_use", text, self._until_unsheltered(fixed)
        if crowded := self._placement.crowded_out(group):
            return "gpu_memory_taken", f"model {group.name} {crowded}", CROWDED_RETRY
        if group.lost_role and self.host.now < group.retry_at:
            wait = group.retry_wait(self.host.now)
            again = "once its port is free" if group.awaits_port else f"in {wait:.0f} s"
            failed = max(group.lost_role, key=lambda worker: worker.ended_at)
            what = f"model {group.name} failed: {failed.reason}"
            return (
                failed.ended_code or "model_failed",
                f"{what}; see `muxctl logs {failed.name}`; tried again {again}",
                wait,
            )
        return None

    def _until_unsheltered(self, others: Sequence[Group]) -> float:
        """Return the seconds until others have been unused for long enough, at least one."""
        left = max(
            other.spec.sheltered_for if other.in_use else other.unused_since + other.spec.sheltered_for - self.host.now
            for other in others
        )
        return max(1.0, left)

    def _refuse_hopeless(self, groups: Iterable[Group]) -> Iterator[Command]:
        """End the waits for these groups that no switch can end."""
        for group in groups:
            wished = self.switching.is_wished(group)
            is_started = group.order is not None and group.order.verb in BRINGING
            refusal = self._refusal(group) if group.waiting or wished or is_started else None
            if refusal is None:
                continue
            if is_started and group.state is not WorkerState.STUCK:
                yield from self._orders.fail(group, refusal[0], refusal[1])
            for lease in list(group.waiting):
                self._leases.forget(lease)
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
        self.scaler.stop_deciding()
        for group in self.host.groups.values():
            yield from self._orders.fail(group, "shutting_down", "muxd is shutting down")
        for group in self.host.groups.values():
            if group.state is WorkerState.READY:
                yield from self.host.drain(group, "shutdown", "muxd is shutting down", self._shutdown_deadline)
            elif group.state is WorkerState.DRAINING:
                group.drain_deadline = min(group.drain_deadline, self._shutdown_deadline)
                group.drained_for = ("shutdown", "muxd is shutting down")
                yield from self._leases.revoke_all(group, "shutdown", "muxd is shutting down", group.drain_deadline)
            else:
                if not first:
                    yield from self.host.hurry(group)
                yield from self.host.stop(group, "muxd is shutting down", kill=True)

    def _settle_shutdown(self) -> Iterator[Command]:
        for group in self.host.groups.values():
            if group.state is WorkerState.DRAINING:
                yield from self._leases.end_overdue(group)
                if not group.granted:
                    yield from self.host.stop(group, "muxd is shutting down", kill=self._hurried)
            else:
                yield from self.host.stop(group, "muxd is shutting down", kill=True)
            yield from self.host.rest(group, WorkerState.BACKOFF, WorkerState.FAILED)
        if not self._finished and all(
            w.state in (WorkerState.UNLOADED, WorkerState.STUCK) for w in self.host.workers.values()
        ):
            self._finished = True
            yield FinishShutdown()

    # What follows

    def _settle(self) -> Iterator[Command]:
        is_over = self._shutdown_deadline is not None
        if not (is_over or self._is_handing_over):
            yield from self.idling.forward()
        yield from self._refuse_hopeless(self.host.groups.values() if is_over else self.host.doubtful())
        yield from self._grant()
        self.switching.skip_preloaded()
        if is_over:
            yield from self._settle_shutdown()
        elif self._is_handing_over:
            yield from self._tend_routers()
            if all(worker.state in LEAVABLE for worker in self.host.workers.values()):
                yield FinishHandover()
            return  # nothing is looked at again
        else:
            renewals = self.host.renewals
            is_validating = bool(self.host.validating)
            yield from self.loans.forward()
            yield from self.scaler.settle()
            yield from self._orders.forward()
            if is_validating:
                yield from self._grant()  # to those who waited for the end of one
            yield from self.switching.settle()
            if self.host.fixed or self.host.renewals != renewals:
                # The end of an order may have left a pinned one in the way, or a configuration that can never be.
                yield from self._refuse_hopeless(self.host.groups.values())
            yield from self._grant()
            yield from self._orders.finish_ready()
            yield from self.loans.grant()
            yield from self._standbys.settle()
        yield from self._prefetching.settle()
        yield from self._tend_routers()
        yield from self._set_timer()

    def _tend_routers(self) -> Iterator[Command]:
        for group in self.host.composed:
            yield from self.host.tend_router(group)

    def _grant(self) -> Iterator[Command]:
        operator_switch = self.switching.operator_switch
        for group in self.host.in_state(WorkerState.READY):
            if group.validation is not None and not self.switching.validated_beside(group):
                continue  # its validation goes on, or begins now
            if group.is_cut_off:
                continue
            yield from self._leases.grant_all(group)
            if operator_switch is not None and operator_switch.group == group.name:
                self.switching.operator_switch = None
                for ticket in operator_switch.tickets:
                    yield FinishSwitch(ticket, group.url)

    def _set_timer(self) -> Iterator[Command]:
        self.idling.note_changes()
        is_over = self._shutdown_deadline is not None
        later = inf if is_over else min(self.idling.next, self.loans.next, self._standbys.next)
        at = min(self.scaler.next_decision, *self.switching.deadlines(), later)
        wanted = None if at == inf else at
        if wanted != self._timer:
            self._timer = wanted
            yield SetTimer(wanted)


def _not_configured(name: str) -> tuple[str, str, float | None]:
    return "model_not_found", f"model {name} is no longer in the configuration", None
