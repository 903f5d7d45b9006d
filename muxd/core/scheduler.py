"""The core's one face: `Scheduler.handle(event)` takes what happened and says what to do.

First the event is taken in: what it means for a worker and its group, a lease or an operator's wish.
Then `_settle` draws the conclusions: grants, switches, shutdown, and the timer for the
next look.  Owned by one task; synchronous; no I/O.
"""

from collections.abc import Iterable, Iterator
from math import inf

from . import adoption, routers
from .blockers import goes_by_count
from .commands import (
    AnswerUnload,
    Command,
    EndLease,
    FailLease,
    FailLoan,
    FinishHandover,
    RevokeLease,
    SetTimer,
)
from .events import (
    DemandReported,
    Event,
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
    Reconfigured,
    RouterSynced,
    ShutdownAsked,
    Started,
    SwitchAsked,
    TimerFired,
    UnloadAsked,
    ValidationEnded,
    WeightsSeen,
    WorkerDrained,
    WorkerMeasured,
)
from .group import Group
from .host_state import HostState
from .idling import Idling
from .lineup import AT_ONCE
from .loans import Loans
from .operator_requests import OperatorRequests
from .orders import Orders
from .prefetching import Prefetching
from .refusals import Refusals, not_configured
from .scaling import Scaler
from .shutdown import Shutdown
from .spec import NO_DEFAULT, DefaultGroup, GroupSpec
from .standby import Standbys
from .states import AT_REST, WorkerState
from .switching import Switching
from .worker_events import WorkerEvents

#: States in which a worker can be left to the next muxd.
LEAVABLE = AT_REST | {WorkerState.READY, WorkerState.DRAINING, WorkerState.STUCK}

#: Waits that differ by less, in seconds, change nothing.
_SAME_WAIT = AT_ONCE / 2

#: In which second `still_waits` was said of a group, since when its requests waited then, and their weight.
_Heard = tuple[int, float, float]

