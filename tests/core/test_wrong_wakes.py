"""A worker that woke, and answers otherwise than when it was loaded: it is loaded anew; two in a row cost its level."""

import pytest

from muxd.core.commands import FailOrder, FinishOrder, GrantLease, RecordMove, SleepWorker, StartWorker, StopWorker
from muxd.core.commands import WakeWorker as Wake
from muxd.core.events import (
    GpusMeasured,
    HostRamLimited,
    LeaseAsked,
    LeaseEnded,
    OrderGiven,
    Reconfigured,
    Verb,
    WakeFailed,
    WorkerAsleep,
    WorkerExited,
    WorkerReady,
)
from muxd.core.spec import GroupSpec
from muxd.core.states import WorkerState

from .playbook import Playbook, single

GiB = 1 << 30
LEVELS = {0: frozenset({0, 2, 3}), 1: frozenset({0, 1, 3}), 2: frozenset({0, 2, 3})}
WHY = "its token 1 is 0, and was 31"


def model(level: int, *, relaunched: bool = True, **more) -> GroupSpec:
    """A model that sleeps at `level`; `relaunched`: muxd itself can launch its server for other levels."""
    launchable = frozenset({0, 1, 2, 3}) if relaunched else frozenset()
    return single("a", sleep_level=level, levels=LEVELS[level], launchable=launchable, **more)


class Model:
    """One model whose clients come one at a time."""

    def __init__(self, spec: GroupSpec, ram: int = 0) -> None:
        self.book = Playbook(spec, keep_turns=False) >> GpusMeasured(0, {"0": 80 * GiB})
        self.book = self.book >> HostRamLimited(0, ram * GiB) if ram else self.book
        self.time = 0.0

    @property
    def worker(self):
        return self.book.worker("a")

    def now(self) -> float:
        self.time += 1
        return self.time

    def does(self, event: object) -> list[object]:
        """Every command that an event causes, but moves and timers."""
        self.book = self.book >> event
        commands, self.book.pending = self.book.pending, []
        return commands

    def loads(self, level: int | None = None) -> None:
        """A client asks, and it is loaded for a level, by default the configured one."""
        assert StartWorker("a", level) in self.does(LeaseAsked(self.now(), 1, "a"))
        self.is_ready()

    def is_ready(self) -> None:
        assert any(isinstance(each, GrantLease) for each in self.does(WorkerReady(self.now(), "a", "http://a")))
        self.does(LeaseEnded(self.now(), 1))

    def sleeps(self, level: int | None = None) -> None:
        at = self.worker.sleep_level if level is None else level
        assert SleepWorker("a", at) in self.does(OrderGiven(self.now(), 9, "a", Verb.SLEEP, level=level))
        assert FinishOrder(9, WorkerState.ASLEEP) in self.does(WorkerAsleep(self.now(), "a"))

    def wakes_wrong(self, launched: int | None = None) -> None:
        """A client asks; it wakes wrong, is killed, and is started from nothing at once."""
        assert self.does(LeaseAsked(self.now(), 1, "a")) == [Wake("a")]
        failed = WakeFailed(self.now(), "a", WHY, "woke_wrong", is_wrong=True)
        assert self.does(failed) == [StopWorker("a", kill=True)]
        assert self.does(WorkerExited(self.now(), "a")) == [StartWorker("a", launched)]
        self.is_ready()

    def wakes(self) -> None:
        assert self.does(LeaseAsked(self.now(), 1, "a")) == [Wake("a")]
        self.is_ready()


def test_a_wrong_wake_grants_nobody_anything_is_killed_and_loaded_anew_with_its_cause():
    a = Model(model(2))
    a.loads()
    a.sleeps()
    a.book.hidden = ()
    a.does(LeaseAsked(a.now(), 1, "a"))
    moves = a.does(WakeFailed(a.now(), "a", WHY, "woke_wrong", is_wrong=True))
    reason = f"its wake from level 2 was wrong: {WHY}"
    assert RecordMove("a", WorkerState.WAKING, WorkerState.STOPPING, reason, "woke_wrong") in moves
    assert StopWorker("a", kill=True) in moves
    moves = a.does(WorkerExited(a.now(), "a"))
    assert RecordMove("a", WorkerState.STOPPING, WorkerState.BACKOFF, reason, "woke_wrong") in moves
    assert StartWorker("a") in moves
    assert (a.worker.ended, a.worker.ended_code, a.worker.woke_wrong_count) == (reason, "woke_wrong", 1)
    assert a.worker.level_trouble == reason
    a.is_ready()
    assert a.worker.level_trouble == "", "it was loaded anew, and sleeps as it is configured to"
    assert not a.worker.failures, "a wrong wake is no failure of the model"


