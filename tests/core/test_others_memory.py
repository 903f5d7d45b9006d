"""Others than muxd have memory of a GPU: what is left is not promised, and nobody leaves in vain."""

from muxd.core.commands import (
    FailLease,
    FailOrder,
    FailSwitch,
    RevokeLease,
    SleepWorker,
    StartWorker,
    StopWorker,
)
from muxd.core.events import (
    DemandReported,
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
)
from muxd.core.progress import next_step
from muxd.core.states import WorkerState

from .one_card import CARD, awake, measured_awake, on_one_card, sized
from .playbook import Playbook, single

STRANGER = "30.0 GiB held by python3 (pid 4711), not muxd's"
NO_ROOM = (
    "cannot be loaded now: it needs 0.0 GiB of GPU 0, which has 0.0 GiB for it: "
    "30.0 GiB held by python3 (pid 4711), not muxd's; end that, or wait"
)


def crowded(time: float, left: int = 50) -> GpusMeasured:
    return GpusMeasured(time, {"0": CARD}, strangers={"0": STRANGER}, left={"0": left})


def test_what_strangers_leave_too_little_for_is_refused_with_their_names_and_nobody_leaves_in_vain():
    book = awake(on_one_card(sized("a", 40), sized("b", 60)), "a") >> crowded(5)
    assert book >> LeaseAsked(9, 3, "b") << FailLease(3, "gpu_memory_taken", f"model b {NO_ROOM}", 30.0)
    assert book.state("a") is WorkerState.READY


def test_what_strangers_hold_is_not_promised_again():
    book = awake(on_one_card(sized("a", 30), sized("b", 30)), "a") >> crowded(5)
    assert book >> LeaseAsked(9, 3, "b") << RevokeLease(1, "switch", "a gives way to b", 309)


def test_once_the_stranger_has_left_the_model_is_loaded_as_ever():
    book = awake(on_one_card(sized("a", 20), sized("b", 60)), "a") >> crowded(5)
    book = book >> LeaseAsked(6, 3, "b") << FailLease(3, "gpu_memory_taken", f"model b {NO_ROOM}", 30.0)
    assert book >> GpusMeasured(7, {"0": CARD}) >> LeaseAsked(8, 4, "b") << StartWorker("b")


def test_a_preload_waits_until_the_stranger_has_left():
    book = Playbook(sized("a", 60, preload=True), keep_turns=False) >> crowded(0) >> Started(0)
    scheduler = book.scheduler
    assert next_step(scheduler.host, scheduler.switching, scheduler.idling, book.group("a"), 1) == NO_ROOM
    assert book >> GpusMeasured(5, {"0": CARD}) << StartWorker("a")


def test_a_wait_ends_when_a_stranger_comes_first():
    book = awake(on_one_card(sized("a", 40), sized("b", 60)), "a") >> DemandReported(5, 1, 3, ())
    assert (
        book >> LeaseAsked(6, 3, "b")
        >> crowded(7) << FailLease(3, "gpu_memory_taken", f"model b {NO_ROOM}", 30.0)
    )  # fmt: skip


def test_an_ordered_start_and_a_switch_are_refused_for_a_stranger():
    book = on_one_card(sized("b", 60)) >> crowded(5)
    assert (
        book
        >> OrderGiven(6, 1, "b", Verb.START) << FailOrder(1, "gpu_memory_taken", f"model b {NO_ROOM}")
        >> SwitchAsked(7, 2, "b") << FailSwitch(2, "gpu_memory_taken", f"model b {NO_ROOM}")
    )  # fmt: skip


def test_one_that_crashed_and_has_no_room_any_more_rests():
    book = awake(on_one_card(sized("b", 60)), "b") >> LeaseEnded(3, 1) >> crowded(5)
    book = book >> WorkerExited(6, "b", reason="exited with status 1")
    assert book.state("b") is WorkerState.UNLOADED


def test_a_model_of_unknown_size_takes_what_strangers_leave():
    assert on_one_card(single("a")) >> crowded(5) >> LeaseAsked(6, 1, "a") << StartWorker("a")


def test_a_process_whose_memory_strangers_have_taken_is_ended_and_a_new_one_takes_what_it_finds():
    book = measured_awake(70, 40) >> GpusMeasured(40, {"0": CARD}, strangers={"0": STRANGER}, left={"0": 60})
    assert (
        book >> LeaseAsked(50, 9, "a") << StopWorker("a", kill=True)
        >> WorkerExited(51, "a") << SleepWorker("b", 2)
        >> WorkerAsleep(52, "b", 0, 40) << StartWorker("a")
    )  # fmt: skip


def test_weights_that_strangers_leave_too_little_for_are_refused_as_sizes_are():
    book = Playbook(single("a")) >> WeightsSeen(0, {"a": 60}) >> crowded(1)
    book = book >> LeaseAsked(2, 1, "a")
    (failed,) = book.pending
    assert isinstance(failed, FailLease)
    assert failed.code == "gpu_memory_taken"
