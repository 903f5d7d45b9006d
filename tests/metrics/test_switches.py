"""What is counted as a switch, and where its time is said to have gone."""

from typing import Self

import pytest

from muxd.core.commands import RecordMove, SetTimer
from muxd.core.events import (
    DemandReported,
    Event,
    LeaseAsked,
    LeaseEnded,
    OrderGiven,
    RouterSynced,
    SleepFailed,
    SwitchAsked,
    Verb,
    WakeFailed,
    WorkerAsleep,
    WorkerExited,
    WorkerReady,
)
from muxd.core.scheduler import Scheduler
from muxd.core.spec import GroupSpec
from muxd.core.states import COMING, WorkerState
from muxd.metrics.switches import Switches, SwitchKind, Tally
from tests.core.playbook import replicas, single
from tests.core.random_world import World
from tests.seeds import EVERY, seeds


class Counted:
    """The real core and what is counted of it; `waited`: what each worker last waited for memory."""

    def __init__(self, *specs: GroupSpec) -> None:
        self.scheduler = Scheduler(specs, wait_target=0.0)
        self.switches = Switches()
        self.waited: dict[str, float] = {}

    def __rshift__(self, event: Event) -> Self:
        running = self.scheduler.switching.running
        for command in self.scheduler.handle(event):
            if isinstance(command, RecordMove) and command.worker in self.scheduler.host.groups:
                running, level = self.scheduler.switching.running, self.level(command.worker)
                waited = self.waited.get(command.worker, 0.0)
                self.switches.note(command, event.time, running, level=level, waited=waited)
        return self

    def level(self, name: str) -> int:
        return self.scheduler.host.groups[name].spec.workers[0].sleep_level

    @property
    def tallies(self) -> dict[SwitchKind, Tally]:
        return self.switches.tallies()

    @property
    def counts(self) -> dict[tuple[str, str, str], int]:
        return {(kind.origin, kind.target, kind.level): tally.count for kind, tally in self.tallies.items()}


def ready_a(level: int = 2) -> Counted:
    """Model a, of this sleep level, is ready since second 10; it and b do not fit together."""
    counted = Counted(single("a", sleep_level=level), single("b", sleep_level=1))
    return counted >> SwitchAsked(0, 1, "a") >> WorkerReady(10, "a", "http://a")


def parts(counted: Counted, *kind: str) -> dict[str, float]:
    return {part: round(value, 6) for part, value in counted.tallies[SwitchKind(*kind)].seconds.items()}


def test_a_first_load_is_a_switch_from_nobody():
    counted = Counted(single("a"))
    counted >> SwitchAsked(0, 1, "a")
    counted.waited["a"] = 0.5
    counted >> WorkerReady(10, "a", "http://a")
    assert counted.counts == {("", "a", ""): 1}
    assert parts(counted, "", "a", "") == {"drain": 0, "sleep": 0, "free": 0.5, "wake": 9.5}


def test_the_four_parts_of_a_switch_at_level_2():
    counted = ready_a()
    counted >> LeaseAsked(11, 1, "a") >> DemandReported(12, 1, in_flight=1)
    counted >> SwitchAsked(20, 2, "b") >> LeaseEnded(23, 1)
    counted.waited["a"] = 1.5
    counted >> WorkerAsleep(28, "a")
    counted.waited["b"] = 0.25
    counted >> WorkerReady(30, "b", "http://b")
    assert counted.counts == {("", "a", ""): 1, ("a", "b", "2"): 1}
    assert parts(counted, "a", "b", "2") == {"drain": 3, "sleep": 3.5, "free": 1.75, "wake": 1.75}


def test_an_idle_model_drains_in_no_time():
    counted = ready_a() >> SwitchAsked(20, 2, "b") >> WorkerAsleep(21, "a") >> WorkerReady(22, "b", "http://b")
    assert parts(counted, "a", "b", "2") == {"drain": 0, "sleep": 1, "free": 0, "wake": 1}


def test_at_level_3_sleep_is_the_end_of_the_process():
    counted = ready_a(level=3) >> SwitchAsked(20, 2, "b")
    counted.waited["a"] = 0.5
    counted >> WorkerExited(24, "a") >> WorkerReady(30, "b", "http://b")
    assert parts(counted, "a", "b", "3") == {"drain": 0, "sleep": 3.5, "free": 0.5, "wake": 6}


