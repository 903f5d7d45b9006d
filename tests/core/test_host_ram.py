"""Host RAM for the weights of those who sleep at level 1: never promised twice, and who has none sleeps at 2."""

from muxd.core.commands import (
    FinishOrder,
    GrantLease,
    RecordMove,
    SleepWorker,
    StartWorker,
    StopWorker,
    WakeWorker,
)
from muxd.core.events import (
    DemandReported,
    GpusMeasured,
    HostRamLimited,
    LeaseAsked,
    LeaseEnded,
    OrderGiven,
    Verb,
    WeightsSeen,
    WorkerAsleep,
    WorkerExited,
    WorkerReady,
)
from muxd.core.spec import GroupSpec
from muxd.core.states import WorkerState

from .playbook import Playbook, single

GiB = 1 << 30


def model(name: str, copy: int | None = 30, **more) -> GroupSpec:
    """A model that sleeps at level 1 and takes `copy` GiB of host RAM for that, on a GPU of its own."""
    return single(
        name,
        frozenset({name}),
        share=40 * GiB,
        sleep_level=1,
        levels=frozenset({0, 1, 3}),
        copy=copy * GiB if copy is not None else None,
        **more,
    )


def host(*specs: GroupSpec, ram: int = 70) -> Playbook:
    totals = dict.fromkeys("abcd", 80 * GiB)
    return Playbook(*specs, keep_turns=False) >> GpusMeasured(0, totals) >> HostRamLimited(0, ram * GiB)


def asleep(book: Playbook, name: str, lease: int, time: float) -> Playbook:
    """Load the model, and put it to sleep."""
    return (
        book >> LeaseAsked(time, lease, name) << StartWorker(name)
        >> WorkerReady(time + 1, name, f"http://{name}") << GrantLease(lease, f"http://{name}", 1)
        >> LeaseEnded(time + 2, lease)
        >> OrderGiven(time + 3, 9, name, Verb.SLEEP) << SleepWorker(name, 1)
        >> WorkerAsleep(time + 4, name) << FinishOrder(9, WorkerState.ASLEEP)
    )  # fmt: skip


A, B, C = model("a"), model("b"), model("c")
SHORT = "sleeps at 2: host RAM has 10.0 of 30.0 GiB"


def test_the_third_of_three_sleeps_at_2_where_two_have_room_and_says_why():
    book = asleep(asleep(host(A, B, C), "a", 1, 1), "b", 2, 10)
    book.hidden = ()
    book = book >> LeaseAsked(20, 3, "c")
    moves = [command for command in book.pending if isinstance(command, RecordMove)]
    assert moves == [RecordMove("c", WorkerState.UNLOADED, WorkerState.STARTING, SHORT)]
    assert StartWorker("c", 2) in book.pending
    book.pending.clear()
    book = book >> WorkerReady(21, "c", "http://c")
    book.pending.clear()
    assert (book.worker("c").sleep_level, book.worker("c").launch_note) == (2, SHORT)
    book = book >> LeaseEnded(22, 3) >> OrderGiven(23, 9, "c", Verb.SLEEP)
    assert SleepWorker("c", 2) in book.pending


def test_what_a_model_takes_is_taken_from_its_launch_on_and_given_back_at_its_end():
    book = host(A, B, C) >> LeaseAsked(1, 1, "a") << StartWorker("a") >> LeaseAsked(1, 2, "b") << StartWorker("b")
    assert (
        book >> LeaseAsked(2, 3, "c") << StartWorker("c", 2)
        >> OrderGiven(3, 9, "c", Verb.RESTART) << StopWorker("c", kill=True)
    )  # fmt: skip
    book = book >> OrderGiven(4, 8, "a", Verb.STOP)
    book.pending.clear()
    book = book >> WorkerExited(5, "a")
    book.pending.clear()
    assert book >> WorkerExited(6, "c") << StartWorker("c")


def test_a_model_that_does_not_sleep_at_1_takes_none():
    book = host(A, single("b", frozenset({"b"}), sleep_level=2, copy=60 * GiB), C)
    book = book >> LeaseAsked(1, 1, "b") << StartWorker("b") >> LeaseAsked(1, 2, "a") << StartWorker("a")
    assert book >> LeaseAsked(2, 3, "c") << StartWorker("c")


def test_a_model_whose_copy_nobody_counts_takes_none():
    book = host(A, B, model("c", None))
    book = book >> LeaseAsked(1, 1, "a") << StartWorker("a") >> LeaseAsked(1, 2, "b") << StartWorker("b")
    assert book >> LeaseAsked(2, 3, "c") << StartWorker("c")