@pytest.mark.parametrize(("level", "instead"), [(2, 1), (1, 3), (0, 3)])
def test_after_two_in_a_row_the_level_is_left_for_one_that_is_safe_and_that_is_said(level, instead):
    a = Model(model(level))
    a.loads()
    a.sleeps()
    a.wakes_wrong()
    assert (a.worker.sleep_level, a.worker.distrust) == (level, "")
    a.sleeps()
    a.wakes_wrong(instead)
    said = f"sleeps at {instead}: 2 wakes in a row from level {level} were wrong"
    assert (a.worker.sleep_level, a.worker.launch_note, a.worker.distrust) == (instead, said, said)
    assert level not in a.worker.levels_left


def test_a_server_that_only_its_script_can_launch_ends_instead():
    a = Model(model(2, relaunched=False))
    a.loads()
    for launched in (None, 3):
        a.sleeps()
        a.wakes_wrong(launched)
    assert a.worker.levels_left == [3]


def test_a_right_wake_between_two_wrong_ones_makes_them_no_row():
    a = Model(model(2))
    a.loads()
    a.sleeps()
    a.wakes_wrong()
    a.sleeps()
    a.wakes()
    assert a.worker.level_trouble == ""
    a.sleeps()
    a.wakes_wrong()
    assert a.worker.sleep_level == 2


def test_wrong_wakes_from_two_levels_are_no_row_from_either():
    a = Model(model(2))
    a.loads()
    a.sleeps(0)
    a.wakes_wrong()
    a.sleeps(2)
    a.wakes_wrong()
    assert (a.worker.sleep_level, a.worker.distrusted) == (2, frozenset())
    a.sleeps(0)
    a.wakes()
    a.sleeps(2)
    a.wakes_wrong(1)
    assert a.worker.distrusted == {2}, "the right wake was from another level"


def test_from_level_1_it_wakes_as_ever_and_from_there_too_after_two_wrong_ones_it_ends():
    a = Model(model(2))
    a.loads()
    for launched in (None, 1):
        a.sleeps()
        a.wakes_wrong(launched)
    a.sleeps(1)
    a.wakes()
    for launched in (1, 3):
        a.sleeps()
        a.wakes_wrong(launched)
    assert (a.worker.sleep_level, a.worker.levels_left) == (3, [3])
    assert StopWorker("a") in a.does(OrderGiven(a.now(), 9, "a", Verb.SLEEP))


def test_nobody_can_order_it_to_the_level_that_was_left():
    a = Model(model(2))
    a.loads()
    for launched in (None, 1):
        a.sleeps()
        a.wakes_wrong(launched)
    (refused,) = a.does(OrderGiven(a.now(), 9, "a", Verb.SLEEP, level=2))
    assert isinstance(refused, FailOrder)
    assert refused.code == "level_refused"
    a.sleeps(0)
    a.wakes()


def test_a_deeper_level_alone_is_left_where_that_was_wrong():
    """One that sleeps at 0, and was wrong after two sleeps at 2, goes on sleeping at 0."""
    a = Model(model(0))
    a.loads()
    for _ in range(2):
        a.sleeps(2)
        a.wakes_wrong()
    assert (a.worker.sleep_level, a.worker.levels_left) == (0, [0, 3])
    a.sleeps(0)
    a.wakes()


def test_one_that_is_to_sleep_at_1_then_and_finds_no_host_ram_ends_instead():
    a = Model(model(2, copy=30 * GiB), ram=20)
    a.loads()
    for launched in (None, 3):
        a.sleeps()
        a.wakes_wrong(launched)
    assert a.worker.launch_note == "sleeps at 3: host RAM has 20.0 of 30.0 GiB"


def test_one_that_is_to_sleep_at_1_then_has_its_copy_counted():
    a = Model(model(2, copy=30 * GiB), ram=40)
    a.loads()
    for launched in (None, 1):
        a.sleeps()
        a.wakes_wrong(launched)
    assert a.worker.copy == 30 * GiB


def test_another_configuration_trusts_it_again():
    a = Model(model(2))
    a.loads()
    for launched in (None, 1):
        a.sleeps()
        a.wakes_wrong(launched)
    changed = model(2, restart_limit=9)
    a.does(Reconfigured(a.now(), (changed,), frozenset({"a"}), 30.0))
    a.does(WorkerExited(a.now(), "a"))
    assert (a.worker.sleep_level, a.worker.distrust) == (2, "")


def test_what_is_told_with_readiness_is_the_reason_of_the_state():
    book = Playbook(model(2), moves=True) >> LeaseAsked(1, 1, "a")
    book.pending.clear()
    book = book >> WorkerReady(2, "a", "http://a", "no wake proof: it says nothing")
    assert book.pending[0] == RecordMove("a", WorkerState.STARTING, WorkerState.READY, "no wake proof: it says nothing")
    book.pending.clear()
    assert book.worker("a").reason == "no wake proof: it says nothing"