def test_a_sleep_that_fails_counts_as_what_came_of_it():
    counted = ready_a(level=1) >> SwitchAsked(20, 2, "b") >> SleepFailed(22, "a", "no answer")
    counted >> WorkerExited(23, "a") >> WorkerReady(30, "b", "http://b")
    assert counted.counts == {("", "a", ""): 1, ("a", "b", "3"): 1}
    assert parts(counted, "a", "b", "3")["sleep"] == 3


def test_switches_of_one_kind_add_up():
    counted = ready_a()
    for turn in (20, 40):
        counted >> SwitchAsked(turn, turn, "b") >> WorkerAsleep(turn + 1, "a") >> WorkerReady(turn + 3, "b", "http://b")
        counted >> SwitchAsked(turn + 5, turn + 5, "a") >> WorkerAsleep(turn + 6, "b")
        counted >> WorkerReady(turn + 7, "a", "http://a")
    assert counted.counts == {("", "a", ""): 1, ("a", "b", "2"): 2, ("b", "a", "1"): 2}
    assert parts(counted, "a", "b", "2") == {"drain": 0, "sleep": 2, "free": 0, "wake": 4}


def test_of_several_that_give_way_the_last_one_decides():
    specs = single("a", sleep_level=1), single("b", sleep_level=3, gpus=frozenset({"1"}))
    counted = Counted(*specs, single("both", gpus=frozenset({"0", "1"})))
    counted >> SwitchAsked(0, 1, "a") >> WorkerReady(1, "a", "http://a")
    counted >> SwitchAsked(2, 2, "b") >> WorkerReady(3, "b", "http://b")
    counted >> LeaseAsked(4, 1, "b") >> DemandReported(4, 1, in_flight=1)
    counted >> SwitchAsked(10, 3, "both") >> WorkerAsleep(11, "a") >> LeaseEnded(14, 1)
    counted.waited["b"] = 2
    counted >> WorkerExited(20, "b") >> WorkerReady(25, "both", "http://both")
    assert parts(counted, "a+b", "both", "1+3") == {"drain": 4, "sleep": 4, "free": 2, "wake": 5}


def test_what_was_leaving_already_counts_from_the_decision_on():
    counted = ready_a() >> OrderGiven(20, 2, "a", Verb.SLEEP)
    assert counted.scheduler.host.workers["a"].state is WorkerState.FALLING_ASLEEP
    counted >> SwitchAsked(25, 3, "b") >> WorkerAsleep(26, "a") >> WorkerReady(30, "b", "http://b")
    assert parts(counted, "a", "b", "2") == {"drain": 0, "sleep": 1, "free": 0, "wake": 4}


def test_a_switch_that_is_called_off_is_none():
    counted = ready_a() >> LeaseAsked(11, 1, "a") >> DemandReported(12, 1, in_flight=1)
    counted >> SwitchAsked(20, 2, "b") >> SwitchAsked(21, 3, "a")
    assert counted.scheduler.host.workers["a"].state is WorkerState.READY
    assert counted.counts == {("", "a", ""): 1}
    counted >> LeaseEnded(30, 1) >> SwitchAsked(40, 4, "b") >> WorkerAsleep(41, "a") >> WorkerReady(42, "b", "http://b")
    assert parts(counted, "a", "b", "2") == {"drain": 0, "sleep": 1, "free": 0, "wake": 1}


def test_a_switch_whose_target_fails_is_none_and_the_next_one_counts():
    counted = ready_a() >> SwitchAsked(20, 2, "b") >> WorkerAsleep(21, "a") >> WorkerExited(25, "b")
    assert counted.scheduler.host.workers["b"].state is WorkerState.STARTING, "it is tried again at once"
    assert counted.counts == {("", "a", ""): 1}
    counted >> WorkerReady(30, "b", "http://b")
    assert counted.counts == {("", "a", ""): 1, ("", "b", ""): 1}
    assert parts(counted, "", "b", "")["wake"] == 5


