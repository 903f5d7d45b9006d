"""On which GPUs a model comes to which any will do."""

import pytest

from muxd.core.commands import (
    FailLease,
    FinishOrder,
    FinishSwitch,
    GrantLease,
    RevokeLease,
    SleepWorker,
    StartWorker,
    StopWorker,
    WakeWorker,
)
from muxd.core.events import (
    DemandReported,
    Failure,
    GpusMeasured,
    LeaseAsked,
    LeaseEnded,
    OrderGiven,
    Started,
    SwitchAsked,
    Verb,
    WeightsSeen,
    WorkerAsleep,
    WorkerExited,
    WorkerReady,
    WorkerStuck,
)
from muxd.core.spec import GroupSpec
from muxd.core.states import WorkerState

from .playbook import Playbook, anywhere, single

CARD = 80


def on_cards(*specs: GroupSpec, count: int = 2) -> Playbook:
    sizes = {str(number): CARD for number in range(count)}
    return Playbook(*specs, keep_turns=False) >> GpusMeasured(0, sizes, there=frozenset(sizes))


def comes(book: Playbook, lease: int, name: str, *gpus: str) -> Playbook:
    """The model is asked for, started on these GPUs, and idle."""
    return (
        book >> LeaseAsked(lease, lease, name) << StartWorker(name, gpus=gpus)
        >> WorkerReady(lease + 0.5, name, f"http://{name}") << GrantLease(lease, f"http://{name}", 1)
        >> DemandReported(lease + 0.6, lease, 0, ())
    )  # fmt: skip


def test_a_model_comes_where_most_room_is_left():
    book = comes(on_cards(anywhere("a", 1, "0", "1", share=30), anywhere("b", 1, "0", "1", share=30)), 1, "a", "0")
    assert comes(book, 2, "b", "1")


def test_one_that_needs_two_gpus_gets_those_two_that_nobody_must_leave():
    specs = anywhere("a", 1, "1", share=30), anywhere("b", 2, share=60)
    assert comes(comes(on_cards(*specs, count=3), 1, "a", "1"), 2, "b", "0", "2")


def test_of_two_that_could_leave_the_one_that_costs_less_leaves_and_the_newcomer_takes_its_place():
    specs = anywhere("a", 1, "0", share=60), anywhere("b", 1, "1", share=60), anywhere("c", 1, "0", "1", share=60)
    book = comes(comes(on_cards(*specs), 1, "a", "0"), 2, "b", "1") >> DemandReported(8, 1, 1, ())
    assert (
        book >> LeaseAsked(9, 3, "c") << RevokeLease(2, "switch", "b gives way to c", 309)
        >> LeaseEnded(9.1, 2) << SleepWorker("b", 2)
        >> WorkerAsleep(9.5, "b") << StartWorker("c", gpus=("1",))
    )  # fmt: skip


def test_it_stays_where_it_is_while_its_process_lives_and_is_placed_anew_after_that():
    specs = anywhere("a", 1, "0", "1", share=50), single("b", frozenset({"0"}), share=50)
    book = comes(on_cards(*specs), 1, "a", "0")
    book = (
        book >> LeaseEnded(2, 1)
        >> LeaseAsked(3, 2, "b") << SleepWorker("a", 2)
        >> WorkerAsleep(3.5, "a") << StartWorker("b")
        >> WorkerReady(4, "b", "http://b") << GrantLease(2, "http://b", 1)
        >> LeaseEnded(5, 2)
        >> LeaseAsked(6, 3, "a") << SleepWorker("b", 2)
        >> WorkerAsleep(6.5, "b") << WakeWorker("a")
        >> WorkerReady(7, "a", "http://a") << GrantLease(3, "http://a", 2)
        >> OrderGiven(8, 1, "b", Verb.START)
    )  # fmt: skip
    book.pending.clear()
    book = book >> LeaseEnded(9, 3) >> WorkerExited(10, "a", Failure.EXITED, "killed")
    book.pending.clear()
    assert book.worker("a").gpus == frozenset({"0"}), "where nobody is"


def test_after_its_end_it_comes_where_there_is_room_now():
    specs = anywhere("a", 1, "0", "1", share=50), single("b", frozenset({"0"}), share=20)
    book = comes(comes(on_cards(*specs), 1, "b"), 2, "a", "1") >> LeaseEnded(3, 1) >> LeaseEnded(3.5, 2)
    book = book >> OrderGiven(4, 1, "b", Verb.STOP)
    book.pending.clear()
    book = book >> WorkerExited(5, "b")
    book.pending.clear()
    assert book >> WorkerExited(6, "a", Failure.EXITED, "killed") << StartWorker("a", gpus=("0",))


