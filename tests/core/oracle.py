"""What must hold after every event, judged from the commands alone: an independent witness.

It keeps its own books of what each worker was told, as a GPU and an engine would, so a
scheduler that fools itself does not fool it.
"""

from math import inf

from muxd.core.commands import (
    ActivateStandby,
    Command,
    DrainWorker,
    EndLease,
    FailLease,
    FailLoan,
    FinishLoan,
    FinishOrder,
    FinishShutdown,
    GrantLease,
    GrantLoan,
    MeasureWorker,
    Moment,
    PersistHold,
    PrefetchWeights,
    PrepareStandby,
    RecallLoan,
    ReconfigureWorker,
    RecordScale,
    RemoveWorker,
    ReportCycle,
    RestoreLease,
    RevokeLease,
    SleepWorker,
    StartWorker,
    StopPrefetch,
    StopWorker,
    SyncRouter,
    WakeWorker,
)
from muxd.core.events import (
    DemandReported,
    Event,
    LeaseAsked,
    LeaseEnded,
    LeaseReclaimed,
    LoanAsked,
    LoanEnded,
    Reconfigured,
    RouterSynced,
    StandbyPrepared,
    Started,
    Verb,
    WorkerAsleep,
    WorkerDrained,
    WorkerExited,
    WorkerReady,
)
from muxd.core.ledger import HOST_RAM, WHOLE
from muxd.core.quorum import derived_state
from muxd.core.scheduler import Scheduler
from muxd.core.spec import WorkerSpec
from muxd.core.states import WorkerState

GONE, LOADED, WAITS = "gone", "loaded", "waits"