_UNHEARD: _Heard = (-1, inf, 0.0)


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
        self._leases = self.host.leases
        self.switching = Switching(self.host, wait_target, keep_turns=keep_turns, default=default)
        self.switching.lineup.batch_max_wait = batch_max_wait
        self._orders = Orders(self.host, self.switching)
        self.scaler = Scaler(self.host, self.switching, self._orders)
        self.loans = Loans(self.host, self._orders, self.switching)
        self._prefetching = Prefetching(self.host, self.switching)
        self._standbys = Standbys(self.host, self.switching.is_to_be_preloaded)
        self.idling = Idling(self.host, self._orders, self.switching.is_default)
        self._shutdown = Shutdown(self.host, self.switching, self._orders, self.scaler)
        self._refusals = Refusals(self.host, self.switching, self._orders, self.loans, self._shutdown)
        self._operator_requests = OperatorRequests(
            self.host, self.switching, self._orders, self.scaler, self.loans, self.idling, self._refusals
        )
        self._worker_events = WorkerEvents(self.host, self._orders, self._shutdown)
        self._timer: float | None = None
        self._is_settled = False  # the last decision changed nothing: made again it would be the same
        self._is_handing_over = False  # nothing is begun any more: the next muxd decides
        self._heard: dict[str, _Heard] = {}  # of whom still_waits was said
        self._counts_matter = True  # somebody who serves gives way sooner to more requests, or later to fewer

    def handle(self, event: Event) -> list[Command]:
        self.host.go_on(event.time)
        if isinstance(event, DemandReported) and (lease := self._leases.all.get(event.lease)) is not None:
            group = self.host.groups[lease.group]
            is_used_otherwise = self._leases.report(group, lease, event)
            if event.more:
                self._is_settled = False
                return []
            if not is_used_otherwise and self._leaves_all_as_it_is(group):
                return self._hasten_timer()
        commands = [*self._take_in(event)]
        self._heard.clear()
        conclusions = [*self._settle()]
        self._counts_matter = any(goes_by_count(group) for group in self.host.in_state(WorkerState.READY))
        self._is_settled = all(isinstance(command, SetTimer) for command in conclusions)
        return [*commands, *conclusions]

    def _leaves_all_as_it_is(self, group: Group) -> bool:
        """Say whether nothing is to be decided anew because the requests of one group changed in number or age alone.

        Such reports come many times a second from every proxy, and a whole decision looks at every group.
        """
        is_due = self._timer is not None and self._timer <= self.host.now + AT_ONCE
        if not self._is_settled or is_due or not self.scaler.still_holds(group):
            return False
        second, since, weight = self.host.second, group.contends_since, group.weight
        heard_in, heard_since, heard_weight = self._heard.get(group.name, _UNHEARD)
        is_as_old = heard_in == second and abs(since - heard_since) < _SAME_WAIT
        if is_as_old and (weight <= heard_weight or not self._counts_matter):
            return True  # nobody comes sooner for fewer requests
        if not self.switching.still_waits(group):
            return False
        self._heard[group.name] = second, since, weight
        return True

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
            case SwitchAsked() | HoldAsked() | OrderGiven():
                yield from self._operator_requests.take_in(event)
            case HoldEnded(_, name) if name in self.host.groups:
                yield from self.idling.unhold(self.host.groups[name])
            case KeepAsked(_, name, seconds, as_of) if name in self.host.groups:
                if self.host.groups[name].keep_awake(seconds, as_of):
                    self.host.touch(self.host.groups[name])
            case HoldEnded() | KeepAsked():
                pass
            case LoanAsked(_, number) if self._shutdown.is_under_way:
                yield FailLoan(number, "shutting_down", "muxd is shutting down")
            case LoanAsked():
                yield from self.loans.ask(event)
            case LoanEnded(_, number):
                self.loans.end(number)
            case ValidationEnded(_, ticket, name) if name in self.host.groups:
                self._orders.drop_validation(self.host.groups[name], ticket)
            case WorkerMeasured(_, name) if name in self.host.workers:
                self._orders.measured(self.host.groups[self.host.workers[name].group], event)
            case ValidationEnded() | WorkerMeasured():
                pass
            case UnloadAsked(_, ticket, name) if name not in self.host.groups:
                yield AnswerUnload(ticket, not_configured(name)[1])
            case UnloadAsked(_, ticket, name):
                yield from self._orders.unload(self.host.groups[name], ticket)
            case Reconfigured():
                yield from self._reconfigured(event)
            case GpusMeasured() | HostRamLimited() | WeightsSeen():
                self.host.learn(event)
            case ShutdownAsked(_, deadline):
                yield from self._shutdown.ask(deadline)
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
                yield from routers.synced(self.host, self.host.groups[name], urls)
            case RouterSynced():
                pass
            case _ if event.worker in self.host.workers:
                yield from self._worker_events.take_in(event, self.host.workers[event.worker])

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
        refusal = self._refusals.why_not(group) if group is not None else not_configured(asked.group)
        if group is not None and refusal is None:
            self._leases.ask(asked.lease, group, asked.waiting)
        elif refusal is not None:
            yield FailLease(asked.lease, *refusal)

    # What follows

    def _settle(self) -> Iterator[Command]:
        is_over = self._shutdown.is_under_way
        if not (is_over or self._is_handing_over):
            yield from self.idling.forward()
        yield from self._refusals.end_hopeless(self.host.groups.values() if is_over else self.host.doubtful())
        yield from self._grant()
        self.switching.skip_preloaded()
        if is_over:
            yield from self._shutdown.settle()
        elif self._is_handing_over:
            yield from routers.tend(self.host)
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
                yield from self._refusals.end_hopeless(self.host.groups.values())
            yield from self._grant()
            yield from self._orders.finish_ready()
            yield from self.loans.grant()
            yield from self._standbys.settle()
        yield from self._prefetching.settle()
        yield from routers.tend(self.host)
        yield from self._set_timer()

    def _grant(self) -> Iterator[Command]:
        for group in self.host.in_state(WorkerState.READY):
            if group.validation is not None and not self.switching.validated_beside(group):
                continue  # its validation goes on, or begins now
            if group.is_cut_off:
                continue
            yield from self._leases.grant_all(group)
            if self.switching.operator_switch.is_to(group):
                yield from self.switching.operator_switch.finish(group.url)

    def _set_timer(self) -> Iterator[Command]:
        self.idling.note_changes()
        is_over = self._shutdown.is_under_way
        later = inf if is_over else min(self.idling.next, self.loans.next, self._standbys.next)
        at = min(self.scaler.next_decision, *self.switching.deadlines(), later)
        wanted = None if at == inf else at
        if wanted != self._timer:
            self._timer = wanted
            yield SetTimer(wanted)
