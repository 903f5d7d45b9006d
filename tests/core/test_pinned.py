"""Pinned models leave their GPUs for nobody; who does not fit beside them is told so at once."""

import pytest

from muxd.core.commands import (
    AnswerUnload,
    FailLease,
    FailOrder,
    FailSwitch,
    FinishOrder,
    GrantLease,
    PersistStopped,
    RevokeLease,
    SleepWorker,
    StartWorker,
)
from muxd.core.events import (
    DemandReported,
    Failure,
    GpusMeasured,
    LeaseAsked,
    LeaseEnded,
    OrderGiven,
    Reconfigured,
    Started,
    SwitchAsked,
    TimerFired,
    UnloadAsked,
    Verb,
    WorkerAsleep,
    WorkerExited,
    WorkerReady,
)
from muxd.core.spec import GroupSpec
from muxd.core.states import WorkerState
from muxd.core.view import CoreView

from .playbook import Playbook, anywhere, single

TEXT = "model b cannot be loaded: a is pinned, and b does not fit beside it; `muxctl stop a` makes room"


def sized(name: str, share: int, **more) -> GroupSpec:
    return single(name, share=share, **more)


def awake(*specs: GroupSpec) -> Playbook:
    """All but the last are loaded and idle, on a card of 80."""
    book = Playbook(*specs, keep_turns=False) >> GpusMeasured(0, {"0": 80})
    for lease, spec in enumerate(specs[:-1], start=1):
        name = spec.name
        book = (
            book >> LeaseAsked(lease, lease, name) << StartWorker(name)
            >> WorkerReady(lease, name, f"http://{name}") << GrantLease(lease, f"http://{name}", 1)
            >> DemandReported(lease, lease, 0, ())
        )  # fmt: skip
    return book


SIZED = (sized("a", 50, pinned=True), sized("b", 40))
WHOLE = (single("a", pinned=True), single("b"))
MIXED = (single("a", pinned=True), sized("b", 10))
OTHER = (sized("a", 10, pinned=True), single("b"))


@pytest.mark.parametrize("specs", [SIZED, WHOLE, MIXED, OTHER], ids=["sized", "whole", "mixed", "other"])
def test_who_does_not_fit_beside_a_pinned_model_is_refused_at_once(specs):
    book = awake(*specs)
    assert book >> LeaseAsked(9, 9, "b") << FailLease(9, "pinned_in_the_way", TEXT, None)
    assert book >> SwitchAsked(10, 8, "b") << FailSwitch(8, "pinned_in_the_way", TEXT)
    assert book >> OrderGiven(11, 7, "b", Verb.START) << FailOrder(7, "pinned_in_the_way", TEXT)
    assert book.state("a") is WorkerState.READY


@pytest.mark.parametrize("specs", [SIZED, WHOLE, MIXED, OTHER], ids=["sized", "whole", "mixed", "other"])
def test_status_says_of_who_does_not_fit_that_it_cannot_come_and_because_of_whom(specs):
    book = awake(*specs)
    assert CoreView(book.scheduler).group("b", 9).next_step == TEXT.removeprefix("model b ")
    book = book >> OrderGiven(10, 7, "a", Verb.STOP)
    assert CoreView(book.scheduler).group("b", 11).next_step == "starts at its next request"


def test_status_says_so_of_one_for_which_any_gpu_will_do_only_where_all_are_taken():
    for gpus, said in ((("0",), TEXT.removeprefix("model b ")), (("0", "1"), "starts at its next request")):
        book = awake(single("a", pinned=True), anywhere("b", 1, *gpus))
        before = book.group("b").gpus
        assert CoreView(book.scheduler).group("b", 9).next_step == said
        assert book.group("b").gpus == before, "a look settles nothing"


def test_who_fits_beside_it_is_loaded():
    assert awake(sized("a", 40, pinned=True), sized("b", 40)) >> LeaseAsked(9, 9, "b") << StartWorker("b")


def test_another_one_leaves_in_its_place_though_that_costs_more():
    book = awake(sized("a", 40, pinned=True), sized("b", 30), sized("c", 30))
    book.worker("b").costs[WorkerState.WAKING, 2].learn(500.0)
    assert book >> LeaseAsked(9, 9, "c") << RevokeLease(2, "switch", "b gives way to c", 309)


def test_while_it_is_not_loaded_it_is_in_nobodys_way_and_takes_its_place_from_others():
    book = Playbook(*SIZED, keep_turns=False) >> GpusMeasured(0, {"0": 80}) >> LeaseAsked(1, 1, "b") << StartWorker("b")
    assert (
        book >> WorkerReady(2, "b", "http://b") << GrantLease(1, "http://b", 1)
        >> DemandReported(3, 1, 0, ())
        >> LeaseAsked(4, 2, "a") << RevokeLease(1, "switch", "b gives way to a", 304)
    )  # fmt: skip


