"""How deep a worker sleeps: at level 0 its weights stay on the GPU, and deeper is a move of its own."""

import pytest

from muxd.core.commands import (
    FailOrder,
    FinishOrder,
    GrantLease,
    RevokeLease,
    SleepWorker,
    StartWorker,
    StopWorker,
    WakeWorker,
)
from muxd.core.events import (
    DemandReported,
    GpusMeasured,
    LeaseAsked,
    LeaseEnded,
    OrderGiven,
    SleepFailed,
    Verb,
    WorkerAsleep,
    WorkerDied,
    WorkerExited,
    WorkerReady,
)
from muxd.core.spec import GroupSpec
from muxd.core.states import WorkerState

from .playbook import Playbook, replicas, single

CARD = 80  # "bytes"


def shallow(name: str, share: int, weights: int, **more) -> GroupSpec:
    """A model that sleeps at level 0, or deeper where that is needed."""
    return single(name, share=share, sleep_level=0, levels=frozenset({0, 2, 3}), resident=weights, **more)


def sleep(time: float, level: int | None = None, model: str = "a") -> OrderGiven:
    return OrderGiven(time, 9, model, Verb.SLEEP, level=level)


def ready(book: Playbook, name: str, lease: int, time: float) -> Playbook:
    """Load the model, and let it be idle."""
    return (
        book >> LeaseAsked(time, lease, name) << StartWorker(name)
        >> WorkerReady(time + 1, name, f"http://{name}") << GrantLease(lease, f"http://{name}", 1)
        >> DemandReported(time + 2, lease, 0, ())
    )  # fmt: skip


def asleep(*specs: GroupSpec, kept: int | None = 30) -> Playbook:
    """The first model sleeps at level 0, with `kept` bytes of its weights on the GPU."""
    book = Playbook(*specs, keep_turns=False) >> GpusMeasured(0, {"0": CARD})
    return (
        ready(book, specs[0].name, 1, 1) >> LeaseEnded(4, 1)
        >> sleep(5, 0) << SleepWorker("a", 0)
        >> WorkerAsleep(6, "a", kept) << FinishOrder(9, WorkerState.ASLEEP)
    )  # fmt: skip


A, B = shallow("a", 40, 30), shallow("b", 50, 35)


def test_who_gives_way_sleeps_no_deeper_than_the_other_one_needs():
    book = Playbook(A, B, keep_turns=False) >> GpusMeasured(0, {"0": 90 - 5})
    assert (
        ready(book, "a", 1, 1)
        >> LeaseAsked(9, 2, "b") << RevokeLease(1, "switch", "a gives way to b", 309)
        >> LeaseEnded(9.1, 1) << SleepWorker("a", 0)
        >> WorkerAsleep(9.5, "a", 30) << StartWorker("b")
        >> WorkerReady(20, "b", "http://b") << GrantLease(2, "http://b", 1)
    )  # fmt: skip


def test_who_gives_way_sleeps_deeper_at_once_where_its_weights_would_be_in_the_way():
    book = Playbook(A, shallow("b", 60, 50), keep_turns=False) >> GpusMeasured(0, {"0": CARD})
    assert (
        ready(book, "a", 1, 1)
        >> LeaseAsked(9, 2, "b") << RevokeLease(1, "switch", "a gives way to b", 309)
        >> LeaseEnded(9.1, 1) << SleepWorker("a", 2)
        >> WorkerAsleep(9.5, "a", 0) << StartWorker("b")
    )  # fmt: skip


def test_a_sleeper_whose_weights_are_in_the_way_sleeps_deeper_and_wakes_from_there():
    book = asleep(A, shallow("b", 60, 50))
    book = (
        book >> LeaseAsked(9, 2, "b") << SleepWorker("a", 2)
        >> WorkerAsleep(9.5, "a", 0) << StartWorker("b")
        >> WorkerReady(20, "b", "http://b") << GrantLease(2, "http://b", 1)
    )  # fmt: skip
    assert book.worker("a").level == 2
    assert book >> LeaseEnded(21, 2) >> LeaseAsked(22, 3, "a") << SleepWorker("b", 2)


