"""Who waits is served within the stated maximum, also beside models that cost less and never rest."""

import heapq
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from math import inf

import pytest

from muxd.core import policy
from muxd.core.commands import GrantLease, SleepWorker, StartWorker, WakeWorker
from muxd.core.cost import Cost
from muxd.core.events import Event, GpusMeasured, LeaseAsked, LeaseEnded, TimerFired, WorkerAsleep, WorkerReady
from muxd.core.ledger import WHOLE
from muxd.core.states import WorkerState
from tests.seeds import seeds, thorough

from .playbook import Playbook, single

START, WAKE, SLEEP = 60.0, 1.0, 0.5


@dataclass(frozen=True, slots=True)
class Return:
    """A client that has paused asks again."""

    time: float
    model: str
    pause: float


class Crowd:
    """Clients that ask again after each answer, at once or after a pause; every answer takes `work` seconds."""

    def __init__(
        self,
        work: float,
        clients: Sequence[tuple[str, float]] = (("a", 0.0), ("b", 0.0)),
        sizes: Mapping[str, int] = dict.fromkeys("abx", WHOLE),
    ) -> None:
        """`clients`: each one's model, and seconds from an answer to its next request; `sizes`: on a GPU of 80."""
        self.work = work
        self.sizes = sizes
        self.now = 0.0
        self.book = Playbook(*(single(name, share=size) for name, size in sizes.items()), wait_target=30.0)
        self.book >> GpusMeasured(0.0, {"0": 80})
        self.coming: list[tuple[float, int, Event | Return]] = []
        self.asked: dict[int, tuple[str, float, float]] = {}  # lease -> model, when, its client's pause
        self.bounds: dict[int, float] = {}  # lease -> seconds
        self.waits: dict[str, list[float]] = {name: [] for name in sizes}
        self.last = 0
        self.order = count()
        self.late: list[str] = []  # waits beyond what policy.bound states for the costs that are known
        for name, pause in clients:
            self.ask(name, pause)

    def ask(self, name: str, pause: float = inf) -> None:
        self.last += 1
        self.asked[self.last] = (name, self.now, pause)
        self.bounds[self.last] = self.bound(name)
        self.tell(LeaseAsked(self.now, self.last, name))

    def later(self, seconds: float, kind: type, *facts: object) -> None:
        heapq.heappush(self.coming, (self.now + seconds, next(self.order), kind(self.now + seconds, *facts)))

    def tell(self, event: Event) -> None:
        self.book >> event
        commands, self.book.pending = self.book.pending, []
        for command in commands:
            match command:
                case StartWorker(worker):
                    self.later(START, WorkerReady, worker, f"http://{worker}")
                case WakeWorker(worker):
                    self.later(WAKE, WorkerReady, worker, f"http://{worker}")
                case SleepWorker(worker, _):
                    self.later(SLEEP, WorkerAsleep, worker)
                case GrantLease(lease):
                    name, asked, _ = self.asked[lease]
                    self.waits[name].append(self.now - asked)
                    wait, bound = self.now - asked, self.bounds[lease]
                    if wait > bound:
                        self.late.append(f"{name} at {self.now:.1f}: {wait:.1f} s of {bound:.1f}")
                    self.later(self.work, LeaseEnded, lease)

    def step(self) -> None:
        timer = self.book.timer
        if timer is not None and (not self.coming or timer <= self.coming[0][0]):
            self.now, self.book.timer = max(self.now, timer), None
            self.tell(TimerFired(self.now))
            return
        self.now, _, event = heapq.heappop(self.coming)
        if isinstance(event, Return):
            self.ask(event.model, event.pause)
            return
        self.tell(event)
        if isinstance(event, LeaseEnded) and (pause := self.asked[event.lease][2]) < inf:
            self.later(pause, Return, self.asked[event.lease][0], pause)

    def bound(self, name: str) -> float:
        """Return the longest wait that can be stated for a request made now: all others want a turn, too.

        Nothing is stated before every switch was measured.  One answer that is under way when it is due is on top.
        """
        both = (WorkerState.WAKING, WorkerState.FALLING_ASLEEP)
        if not all(self.book.worker(other).cost(state, 2).measured for other in self.waits for state in both):
            return inf
        in_its_way = 1 if WHOLE in self.sizes.values() else len(self.sizes) - 1  # they leave one after the other
        switch = WAKE + SLEEP * in_its_way
        others = (len(self.waits) - 1) * (max(switch, self.work) + switch)
        return policy.stretched(30.0, 2 * switch + self.work) + others + switch + self.work

    def measure_every_switch(self, names: str = "abx") -> None:
        """One request for each model in turn, three times: whoever asks from then on is told a bound."""
        for name in 3 * names:
            self.ask(name)
            self.until_calm()

    def until_calm(self) -> None:
        while self.coming or self.book.timer is not None:
            self.step()

    def until(self, moment: float) -> None:
        while self.now < moment:
            self.step()


