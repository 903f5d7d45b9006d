"""What can never be had is refused at once, and evicts nobody."""

from muxd.core.commands import (
    FailLease,
    FailOrder,
    FailSwitch,
    GrantLease,
    StartWorker,
)
from muxd.core.events import (
    DemandReported,
    GpusMeasured,
    LeaseAsked,
    LeaseEnded,
    OrderGiven,
    Reconfigured,
    Started,
    SwitchAsked,
    Verb,
    WeightsSeen,
    WorkerExited,
    WorkerReady,
)
from muxd.core.progress import next_step
from muxd.core.states import WorkerState

from .playbook import Playbook, single


def test_a_model_that_its_gpu_can_never_hold_is_refused_at_once_and_evicts_nobody():
    message = (
        "model b can never be loaded: it needs 420.0 GiB on each of its GPUs, and GPU 0 has 80.0 GiB in all; "
        "give it more GPUs, or correct its `memory`"
    )
    book = Playbook("a", single("b", memory=420 << 30)) >> GpusMeasured(0, {"0": 80 << 30})
    assert (
        book
        >> LeaseAsked(1, 1, "a") << StartWorker("a")
        >> WorkerReady(2, "a", "http://a") << GrantLease(1, "http://a", 1)
        >> DemandReported(3, 1, 0)
        >> LeaseAsked(4, 2, "b") << FailLease(2, "model_too_large", message)
        >> SwitchAsked(5, 3, "b") << FailSwitch(3, "model_too_large", message)
    )  # fmt: skip


def test_a_gpu_that_is_not_there_is_refused_at_once_and_evicts_nobody():
    message = "model b can never be loaded: GPU 7 is not there: there are 0, 1; correct its `gpus`"
    book = Playbook("a", single("b", gpus=frozenset({"0", "7"}), preload=True))
    assert (
        book
        >> GpusMeasured(0, {"0": 80 << 30}, there=frozenset({"0", "1"}))
        >> Started(1)
        >> LeaseAsked(2, 1, "a") << StartWorker("a")
        >> WorkerReady(3, "a", "http://a") << GrantLease(1, "http://a", 1)
        >> DemandReported(4, 1, 0)
        >> LeaseAsked(5, 2, "b") << FailLease(2, "gpu_missing", message)
        >> SwitchAsked(6, 3, "b") << FailSwitch(3, "gpu_missing", message)
        >> OrderGiven(7, 4, "b", Verb.START) << FailOrder(4, "gpu_missing", message)
    )  # fmt: skip
    assert never_said(book, "b") == message.removeprefix("model b ")


def test_a_card_that_is_lost_or_a_number_that_is_no_card_is_not_missing():
    book = Playbook(single("a", gpus=frozenset({"1"})), single("b", gpus=frozenset({"9"}), on_cards=False))
    book >> GpusMeasured(0, {"0": 80 << 30}, there=frozenset({"0", "1"}))
    assert book >> LeaseAsked(1, 1, "a") << StartWorker("a") >> LeaseAsked(2, 2, "b") << StartWorker("b")


def test_weights_that_its_gpus_can_never_hold_are_refused_where_no_memory_is_declared():
    spec = single("b", gpus=frozenset({"0", "1"}))
    message = (
        "model b can never be loaded: its weights alone need 200.0 GiB, and GPU 0 has 80.0 GiB in all, "
        "GPU 1 has 80.0 GiB in all; give it more GPUs, or a smaller model"
    )
    book = Playbook("a", spec) >> WeightsSeen(0, {"b": 200 << 30}) >> GpusMeasured(1, {"0": 80 << 30, "1": 80 << 30})
    assert book >> LeaseAsked(2, 1, "b") << FailLease(1, "model_too_large", message)
    assert never_said(book, "b") == message.removeprefix("model b ")
    for sizes, totals in (({"b": 150}, (80, 80)), ({"b": 200}, (80,)), ({}, (80, 80))):
        weights = {name: size << 30 for name, size in sizes.items()}
        book = Playbook(spec) >> WeightsSeen(0, weights)
        book >> GpusMeasured(1, {str(gpu): total << 30 for gpu, total in enumerate(totals)})
        assert book >> LeaseAsked(2, 1, "b") << StartWorker("b")
    declared = single("b", memory=40 << 30)
    book = Playbook(declared) >> WeightsSeen(0, {"b": 200 << 30}) >> GpusMeasured(1, {"0": 80 << 30})
    assert book >> LeaseAsked(2, 1, "b") << StartWorker("b"), "who declares it knows better"


def test_a_restart_on_to_a_gpu_that_is_not_there_ends_in_a_word():
    book = Playbook("a") >> GpusMeasured(0, {}, there=frozenset({"0"}))
    book >> LeaseAsked(1, 1, "a") << StartWorker("a")
    book >> WorkerReady(2, "a", "http://a") << GrantLease(1, "http://a", 1)
    book >> Reconfigured(3, (single("a", gpus=frozenset({"7"})),), frozenset({"a"}), 30.0)
    book.pending.clear()
    book >> LeaseEnded(4, 1)
    book.pending.clear()
    book >> WorkerExited(5, "a")
    assert StartWorker("a") not in book.pending
    assert book.state("a") is WorkerState.UNLOADED


def never_said(book: Playbook, name: str) -> str | None:
    return next_step(book.scheduler.host, book.scheduler.switching, book.scheduler.idling, book.group(name), 10)


def test_a_corrected_memory_is_tried():
    book = Playbook(single("b", memory=420 << 30)) >> GpusMeasured(0, {"0": 80 << 30})
    book >> Reconfigured(1, (single("b", memory=42 << 30),), frozenset({"b"}), 30.0)
    book.pending.clear()
    assert book >> LeaseAsked(2, 1, "b") << StartWorker("b")