def test_while_another_comes_to_one_gpu_it_comes_to_the_other():
    specs = single("a", frozenset({"0"}), share=10), anywhere("b", 1, "0", "1", share=10)
    book = on_cards(*specs) >> LeaseAsked(1, 1, "a") << StartWorker("a")
    assert book >> LeaseAsked(2, 2, "b") << StartWorker("b", gpus=("1",))


def test_preloads_are_spread_side_by_side():
    specs = (anywhere(name, 1, "0", "1", share=30, preload=True) for name in "ab")
    assert on_cards(*specs) >> Started(1) << StartWorker("a", gpus=("0",)) << StartWorker("b", gpus=("1",))


def test_where_a_stranger_leaves_too_little_it_does_not_come():
    book = on_cards(anywhere("a", 1, "0", "1", share=50))
    book = book >> GpusMeasured(1, {"0": CARD, "1": CARD}, strangers={"0": "x"}, left={"0": 40})
    assert comes(book, 2, "a", "1")


def test_a_stuck_worker_on_one_gpu_keeps_nobody_from_the_other():
    specs = single("a", frozenset({"0"})), anywhere("b", 1, "0", "1")
    book = comes(on_cards(*specs), 1, "a") >> WorkerStuck(2, "a", "survived SIGKILL")
    book.pending.clear()
    assert comes(book, 3, "b", "1")


def test_an_operators_switch_takes_the_best_gpu_too():
    specs = single("a", frozenset({"0"}), share=60), anywhere("b", 1, "0", "1", share=60)
    book = comes(on_cards(*specs), 1, "a") >> SwitchAsked(2, 9, "b") << StartWorker("b", gpus=("1",))
    assert book >> WorkerReady(3, "b", "http://b") << FinishSwitch(9, "http://b")


@pytest.mark.parametrize("pretends", [False, True])
def test_more_gpus_than_there_are_is_refused_at_once(pretends):
    spec = anywhere("a", 3, "0", "1", on_cards=not pretends)
    reason = "it needs 3 GPUs, and there are 0, 1; correct its `gpus`"
    refused = FailLease(1, "gpu_missing", f"model a can never be loaded: {reason}", None)
    assert on_cards(spec) >> LeaseAsked(1, 1, "a") << refused


def test_one_that_is_too_large_for_the_largest_is_refused_at_once():
    spec = anywhere("a", 2, share=90, memory=180)
    sizes = {"0": 80, "1": 100, "2": 100}
    assert Playbook(spec) >> GpusMeasured(0, sizes) >> LeaseAsked(1, 1, "a") << StartWorker("a", gpus=("1", "2"))
    book = Playbook(spec) >> GpusMeasured(0, sizes | {"2": 80}) >> LeaseAsked(1, 1, "a")
    assert [command.code for command in book.pending] == ["model_too_large"]


def test_of_many_gpus_those_with_most_room_are_looked_at():
    names = [str(number) for number in range(40)]
    others = (anywhere(name, 1, str(number), share=60) for number, name in enumerate("bcde"))
    book = on_cards(anywhere("a", 4, *names, share=50), *others, count=40)
    for lease, name in enumerate("bcde"):
        book = comes(book, lease + 1, name, str(lease))
    assert comes(book, 9, "a", "4", "5", "6", "7")


def asleep_on_0(*others: GroupSpec) -> Playbook:
    """Model a, to which GPUs 0 and 1 will do, sleeps on 0."""
    book = comes(on_cards(anywhere("a", 1, "0", "1", share=60, memory=60), *others), 1, "a", "0") >> LeaseEnded(2, 1)
    return (
        book >> OrderGiven(3, 9, "a", Verb.SLEEP) << SleepWorker("a", 2)
        >> WorkerAsleep(4, "a") << FinishOrder(9, "asleep")
    )  # fmt: skip


def test_a_sleeper_whose_gpu_a_pinned_model_has_is_started_anew_on_another():
    pinned = single("p", frozenset({"0"}), share=60, memory=60, pinned=True)
    book = (
        asleep_on_0(pinned)
        >> LeaseAsked(5, 2, "p") << StartWorker("p")
        >> WorkerReady(6, "p", "http://p") << GrantLease(2, "http://p", 1)
        >> LeaseAsked(9, 3, "a") << StopWorker("a", kill=True)
        >> WorkerExited(9.5, "a") << StartWorker("a", gpus=("1",))
    )  # fmt: skip
    assert book.state("p") is WorkerState.READY


