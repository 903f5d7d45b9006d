"""muxd's core decides: its commands are carried out in virtual time, and its leases held as muxd's proxy holds them."""

import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf

from muxd.core import policy
from muxd.core.commands import (
    Command,
    EndLease,
    FailLease,
    GrantLease,
    RecordSwitch,
    RestoreLease,
    RevokeLease,
    SetTimer,
    SleepWorker,
    StartWorker,
    StopWorker,
    WakeWorker,
)
from muxd.core.events import (
    AdoptedWorker,
    DemandReported,
    Event,
    GpusMeasured,
    LeaseAsked,
    LeaseEnded,
    Started,
    TimerFired,
    Waiting,
    WorkerAsleep,
    WorkerDied,
    WorkerExited,
    WorkerReady,
)
from muxd.core.ledger import WHOLE
from muxd.core.progress import progress_of
from muxd.core.scheduler import Scheduler
from muxd.core.spec import GroupSpec, Learned, WorkerSpec
from muxd.core.states import WorkerState

from .world import DRAIN_TIMEOUT, Request, World

#: As `[policy] wait_target` ships.
WAIT_TARGET = 30.0

#: As `switch_timeout` ships; where a switch takes long it is set to so many switches, as docs/explanation/scheduling.md
#: says.  Nobody is refused here: what waits longer is answered late.
SWITCH_TIMEOUT, PATIENCE = 600.0, 20.0

#: The level at which models sleep.
LEVEL = 1

#: Seconds between two reports of muxd's proxy of how many requests a model has in flight.
REPORT_EVERY = 1.0

#: Seconds until muxd has heard from its proxy what is in flight as a drain begins.
REPORT_GAP = 0.05

#: Seconds without a request before muxd's proxy says so.
IDLE_GRACE = 0.02

GIB = 1 << 30

#: Bytes of a GPU, and of a model where three fit.
GPU_SIZE, THIRD = 80 * GIB, 25 * GIB