class Oracle:
    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.configured = set(scheduler.host.workers)
        self.holds: dict[str, str | int] = dict.fromkeys(scheduler.host.workers, GONE)  # or the level it sleeps at
        self.kept: dict[str, int] = {}  # bytes of each GPU that a sleeper was last measured to keep
        self.peaks: dict[str, int] = {}  # bytes that a process was measured to have, where nobody told its size
        self.copies: dict[str, int] = {}  # bytes of host RAM that the copy of a worker's weights has
        self.leases: dict[int, str] = {}  # every open one -> "waiting" | "granted" | "revoked"
        self.on: dict[str, frozenset[str]] = {}  # where those to which any GPUs would do were started
        self.owner: dict[int, str] = {}  # the group of each lease
        self.held: set[str] = set()  # groups that an operator holds
        self.lent: dict[int, frozenset[str]] = {}  # loans that were granted
        self.asked_loans: set[int] = set()  # those that are not answered yet
        self.finished = False
        self.urls: dict[str, str] = {}  # of each worker that serves
        self.listed: dict[str, tuple[str, ...]] = {}  # to whom a group's router passes requests
        self.drained: set[str] = set()  # replicas that were seen to have nothing left since they were asked
        self.came_from: dict[str, str | int] = {}  # what each loaded worker was before: gone, or asleep at a level
        self.prefetched: set[str] = set()  # groups whose weight files are read
        self.busy: dict[int, int] = {}  # requests that run or wait, by lease, as last reported

    def saw(self, event: Event) -> None:
        match event:
            case LeaseAsked(_, lease, group, waiting):
                self.leases[lease], self.owner[lease] = "waiting", group
                self.busy[lease] = sum(each.count for each in waiting)
            case LeaseReclaimed(_, lease, group):
                self.leases[lease], self.owner[lease] = "reclaimed", group
            case Started(_, _, _, _, adopted, _, _):
                for found in adopted:
                    self.holds[found.worker] = LOADED if found.level is None else found.level
                    if found.waits:
                        self.holds[found.worker] = WAITS
                        self.copies[found.worker] = found.gate_size or 0
                    self.kept[found.worker] = found.kept or 0
                    if found.gpus:
                        self.on[found.worker] = frozenset(found.gpus)
            case Reconfigured(_, specs):
                self.configured = {worker.name for group in specs for worker in group.workers}
                for spec in (worker for group in specs for worker in group.workers):
                    self.holds.setdefault(spec.name, GONE)
            case LoanAsked(_, number):
                self.asked_loans.add(number)
            case LoanEnded(_, number):
                self.lent.pop(number, None)
                self.asked_loans.discard(number)
            case LeaseEnded(_, lease):
                self.leases.pop(lease, None)
            case DemandReported(_, lease, in_flight, waiting):
                self.busy[lease] = in_flight + sum(each.count for each in waiting)
            case RouterSynced(_, group, urls):
                self.listed[group] = urls
            case WorkerReady(_, worker, url):
                self.urls[worker] = url
            case WorkerDrained(_, worker):
                self.drained.add(worker)
            case StandbyPrepared(_, worker, size) if size is not None and self.holds[worker] == WAITS:
                self.copies[worker] = size
            case WorkerAsleep(_, worker, kept, taken):
                assert self.holds[worker] in (0, 1, 2, GONE)
                if self.holds[worker] != GONE and kept is not None:
                    self.kept[worker] = kept
                if self.holds[worker] != GONE and taken is not None:
                    self.peaks[worker] = max(self.peaks.get(worker, 0), taken)
            case WorkerExited(_, worker):
                self.kept.pop(worker, None)  # by another configuration the next process keeps something else
                self.holds[worker] = GONE
                self.copies.pop(worker, None)
                self.peaks.pop(worker, None)

    def must_allow(self, command: Command) -> None:
        match command:
            case StartWorker(worker, level):
                assert self.holds[worker] == GONE, f"a second copy of {worker}"
                self._must_fit_in_host_ram(worker, level)

                self._note_place(worker, command.gpus)
                self._must_be_alone(worker)
                self._must_fit(worker)
                self.came_from[worker], self.holds[worker] = GONE, LOADED
            case PrepareStandby(worker):
                assert self.holds[worker] == GONE, f"a second copy of {worker}"
                spec = self.scheduler.host.workers[worker].spec
                assert spec.standby is not None
                assert not self._gpus(worker) & frozenset().union(*self.lent.values()), f"{worker} is on lent GPUs"
                self.copies[worker] = self.scheduler.host.workers[worker].gate_size or spec.standby
                self._must_have_host_ram(worker)
                self.holds[worker] = WAITS
            case ActivateStandby(worker):
                assert self.holds[worker] == WAITS, f"{worker} is {self.holds[worker]}, at no gate"
                self.copies.pop(worker)
                self.holds[worker] = GONE
                self._must_be_alone(worker)
                self._must_fit(worker)
                self.came_from[worker], self.holds[worker] = GONE, LOADED
            case WakeWorker(worker):
                assert self.holds[worker] in (0, 1, 2), f"resume of {worker}, which is {self.holds[worker]}"
                self._must_be_alone(worker)
                self._must_fit(worker)
                self.came_from[worker], self.holds[worker] = self.holds[worker], LOADED
            case SleepWorker(worker, level):
                had = self.holds[worker]
                assert had == LOADED or (had in (0, 1) and had < level), f"release of {worker} to {level}, from {had}"
                assert self.scheduler.host.workers[worker].can_sleep_at(level)
                if not self.scheduler.host.workers[worker].is_spare:
                    self._must_be_ordered_if_pinned(worker)
                self._must_be_alone(worker)
                assert self._may_leave(worker), f"release of {worker} while leases {self._out(worker)} are out"
                self.holds[worker] = level
            case DrainWorker(worker):
                assert self.holds[worker] == LOADED
                self._must_be_passed_over(worker)
                self.drained.discard(worker)
            case MeasureWorker(worker, _, moment):
                assert moment is Moment.ASLEEP or self.holds[worker] == LOADED
                assert moment is Moment.ASLEEP or not self._out(worker), f"{worker} is asked something beside clients"
            case ReportCycle(_, worker, level, _, sleep, wake, error):
                assert error or (sleep is not None and wake is not None), f"{worker} at {level}: {sleep}, {wake}"
                assert worker in self.holds
            case StopWorker(worker, kill):
                assert kill or self._may_leave(worker)
            case GrantLease(lease):
                assert self.leases[lease] in ("waiting", "reclaimed")
                self._must_be_served(self.owner[lease])
                self.leases[lease] = "granted"
            case RevokeLease(lease, reason):
                group = self.scheduler.host.groups.get(self.owner[lease])  # a reload may have removed it
                is_pinned = group is not None and (group.spec.pinned or group.name in self.held)
                assert not (reason == "switch" and is_pinned), f"{self.owner[lease]} is pinned, and gives way"
                assert self.leases[lease] in ("granted", "revoked")
                self.leases[lease] = "revoked"
            case RestoreLease(lease):
                assert self.leases[lease] == "revoked"
                self._must_be_served(self.owner[lease])
                self.leases[lease] = "granted"
            case EndLease(lease):
                assert self.leases.pop(lease) in ("revoked", "reclaimed"), "a lease was taken without a word"
            case FailLease(lease):
                assert self.leases.pop(lease) == "waiting"
            case PrefetchWeights(group, reserve):
                self._must_be_worth_reading(group)
                assert group not in self.prefetched
                assert reserve >= 0
                self.prefetched.add(group)
            case StopPrefetch(group):
                self.prefetched.remove(group)
            case GrantLoan(number, gpus):
                self.asked_loans.remove(number)
                self.lent[number] = frozenset(gpus)
                there = [n for n, what in self.holds.items() if what in (LOADED, 0) and self._gpus(n) & set(gpus)]
                assert not there, f"{gpus} are lent with weights of {there} on them"
            case FailLoan(number):
                self.asked_loans.remove(number)
            case RecallLoan(number):
                assert number in self.lent
            case FinishLoan(number):
                self.lent.pop(number, None)
                self.asked_loans.discard(number)
            case PersistHold(group, until):
                (self.held.discard if until is None else self.held.add)(group)
            case RecordScale(group, before, after, reason) if after < before:
                self._must_not_give_way_if_pinned(group, reason)
            case SyncRouter(group):
                assert self.holds[f"{group}/router"] == LOADED
            case FinishOrder(_, state):
                assert state in (
                    WorkerState.READY,
                    WorkerState.UNLOADED,
                    WorkerState.STANDBY,
                    WorkerState.ASLEEP,
                    WorkerState.FAILED,
                    WorkerState.BACKOFF,
                    "stopped",
                )
            case ReconfigureWorker(worker):
                assert self.holds[worker] == GONE, f"{worker} is renewed while its old processes live"
                assert worker in self.configured, f"{worker} is no longer in the configuration that would renew it"
            case RemoveWorker(worker):
                assert self.holds.pop(worker) == GONE
                assert worker not in self.scheduler.host.workers
                self.held &= self.scheduler.host.groups.keys()
            case FinishShutdown():
                assert not self.finished
                self.finished = True

    def _must_be_worth_reading(self, name: str) -> None:
        """See that somebody wants the group, and that some worker of it is loaded from disk before it serves."""
        group = self.scheduler.host.groups[name]
        assert group.spec.prefetch
        here = [w.name for w in group.serving if w.state is not WorkerState.READY]
        levels = [self.came_from[w] if self.holds[w] == LOADED else self.holds[w] for w in here]
        assert {GONE, WAITS, 2}.intersection(levels), f"nothing of {name} is read: {levels}"
        assert group.state is not WorkerState.READY, f"{name} serves, and its weights are read"

    def _out(self, worker: str) -> list[int]:
        group = worker.partition("/")[0]
        return [n for n, state in self.leases.items() if state != "waiting" and self.owner[n] == group]

    def _may_leave(self, worker: str) -> bool:
        """Say whether nothing runs on it; of a replica that the others do without, its own requests have ended."""
        if not self._out(worker):
            return True
        known = self.scheduler.host.workers[worker]
        self._must_be_passed_over(worker)
        is_late = self.scheduler.host.now >= known.drain_deadline
        return worker in self.drained or is_late or not any(self.busy.get(lease) for lease in self._out(worker))

    def _must_be_passed_over(self, worker: str) -> None:
        assert self.scheduler.host.workers[worker].is_spare, f"{worker} leaves a group that serves"
        assert self.urls[worker] not in self.listed.get(worker.partition("/")[0], ()), f"{worker} is still asked"

    def _must_be_served(self, group: str) -> None:
        """See that requests end at a loaded worker, and pass a router that runs where there are several."""
        loaded = {name for name, what in self.holds.items() if what == LOADED and name.partition("/")[0] == group}
        router = f"{group}/router"
        assert group in loaded or (router in loaded and len(loaded) > 1), f"only {loaded} serve {group}"

    def _must_be_ordered_if_pinned(self, worker: str) -> None:
        host = self.scheduler.host
        group = host.groups[host.workers[worker].group]
        is_pinned = group.spec.pinned or group.name in self.held
        by_itself = group.order is None or group.order.verb is Verb.UNLOAD
        assert not (is_pinned and by_itself), f"{group.name} is pinned, and sleeps for another one, or by itself"

    def _must_not_give_way_if_pinned(self, name: str, reason: str) -> None:
        """See that replicas of a pinned group leave for lack of load alone, or by an order, and not all of them."""
        group = self.scheduler.host.groups[name]
        if group.spec.pinned or name in self.held:
            assert "gives way" not in reason, f"{name} is pinned, and {reason}"

    def _note_place(self, worker: str, gpus: tuple[str, ...]) -> None:
        """See that a worker to which any GPUs will do is told as many as it needs of those that it may have."""
        spec = self.scheduler.host.workers[worker].spec
        assert len(gpus) == spec.any_of
        assert spec.gpus.issuperset(gpus)
        self.on[worker] = frozenset(gpus)

    def _gpus(self, worker: str) -> frozenset[str]:
        return self.on.get(worker) or self.scheduler.host.workers[worker].spec.gpus

    def _must_be_alone(self, worker: str) -> None:
        lent = frozenset().union(*self.lent.values()) & self._gpus(worker)
        is_coming = self.holds[worker] == GONE or self.scheduler.host.workers[worker].state is WorkerState.WAKING
        assert not (lent and is_coming), f"{worker} comes to {lent}, which are lent"
        self._must_move_alone(worker)

    def _must_move_alone(self, worker: str) -> None:
        """See that no other worker loads, sleeps or wakes on its GPUs: two at a time cannot be measured."""
        known = self.scheduler.host.workers
        moving = (WorkerState.STARTING, WorkerState.WAKING, WorkerState.FALLING_ASLEEP)
        others = [n for n, w in known.items() if n != worker and w.state in moving and self.holds[n] != GONE]
        beside = [n for n in others if self._gpus(n) & self._gpus(worker)]
        assert not beside, f"{worker} moves while {beside} do"

    def _share(self, spec: WorkerSpec) -> int:
        """Return what the worker is held to, else what its process was measured to have, if workers may have that."""
        if spec.share != WHOLE:
            return spec.share
        capacity = self.scheduler.host.ledger.capacity
        room = min((capacity.get(gpu, 0) for gpu in self._gpus(spec.name)), default=0)
        return peak if (peak := self.peaks.get(spec.name, WHOLE)) <= room else WHOLE

    def _must_fit_in_host_ram(self, worker: str, level: int | None) -> None:
        """Add up the copies of weights that processes for level 1 have: host RAM is never promised twice."""
        spec = self.scheduler.host.workers[worker].spec
        if (spec.sleep_level if level is None else level) == 1 and spec.copy:
            self.copies[worker] = spec.copy
            self._must_have_host_ram(worker)

    def _must_have_host_ram(self, worker: str) -> None:
        size = self.scheduler.host.ledger.capacity.get(HOST_RAM, inf)
        assert sum(self.copies.values()) <= size, f"{worker} starts, and {self.copies} have to do with {size}"

    def _must_fit(self, worker: str) -> None:
        """Add up what each worker may have, what sleepers keep included: a GPU is never promised twice."""
        known = self.scheduler.host.workers
        loaded = [n for n, what in self.holds.items() if n in known and n != worker and what == LOADED]
        leaving = [n for n, w in known.items() if w.state is WorkerState.FALLING_ASLEEP]
        awake = {name: known[name].spec for name in (*loaded, *leaving) if name != worker}
        asleep = {n for n, what in self.holds.items() if n in known and n not in (worker, *awake) and what in (0, 1, 2)}
        spec = known[worker].spec
        for gpu in self._gpus(worker):
            on_it = [other for other in awake.values() if gpu in self._gpus(other.name)]
            sleepers = [n for n in asleep if gpu in self._gpus(n)]
            shallow = [n for n in sleepers if self.holds[n] == 0]
            capacity = self.scheduler.host.ledger.capacity.get(gpu)
            shares = [self._share(other) for other in (spec, *on_it)]
            if capacity is None or WHOLE in shares:
                assert not on_it, f"{worker} comes while {[o.name for o in on_it]} hold GPU {gpu}"
                assert not shallow or shares[0] != WHOLE, f"{worker} comes while weights of {shallow} are on GPU {gpu}"
            else:
                kept = sum(self.kept.get(n, 0) for n in sleepers)
                assert sum(shares) + kept <= capacity, f"{worker} does not fit on GPU {gpu}"

    def must_hold(self) -> None:
        host = self.scheduler.host
        assert self.held & host.groups.keys() == {g.name for g in host.groups.values() if g.held_until is not None}
        for group in host.groups.values():
            assert group.state is derived_state(group)
            if group.granted:
                assert group.state in (WorkerState.READY, WorkerState.DRAINING), f"{group.name} is {group.state}"
                self._must_be_served(group.name)
            if group.stopped_by_operator:
                assert not group.waiting, f"leases wait for {group.name}, which an operator stopped"
                assert group.state is not WorkerState.READY
        for name in self.prefetched:
            if not self.finished and not self.scheduler._is_handing_over:  # else nobody decides any more
                self._must_be_worth_reading(name)
        for group in host.groups.values():
            if group.is_validated:
                assert not any(self.leases[n] == "granted" for n in group.granted), f"{group.name} serves meanwhile"
                beside = [g.name for g in host.groups.values() if g.is_validated and g.gpus & group.gpus]
                assert beside == [group.name], f"{beside} are validated on the same GPU"
        for worker in host.workers.values():
            if worker.state in (WorkerState.UNLOADED, WorkerState.BACKOFF, WorkerState.FAILED):
                assert self.holds[worker.name] == GONE
                group = host.groups[worker.group]
                is_up = group.state in (WorkerState.STARTING, WorkerState.WAKING, WorkerState.READY)
                is_up = is_up or (group.is_pinned and group.state is WorkerState.BACKOFF)
                assert is_up or not host.ledger.is_awake(worker.name), f"{worker.name} is gone and has a claim"
        assert set(host.leases.all) == set(self.leases), "a lease is known to one side only"
        assert {n for n, s in self.leases.items() if s == "waiting"} == {
            n for g in host.groups.values() for n in g.waiting
        }