def test_a_sleeper_that_keeps_more_than_was_declared_sleeps_deeper_before_the_other_one_comes():
    book = Playbook(A, B, keep_turns=False) >> GpusMeasured(0, {"0": CARD})
    assert (
        ready(book, "a", 1, 1)
        >> LeaseAsked(9, 2, "b") << RevokeLease(1, "switch", "a gives way to b", 309)
        >> LeaseEnded(9.1, 1) << SleepWorker("a", 0)
        >> WorkerAsleep(9.5, "a", 35) << SleepWorker("a", 2)
        >> WorkerAsleep(9.8, "a", 0) << StartWorker("b")
    )  # fmt: skip


def test_weights_that_nobody_measured_or_declared_count_as_the_whole_claim():
    book = asleep(shallow("a", 40, 0), B, kept=None)
    assert book >> LeaseAsked(9, 2, "b") << SleepWorker("a", 2)


def test_a_model_of_unknown_size_wants_the_gpu_without_another_ones_weights():
    book = asleep(A, single("b"))
    assert book >> LeaseAsked(9, 2, "b") << SleepWorker("a", 2) >> WorkerAsleep(9.5, "a", 3) << StartWorker("b")


def test_where_nothing_is_measured_a_sleepers_weights_are_in_the_way_of_everybody():
    book = Playbook(A, B, keep_turns=False)
    assert (
        ready(book, "a", 1, 1)
        >> LeaseAsked(9, 2, "b") << RevokeLease(1, "switch", "a gives way to b", 309)
        >> LeaseEnded(9.1, 1) << SleepWorker("a", 2)
    )  # fmt: skip


def test_a_sleeper_goes_deeper_rather_than_that_somebody_leaves_who_is_awake():
    book = asleep(A, shallow("b", 30, 20), shallow("c", 35, 25))
    book = ready(book, "b", 2, 10)
    assert book >> LeaseAsked(20, 3, "c") << SleepWorker("a", 2)
    assert book.state("b") is WorkerState.READY


def test_a_sleeper_at_level_0_wakes_beside_others_if_its_cache_has_room():
    book = ready(asleep(A, shallow("b", 40, 30)), "b", 2, 10)
    assert book >> LeaseAsked(20, 3, "a") << WakeWorker("a")


def test_a_sleeper_that_is_put_deeper_while_a_request_comes_wakes_from_there():
    assert (
        asleep(A) >> sleep(9, 2) << SleepWorker("a", 2)
        >> LeaseAsked(9.2, 2, "a")
        >> WorkerAsleep(9.5, "a", 0) << FinishOrder(9, WorkerState.ASLEEP) << WakeWorker("a")
    )  # fmt: skip


def test_a_sleeper_is_ended_at_level_3():
    assert (
        asleep(A) >> sleep(9, 3) << StopWorker("a", kill=True)
        >> WorkerExited(9.5, "a") << FinishOrder(9, WorkerState.UNLOADED)
    )  # fmt: skip


def test_a_sleep_at_the_level_that_a_worker_has_is_done_at_once():
    assert asleep(A) >> sleep(9, 0) << FinishOrder(9, WorkerState.ASLEEP)


def test_a_sleep_without_a_level_never_asks_for_a_shallower_one():
    book = asleep(A) >> sleep(9, 2) << SleepWorker("a", 2) >> WorkerAsleep(9.5, "a", 0)
    assert book << FinishOrder(9, WorkerState.ASLEEP) >> sleep(10) << FinishOrder(9, WorkerState.ASLEEP)


