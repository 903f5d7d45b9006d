"""Replicas to which any GPUs will do: the ledger chooses those of each, whenever they are started."""

import pytest
from msgspec.structs import replace

from muxd.core.commands import Command, FailLease, FinishOrder, GrantLease, SleepWorker, StartWorker, StopWorker
from muxd.core.events import (
    GpusMeasured,
    LeaseAsked,
    LeaseEnded,
    LoanAsked,
    OrderGiven,
    RouterSynced,
    Verb,
    WorkerAsleep,
    WorkerExited,
    WorkerReady,
)
from muxd.core.ledger import how_many_fit
from muxd.core.spec import GroupSpec, LoanTerms, Scaling
from muxd.core.states import WorkerState

from .playbook import Playbook, single, spread

GIB = 1 << 30

RULE = Scaling(least=1, load=4, queue_wait=5, up_after=3, down_after=60)


def playbook(*specs: GroupSpec) -> Playbook:
    """Return a host with GPUs 0, 1 and 2 of 80 GiB."""
    return Playbook(*specs) >> GpusMeasured(0, dict.fromkeys("012", 80 * GIB))


def taken(book: Playbook) -> list[Command]:
    """Return what was commanded last."""
    commands, book.pending = book.pending, []
    return commands


def starts(book: Playbook) -> dict[str, tuple[str, ...]]:
    """Return the GPUs of the replicas that were started last."""
    return {each.worker: each.gpus for each in taken(book) if isinstance(each, StartWorker) and each.gpus}


def served(spec: GroupSpec, *others: GroupSpec) -> Playbook:
    """Return a host on which the two replicas of q serve, with lease 1 granted."""
    book = playbook(spec, *others) >> LeaseAsked(0, 1, "q")
    assert list(starts(book)) == ["q/0", "q/1"]
    urls = ("http://q/0", "http://q/1")
    for event in (
        WorkerReady(1, "q/router", "http://q"),
        WorkerReady(2, "q/0", urls[0]),
        WorkerReady(2, "q/1", urls[1]),
        RouterSynced(3, "q", urls),
    ):
        book >> event
        commands = taken(book)
    assert commands == [GrantLease(1, "http://q", 3)]
    return book


@pytest.mark.parametrize(
    ("slots", "each", "most", "fit"),
    [
        ([1, 1, 1, 1], 1, 9, 4),
        ([2, 1], 1, 9, 3),
        ([2, 1], 2, 9, 1),
        ([1, 1, 2], 2, 9, 2),
        ([1, 1, 1], 2, 9, 1),
        ([5, 5], 1, 3, 3),
        ([0, 0], 1, 3, 0),
    ],
)
def test_how_many_fit(slots, each, most, fit):
    assert how_many_fit(slots, each, most) == fit


def test_each_replica_has_a_gpu_of_its_own_while_there_are_enough():
    book = Playbook(spread("q", 3, 1, "0", "1", "2")) >> LeaseAsked(0, 1, "q")
    assert starts(book) == {"q/0": ("0",), "q/1": ("1",), "q/2": ("2",)}


def test_replicas_with_sizes_share_what_is_free_before_anybody_leaves():
    book = playbook(single("a", frozenset({"0"}), share=70 * GIB), spread("q", 2, 1, "0", "1", share=40 * GIB))
    book = book >> LeaseAsked(1, 1, "a") << StartWorker("a") >> WorkerReady(2, "a", "http://a")
    assert taken(book) == [GrantLease(1, "http://a", 1)]
    book >> LeaseAsked(3, 2, "q")
    assert starts(book) == {"q/0": ("1",)}
    assert book.worker("q/1").gpus == {"1"}  # one at a time changes its memory there
    assert book.state("a") is WorkerState.READY


def test_one_that_is_idle_leaves_where_nothing_is_free():
    book = playbook(single("a", frozenset({"0"}), share=70 * GIB), spread("q", 2, 1, "0", "1", share=60 * GIB))
    book = book >> OrderGiven(0, 7, "a", Verb.START) << StartWorker("a") >> WorkerReady(1, "a", "http://a")
    assert taken(book) == [FinishOrder(7, "ready")]
    book >> LeaseAsked(100, 2, "q")
    assert [type(each) for each in taken(book)] == [SleepWorker]
    book >> WorkerAsleep(101, "a", 0)
    assert starts(book) == {"q/0": ("1",), "q/1": ("0",)}


def test_pairs_are_chosen_so_that_all_find_one():
    """Of GPUs with room for one, one and two such workers, the first pair must not be the two small ones."""
    spec = spread("q", 2, 2, "0", "1", "2", share=40 * GIB)
    book = Playbook(spec) >> GpusMeasured(0, {"0": 40 * GIB, "1": 40 * GIB, "2": 80 * GIB}) >> LeaseAsked(0, 1, "q")
    assert starts(book) == {"q/0": ("0", "2")}
    assert book.worker("q/1").gpus == {"1", "2"}  # one at a time changes its memory there


def test_more_than_fit_are_refused_with_how_many_do():
    book = playbook(spread("q", 3, 1, "0", "1", share=60 * GIB)) >> LeaseAsked(0, 1, "q")
    (failed,) = taken(book)
    assert isinstance(failed, FailLease)
    assert "each needs 60.0 GiB of 1 GPU, and 2 of 3 fit on GPU 0, 1" in failed.message