@pytest.mark.parametrize("work", [5.0, 20.0, 60.0])
def test_an_expensive_model_is_not_passed_over_by_cheap_ones_in_turn(work):
    crowd = Crowd(work)
    crowd.until(1000.0)
    assert crowd.book.worker("x").state is WorkerState.UNLOADED
    assert crowd.book.worker("x").cost(WorkerState.STARTING) == Cost(60.0)
    crowd.ask("x")
    crowd.until(crowd.now + 3000.0)
    assert crowd.waits["x"], "starved"
    # Its target, a turn and a switch of each of the two, its own switch, and one answer that was under way.
    assert crowd.waits["x"][0] <= 30 + 2 * (max(work, START) + START) + START + SLEEP + work


@pytest.mark.parametrize("work", [5.0, 60.0])
def test_two_busy_models_share_the_gpu(work):
    crowd = Crowd(work)
    crowd.until(4000.0)
    assert min(len(crowd.waits["a"]), len(crowd.waits["b"])) >= 10


@pytest.mark.parametrize("start", [0, *thorough(10, 20, 30)])
def test_no_stated_bound_is_broken_by_clients_that_return(start):
    """Random closed loops: models keep their turns for clients that pause, and whoever waits is served in time."""
    for seed in seeds(start, 10):
        chance = random.Random(seed)
        clients = [
            (chance.choice("abx"), chance.choice([0.0, 0.03, 0.1, 0.5, 1.0, 1.4, 3.0, 10.0, 40.0]))
            for _ in range(chance.randint(2, 8))
        ]
        crowd = Crowd(chance.choice([0.1, 0.5, 2.0, 10.0]), [])
        crowd.measure_every_switch()
        for name, pause in clients:
            crowd.ask(name, pause)
        crowd.until(crowd.now + 250.0)  # some seven bounds
        assert crowd.bounds[crowd.last] < inf
        assert not crowd.late, f"seed {seed}, work {crowd.work}, {clients}: {crowd.late[:3]}"


@pytest.mark.parametrize("seed", [0, 1, *thorough(2, 3)])
def test_no_stated_bound_is_broken_where_some_are_awake_together(seed):
    chance = random.Random(seed)
    names = "abcdx"[: chance.randint(3, 5)]
    sizes = {name: chance.choice([10, 20, 25, 30, 40, 50, 70, 80]) for name in names}
    pauses = [0.0, 0.03, 0.1, 0.5, 1.0, 1.4, 3.0, 10.0, 40.0]
    models = [*names, *chance.choices(names, k=chance.randint(0, 6))]
    crowd = Crowd(chance.choice([0.5, 2.0, 10.0]), [(name, chance.choice(pauses)) for name in models], sizes)
    crowd.until(500.0)  # all are loaded
    for name in names:  # some have fitted beside all others so far, and have never slept
        crowd.book.worker(name).costs[WorkerState.WAKING, 2].learn(WAKE)
        crowd.book.worker(name).costs[WorkerState.FALLING_ASLEEP, 2].learn(SLEEP)
    crowd.until(700.0)
    assert crowd.bounds[crowd.last] < inf
    assert not crowd.late, f"work {crowd.work}, {sizes}, {models}: {crowd.late[:3]}"
    assert all(crowd.waits.values())


def test_two_agents_in_turns_do_not_cost_a_switch_for_each_request():
    crowd = Crowd(0.5, [("a", 0.5), ("b", 0.5)])
    crowd.until(300.0)  # both are loaded
    before = sum(crowd.book.worker(name).generation for name in "ab")
    answered = sum(map(len, crowd.waits.values()))
    crowd.until(600.0)
    switches = sum(crowd.book.worker(name).generation for name in "ab") - before
    assert (sum(map(len, crowd.waits.values())) - answered) / switches > 10


@pytest.mark.parametrize("gap", [0.5, 1.0, 2.0, 4.0])
def test_clients_who_ask_once_are_all_answered_as_soon_as_if_every_idle_model_gave_way_at_once(gap):
    """Worlds of 24 requests that come by chance to one of two models, `gap` seconds from each other in the mean."""

    def seconds(*, keep_turns: bool) -> float:
        spent = 0.0
        for seed in seeds(0, 20):
            crowd = Crowd(0.5, [])
            crowd.book.scheduler.switching.lineup.keep_turns = keep_turns
            crowd.measure_every_switch("ab")
            chance, at, began = random.Random(seed), crowd.now, crowd.now
            for _ in range(24):
                at += chance.expovariate(1 / gap)
                heapq.heappush(crowd.coming, (at, next(crowd.order), Return(at, chance.choice("ab"), inf)))
            crowd.until_calm()
            spent += crowd.now - began
        return spent

    assert seconds(keep_turns=True) <= 1.05 * seconds(keep_turns=False)
