"""A random world: it answers commands in random order and with random failures, and the oracle judges each step."""

import random
from math import inf

from msgspec.structs import replace

from muxd.core.commands import (
    ActivateStandby,
    AnswerUnload,
    Command,
    DrainWorker,
    EndLease,
    FailLease,
    FailLoan,
    FailOrder,
    FailSwitch,
    FinishLoan,
    FinishOrder,
    FinishSwitch,
    GrantLease,
    MeasureWorker,
    PrepareStandby,
    RestoreLease,
    RevokeLease,
    SleepWorker,
    StartWorker,
    StopWorker,
    SyncRouter,
    WakeWorker,
)
from muxd.core.events import (
    ActivationFailed,
    DemandReported,
    Event,
    Failure,
    GpusMeasured,
    HoldAsked,
    HoldEnded,
    HostRamLimited,
    KeepAsked,
    LeaseAsked,
    LeaseEnded,
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
    Waiting,
    WakeFailed,
    WorkerAsleep,
    WorkerDied,
    WorkerDrained,
    WorkerExited,
    WorkerHung,
    WorkerMeasured,
    WorkerReady,
    WorkerStuck,
)
from muxd.core.group import Group
from muxd.core.ledger import WHOLE
from muxd.core.spec import NO_DEFAULT, GroupSpec, LoanTerms
from muxd.core.states import WorkerState

from .playbook import Playbook
from .worlds import (
    ANYWHERE,
    DEFAULTS,
    GROUPS,
    IDLE,
    LENT,
    OTHER_GROUPS,
    OTHERS,
    RESIZED,
    SCALED,
    SHORT,
    SPECS,
    SPREAD,
    STANDBY,
)


def _has_workers_that_stay(old: GroupSpec, new: GroupSpec) -> bool:
    """Say whether some replicas have the same specs in both, and none that is in both has another one."""
    former = {worker.name: worker for worker in old.workers}
    both = [worker for worker in new.workers if worker.name in former]
    return len(both) > 1 and all(former[worker.name] == worker for worker in both)


def read_ahead(spec: GroupSpec) -> GroupSpec:
    """The same, with weight files that may be read ahead; of one group they may not."""
    return replace(spec, prefetch=spec.name != "d")


def _is_stuck(group: Group) -> bool:
    return any(worker.state is WorkerState.STUCK for worker in group.members)