def test_where_nobody_knows_the_size_of_host_ram_everybody_sleeps_at_its_level():
    book = Playbook(A, B, C) >> GpusMeasured(0, dict.fromkeys("abc", 80 * GiB))
    for lease, name in enumerate("abc"):
        book = book >> LeaseAsked(1, lease, name) << StartWorker(name)
    assert book


def test_weights_that_were_seen_count_where_nobody_said_their_size():
    book = host(model("a", 0), model("b", 0), ram=50) >> WeightsSeen(0, {"a": 30 * GiB, "b": 30 * GiB})
    assert book >> LeaseAsked(1, 1, "a") << StartWorker("a") >> LeaseAsked(1, 2, "b") << StartWorker("b", 2)


def test_a_wake_from_level_1_needs_no_more_host_ram():
    book = asleep(asleep(host(A, B, ram=60), "a", 1, 1), "b", 2, 10)
    assert book >> LeaseAsked(20, 3, "a") << WakeWorker("a")


def measured_at_2(book: Playbook, name: str, seconds: float) -> Playbook:
    book.worker(name).costs[WorkerState.WAKING, 2].learn(seconds)
    return book


def test_the_coldest_sleeper_is_ended_where_that_is_cheaper_than_a_reload_at_each_wake():
    book = asleep(asleep(host(A, B, C), "a", 1, 1), "b", 2, 500)
    for number in range(6):  # c was wanted often, and slept at 2
        book.group("c").uses.append(900.0 + 10 * number)
    assert (
        measured_at_2(book, "c", 60.0) >> LeaseAsked(1000, 3, "c") << StopWorker("a", kill=True)
        >> WorkerExited(1001, "a") << StartWorker("c")
    )  # fmt: skip


def test_nobody_is_ended_for_a_model_that_is_wanted_less():
    book = asleep(asleep(host(A, B, C), "a", 1, 1), "b", 2, 10)
    for name in "ab":
        book.group(name).uses.clear()
    for number in range(6):
        book.group("a").uses.append(900.0 + number)
        book.group("b").uses.append(900.0 + number)
    book.group("c").uses.append(1.0)
    assert measured_at_2(book, "c", 20.0) >> LeaseAsked(1000, 3, "c") << StartWorker("c", 2)


def test_nobody_who_is_awake_is_ended_for_host_ram():
    book = host(A, B, C) >> LeaseAsked(1, 1, "a") << StartWorker("a") >> LeaseAsked(1, 2, "b") << StartWorker("b")
    for name, lease in (("a", 1), ("b", 2)):
        book = book >> WorkerReady(2, name, f"http://{name}") << GrantLease(lease, f"http://{name}", 1)
        book = book >> DemandReported(3, lease, 0, ())
    assert measured_at_2(book, "c", 1000.0) >> LeaseAsked(900, 3, "c") << StartWorker("c", 2)


def test_who_leaves_a_gpu_by_ending_leaves_host_ram_too():
    """b and c share a GPU; b keeps so much of it asleep that it must end, and c has its host RAM."""
    b = single("b", frozenset({"b"}), share=40 * GiB, sleep_level=1, copy=30 * GiB)
    c = single("c", frozenset({"b"}), share=78 * GiB, sleep_level=1, copy=30 * GiB)
    book = host(b, c, ram=40) >> LeaseAsked(1, 1, "b") << StartWorker("b")
    assert (
        book >> WorkerReady(2, "b", "http://b") << GrantLease(1, "http://b", 1)
        >> LeaseEnded(3, 1)
        >> LeaseAsked(4, 2, "c") << SleepWorker("b", 1)
        >> WorkerAsleep(5, "b", 5 * GiB) << StopWorker("b", kill=True)
        >> WorkerExited(6, "b") << StartWorker("c")
    )  # fmt: skip


def test_an_ordered_start_ends_nobody_for_host_ram():
    book = asleep(asleep(host(A, B, C), "a", 1, 1), "b", 2, 500)
    assert measured_at_2(book, "c", 1000.0) >> OrderGiven(1000, 9, "c", Verb.START) << StartWorker("c", 2)


def test_a_copy_that_is_there_stays_though_the_limit_of_host_ram_falls_below_it():
    book = asleep(host(A), "a", 1, 1) >> HostRamLimited(20, 10 * GiB)
    assert book >> LeaseAsked(21, 2, "a") << WakeWorker("a")
