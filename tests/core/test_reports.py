"""Reports come many times a second: what is not decided anew for them is decided in time all the same."""

import random
from collections import deque

import pytest

from muxd.core.commands import Command, SetTimer, SleepWorker, StartWorker
from muxd.core.events import (
    DemandReported,
    Event,
    GpusMeasured,
    LeaseAsked,
    LeaseEnded,
    Started,
    TimerFired,
    Waiting,
    WorkerAsleep,
    WorkerReady,
)
from muxd.core.lineup import AT_ONCE
from muxd.core.scheduler import Scheduler
from tests.seeds import seeds

from .playbook import anywhere, single
from .slow_scheduler import SlowScheduler, wakes

#: Models that wait for the GPU of the first: alike, of many sizes, of several priorities, and for any of two GPUs.
HOSTS = {
    "alike": [single(name) for name in "abcdef"],
    "sizes": [single(name, share=size) for name, size in zip("abcdef", (60, 30, 30, 40, 70, 50), strict=True)],
    "priorities": [single(name, priority=number % 3 - 1) for number, name in enumerate("abcdef")],
    "anywhere": [anywhere(name, 1, "0", "1") for name in "abcdef"],
}

#: Seconds by which a decision may be late where the one that serves reports, too: of two that serve on a GPU each,
#: it is found with the next decision, or with fewer answers under way, which one is to give way.
DRIFT = 0.2


class Host:
    """One model serves requests and all others wait, at two holders each; `fast` and `slow` hear the same."""

    def __init__(self, name: str, seed: int, late: float) -> None:
        self.late = late
        self.rng = random.Random(seed)
        self.now = 0.0
        self.fast, self.slow = (kind(HOSTS[name], wait_target=8.0) for kind in (Scheduler, SlowScheduler))
        self.came = [[0.0] * self.rng.randint(0, 3) for _ in range(13)]  # by lease: when each that waits came
        begun = [Started(0.0), *(LeaseAsked(0.0, lease, "abcdef"[lease % 6], (Waiting(),)) for lease in range(1, 13))]
        self.tell(GpusMeasured(0.0, {"0": 80, "1": 80}))
        ahead = deque(command for event in begun for command in self.tell(event))
        while ahead:
            if isinstance(command := ahead.popleft(), StartWorker):
                ahead.extend(self.tell(WorkerReady(0.0, command.worker, "http://127.0.0.1:1")))
        self.waiting = [lease for lease in range(1, 13) if not self.fast.host.leases.all[lease].in_flight]
        self.serving = [lease for lease in range(1, 13) if lease not in self.waiting and late == DRIFT]

    def tell(self, event: Event) -> list[Command]:
        """Tell both; return what both do, without their timers."""
        done, same = ([c for c in each.handle(event) if not isinstance(c, SetTimer)] for each in (self.fast, self.slow))
        assert done == same, event
        assert wakes(self.fast) <= wakes(self.slow) + self.late, event
        return done

    def report(self) -> list[Command]:
        """Let a holder tell what it has now, after some time."""
        end = self.now + self.rng.choice((0.0, 0.05, 1.0, 6.0))
        if (at := wakes(self.fast)) <= end:
            self.now = max(self.now, at)
            return self.tell(TimerFired(self.now))
        self.now = end
        if self.serving and self.rng.random() < 0.3:
            lease, count, usual = (
                self.rng.choice(self.serving),
                self.rng.randint(0, 8),
                self.rng.choice((None, 0.5, 0.6)),
            )
            oldest = self.rng.choice((None, 0.3, 0.6, 2.0)) if count else None
            return self.tell(DemandReported(self.now, lease, count, oldest=oldest, usual=usual))
        lease = self.rng.choice(self.waiting)
        came = self.came[lease]
        if self.rng.random() < 0.3:
            came.append(self.now)
        elif came and self.rng.random() < 0.2:
            came.pop(0)
        if self.rng.random() < 0.1:
            came.insert(0, self.now - self.rng.uniform(0.0, 6.0))  # it was told late
        each = (Waiting(1, self.now - at, priority=self.rng.randint(0, 2)) for at in came)
        return self.tell(DemandReported(self.now, lease, 0, tuple(each)))


@pytest.mark.parametrize("late", [AT_ONCE, DRIFT], ids=["of who waits", "of all"])
@pytest.mark.parametrize("name", HOSTS)
def test_a_report_that_is_not_decided_for_itself_hastens_the_next_decision(name, late):
    for seed in seeds(0, 32):
        host = Host(name, seed, late)
        assert any(host.report() for _ in range(2000)), f"seed {seed}: nobody comes"