class World:
    """Everything outside the core: processes, lease holders, operators; all of it by chance."""

    #: Methods that make one thing happen; a method that stands here more than once is as much more likely.
    STEPS = ("ask", "let_go", "report", *["answer"] * 3, "fail", "switch", "order", "unload", "reload", "measure")
    STEPS += ("validate", "scale")
    ALL_STEPS = (*STEPS, "hold", "lend")

    PAUSES = (0.0, 0.1, 1.0, 7.0)  # seconds before a step

    def __init__(self, seed: int, specs: tuple[GroupSpec, ...] = SPECS) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.configured = specs
        self.is_classed = specs in (IDLE, LENT, STANDBY)  # some requests are batch
        groups = OTHER_GROUPS if specs in (GROUPS, SPREAD) else RESIZED if specs is SCALED else OTHERS
        self.others = tuple(map(read_ahead, groups))
        self.book = Playbook(*map(read_ahead, specs), wait_target=5.0, default=DEFAULTS.get(specs, NO_DEFAULT))
        self.now = 0.0
        self.seen: list[Event] = []
        self.jobs: dict[str, Command] = {}  # worker or group -> what it was last told and has not answered
        self.alive: set[str] = set()
        self.holders: dict[int, str] = {}  # open lease -> "waiting" | "granted" | "revoked"
        self.tickets: set[int] = set()
        self.loans: set[int] = set()  # asked for, and not over
        self.validations: dict[int, str] = {}  # ticket -> model
        self.last = 0
        self.specs = {spec.name: read_ahead(spec) for spec in specs}
        self.sizes = dict.fromkeys(("0", "1", "2") if specs in (ANYWHERE, SCALED, SPREAD) else ("0", "1"), 80)
        if specs is not SPECS:
            self.tell(GpusMeasured(0.0, self.sizes))
        if specs in (SHORT, STANDBY):
            self.tell(HostRamLimited(0.0, 45))
        self.tell(Started(0.0, frozenset({"d"} if self.rng.random() < 0.1 else ())))

    def tell(self, event: Event) -> None:
        self.seen.append(event)
        self.book >> event
        for command in self.book.pending:
            self.obey(command)
        self.book.pending.clear()

    def obey(self, command: Command) -> None:
        match command:
            case StartWorker(worker) | PrepareStandby(worker):
                self.alive.add(worker)
                self.jobs[worker] = command
            case (
                ActivateStandby(worker)
                | WakeWorker(worker)
                | SleepWorker(worker, _)
                | StopWorker(worker)
                | SyncRouter(worker)
            ):
                self.jobs[worker] = command
            case MeasureWorker(worker):
                self.jobs[f"what {worker} has"] = command
            case DrainWorker(worker):
                self.jobs[f"what {worker} runs"] = command
            case GrantLease(lease):
                self.holders[lease] = "granted"
            case RestoreLease(lease):
                self.holders[lease] = "granted"
            case RevokeLease(lease):
                self.holders[lease] = "revoked"
            case FailLoan(number) | FinishLoan(number):
                self.loans.discard(number)
            case FailLease(lease) | EndLease(lease):
                del self.holders[lease]
            case (
                FinishSwitch(ticket)
                | FailSwitch(ticket)
                | FinishOrder(ticket)
                | FailOrder(ticket)
                | AnswerUnload(ticket)
            ):
                self.tickets.remove(ticket)

    def pass_time(self, seconds: float) -> None:
        """Move the clock, stopping at the timer that the core set."""
        end = self.now + seconds
        while self.book.timer is not None and self.book.timer <= end:
            self.now = max(self.now, self.book.timer)
            self.book.timer = None
            self.tell(TimerFired(self.now))
        self.now = end

    def step(self) -> None:
        self.pass_time(self.rng.choice(self.PAUSES))
        getattr(self, self.rng.choice(self.ALL_STEPS if self.is_classed else self.STEPS))()

    def ask(self) -> None:
        self.last += 1
        self.holders[self.last] = "waiting"
        waiting = tuple(
            Waiting(self.rng.randint(1, 3), is_batch=self.is_classed and self.rng.random() < 0.5)
            for _ in range(self.rng.randint(0, 2))
        )
        self.tell(LeaseAsked(self.now, self.last, self.rng.choice(sorted(self.specs)), waiting))

    def let_go(self) -> None:
        if self.holders:
            lease = self.rng.choice(sorted(self.holders))
            del self.holders[lease]
            self.tell(LeaseEnded(self.now, lease))

    def report(self) -> None:
        granted = sorted(n for n, state in self.holders.items() if state == "granted")
        if granted:
            lease, in_flight = self.rng.choice(granted), self.rng.choice([0, 0, 1, 5])
            oldest = self.rng.choice([None, 0.0, 4.0, 60.0]) if in_flight else None
            self.tell(
                DemandReported(self.now, lease, in_flight, oldest=oldest, usual=self.rng.choice([None, 1.0, 9.0]))
            )
        waiting = sorted(n for n, state in self.holders.items() if state == "waiting")
        if waiting and self.rng.random() < 0.5:
            more = tuple(
                Waiting(
                    self.rng.randint(1, 9),
                    self.rng.choice([0.0, 4.0]),
                    is_batch=self.is_classed and self.rng.random() < 0.5,
                )
                for _ in range(self.rng.choice([0, 1, 1, 2]))
            )
            self.tell(DemandReported(self.now, self.rng.choice(waiting), 0, more))

    def switch(self) -> None:
        if self.rng.random() < 0.2:
            self.last += 1
            self.tickets.add(self.last)
            self.tell(SwitchAsked(self.now, self.last, self.rng.choice(sorted(self.specs))))

    def order(self) -> None:
        if self.rng.random() < 0.4:
            self.last += 1
            self.tickets.add(self.last)
            verb = self.rng.choice([Verb.START, Verb.START, Verb.STOP, Verb.RESTART, Verb.SLEEP])
            model, now = self.rng.choice(sorted(self.specs)), self.rng.random() < 0.3
            level = self.rng.choice([None, 0, 1, 2, 3]) if verb is Verb.SLEEP else None
            self.tell(OrderGiven(self.now, self.last, model, verb, now, level))

    def hold(self) -> None:
        """An operator holds a model or no more, or a client wants one kept awake."""
        model, chance = self.rng.choice(sorted(self.specs)), self.rng.random()
        if chance < 0.1:
            self.last += 1
            self.tickets.add(self.last)
            self.tell(HoldAsked(self.now, self.last, model, self.now + self.rng.choice([3.0, 30.0, inf])))
        elif chance < 0.4:
            self.tell(HoldEnded(self.now, model))
        elif chance < 0.6:
            age = self.rng.choice([0.0, 5.0])
            self.tell(KeepAsked(self.now, model, self.rng.choice([1.0, 20.0, inf]), self.now - age))

    def lend(self) -> None:
        """An operator lends GPUs, or a borrower ends, whether it was recalled or not."""
        if self.rng.random() < 0.3:
            self.last += 1
            self.loans.add(self.last)
            gpus = self.rng.choice([frozenset(), frozenset({"0"}), frozenset({"1"}), frozenset({"0", "1"})])
            until = self.now + self.rng.choice([0.0, 5.0, 30.0, inf])
            flags = (self.rng.random() < 0.5 for _ in range(3))
            self.tell(LoanAsked(self.now, self.last, LoanTerms(gpus, until, *flags)))
        elif self.loans and self.rng.random() < 0.7:
            self.give_back(self.rng.choice(sorted(self.loans)))

    def give_back(self, number: int) -> None:
        self.loans.remove(number)
        self.tell(LoanEnded(self.now, number))

    def validate(self) -> None:
        """An operator has a model validated, or ends muxctl while it is."""
        if self.rng.random() < 0.2:
            self.last += 1
            self.tickets.add(self.last)
            model = self.validations[self.last] = self.rng.choice(sorted(self.specs))
            possible = self.rng.choice([(), (3,), (0, 3), (1, 2), (2,)])
            cycles = self.rng.choice([1, 1, 2])
            self.tell(OrderGiven(self.now, self.last, model, Verb.VALIDATE, levels=possible, cycles=cycles))
        elif going_on := sorted(self.tickets & self.validations.keys()):
            ticket = self.rng.choice(going_on)
            if self.rng.random() < 0.3:
                self.tickets.remove(ticket)
                self.tell(ValidationEnded(self.now, ticket, self.validations[ticket]))

    def scale(self) -> None:
        if self.configured in (GROUPS, SCALED, SPREAD) and self.rng.random() < 0.4:
            self.last += 1
            self.tickets.add(self.last)
            model, count = self.rng.choice(sorted(self.specs)), self.rng.randint(0, 4)
            now = self.rng.random() < 0.3
            self.tell(OrderGiven(self.now, self.last, model, Verb.SCALE, now, replicas=count))

    def unload(self) -> None:
        self.last += 1
        self.tickets.add(self.last)
        self.tell(UnloadAsked(self.now, self.last, self.rng.choice(sorted(self.specs))))
        assert self.last not in self.tickets, "it is answered at once"

    def reload(self) -> None:
        if self.rng.random() < 0.2:
            there = map(read_ahead, self.configured + self.others)
            wanted = {spec.name: spec for spec in there if self.rng.random() < 0.8}
            others = {n for n in wanted if n in self.specs and wanted[n] != self.specs[n]}
            changed = frozenset(n for n in others if not _has_workers_that_stay(self.specs[n], wanted[n]))
            routed = sorted(n for n in wanted if len(wanted[n].workers) > 1 and n not in changed)
            routers = frozenset(n for n in routed if n in self.specs and self.rng.random() < 0.3)
            self.specs = wanted or self.specs
            specs, default = tuple(self.specs.values()), DEFAULTS.get(self.configured, NO_DEFAULT)
            self.tell(Reconfigured(self.now, specs, changed, 5.0, default=default, routers=routers))

    def measure(self) -> None:
        """Strangers come to some GPUs, or have left them."""
        if self.configured in (ANYWHERE, SPREAD) and self.rng.random() < 0.3:
            left = {gpu: self.rng.choice([0, 25, 45]) for gpu in self.sizes if self.rng.random() < 0.3}
            self.tell(GpusMeasured(self.now, self.sizes, strangers=dict.fromkeys(left, "a stranger"), left=left))

    def answer(self, *, honest: bool = False) -> None:
        """One worker answers what it was told: as it should, or, unless honest, badly."""
        if not self.jobs:
            return
        worker = self.rng.choice(sorted(self.jobs))
        job = self.jobs.pop(worker)
        bad = not honest and self.rng.random() < 0.2
        match job:
            case ActivateStandby() if bad and self.rng.random() < 0.5:
                self.tell(ActivationFailed(self.now, worker, "no answer"))
            case StartWorker() | PrepareStandby() | ActivateStandby() if bad:
                self.exit(worker, self.rng.choice(list(Failure)))
            case PrepareStandby():
                self.tell(StandbyPrepared(self.now, worker, self.rng.choice([None, 5, 15, 30])))
            case WakeWorker() if bad:
                self.tell(WakeFailed(self.now, worker, "no answer", is_wrong=self.last % 2 == 0))
            case SleepWorker() if bad:
                self.tell(SleepFailed(self.now, worker, "no answer"))
            case StopWorker() if bad:
                self.jobs[worker] = job  # it ends later
                self.tell(WorkerStuck(self.now, worker, "survived SIGKILL"))
            case SyncRouter(group, urls) if f"{group}/router" in self.alive:
                if bad:
                    self.jobs[group] = job  # it takes longer until it knows them all
                self.tell(RouterSynced(self.now, group, urls[:1] if bad else urls))
            case StartWorker() | ActivateStandby() | WakeWorker():
                unproved = isinstance(job, WakeWorker) and self.last % 3 == 0
                self.tell(WorkerReady(self.now, worker, f"http://{worker}", unproved=unproved))
            case SleepWorker(_, 0):
                share = self.book.worker(worker).spec.share
                self.tell(
                    WorkerAsleep(self.now, worker, self.rng.choice([None, max(1, share // 2), max(1, share - 5)]))
                )
            case SleepWorker():
                is_sized = self.book.worker(worker).spec.share != WHOLE or self.configured is SPECS
                taken = None if is_sized else self.rng.choice([None, 20, 40])
                self.tell(WorkerAsleep(self.now, worker, self.rng.choice([0, 3]), taken))
            case StopWorker():
                self.exit(worker)
            case DrainWorker(worker):
                self.tell(WorkerDrained(self.now, worker))
            case MeasureWorker(worker, number):
                self.tell(WorkerMeasured(self.now, worker, number, "no answer" if bad else ""))

    def exit(self, worker: str, failure: Failure = Failure.EXITED) -> None:
        self.alive.discard(worker)
        self.jobs.pop(worker, None)
        self.tell(WorkerExited(self.now, worker, failure, "exited with status 1"))

    def fail(self) -> None:
        if self.alive and self.rng.random() < 0.3:
            worker = self.rng.choice(sorted(self.alive))
            if self.rng.random() < 0.5:
                if self.rng.random() < 0.5:  # its memory takes a while to come back
                    self.tell(WorkerDied(self.now, worker, "exited with status 1"))
                    self.pass_time(self.rng.choice([0.0, 3.0]))
                self.exit(worker)
            else:
                self.tell(WorkerHung(self.now, worker, "no answer"))
        elif failed := sorted(set(self.book.scheduler.host.workers) - self.alive):
            self.tell(PortFreed(self.now, self.rng.choice(failed)))

    def must_be_as_configured(self) -> None:
        """Nothing is left to do: every model is what the configuration says, or stuck."""
        groups = {n: g for n, g in self.book.scheduler.host.groups.items() if not _is_stuck(g)}
        assert groups.keys() <= self.specs.keys()
        for name, group in groups.items():
            assert group.spec == self.specs[name]
            assert group.order is group.pending_spec is None
            assert group.state is WorkerState.UNLOADED or not group.stopped_by_operator

    def calm_down(self) -> None:
        """From now on everything works, every holder ends its requests and every revoked lease is let go.

        What is said already is not said again: nobody may wait for somebody else's next event.
        """
        idle: set[int] = set()
        for number in sorted(self.loans):
            self.give_back(number)
        for _ in range(400):
            revoked = sorted(n for n, state in self.holders.items() if state == "revoked")
            for lease in revoked:
                del self.holders[lease]
                self.tell(LeaseEnded(self.now, lease))
            granted = sorted(n for n, state in self.holders.items() if state == "granted" and n not in idle)
            for lease in granted:
                idle.add(lease)
                self.tell(DemandReported(self.now, lease, 0, more=lease != granted[-1]))
            if not (revoked or granted or self.jobs) and self.book.timer is None:
                return  # nobody will say anything any more
            self.answer(honest=True)
            self.pass_time(1.0)

    def must_come_to_rest(self) -> None:
        """See that everybody who waits is served, or told why not, once nothing fails any more."""
        for lease in [n for n, state in self.holders.items() if state == "waiting"]:
            self.tell(DemandReported(self.now, lease, 0, (Waiting(),)))
        self.calm_down()
        waiting = {n for n, state in self.holders.items() if state == "waiting"}
        assert not waiting, f"seed {self.seed}: leases {waiting} wait for ever"
        assert not self.tickets, f"seed {self.seed}: the orders {self.tickets} never end"
        self.must_be_as_configured()

    def must_shut_down(self) -> None:
        """See that a shutdown ends every process and every lease, whatever is under way."""
        self.tell(ShutdownAsked(self.now, self.now + 30))
        self.calm_down()
        assert self.book.oracle.finished, f"seed {self.seed}: not finished"
        assert not self.alive, f"seed {self.seed}: {self.alive} still run"
        assert not [n for n, state in self.holders.items() if state != "waiting"] or not self.holders