def test_after_a_wake_that_failed_nobody_gave_way_to_the_cold_start():
    counted = ready_a() >> SwitchAsked(20, 2, "b") >> WorkerAsleep(21, "a") >> WorkerReady(22, "b", "http://b")
    counted >> SwitchAsked(30, 3, "a") >> WorkerAsleep(31, "b") >> WakeFailed(32, "a", "no answer")
    counted >> WorkerExited(33, "a") >> WorkerReady(43, "a", "http://a")
    assert counted.counts == {("", "a", ""): 2, ("a", "b", "2"): 1}


class Watched(World):
    """Any world, what is counted in it, and a second book of it."""

    def __init__(self, seed: int) -> None:
        self.switches = Switches()
        self.begun: dict[str, tuple[str, float]] = {}  # target -> who gave way, since when
        self.ended: dict[tuple[str, str], list[float]] = {}  # of which kind -> how long each took
        super().__init__(seed)

    def tell(self, event: Event) -> None:
        self.book.hidden = (SetTimer,)
        self.book >> event
        commands = list(self.book.pending)
        self.book.pending.clear()
        for command in commands:
            if isinstance(command, RecordMove):
                self.note(command, self.book.scheduler.host.now)
            self.obey(command)

    def note(self, move: RecordMove, now: float) -> None:
        host, running = self.book.scheduler.host, self.book.scheduler.switching.running
        level = host.workers[move.worker].spec.sleep_level if move.worker in host.workers else 3
        self.switches.note(move, now, running, level=level, waited=self.rng.choice([0.0, 0.5, 100.0]))
        if move.before in COMING and move.worker in self.begun:
            origin, since = self.begun.pop(move.worker)
            if move.after is WorkerState.READY:
                self.ended.setdefault((origin, move.worker), []).append(now - since)
        if move.after in COMING:
            (switch,) = (switch for switch in running if switch.target == move.worker)
            since = switch.since if switch.victims else now  # else who gave way is not in the configuration any more
            self.begun[move.worker] = "+".join(sorted(switch.victims)), since


@pytest.mark.parametrize("start", range(0, 300, 100))
def test_in_any_world_the_parts_are_all_of_every_switch_that_came_to_its_end(start):
    kinds = 0
    for seed in seeds(start, 100):
        world = Watched(seed)
        for _ in range(80):
            world.step()
        counts: dict[tuple[str, str], int] = {}
        seconds: dict[tuple[str, str], float] = {}
        for kind, tally in world.switches.tallies().items():
            which = kind.origin, kind.target
            counts[which] = counts.get(which, 0) + tally.count
            seconds[which] = seconds.get(which, 0.0) + sum(tally.seconds.values())
            assert min(tally.seconds.values()) >= -1e-9
            assert bool(kind.origin) == bool(kind.level)
        assert counts == {which: len(took) for which, took in world.ended.items()}
        assert seconds == pytest.approx({which: sum(took) for which, took in world.ended.items()})
        kinds += len(counts)
    assert kinds > 300 / EVERY, "many of them happened"


@pytest.mark.parametrize(("first", "second", "sleep"), [("pair/0", "pair/1", 3), ("pair/1", "pair/0", 2)])
def test_a_group_of_several_workers_gives_way_and_comes_as_one(first, second, sleep):
    """The other model comes when its own GPU is free, whatever happens on those that it does not need."""
    pair = replicas("pair", frozenset({"0"}), frozenset({"1"}))
    counted = Counted(pair, single("solo", frozenset({"1"}))) >> SwitchAsked(0, 1, "pair")
    counted >> WorkerReady(1, "pair/router", "http://pair") >> WorkerReady(4, "pair/0", "http://0")
    counted >> RouterSynced(4, "pair", ("http://0",)) >> WorkerReady(9, "pair/1", "http://1")
    counted >> SwitchAsked(10, 2, "solo") >> WorkerAsleep(12, first) >> WorkerAsleep(13, second)
    counted >> WorkerReady(18, "solo", "http://solo")
    assert counted.counts == {("", "pair", ""): 1, ("pair", "solo", "2"): 1}
    assert parts(counted, "pair", "solo", "2") == {"drain": 0, "sleep": sleep, "free": 0, "wake": 8 - sleep}