@pytest.mark.parametrize("in_flight", [0, 1, 4, 8, 20])
def test_of_many_reports_of_one_model_each_that_hastens_the_next_decision_does(in_flight):
    """The model that serves has as many requests all the time; of the other one more and older ones are told."""
    for seed in seeds(0, 100):
        rng, now = random.Random(seed), 60.0
        both = [kind([single("a"), single("b")], wait_target=8.0) for kind in (Scheduler, SlowScheduler)]
        begun = [GpusMeasured(0.0, {"0": 80}), Started(0.0), LeaseAsked(0.0, 1, "a", (Waiting(),))]
        begun += [WorkerReady(1.0, "a", "http://127.0.0.1:1"), DemandReported(1.0, 1, 5)]
        begun += [DemandReported(at, 1, in_flight, usual=2.0) for at in (2.0, 55.0, 58.0, 60.0)]
        came = now - rng.choice((0.0, 1.0, 3.0))
        for event in (*begun, LeaseAsked(now, 2, "b", (Waiting(1, now - came),))):
            done = [[c for c in each.handle(event) if not isinstance(c, SetTimer)] for each in both]
        while done == [[], []]:
            if (at := wakes(both[0])) <= (now := now + rng.choice((0.001, 0.01, 0.05))):
                event = TimerFired(now := at)
            else:
                came += rng.choice((0.0, 0.0, 0.0002, -0.0002, -0.05, -1.0, 0.2))
                event = DemandReported(now, 2, 0, (Waiting(rng.choice((1, 2, 5, 50)), now - min(came, now)),))
            done = [[c for c in each.handle(event) if not isinstance(c, SetTimer)] for each in both]
            assert wakes(both[0]) <= wakes(both[1]) + AT_ONCE, (seed, event)
        assert done[0] == done[1] != [], (seed, event)


FIRST, SECOND, BOTH = frozenset("0"), frozenset("1"), frozenset("01")

#: Models of two GPUs, of which a is the first that is idle; all but those that serve wait for it, or for others beside.
BESIDE = {
    "one GPU": [single(name, FIRST) for name in "abcd"],
    "priorities": [single(name, FIRST, priority=number - 2) for number, name in enumerate("abcd")],
    "a pinned one beside": [*(single(name, FIRST) for name in "abcd"), single("p", SECOND, pinned=True)],
    "two GPUs": [*(single(name, FIRST) for name in "abc"), single("e", SECOND), single("f", SECOND), single("g", BOTH)],
    "any GPU": [single("a", FIRST), single("e", SECOND), single("b", FIRST), *(anywhere(n, 1, "0", "1") for n in "cd")],
}


class KeptHost:
    """Some models that serve an agent each have become idle, and all others wait; `fast` and `slow` hear the same."""

    def __init__(self, name: str, seed: int) -> None:
        self.rng = random.Random(seed)
        self.both = [kind(BESIDE[name], wait_target=30.0) for kind in (Scheduler, SlowScheduler)]
        self.now = 0.0
        self.tell(GpusMeasured(0.0, {"0": 80, "1": 80}))
        self.tell(Started(0.0))
        names = [spec.name for spec in BESIDE[name]]
        serving = [name for name in "pea" if name in names]
        others = [name for name in names if name not in serving]
        for lease, model in enumerate([*(name for name in others if self.rng.random() < 0.8), *serving], start=100):
            self.bring(lease, model)
            if model in others:
                self.tell(LeaseEnded(self.now, lease))
        for count in (1, 0):
            self.now += 0.1
            for model in serving:
                (lease,) = self.both[0].host.groups[model].granted
                self.tell(DemandReported(self.now, lease, count))
        self.counts = dict.fromkeys(range(len(others)), 1)
        self.batch = {lease for lease in self.counts if self.rng.random() < 0.2}
        self.asked = self.now
        for lease, model in enumerate(others):
            self.tell(LeaseAsked(self.now, lease, model, self.waiting(lease)))

    def tell(self, event: Event) -> list[Command]:
        """Tell both; return what both do, without their timers."""
        done, same = ([c for c in each.handle(event) if not isinstance(c, SetTimer)] for each in self.both)
        assert done == same, event
        assert wakes(self.both[0]) <= wakes(self.both[1]) + AT_ONCE, event
        return done

    def waiting(self, lease: int) -> tuple[Waiting, ...]:
        return (Waiting(self.counts[lease], self.now - self.asked, is_batch=lease in self.batch),)

    def bring(self, lease: int, model: str) -> None:
        """Have a model serve an agent that returns again and again, after whoever is in its way sleeps."""
        self.now += 400.0
        ahead = deque(self.tell(LeaseAsked(self.now, lease, model)))
        while ahead:
            match ahead.popleft():
                case SleepWorker(worker):
                    self.now += 0.2
                    ahead.extend(self.tell(WorkerAsleep(self.now, worker)))
                case StartWorker(worker):
                    self.now += self.rng.choice((1.0, 2.0, 6.0, 12.0))
                    ahead.extend(self.tell(WorkerReady(self.now, worker, "http://127.0.0.1:1")))
        think = self.rng.choice((0.05, 0.2, 0.4))
        for _ in range(4):
            self.tell(DemandReported(self.now + 1.0, lease, 0))
            self.now += 1.0 + think
            self.tell(DemandReported(self.now, lease, 1))
        self.tell(DemandReported(self.now, lease, 0))

    def report(self) -> list[Command]:
        """Let a holder tell another number of requests, or the time of the next decision come."""
        end = self.now + self.rng.choice((0.0, 0.01, 0.1))
        if (at := wakes(self.both[0])) <= end:
            self.now = max(self.now, at)
            return self.tell(TimerFired(self.now))
        self.now = end
        lease = self.rng.choice(list(self.counts))
        self.counts[lease] = self.rng.choice((1, self.counts[lease] + 1, 9))
        return self.tell(DemandReported(self.now, lease, 0, self.waiting(lease)))


@pytest.mark.parametrize("name", BESIDE)
def test_an_idle_model_gives_way_to_the_same_one_as_if_each_report_of_others_were_decided_for_itself(name):
    for seed in seeds(0, 160):
        host = KeptHost(name, seed)
        for _ in range(30):
            host.report()
