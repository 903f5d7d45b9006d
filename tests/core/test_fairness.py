"""Who waits is served within the stated maximum, also beside models that cost less and never rest."""

import heapq

import pytest

from muxd.core.commands import GrantLease, SleepWorker, StartWorker, WakeWorker
from muxd.core.events import Event, LeaseAsked, LeaseEnded, TimerFired, WorkerAsleep, WorkerReady
from muxd.core.states import State
from muxd.core.worker import Cost

from .playbook import Playbook

START, WAKE, SLEEP = 60.0, 1.0, 0.5


class Crowd:
    """Clients of a and b that ask again as soon as they are answered; every answer takes `work` seconds."""

    def __init__(self, work: float) -> None:
        self.work = work
        self.now = 0.0
        self.book = Playbook("a", "b", "x", wait_target=30.0)
        self.coming: list[tuple[float, int, Event]] = []
        self.asked: dict[int, tuple[str, float]] = {}  # lease -> model, when
        self.waits: dict[str, list[float]] = {"a": [], "b": [], "x": []}
        self.last = self.numbers = 0
        for name in "ab":
            self.ask(name)

    def ask(self, name: str) -> None:
        self.last += 1
        self.asked[self.last] = (name, self.now)
        self.tell(LeaseAsked(self.now, self.last, name))

    def later(self, seconds: float, kind: type, *facts: object) -> None:
        heapq.heappush(
            self.coming, (self.now + seconds, len(self.coming) + self.last, kind(self.now + seconds, *facts))
        )

    def tell(self, event: Event) -> None:
        self.book >> event
        commands, self.book.pending = self.book.pending, []
        for command in commands:
            match command:
                case StartWorker(worker):
                    self.later(START, WorkerReady, worker, f"http://{worker}")
                case WakeWorker(worker):
                    self.later(WAKE, WorkerReady, worker, f"http://{worker}")
                case SleepWorker(worker):
                    self.later(SLEEP, WorkerAsleep, worker)
                case GrantLease(lease):
                    name, asked = self.asked[lease]
                    self.waits[name].append(self.now - asked)
                    self.later(self.work, LeaseEnded, lease)

    def step(self) -> None:
        timer = self.book.timer
        if timer is not None and (not self.coming or timer <= self.coming[0][0]):
            self.now, self.book.timer = max(self.now, timer), None
            self.tell(TimerFired(self.now))
            return
        self.now, _, event = heapq.heappop(self.coming)
        self.tell(event)
        if isinstance(event, LeaseEnded) and self.asked[event.lease][0] != "x":
            self.ask(self.asked[event.lease][0])

    def until(self, moment: float) -> None:
        while self.now < moment:
            self.step()


@pytest.mark.parametrize("work", [5.0, 20.0, 60.0])
def test_an_expensive_model_is_not_passed_over_by_cheap_ones_in_turn(work):
    crowd = Crowd(work)
    crowd.until(1000.0)
    assert crowd.book.worker("x").state is State.UNLOADED
    assert crowd.book.worker("x").costs[State.STARTING] == Cost(60.0)
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