def test_an_operator_may_put_it_to_sleep_and_then_there_is_room():
    assert (
        awake(*SIZED) >> OrderGiven(5, 7, "a", Verb.SLEEP) << RevokeLease(
            1, "sleep", "a is put to sleep by an operator", 305
        )
        >> LeaseEnded(6, 1) << SleepWorker("a", 2)
        >> LeaseAsked(7, 9, "b")
        >> WorkerAsleep(8, "a") << FinishOrder(7, WorkerState.ASLEEP) << StartWorker("b")
    )  # fmt: skip


def test_a_switch_that_began_while_it_was_ordered_away_ends_with_that_order():
    book = awake(sized("a", 50, pinned=True), sized("b", 40)) >> OrderGiven(5, 7, "a", Verb.SLEEP)
    book.pending.clear()
    book = book >> LeaseAsked(6, 9, "b") >> OrderGiven(7, 8, "a", Verb.START)
    assert FailLease(9, "pinned_in_the_way", TEXT, None) in book.pending
    assert book.state("a") is WorkerState.READY


def test_a_client_cannot_unload_it():
    assert awake(*SIZED) >> UnloadAsked(9, 7, "a") << AnswerUnload(7, "it is pinned")


def test_who_waits_is_refused_when_it_takes_the_room():
    specs = (sized("a", 50, pinned=True), sized("c", 40), sized("b", 75))
    book = Playbook(*specs, keep_turns=False) >> GpusMeasured(0, {"0": 80}) >> LeaseAsked(1, 1, "a")
    assert book << StartWorker("a") >> LeaseAsked(2, 2, "b") << FailLease(2, "pinned_in_the_way", TEXT, None)


def test_one_to_be_preloaded_that_cannot_come_keeps_nobody_back():
    specs = (sized("a", 50, preload=True, pinned=True), sized("b", 40, preload=True), sized("c", 30, preload=True))
    assert (
        Playbook(*specs) >> GpusMeasured(0, {"0": 80}) >> Started(0) << StartWorker("a")
        >> WorkerReady(1, "a", "http://a") << StartWorker("c")
    )  # fmt: skip


@pytest.mark.parametrize("specs", [SIZED, WHOLE, MIXED, OTHER], ids=["sized", "whole", "mixed", "other"])
def test_one_that_crashed_has_its_place_until_it_is_started_again(specs):
    book = awake(*specs) >> LeaseEnded(8, 1) >> WorkerExited(9, "a") << StartWorker("a")
    book = book >> WorkerExited(10, "a")
    assert book.state("a") is WorkerState.BACKOFF
    assert book >> LeaseAsked(10.1, 9, "b") << FailLease(9, "pinned_in_the_way", TEXT, None)
    assert book >> TimerFired(12) << StartWorker("a")


def test_one_that_crashed_is_started_again_on_the_gpu_that_it_had():
    book = Playbook(anywhere("a", 1, "0", "1", pinned=True), anywhere("b", 1, "0", "1"), anywhere("c", 1, "0", "1"))
    book = book >> LeaseAsked(1, 1, "a") << StartWorker("a", None, ("0",))
    book = book >> WorkerExited(2, "a") << StartWorker("a", None, ("0",)) >> WorkerExited(3, "a")
    assert book >> LeaseAsked(3.1, 2, "b") << StartWorker("b", None, ("1",))
    assert book >> LeaseAsked(3.2, 3, "c")
    assert book >> TimerFired(5) << StartWorker("a", None, ("0",))


@pytest.mark.parametrize("how", ["stopped", "failed", "not pinned any more"])
def test_one_that_crashed_loses_its_place_where_it_is_not_started_again(how):
    book = awake(*WHOLE) >> LeaseEnded(8, 1) >> WorkerExited(9, "a") << StartWorker("a") >> WorkerExited(10, "a")
    if how == "stopped":
        book = book >> OrderGiven(10.1, 7, "a", Verb.STOP) << PersistStopped("a", True) << FinishOrder(7, "stopped")
    elif how == "failed":
        book = book >> TimerFired(12) << StartWorker("a") >> WorkerExited(12, "a", Failure.REFUSED)
    else:
        book = book >> Reconfigured(10.1, (single("a"), single("b")), frozenset(), 30.0, keep_turns=False)
        assert book.worker("a").state is WorkerState.BACKOFF
    assert book >> LeaseAsked(13, 9, "b") << StartWorker("b")