def test_a_sleeper_whose_gpu_strangers_have_is_started_anew_on_another():
    sizes = {"0": CARD, "1": CARD}
    book = asleep_on_0() >> GpusMeasured(5, sizes, there=frozenset(sizes), strangers={"0": "x"}, left={"0": 10})
    assert (
        book >> LeaseAsked(9, 3, "a") << StopWorker("a", kill=True)
        >> WorkerExited(9.5, "a") << StartWorker("a", gpus=("1",))
    )  # fmt: skip


def test_one_that_sleeps_where_it_has_no_room_and_named_its_gpu_is_refused():
    book = comes(on_cards(single("a", frozenset({"0"}), share=60, memory=60)), 1, "a") >> LeaseEnded(2, 1)
    book = (
        book >> OrderGiven(3, 9, "a", Verb.SLEEP) << SleepWorker("a", 2)
        >> WorkerAsleep(4, "a") << FinishOrder(9, "asleep")
        >> GpusMeasured(5, {"0": 50})
        >> LeaseAsked(9, 3, "a")
    )  # fmt: skip
    (failed,) = book.pending
    assert isinstance(failed, FailLease)
    assert (failed.code, "[gpus] gives no more" in failed.message) == ("gpu_memory_taken", True)


def test_a_model_that_said_no_sizes_comes_where_its_weights_have_room():
    book = Playbook(anywhere("a", 1, "0", "1"), single("b", frozenset({"1"})), keep_turns=False)
    book = book >> GpusMeasured(0, {"0": 24, "1": 80}) >> WeightsSeen(0, {"a": 60})
    book = (
        book >> LeaseAsked(1, 1, "b") << StartWorker("b")
        >> WorkerReady(2, "b", "http://b") << GrantLease(1, "http://b", 1)
        >> LeaseEnded(3, 1)
        >> LeaseAsked(4, 2, "a") << SleepWorker("b", 2)
    )  # fmt: skip
    assert book >> WorkerAsleep(5, "b") << StartWorker("a", gpus=("1",))


def beside_an_idle_gpu(start: float, busy: int = 0) -> Playbook:
    """Model a sleeps on GPU 0, where b serves now; a took `start` seconds to start, 1 to sleep, and GPU 1 is idle."""
    book = asleep_on_0(single("b", frozenset({"0"}), share=60, memory=60))
    book.worker("a").costs[WorkerState.STARTING, None].seconds = start
    return (
        book >> LeaseAsked(5, 2, "b") << StartWorker("b")
        >> WorkerReady(6, "b", "http://b") << GrantLease(2, "http://b", 1)
        >> DemandReported(7, 2, busy)
    )  # fmt: skip


def test_a_sleeper_is_started_anew_on_an_idle_gpu_where_that_is_sooner_than_that_a_busy_model_leaves():
    book = beside_an_idle_gpu(20.0, busy=1)
    assert book >> LeaseAsked(8, 3, "a") << StopWorker("a", kill=True)
    assert book >> WorkerExited(9, "a") << StartWorker("a", gpus=("1",))
    assert book.state("b") is WorkerState.READY


def test_a_sleeper_waits_for_a_busy_model_where_a_cold_start_takes_longer():
    book = beside_an_idle_gpu(100.0, busy=1)
    assert book >> LeaseAsked(8, 3, "a")
    assert book >> DemandReported(9, 2, 0) << RevokeLease(2, "switch", "b gives way to a", 309)


def test_a_sleeper_for_whom_another_model_leaves_again_and_again_is_started_anew_on_an_idle_gpu():
    """Of each switch 1 s to sleep and 2 s to wake are measured: the cold start is paid once instead."""
    book = beside_an_idle_gpu(10.0)
    switches = 0
    for time in range(10, 100, 20):
        book = book >> LeaseAsked(time, time, "a")
        if book.pending == [StopWorker("a", kill=True)]:
            break
        book.pending.clear()
        book = book >> LeaseEnded(time, 2 if time == 10 else time - 10) << SleepWorker("b", 2)
        book = book >> WorkerAsleep(time + 1, "b") << WakeWorker("a")
        book = book >> WorkerReady(time + 3, "a", "http://a")
        book.pending.clear()
        book = book >> LeaseEnded(time + 4, time) >> LeaseAsked(time + 10, time + 10, "b") << SleepWorker("a", 2)
        book = book >> WorkerAsleep(time + 11, "a") << WakeWorker("b") >> WorkerReady(time + 12, "b", "http://b")
        book.pending.clear()
        book = book >> DemandReported(time + 13, time + 10, 0)
        switches += 1
    assert book.pending == [StopWorker("a", kill=True)]
    book.pending.clear()
    assert switches == 3  # the first one was all guesses
