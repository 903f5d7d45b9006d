"""The rules of others, as they are published: one model awake, requests of the others wait for its turn.

What they say of a switch and no more: each is given muxd's bound on drains, its recovery from a load that fails, and
clients that go away without harm, which their programs have not.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

from .world import DRAIN_TIMEOUT, SLOTS, Request, World

#: Seconds that llmux at its head keeps a model awake at least (its `min_active_secs`).
MIN_ACTIVE = 5.0

#: Seconds that a model is awake at least, and away at least, under tenure and cooldown.  What Logos has is not
#: published; these are near the best for the workloads here.
TENURE, COOLDOWN = 20.0, 10.0

#: Seconds within which a rule asks for a switch now: a time that is the sum of many need not be reached exactly.
ROUNDING = 1e-6

#: When a model that is awake gives way to one for which requests wait: at a time, or not before something happens.
Rule = Callable[["OneAwake", str], float]


@dataclass
class OneAwake:
    """A host that has one model awake, and changes it by a rule."""

    rule: Rule
    turn: int | None = None  # so many of those who wait are let in when their model comes; None: all
    backfills: bool = (
        False  # while it drains, what ends before the drain does is let in: it knows how long answers take
    )
    switches: int = 0
    awake: str | None = None
    since: float = 0.0  # when it came
    waiting: dict[str, deque[Request]] = field(default_factory=dict)
    away_since: dict[str, float] = field(default_factory=dict)
    target: str | None = None  # of the switch that is under way
    drains: int = 0  # so many have begun

    def begin(self, world: World) -> None:
        self.world = world
        self.awake = world.workload.models[0]
        self.waiting = {model: deque() for model in world.workload.models}
        self.away_since = dict.fromkeys(world.workload.models, -inf)

    def arrived(self, request: Request) -> None:
        if request.model == self.awake and (self.target is None or self._fits_in(request)):
            self.world.admit(request)
        else:
            self.waiting[request.model].append(request)
            self.decide()

    def _fits_in(self, request: Request) -> bool:
        """Say whether the request would be answered before the last one of those that are drained."""
        assert self.awake is not None
        engine = self.world.engines[self.awake]
        has_slot = self.backfills and len(engine.running) < SLOTS and not engine.queue
        return has_slot and self.world.now + request.seconds <= self.world.now + drain_left(self)

    def left(self, request: Request) -> None:
        self.waiting[request.model].remove(request)

    def answered(self, _request: Request) -> None:
        self.decide()

    def decide(self) -> None:
        """Begin or bring forward the switch that the rule asks for."""
        now, awake = self.world.now, self.awake
        if awake is None:
            return
        if self.target is None:
            others = [model for model, queue in self.waiting.items() if queue and model != awake]
            first = sorted((self.rule(self, model), self.waiting[model][0].at, model) for model in others)
            if not first or first[0][0] == inf:
                return
            at, _, model = first[0]
            if at > now + ROUNDING:
                self.world.at(at, self.decide)
                return
            self.target = model
            self.drains += 1
            number = self.drains
            self.world.at(now + DRAIN_TIMEOUT, lambda: self._cut(awake, number))
        if self.world.engines[awake].is_idle:
            self._switch(awake, self.target)

    def _cut(self, model: str, number: int) -> None:
        if number == self.drains and self.awake == model and self.target is not None:
            self.world.cut(model)
            self.decide()

    def _switch(self, former: str, target: str) -> None:
        world = self.world
        self.awake, self.away_since[former] = None, world.now
        self.switches += 1
        wake = world.wake_time / 2 + world.start_time if world.crashes_now() else world.wake_time
        world.at(world.now + world.sleep_time + wake, lambda: self._come(target))

    def _come(self, model: str) -> None:
        self.awake, self.target, self.since = model, None, self.world.now
        self._let_in(model, self.turn)
        self.decide()
        if self.target is None:
            self._let_in(model)

    def _let_in(self, model: str, most: int | None = None) -> None:
        waiting = self.waiting[model]
        for _ in range(len(waiting) if most is None else min(most, len(waiting))):
            self.world.admit(waiting.popleft())


def fifo(_host: OneAwake, _model: str) -> float:
    """Give way to the first request for another model (sglangmux, llmux)."""
    return 0.0


def collate(host: OneAwake, _model: str) -> float:
    """Give way once nothing is in flight (llama-swap)."""
    return 0.0 if host.awake is not None and host.world.engines[host.awake].is_idle else inf


def min_active(host: OneAwake, _model: str) -> float:
    """Give way to the first request for another model, after a time (llmux at its head)."""
    return host.since + MIN_ACTIVE


def tenure(host: OneAwake, model: str) -> float:
    """Give way after a tenure to one that has been away for as long as it cools down (Logos)."""
    return max(host.since + TENURE, host.away_since[model] + COOLDOWN)


def drain_left(host: OneAwake) -> float:
    """Return the seconds until all that the awake model has in flight is answered, by how long each answer takes."""
    assert host.awake is not None
    engine, now = host.world.engines[host.awake], host.world.now
    ends = sorted((r.started if r.started is not None else now) + r.seconds - now for r in engine.running)
    for request in engine.queue:
        ends = sorted([*ends[1:], ends[0] + request.seconds])
    return ends[-1] if ends else 0.0


def bounded(bound: float) -> Rule:
    """Return the rule of one who serves on until the oldest wait of another model comes to a bound.

    It knows how long each answer takes, and so when it has to begin.
    """

    def rule(host: OneAwake, model: str) -> float:
        if host.awake is None or host.world.engines[host.awake].is_idle:
            return 0.0
        return host.waiting[model][0].at + bound - host.world.cost - drain_left(host)

    return rule


def patient(wait: float, turn: float, old: float, longer: float) -> Rule:
    """Return the rule of one who does not know how long answers take.

    It serves on until another model's oldest wait is `wait`, `turn` is over, and no answer is older than `old`; at most
    `longer` beyond that.
    """

    def rule(host: OneAwake, model: str) -> float:
        if host.awake is None or host.world.engines[host.awake].is_idle:
            return 0.0
        at = max(host.waiting[model][0].at + wait, host.since + turn)
        running = host.world.engines[host.awake].running
        oldest = min((r.started for r in running if r.started is not None), default=inf)
        return at + longer if oldest + old <= at else at

    return rule


#: Rules of those who do not know how long answers take, of which the best can be chosen for a load afterwards.
PATIENT = tuple(
    patient(wait, turn, *long)
    for wait in (5.0, 10.0, 20.0, 40.0, 60.0, 90.0, 120.0, 150.0, 200.0, 250.0, 300.0, 400.0)
    for turn in (0.0, 60.0)
    for long in ((inf, 0.0), (10.0, 60.0), (10.0, 120.0), (25.0, 120.0))
)


class GpuEach:
    """A GPU for each model: nobody waits for a switch."""

    switches = 0

    def begin(self, world: World) -> None:
        self.world = world

    def arrived(self, request: Request) -> None:
        self.world.admit(request)

    def left(self, request: Request) -> None:
        raise AssertionError(f"{request} waits for nobody")

    def answered(self, _request: Request) -> None:
        pass