@pytest.mark.parametrize(
    ("level", "words"),
    [
        (0, "a sleeps at level 2 already; only a wake leads from there to level 0: `muxctl start a`, then sleep again"),
        (1, "a sleeps at level 2 already; only a wake leads from there to level 1: `muxctl start a`, then sleep again"),
    ],
)
def test_a_shallower_level_is_refused(level, words):
    book = asleep(A) >> sleep(9, 2) << SleepWorker("a", 2) >> WorkerAsleep(9.5, "a", 0)
    assert book << FinishOrder(9, WorkerState.ASLEEP) >> sleep(10, level) << FailOrder(9, "level_refused", words)


@pytest.mark.parametrize(
    ("spec", "level", "levels"),
    [(A, 1, "levels 0, 2 and 3"), (single("a", sleep_level=3), 2, "level 3")],
)
def test_a_level_that_the_process_does_not_have_is_refused(spec, level, levels):
    words = f"a cannot sleep at level {level}, only at {levels}: what its process can is settled by its sleep_level"
    assert Playbook(spec) >> sleep(9, level) << FailOrder(9, "level_refused", words)


def test_a_move_to_a_deeper_level_that_fails_ends_the_process():
    assert (
        asleep(A) >> sleep(9, 2) << SleepWorker("a", 2)
        >> SleepFailed(9.5, "a", "no answer") << StopWorker("a", kill=True)
        >> WorkerExited(9.9, "a") << FinishOrder(9, WorkerState.UNLOADED)
    )  # fmt: skip


def test_nobody_comes_before_the_weights_of_a_sleeper_that_died_are_gone():
    assert (
        asleep(A, shallow("b", 60, 50)) >> WorkerDied(9, "a", "exited with status 1")
        >> LeaseAsked(9.1, 2, "b")
        >> WorkerExited(9.5, "a") << StartWorker("b")
    )  # fmt: skip


def test_what_a_sleep_and_a_wake_take_is_learned_by_level():
    book = asleep(A) >> LeaseAsked(10, 2, "a") << WakeWorker("a")
    book = book >> WorkerReady(10.2, "a", "http://a") << GrantLease(2, "http://a", 2)
    worker = book.worker("a")
    assert worker.cost(WorkerState.FALLING_ASLEEP, 0).seconds == 1.0
    assert worker.cost(WorkerState.WAKING, 0).seconds == pytest.approx(0.2)
    assert not worker.cost(WorkerState.WAKING, 2).measured


def test_each_worker_of_a_group_goes_deeper_on_its_own_gpu_before_another_model_comes():
    each = {"share": 40, "sleep_level": 0, "levels": frozenset({0, 2, 3}), "resident": 30}
    pair = replicas("q", frozenset({"0"}), frozenset({"1"}), **each)
    book = Playbook(pair, shallow("b", 60, 50), keep_turns=False) >> GpusMeasured(0, {"0": CARD, "1": CARD})
    book = book >> LeaseAsked(1, 1, "q")
    book.pending.clear()
    for number in (0, 1):
        book = book >> WorkerReady(2, f"q/{number}", f"http://q{number}")
        book.pending.clear()
    book = book >> WorkerReady(3, "q/router", "http://q")
    book.pending.clear()
    book = book >> LeaseEnded(4, 1) >> OrderGiven(5, 9, "q", Verb.SLEEP, level=0)
    book.pending.clear()
    for number in (0, 1):
        book = book >> WorkerAsleep(6, f"q/{number}", 30)
        book.pending.clear()
    assert (book.group("q").state, book.group("q").level) == (WorkerState.ASLEEP, 0)
    book = book >> LeaseAsked(7, 2, "b")
    assert SleepWorker("q/0", 2) in book.pending
    book.pending.clear()
    book = book >> WorkerAsleep(8, "q/0", 0)
    book.pending.clear()
    book = book >> WorkerAsleep(8, "q/1", 0)
    assert [book.worker(f"q/{number}").level for number in (0, 1)] == [2, 2]
    assert (book.state("q"), book.state("b")) == (WorkerState.ASLEEP, WorkerState.STARTING)
    book.pending.clear()
