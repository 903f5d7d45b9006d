"""Models without sizes: what their processes were measured to have says what is awake together."""

from muxd.core.commands import (
    FinishOrder,
    GrantLease,
    SleepWorker,
    WakeWorker,
)
from muxd.core.events import (
    GpusMeasured,
    LeaseAsked,
    LeaseEnded,
    OrderGiven,
    Verb,
    WorkerAsleep,
    WorkerExited,
    WorkerReady,
)
from muxd.core.states import WorkerState

from .one_card import measured_awake
from .playbook import Playbook


def test_a_model_without_sizes_wakes_beside_another_one_where_both_were_measured_to_fit():
    book = measured_awake(30, 40) >> LeaseAsked(50, 9, "a") << SleepWorker("b", 2)  # b has served, and never slept
    book = book >> WorkerAsleep(51, "b", 0, 40) << WakeWorker("a")
    assert (
        book >> WorkerReady(52, "a", "http://a") << GrantLease(9, "http://a", 2)
        >> LeaseAsked(53, 10, "b") << WakeWorker("b")
    )  # fmt: skip


def settled(*sizes: int | None) -> Playbook:
    """The same, and the last one has slept, too."""
    book = measured_awake(*sizes)
    last = "abc"[len(sizes) - 1]
    book = book >> OrderGiven(40, 99, last, Verb.SLEEP) << SleepWorker(last, 2)
    return book >> WorkerAsleep(41, last, 0, sizes[-1]) << FinishOrder(99, WorkerState.ASLEEP)


def woken(book: Playbook, time: float, lease: int, name: str) -> Playbook:
    book = book >> LeaseAsked(time, lease, name) << WakeWorker(name)
    return book >> WorkerReady(time + 1, name, f"http://{name}") << GrantLease(lease, f"http://{name}", 2)


def test_a_model_without_sizes_whose_process_was_not_measured_wakes_alone():
    book = woken(settled(None, 40), 50, 8, "b") >> LeaseEnded(52, 8)
    assert book >> LeaseAsked(53, 9, "a") << SleepWorker("b", 2)


def test_what_was_measured_to_be_too_much_for_two_is_awake_alone():
    book = woken(settled(50, 40), 50, 8, "b") >> LeaseEnded(52, 8)
    assert book >> LeaseAsked(53, 9, "a") << SleepWorker("b", 2)


def test_of_those_without_sizes_only_as_many_leave_as_must():
    book = woken(woken(settled(40, 30, 20), 50, 8, "b"), 60, 9, "c") >> LeaseEnded(62, 8) >> LeaseEnded(63, 9)
    book = book >> LeaseAsked(70, 10, "a")
    (sleep,) = book.pending
    assert isinstance(sleep, SleepWorker), "one of the two is enough"


def test_a_new_process_of_a_model_without_sizes_has_the_gpu_to_itself_again():
    book = woken(settled(30, 40), 50, 8, "b") >> LeaseEnded(52, 8) >> WorkerExited(53, "a")
    assert book >> LeaseAsked(54, 9, "a") << SleepWorker("b", 2)


def test_the_most_that_was_measured_counts():
    book = woken(settled(45, 20), 50, 8, "a") >> LeaseEnded(52, 8)
    book = book >> OrderGiven(53, 99, "a", Verb.SLEEP) << SleepWorker("a", 2) >> WorkerAsleep(54, "a", 0, 30)
    assert book << FinishOrder(99, WorkerState.ASLEEP)
    assert book.worker("a").share == 45


def test_a_process_that_was_measured_to_have_more_than_workers_may_have_wakes_all_the_same():
    assert measured_awake(90, 40) >> LeaseAsked(50, 9, "a") << SleepWorker("b", 2)
    book = settled(60, 20) >> GpusMeasured(50, {"0": 50}) >> LeaseAsked(51, 9, "a") << WakeWorker("a")
    assert book