@dataclass(slots=True)
class Line:
    """A model's lease and those who wait for it, as the proxy has them."""

    lease: int | None = None
    is_granted: bool = False
    is_draining: bool = False
    is_reported_soon: bool = False
    waiting: deque[Request] = field(default_factory=deque)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What was said of a switch when it began, or once its drain was over, and what came; seconds."""

    kind: tuple[str, ...]  # the target and its victims
    drains: bool  # something was in flight
    said: float | None
    came: float
    under_way: Sequence[tuple[Sequence[float], int]]  # by victim: ages of answers in seconds, and requests in its queue


class CoreHost:
    """Drives muxd's core.

    `learned`: it knows what switches take, as a muxd that has run for a while, and `drains`, by model, what drains took
    of late, in seconds: muxd keeps both over a restart.  `spread`: what they take varies by so
    much, as a share of it, by `seed`.
    """

    def __init__(
        self,
        *,
        together: bool = True,
        learned: bool = True,
        drains: Mapping[str, float] | None = None,
        spread: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.switches = 0
        self.estimates: list[Estimate] = []
        self._together = together
        self._stated = 0.0  # the longest maximum wait that was stated, without the longest answer
        self._learned = learned
        self._drains = drains or {}
        self._spread = spread
        self._chance = random.Random(seed)
        self._told: dict[str, list[tuple[float, Estimate]]] = {}  # by target: when, and what is known by then
        self._timer: float | None = None
        self._leases: dict[int, str] = {}

    def begin(self, world: World) -> None:
        self.world = world
        models = world.workload.models
        share = THIRD if self._together and world.workload.awake_together > 1 else WHOLE
        self.lines = {model: Line() for model in models}
        self._answers = dict.fromkeys(models, (0, 0.0))  # how many were given, and in how many seconds together
        timeout = max(SWITCH_TIMEOUT, PATIENCE * world.cost)
        specs = [
            GroupSpec(
                m,
                (WorkerSpec(m, share=share, sleep_level=LEVEL),),
                drain_timeout=DRAIN_TIMEOUT,
                switch_timeout=timeout,
            )
            for m in models
        ]
        self.scheduler = Scheduler(specs, WAIT_TARGET)
        takes = {
            (WorkerState.WAKING, LEVEL): world.wake_time,
            (WorkerState.FALLING_ASLEEP, LEVEL): world.sleep_time,
            (WorkerState.STARTING, None): world.start_time,
        }
        awake = models[: world.workload.awake_together if share is THIRD else 1]
        found = (AdoptedWorker(m, url(m), None if m in awake else LEVEL, kept=0) for m in models)
        self._tell(GpusMeasured(0.0, {"0": GPU_SIZE}))
        drains = {m: {(WorkerState.DRAINING, None): self._drains[m]} for m in models if m in self._drains}
        known = {m: Learned(takes | drains.get(m, {}), {LEVEL: 0}) for m in models} if self._learned else {}
        self._tell(Started(0.0, adopted=tuple(found), learned=known))

    # Clients

    def arrived(self, request: Request) -> None:
        line = self.lines[request.model]
        if line.is_granted:
            was_idle = self.world.engines[request.model].is_idle
            self.world.admit(request)
            if was_idle:
                self._report(request.model)
            self._report_soon(request.model)
            return
        line.waiting.append(request)
        self._say_what_waits(request.model)

    def left(self, request: Request) -> None:
        line = self.lines[request.model]
        line.waiting.remove(request)
        if not line.is_draining:
            self._say_what_waits(request.model)

    def answered(self, request: Request) -> None:
        model, line = request.model, self.lines[request.model]
        if request.started is not None:
            count, seconds = self._answers[request.model]
            self._answers[request.model] = count + 1, seconds + self.world.now - request.started
        self._report_soon(model)
        if self.world.engines[model].is_idle:
            if line.is_draining:
                self._release(model)
            else:
                others_wait = any(other.waiting for other in self.lines.values())
                grace = 0.0 if others_wait else IDLE_GRACE
                self.world.at(self.world.now + grace, lambda: self._report_idle(model))

    def _report_soon(self, model: str, within: float = REPORT_EVERY) -> None:
        """Report within so many seconds how many requests the model has in flight, granted or draining."""
        line = self.lines[model]
        if not line.is_reported_soon or within < REPORT_EVERY:
            line.is_reported_soon = True
            self.world.at(self.world.now + within, lambda: self._report_again(model))

    def _report_again(self, model: str) -> None:
        line, engine = self.lines[model], self.world.engines[model]
        line.is_reported_soon = False
        if (line.is_granted or line.is_draining) and line.lease is not None and not engine.is_idle:
            self._report(model)

    def _report_idle(self, model: str) -> None:
        if self.lines[model].is_granted and self.world.engines[model].is_idle:
            self._report(model)

    def _report(self, model: str) -> None:
        engine, lease = self.world.engines[model], self.lines[model].lease
        assert lease is not None
        now = self.world.now
        oldest = max((now - r.started for r in engine.running if r.started is not None), default=None)
        count, seconds = self._answers[model]
        usual = seconds / count if count else None
        self._tell(DemandReported(now, lease, len(engine.running) + len(engine.queue), oldest=oldest, usual=usual))

    def _say_what_waits(self, model: str) -> None:
        line, now = self.lines[model], self.world.now
        waiting = (Waiting(len(line.waiting), now - line.waiting[0].at),) if line.waiting else ()
        if line.is_draining or (line.lease is None and not waiting):
            return
        if line.lease is None:
            line.lease = len(self._leases)
            self._leases[line.lease] = model
            self._tell(LeaseAsked(now, line.lease, model, waiting))
        elif waiting:
            self._tell(DemandReported(now, line.lease, 0, waiting))
        else:
            lease, line.lease = line.lease, None
            self._tell(LeaseEnded(now, lease))

    def _release(self, model: str) -> None:
        line = self.lines[model]
        lease, line.lease, line.is_draining, line.is_granted = line.lease, None, False, False
        assert lease is not None
        self._tell(LeaseEnded(self.world.now, lease))
        if line.lease is None:
            self._say_what_waits(model)

    # The core

    def _tell(self, event: Event) -> None:
        if isinstance(event, TimerFired):
            self._timer = None
        for command in [*self.scheduler.handle(event)]:
            self._obey(command)

    def _obey(self, command: Command) -> None:
        world, now = self.world, self.world.now
        match command:
            case SetTimer(at):
                self._timer = at
                if at is not None:
                    world.at(max(at, now), lambda: self._fire(at))
            case GrantLease(lease):
                line = self.lines[self._leases[lease]]
                if line.lease == lease:
                    line.is_granted = True
                    while line.waiting:
                        world.admit(line.waiting.popleft())
                    self._report(self._leases[lease])
            case RevokeLease(lease, _, _, deadline):
                self._revoke(lease, deadline)
            case RestoreLease(lease):
                line = self.lines[self._leases[lease]]
                line.is_draining, line.is_granted = False, True
                while line.waiting:
                    world.admit(line.waiting.popleft())
                self._report(self._leases[lease])
            case EndLease(lease) | FailLease(lease):
                line = self.lines[self._leases[lease]]
                if line.lease == lease:
                    line.lease, line.is_granted, line.is_draining = None, False, False
                    self._say_what_waits(self._leases[lease])
            case SleepWorker(worker):
                self._estimate_again(worker)
                self._later(self._takes(world.sleep_time), WorkerAsleep, worker, 0)
            case WakeWorker(worker) if world.crashes_now():
                self._later(world.wake_time / 2, WorkerDied, worker, "it crashed")
                self._later(world.wake_time / 2, WorkerExited, worker)
            case WakeWorker(worker):
                world.at(now + self._takes(world.wake_time), lambda: self._ready(worker))
            case StartWorker(worker):
                world.at(now + self._takes(world.start_time), lambda: self._ready(worker))
            case StopWorker(worker):
                self._later(0.0, WorkerExited, worker)
            case RecordSwitch(target, victims):
                self.switches += 1
                self._stated = max(self._stated, self._state())
                kind = (target, *(name for name, _ in victims))
                drains = any(not world.engines[name].is_idle for name, _ in victims)
                if drains:
                    world.at(now + 2 * REPORT_GAP, lambda: self._estimate_drain(kind))
                else:
                    self._estimate(kind, drains=False)

    def _later(self, seconds: float, kind: type, *fields: object) -> None:
        self.world.at(self.world.now + seconds, lambda: self._tell(kind(self.world.now, *fields)))

    def _takes(self, seconds: float) -> float:
        return seconds * (1 + self._chance.uniform(-self._spread, self._spread))

    def _fire(self, at: float | None) -> None:
        if at is not None and at == self._timer:
            self._tell(TimerFired(self.world.now))

    def _ready(self, worker: str) -> None:
        for since, estimate in self._told.pop(worker, ()):
            self.estimates.append(replace(estimate, came=self.world.now - since))
        self._tell(WorkerReady(self.world.now, worker, url(worker)))

    def _revoke(self, lease: int, deadline: float) -> None:
        model = self._leases[lease]
        line = self.lines[model]
        if line.lease != lease:
            return
        line.is_granted, line.is_draining = False, True
        self._report_soon(model, REPORT_GAP)
        if self.world.engines[model].is_idle:
            self.world.at(self.world.now, lambda: self._release_if(model, lease))
        else:
            self.world.at(deadline, lambda: self._cut(model, lease))

    def _release_if(self, model: str, lease: int) -> None:
        if self.lines[model].lease == lease and self.lines[model].is_draining:
            self._release(model)

    def _cut(self, model: str, lease: int) -> None:
        if self.lines[model].lease == lease and self.lines[model].is_draining:
            self.world.cut(model)
            self._release(model)

    # What it says of a switch

    def _estimate(self, kind: tuple[str, ...], *, drains: bool) -> None:
        scheduler = self.scheduler
        group = scheduler.host.groups[kind[0]]
        eta = progress_of(scheduler.host, scheduler.switching, group, self.world.now).eta
        now, engines = self.world.now, [self.world.engines[name] for name in kind[1:]]
        under_way = [
            ([now - r.started for r in engine.running if r.started is not None], len(engine.queue))
            for engine in engines
        ]
        self._told.setdefault(kind[0], []).append((now, Estimate(kind, drains, eta, inf, under_way)))

    def _estimate_drain(self, kind: tuple[str, ...]) -> None:
        """Estimate a switch whose victims drain, unless they have drained already."""
        switch = self.scheduler.switching.switch_to(self.scheduler.host.groups[kind[0]])
        if switch is not None and not switch.begun and any(not self.world.engines[name].is_idle for name in kind[1:]):
            self._estimate(kind, drains=True)

    def _estimate_again(self, victim: str) -> None:
        """Estimate the rest of a switch anew whose victim has drained."""
        for switch in self.scheduler.switching.running:
            told = self._told.get(switch.target, [])
            if victim in switch.victims and told and told[-1][1].drains:
                self._estimate(told[0][1].kind, drains=False)

    @property
    def drains(self) -> dict[str, float]:
        """Return what was measured of the drains of each model where something was in flight, in seconds."""
        costs = {name: group.cost(WorkerState.DRAINING) for name, group in self.scheduler.host.groups.items()}
        return {name: cost.seconds for name, cost in costs.items() if cost.measured}

    @property
    def drain(self) -> float:
        """Return the seconds that the core expects of a drain, of the model where it takes longest."""
        groups = self.scheduler.host.groups.values()
        return max(max(group.cost(WorkerState.DRAINING).seconds, group.known_drain) for group in groups)

    def bound(self) -> float:
        """Return the longest maximum wait in seconds that was stated for while all other models wait, too.

        On top is the longest answer, which may be under way when somebody is due: nobody knows before how long it is.
        """
        return max(self._stated, self._state()) + max(request.seconds for request in self.world.requests)

    def _state(self) -> float:
        """Return the maximum wait in seconds by what is known now of drains, and of what is in flight."""
        cost, others = self.world.cost, len(self.lines) - 1
        load = max(group.answers.load for group in self.scheduler.host.groups.values())
        target = policy.stretched(WAIT_TARGET, 2 * cost + self.drain, load)
        return target + others * (max(cost, self.drain) + cost) + cost


def url(model: str) -> str:
    return f"http://{model}"