def test_a_further_replica_comes_to_what_is_free_now():
    """Scaled by an order: the second one has the GPU that is free, wherever it would have been before."""
    book = playbook(
        single("a", frozenset({"1"}), share=60 * GIB),
        spread("q", 3, 1, "0", "1", "2", share=60 * GIB, at_first=1, scaling=RULE),
    )
    book = book >> OrderGiven(0, 7, "a", Verb.START) << StartWorker("a") >> WorkerReady(1, "a", "http://a")
    assert taken(book) == [FinishOrder(7, "ready")]
    book >> LeaseAsked(2, 1, "q")
    assert starts(book) == {"q/0": ("0",)}
    book >> WorkerReady(3, "q/router", "http://q")
    taken(book)
    book >> WorkerReady(4, "q/0", "http://q/0")
    taken(book)
    book >> RouterSynced(4, "q", ("http://q/0",))
    taken(book)
    book >> OrderGiven(5, 8, "q", Verb.SCALE, replicas=2)
    assert starts(book) == {"q/1": ("2",)}
    book >> WorkerReady(6, "q/1", "http://q/1")
    taken(book)
    book >> RouterSynced(6, "q", ("http://q/0", "http://q/1"))
    taken(book)
    book >> OrderGiven(7, 9, "q", Verb.SCALE, replicas=3)
    (failed,) = taken(book)
    assert failed.message.startswith("2 of 3 replicas of q fit now; there is no room for 3: GPU 0 has no room: q/0")


def test_a_replica_that_died_comes_back_to_its_own_gpu():
    book = served(spread("q", 2, 1, "0", "1", share=60 * GIB))
    book >> WorkerExited(10, "q/1", reason="killed")
    assert starts(book) == {"q/1": ("1",)}


def test_after_it_has_ended_it_comes_wherever_there_is_room():
    book = served(spread("q", 2, 1, "0", "1", "2", share=60 * GIB), single("a", frozenset({"1"}), share=60 * GIB))
    book >> OrderGiven(10, 7, "q", Verb.STOP, now=True)
    taken(book)
    for worker in ("q/0", "q/1"):
        book >> WorkerExited(11, worker)
        taken(book)
    book >> WorkerExited(12, "q/router")
    taken(book)
    book >> OrderGiven(13, 8, "a", Verb.START) << StartWorker("a") >> WorkerReady(14, "a", "http://a")
    taken(book)
    book >> OrderGiven(15, 9, "q", Verb.START)
    assert starts(book) == {"q/0": ("0",), "q/1": ("2",)}


def test_sleepers_whose_gpu_a_pinned_model_has_are_started_anew_elsewhere():
    book = served(
        spread("q", 2, 1, "0", "1", "2", share=60 * GIB), single("a", frozenset({"1"}), share=60 * GIB, pinned=True)
    )
    book >> OrderGiven(10, 7, "q", Verb.SLEEP, now=True)
    taken(book)
    book >> LeaseEnded(10, 1)
    taken(book)
    for worker in ("q/0", "q/1"):
        book >> WorkerAsleep(11, worker, 0)
        taken(book)
    book >> OrderGiven(13, 8, "a", Verb.START) << StartWorker("a") >> WorkerReady(14, "a", "http://a")
    taken(book)
    book >> LeaseAsked(15, 2, "q")
    stopped = [each.worker for each in taken(book) if isinstance(each, StopWorker)]
    assert stopped == ["q/0", "q/1", "q/router"]
    for worker in stopped:
        book >> WorkerExited(16, worker)
    assert starts(book) == {"q/0": ("0",), "q/1": ("2",)}


def test_loans_leave_them_what_is_not_lent():
    group = spread("q", 2, 1, "0", "1", "2", share=60 * GIB)
    book = playbook(group) >> LoanAsked(0, 5, LoanTerms(frozenset({"0"})))
    taken(book)
    book >> LeaseAsked(1, 1, "q")
    assert starts(book) == {"q/0": ("1",), "q/1": ("2",)}


def test_those_that_are_packed_come_to_as_few_as_hold_them_and_to_the_fullest():
    spec = replace(spread("q", 3, 1, share=30 * GIB), is_packed=True)
    book = playbook(single("a", frozenset({"1"}), share=40 * GIB), spec)
    book = book >> OrderGiven(0, 7, "a", Verb.START) << StartWorker("a") >> WorkerReady(1, "a", "http://a")
    assert taken(book) == [FinishOrder(7, "ready")]
    book >> LeaseAsked(2, 1, "q")
    taken(book)
    assert [sorted(worker.gpus) for worker in book.group("q").serving] == [["1"], ["0"], ["0"]]


@pytest.mark.parametrize("before", ["0", "2"])
def test_where_strangers_leave_too_few_places_that_is_said_whatever_gpus_were_thought_of(before):
    sizes = dict.fromkeys("012", 80 * GIB)
    book = Playbook(spread("q", 2, 2, share=25 * GIB), single("a", gpus=frozenset("1")))
    book >> GpusMeasured(0, sizes, strangers={before: "python3"}, left={before: 0})
    for event in (LeaseAsked(1, 1, "a"), WorkerReady(2, "a", "http://a"), LeaseAsked(3, 2, "q")):  # which waits for a's
        book >> event
        taken(book)
    book >> GpusMeasured(5, sizes, strangers=dict.fromkeys("02", "python3"), left={"0": 45 * GIB, "2": 0})
    (refused,) = (command for command in taken(book) if isinstance(command, FailLease))
    assert (refused.lease, refused.code) == (2, "gpu_memory_taken")
    assert refused.message == (
        "model q cannot be loaded now: each replica needs 25.0 GiB of 2 GPUs, and they do not all fit; "
        "GPU 0 has 45.0 GiB for it: python3, GPU 2 has 0.0 GiB for it: python3; end that, or wait"
    )
