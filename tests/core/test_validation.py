"""What an operator's order to validate a model does: each level is tried, and nobody else is in between."""

from math import inf

import pytest
from msgspec.structs import replace

from muxd.core.commands import (
    FailOrder,
    FinishOrder,
    FinishSwitch,
    GrantLease,
    Moment,
    ReportCycle,
    RevokeLease,
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
    Reconfigured,
    RouterSynced,
    SleepFailed,
    Started,
    SwitchAsked,
    TimerFired,
    ValidationEnded,
    Verb,
    Waiting,
    WakeFailed,
    WorkerAsleep,
    WorkerExited,
    WorkerMeasured,
    WorkerReady,
)
from muxd.core.placement import Eviction
from muxd.core.progress import next_step, progress_of
from muxd.core.states import WorkerState

from .playbook import Playbook, anywhere, idle_a, serving_a, single
from .validated import DEEP, ask, ready, ready_replicas, validate


def test_a_model_sleeps_and_wakes_at_each_level_and_is_ready_in_the_end():
    assert (
        ready(DEEP, "b")
        >> validate(20, 0, 2) << ask(1, Moment.BEFORE)
        >> WorkerMeasured(21, "a", 1) << SleepWorker("a", 0)
        >> WorkerAsleep(22, "a") << ask(2, Moment.ASLEEP)
        >> WorkerMeasured(23, "a", 2) << WakeWorker("a")
        >> WorkerReady(25, "a", "http://a") << ask(3, Moment.AWAKE)
        >> WorkerMeasured(26, "a", 3) << ReportCycle(9, "a", 0, 1, 1, 2) << SleepWorker("a", 2)
        >> WorkerAsleep(30, "a") << ask(4, Moment.ASLEEP)
        >> WorkerMeasured(30, "a", 4) << WakeWorker("a")
        >> WorkerReady(38, "a", "http://a") << ask(5, Moment.AWAKE)
        >> WorkerMeasured(39, "a", 5) << ReportCycle(9, "a", 2, 1, 4, 8) << FinishOrder(9, "ready")
    )  # fmt: skip


def test_what_a_validation_took_is_learned():
    book = ready(DEEP)
    book >> validate(20, 0) << ask(1, Moment.BEFORE) >> WorkerMeasured(21, "a", 1) << SleepWorker("a", 0)
    book >> WorkerAsleep(24, "a", kept=7) << ask(2, Moment.ASLEEP) >> WorkerMeasured(24, "a", 2) << WakeWorker("a")
    assert book >> WorkerReady(30, "a", "http://a") << ask(3, Moment.AWAKE)
    worker = book.worker("a")
    assert (worker.cost(WorkerState.FALLING_ASLEEP, 0).seconds, worker.cost(WorkerState.WAKING, 0).seconds) == (3, 6)
    assert worker.kept == {0: 7}


def test_a_level_that_its_process_was_not_launched_for_gets_one_and_level_3_comes_last():
    assert (
        ready(DEEP)
        >> validate(20, 3, 1) << StopWorker("a")
        >> WorkerExited(22, "a") << StartWorker("a", 1)
        >> WorkerReady(30, "a", "http://a") << ask(1, Moment.BEFORE)
        >> WorkerMeasured(31, "a", 1) << SleepWorker("a", 1)
        >> WorkerAsleep(32, "a") << ask(2, Moment.ASLEEP)
        >> WorkerMeasured(33, "a", 2) << WakeWorker("a")
        >> WorkerReady(35, "a", "http://a") << ask(3, Moment.AWAKE)
        >> WorkerMeasured(36, "a", 3) << ReportCycle(9, "a", 1, 1, 1, 2) << StopWorker("a")
        >> WorkerExited(39, "a") << ask(4, Moment.ASLEEP)
        >> WorkerMeasured(39, "a", 4) << StartWorker("a")
        >> WorkerReady(49, "a", "http://a") << ask(5, Moment.AWAKE)
        >> WorkerMeasured(50, "a", 5) << ReportCycle(9, "a", 3, 1, 3, 10) << FinishOrder(9, "ready")
    )  # fmt: skip


def test_in_the_end_its_process_is_as_configured():
    assert (
        ready(DEEP)
        >> validate(20, 1) << StopWorker("a")
        >> WorkerExited(22, "a") << StartWorker("a", 1)
        >> WorkerReady(30, "a", "http://a") << ask(1, Moment.BEFORE)
        >> WorkerMeasured(31, "a", 1) << SleepWorker("a", 1)
        >> WorkerAsleep(32, "a") << ask(2, Moment.ASLEEP)
        >> WorkerMeasured(33, "a", 2) << WakeWorker("a")
        >> WorkerReady(35, "a", "http://a") << ask(3, Moment.AWAKE)
        >> WorkerMeasured(36, "a", 3) << ReportCycle(9, "a", 1, 1, 1, 2) << StopWorker("a")
        >> WorkerExited(39, "a") << StartWorker("a")
        >> WorkerReady(49, "a", "http://a") << FinishOrder(9, "ready")
    )  # fmt: skip


def test_without_levels_it_is_all_that_the_model_has_each_as_often_as_asked():
    book = ready(DEEP)
    assert book >> validate(20, cycles=2) << ask(1, Moment.BEFORE)
    cycles = book.group("a").validation.cycles
    assert [tuple(cycle) for cycle in cycles] == [(0, 1), (0, 2), (2, 1), (2, 2), (1, 1), (1, 2), (3, 1), (3, 2)]


def test_a_level_that_the_model_can_never_have_is_refused_before_anything_moves():
    refusal = FailOrder(9, "level_refused", "a has no level 0 and no level 1, only levels 2 and 3")
    assert ready("a") >> validate(20, 0, 1, 2) << refusal
    assert (
        ready(single("a", sleep_level=3))
        >> validate(20, 2)
        << FailOrder(9, "level_refused", "a has no level 2, only level 3")
    )


def test_a_model_that_is_not_loaded_is_loaded_first_and_who_is_there_gives_way_as_in_a_switch():
    assert (
        idle_a()
        >> LeaseEnded(20, 1)
        >> validate(21, 2, model="b") << SleepWorker("a", 2)
        >> WorkerAsleep(22, "a") << StartWorker("b")
        >> WorkerReady(30, "b", "http://b") << ask(1, Moment.BEFORE, "b")
    )  # fmt: skip


def test_its_clients_wait_until_it_is_over_and_so_does_a_switch_to_it():
    message = "a is validated by an operator"
    assert (
        serving_a()
        >> validate(21, 2) << RevokeLease(1, Verb.VALIDATE, message, 321)
        >> LeaseEnded(30, 1) << ask(1, Moment.BEFORE)
        >> WorkerMeasured(30, "a", 1) << SleepWorker("a", 2)
        >> LeaseAsked(31, 2, "a")
        >> SwitchAsked(31, 5, "a")
        >> WorkerAsleep(32, "a") << ask(2, Moment.ASLEEP)
        >> DemandReported(33, 2, 0, (Waiting(3, 1.0),))
        >> WorkerMeasured(34, "a", 2) << WakeWorker("a")
        >> WorkerReady(35, "a", "http://a") << ask(3, Moment.AWAKE)
        >> WorkerMeasured(36, "a", 3) << ReportCycle(9, "a", 2, 1, 2, 1) << FinishOrder(9, "ready")
        << GrantLease(2, "http://a", 2) << FinishSwitch(5, "http://a")
    )  # fmt: skip


@pytest.mark.parametrize("asks", [LeaseAsked(33, 2, "b"), SwitchAsked(33, 5, "b"), OrderGiven(33, 5, "b", Verb.START)])
def test_nobody_else_comes_to_its_gpus_meanwhile(asks):
    book = (
        ready("a", "b")
        >> validate(20, 3) << ask(1, Moment.BEFORE)
        >> WorkerMeasured(21, "a", 1) << StopWorker("a")
        >> WorkerExited(32, "a") << ask(2, Moment.ASLEEP)
        >> asks
        >> TimerFired(120)
        >> WorkerMeasured(134, "a", 2) << StartWorker("a")
    )  # fmt: skip
    book >> WorkerReady(144, "a", "http://a")
    if isinstance(asks, OrderGiven):  # a start evicts nobody
        assert isinstance(book.pending.pop(), FailOrder)
    book << ask(3, Moment.AWAKE)
    book >> WorkerMeasured(150, "a", 3) << ReportCycle(9, "a", 3, 1, 11, 10) << FinishOrder(9, "ready")
    if not isinstance(asks, OrderGiven):
        assert book << SleepWorker("a", 2)


def test_two_models_on_one_gpu_are_validated_one_after_the_other():
    book = ready("a", "b") >> validate(20, 2) << ask(1, Moment.BEFORE) >> validate(20, 2, model="b", ticket=8)
    book >> WorkerMeasured(21, "a", 1) << SleepWorker("a", 2)
    book >> WorkerAsleep(22, "a") << ask(2, Moment.ASLEEP) >> WorkerMeasured(23, "a", 2) << WakeWorker("a")
    book >> WorkerReady(24, "a", "http://a") << ask(3, Moment.AWAKE)
    book >> WorkerMeasured(25, "a", 3) << ReportCycle(9, "a", 2, 1, 1, 1) << FinishOrder(9, "ready")
    assert book << SleepWorker("a", 2) >> WorkerAsleep(26, "a") << StartWorker("b")


def test_two_models_that_are_awake_together_are_validated_one_after_the_other():
    a, b = single("a", share=40), single("b", share=40)
    book = Playbook(a, b) >> GpusMeasured(0, {"0": 80})
    book >> LeaseAsked(0, 1, "a") << StartWorker("a") >> WorkerReady(1, "a", "http://a") << GrantLease(1, "http://a", 1)
    book >> LeaseAsked(2, 2, "b") << StartWorker("b") >> WorkerReady(3, "b", "http://b") << GrantLease(2, "http://b", 1)
    book >> LeaseEnded(4, 1) >> LeaseEnded(4, 2)
    book >> validate(20, 2) << ask(1, Moment.BEFORE) >> validate(20, 2, model="b", ticket=8)
    book >> WorkerMeasured(21, "a", 1) << SleepWorker("a", 2) >> WorkerAsleep(22, "a") << ask(2, Moment.ASLEEP)
    book >> WorkerMeasured(23, "a", 2) << WakeWorker("a") >> WorkerReady(24, "a", "http://a") << ask(3, Moment.AWAKE)
    book >> WorkerMeasured(25, "a", 3) << ReportCycle(9, "a", 2, 1, 1, 1) << FinishOrder(9, "ready")
    assert book << ask(4, Moment.BEFORE, "b")


def test_who_waits_with_an_order_for_the_end_of_a_validation_beside_it_is_brought_forward_then():
    """The restart of a, which comes before b in the configuration, is looked at again when the validation of b ends."""
    book = Playbook(single("a", share=30, sleep_level=3), single("b", share=40)) >> GpusMeasured(0, {"0": 80})
    for time, name in ((1, "a"), (4, "b")):
        book >> LeaseAsked(time, time, name) << StartWorker(name)
        book >> WorkerReady(time + 1, name, f"http://{name}") << GrantLease(time, f"http://{name}", 1)
        book >> LeaseEnded(time + 2, time)
    (
        book
        >> validate(20, 2, model="b")
        << ask(1, Moment.BEFORE, "b")
        >> WorkerMeasured(21, "b", 1)
        << SleepWorker("b", 2)
    )
    book >> OrderGiven(22, 5, "a", Verb.RESTART) << StopWorker("a") >> WorkerExited(23, "a")
    book >> WorkerAsleep(24, "b") << ask(2, Moment.ASLEEP, "b") >> WorkerMeasured(24, "b", 2) << WakeWorker("b")
    book >> WorkerReady(25, "b", "http://b") << ask(3, Moment.AWAKE, "b") >> WorkerMeasured(26, "b", 3)
    assert book << ReportCycle(9, "b", 2, 1, 3, 1) << FinishOrder(9, "ready") << StartWorker("a")
    assert book >> WorkerReady(30, "a", "http://a") << FinishOrder(5, "ready")


def test_what_a_dropped_validation_leaves_ends_with_the_switch_that_comes_to_nothing():
    """c keeps more asleep than was thought, so that e does not fit beside b."""
    book = Playbook(single("b", share=30), single("c", share=40), single("e", share=50))
    book >> GpusMeasured(0, {"0": 80})
    for time, name in ((1, "b"), (4, "c")):
        book >> LeaseAsked(time, time, name) << StartWorker(name)
        book >> WorkerReady(time + 1, name, f"http://{name}") << GrantLease(time, f"http://{name}", 1)
        book >> LeaseEnded(time + 2, time)
    book >> validate(20, 2, model="e") << SleepWorker("c", 2) >> ValidationEnded(21, 9, "e")
    assert book >> WorkerAsleep(22, "c", kept=3)
    assert book.group("e").order is None


def test_one_that_any_gpu_will_do_for_comes_back_to_those_that_are_kept_for_it():
    """While both have ended, GPU 0 looks as good to g as its own: it is the other one's that is validated."""
    specs = single("b", share=30, sleep_level=3), anywhere("g", 1, "0", "1", share=40, sleep_level=3)
    book = Playbook(*specs) >> GpusMeasured(0, {"0": 80, "1": 80})
    for time, name, gpus in ((1, "b", ()), (4, "g", ("1",))):
        book >> LeaseAsked(time, time, name) << StartWorker(name, None, gpus)
        book >> WorkerReady(time + 1, name, f"http://{name}") << GrantLease(time, f"http://{name}", 1)
        book >> LeaseEnded(time + 2, time)
    for number, name in ((1, "b"), (2, "g")):
        book >> validate(20, 3, model=name, ticket=number) << ask(number, Moment.BEFORE, name)
    for number, name in ((1, "b"), (2, "g")):
        book >> WorkerMeasured(21, name, number) << StopWorker(name)
    for number, name in ((3, "b"), (4, "g")):
        book >> WorkerExited(22, name) << ask(number, Moment.ASLEEP, name)
    assert book >> WorkerMeasured(23, "g", 4) << StartWorker("g", None, ("1",))


def test_a_wake_that_fails_ends_the_level_and_the_model_comes_back_for_the_next():
    failed = "its wake failed: it said no"
    assert (
        ready(DEEP)
        >> validate(20, 0, 2, cycles=2) << ask(1, Moment.BEFORE)
        >> WorkerMeasured(21, "a", 1) << SleepWorker("a", 0)
        >> WorkerAsleep(22, "a") << ask(2, Moment.ASLEEP)
        >> WorkerMeasured(23, "a", 2) << WakeWorker("a")
        >> WakeFailed(24, "a", "it said no") << StopWorker("a", kill=True)
        >> WorkerExited(25, "a") << StartWorker("a")
        >> WorkerReady(35, "a", "http://a") << ask(3, Moment.AWAKE)
        >> WorkerMeasured(36, "a", 3) << ReportCycle(9, "a", 0, 1, 1, None, failed) << ask(4, Moment.BEFORE)
        >> WorkerMeasured(37, "a", 4) << SleepWorker("a", 2)
    )  # fmt: skip


def test_a_sleep_that_fails_ends_the_level_likewise():
    book = ready(DEEP) >> validate(20, 0) << ask(1, Moment.BEFORE)
    book >> WorkerMeasured(21, "a", 1) << SleepWorker("a", 0)
    book >> SleepFailed(22, "a", "it said no") << StopWorker("a", kill=True)
    book >> WorkerExited(25, "a") << ask(2, Moment.ASLEEP) >> WorkerMeasured(25, "a", 2) << StartWorker("a")
    book >> WorkerReady(35, "a", "http://a") << ask(3, Moment.AWAKE) >> WorkerMeasured(36, "a", 3)
    failed = "its sleep failed: it said no"
    assert book << ReportCycle(9, "a", 0, 1, None, None, failed) << FinishOrder(9, "ready")


def test_one_that_dies_asleep_was_not_woken():
    book = ready(DEEP) >> validate(20, 2) << ask(1, Moment.BEFORE)
    book >> WorkerMeasured(21, "a", 1) << SleepWorker("a", 2)
    book >> WorkerAsleep(22, "a") << ask(2, Moment.ASLEEP)
    book >> WorkerExited(23, "a", reason="killed by signal 9") >> WorkerMeasured(24, "a", 2) << StartWorker("a")
    book >> WorkerReady(35, "a", "http://a") << ask(3, Moment.AWAKE) >> WorkerMeasured(36, "a", 3)
    assert book << ReportCycle(9, "a", 2, 1, 1, None, "killed by signal 9") << FinishOrder(9, "ready")


def test_an_answer_that_is_wrong_fails_the_level_and_the_process_that_gave_it_ends():
    book = ready(DEEP) >> validate(20, 2, cycles=3) << ask(1, Moment.BEFORE)
    book >> WorkerMeasured(21, "a", 1) << SleepWorker("a", 2)
    book >> WorkerAsleep(22, "a") << ask(2, Moment.ASLEEP) >> WorkerMeasured(24, "a", 2) << WakeWorker("a")
    book >> WorkerReady(35, "a", "http://a") << ask(3, Moment.AWAKE) >> WorkerMeasured(36, "a", 3, "it says else")
    book << ReportCycle(9, "a", 2, 1, 1, 11, "it says else") << StopWorker("a")
    book >> WorkerExited(37, "a") << StartWorker("a")
    assert book >> WorkerReady(47, "a", "http://a") << FinishOrder(9, "ready")


def test_the_process_after_a_wrong_answer_is_launched_for_the_next_level():
    book = ready(DEEP) >> validate(20, 2, 1) << ask(1, Moment.BEFORE)
    book >> WorkerMeasured(21, "a", 1) << SleepWorker("a", 2)
    book >> WorkerAsleep(22, "a") << ask(2, Moment.ASLEEP) >> WorkerMeasured(24, "a", 2) << WakeWorker("a")
    book >> WorkerReady(35, "a", "http://a") << ask(3, Moment.AWAKE) >> WorkerMeasured(36, "a", 3, "it says else")
    book << ReportCycle(9, "a", 2, 1, 1, 11, "it says else") << StopWorker("a")
    assert book >> WorkerExited(37, "a") << StartWorker("a", 1)


def test_one_that_cannot_be_asked_before_does_not_sleep():
    book = ready(DEEP) >> validate(20, 0, 2) << ask(1, Moment.BEFORE) >> WorkerMeasured(21, "a", 1, "no answer")
    assert book << ReportCycle(9, "a", 0, 1, None, None, "no answer") << ask(2, Moment.BEFORE)
    assert book >> WorkerMeasured(22, "a", 1, "a late answer")  # nobody waits for it


def test_one_whose_weights_find_no_host_ram_is_not_validated_at_level_1():
    spec = single("a", levels=frozenset({0, 2}), launchable=frozenset({1}), copy=30 << 30)
    book = Playbook(spec) >> HostRamLimited(0, 10 << 30)
    book >> LeaseAsked(0, 1, "a") << StartWorker("a")
    book >> WorkerReady(1, "a", "http://a") << GrantLease(1, "http://a", 1) >> LeaseEnded(2, 1)
    book >> validate(20, 1) << StopWorker("a") >> WorkerExited(22, "a") << StartWorker("a", 2)
    why = "sleeps at 2: host RAM has 10.0 of 30.0 GiB"
    assert (
        book
        >> WorkerReady(30, "a", "http://a")
        << ReportCycle(9, "a", 1, 1, None, None, why)
        << FinishOrder(9, "ready")
    )


def test_every_replica_sleeps_and_is_measured():
    book = ready_replicas()
    book >> validate(20, 2, model="r") << ask(1, Moment.BEFORE, "r/0") << ask(2, Moment.BEFORE, "r/1")
    book >> WorkerMeasured(21, "r/0", 1)
    book >> WorkerMeasured(21, "r/1", 2) << SleepWorker("r/0", 2) << SleepWorker("r/1", 2)
    book.pending.clear()
    book >> WorkerAsleep(22, "r/0")
    book.pending.clear()
    book >> WorkerAsleep(23, "r/1")
    assert ask(3, Moment.ASLEEP, "r/0") in book.pending
    assert ask(4, Moment.ASLEEP, "r/1") in book.pending
    book.pending.clear()
    book >> WorkerMeasured(24, "r/0", 3) >> WorkerMeasured(24, "r/1", 4) << WakeWorker("r/0") << WakeWorker("r/1")
    book >> WorkerReady(25, "r/0", "http://r/0")
    book.pending.clear()
    book >> WorkerReady(27, "r/1", "http://r/1")
    book.pending.clear()
    book >> RouterSynced(27, "r", ("http://r/0", "http://r/1"))
    book << ask(5, Moment.AWAKE, "r/0") << ask(6, Moment.AWAKE, "r/1")
    book >> WorkerMeasured(28, "r/1", 6)
    book >> WorkerMeasured(29, "r/0", 5)
    assert book << ReportCycle(9, "r/0", 2, 1, 1, 1) << ReportCycle(9, "r/1", 2, 1, 2, 3) << FinishOrder(9, "ready")


def test_who_ordered_it_is_gone_and_the_model_wakes():
    book = ready(DEEP) >> validate(20, 0, 2) << ask(1, Moment.BEFORE)
    book >> WorkerMeasured(21, "a", 1) << SleepWorker("a", 0)
    book >> WorkerAsleep(22, "a") << ask(2, Moment.ASLEEP)
    book >> ValidationEnded(22, 8, "a")  # not its own
    assert book >> ValidationEnded(23, 9, "a") << WakeWorker("a")
    assert book >> WorkerMeasured(24, "a", 2) >> WorkerReady(25, "a", "http://a")
    assert book.group("a").order is None


def test_who_ordered_it_is_gone_and_a_process_that_was_launched_for_it_ends():
    book = ready(DEEP) >> validate(20, 1) << StopWorker("a") >> WorkerExited(22, "a") << StartWorker("a", 1)
    book >> WorkerReady(30, "a", "http://a") << ask(1, Moment.BEFORE)
    book >> ValidationEnded(31, 9, "a") << StopWorker("a")
    assert book >> WorkerExited(33, "a") << StartWorker("a") >> WorkerReady(40, "a", "http://a")


def test_a_newer_order_takes_its_place():
    book = ready(DEEP) >> validate(20, 0) << ask(1, Moment.BEFORE)
    newer = "a newer order, stop a, took its place"
    book >> OrderGiven(21, 5, "a", Verb.STOP)
    assert FailOrder(9, "superseded", newer) in book.pending
    book = ready(DEEP) >> validate(20, 0) << ask(1, Moment.BEFORE)
    newer = "a newer order, validate a, took its place"
    assert book >> validate(21, 2, ticket=8) << FailOrder(9, "superseded", newer) << ask(2, Moment.BEFORE)


def test_a_new_configuration_ends_it():
    book = ready(DEEP) >> validate(20, 0) << ask(1, Moment.BEFORE)
    other = replace(DEEP, drain_timeout=1.0)
    book >> Reconfigured(21, (other,), frozenset({"a"}), 30.0)
    message = "the configuration of a has changed"
    assert book << FailOrder(9, "superseded", message) << StopWorker("a")
    refusal = "a new configuration of a is about to hold; validate it after that"
    assert book >> validate(22, 0, ticket=8) << FailOrder(8, "superseded", refusal)


def test_one_that_an_operator_stopped_is_refused():
    message = "model a is stopped by an operator; `muxctl start a` lets it run again"
    assert Playbook("a") >> Started(0, frozenset({"a"})) >> validate(1, 2) << FailOrder(9, "model_stopped", message)


def test_status_says_how_far_it_is():
    book = ready(DEEP) >> validate(20, 2, cycles=2) << ask(1, Moment.BEFORE)
    host, switching = book.scheduler.host, book.scheduler.switching
    said = next_step(host, switching, book.scheduler.idling, book.group("a"), 20)
    assert said == "is validated at level 2, cycle 1; its clients wait until all 2 are over"
    assert progress_of(host, switching, book.group("a"), 20).eta is None
    book >> WorkerMeasured(21, "a", 1) << SleepWorker("a", 2)
    book >> WorkerAsleep(22, "a") << ask(2, Moment.ASLEEP) >> WorkerMeasured(22, "a", 2) << WakeWorker("a")
    book >> WorkerReady(27, "a", "http://a") << ask(3, Moment.AWAKE)
    book >> WorkerMeasured(28, "a", 3) << ReportCycle(9, "a", 2, 1, 1, 5) << SleepWorker("a", 2)
    said = next_step(host, switching, book.scheduler.idling, book.group("a"), 28)
    assert said == "is validated at level 2, cycle 2; its clients wait until that is over"
    assert progress_of(host, switching, book.group("a"), 28).eta == 6


def test_the_times_of_one_cycle_are_not_those_of_the_next():
    book = ready(DEEP) >> validate(20, 0, cycles=2) << ask(1, Moment.BEFORE)
    book >> WorkerMeasured(21, "a", 1) << SleepWorker("a", 0) >> WorkerAsleep(22, "a") << ask(2, Moment.ASLEEP)
    book >> WorkerMeasured(22, "a", 2) << WakeWorker("a") >> WorkerReady(23, "a", "http://a") << ask(3, Moment.AWAKE)
    book >> WorkerMeasured(24, "a", 3) << ReportCycle(9, "a", 0, 1, 1, 1) << SleepWorker("a", 0)
    book >> SleepFailed(25, "a", "it said no") << StopWorker("a", kill=True) >> WorkerExited(26, "a")
    book << ask(4, Moment.ASLEEP) >> WorkerMeasured(26, "a", 4) << StartWorker("a")
    book >> WorkerReady(36, "a", "http://a") << ask(5, Moment.AWAKE) >> WorkerMeasured(37, "a", 5)
    failed = "its sleep failed: it said no"
    assert book << ReportCycle(9, "a", 0, 2, None, None, failed) << FinishOrder(9, "ready")


def test_a_replica_beside_one_that_cannot_be_asked_is_not_tried():
    book = (
        ready_replicas() >> validate(20, 2, model="r") << ask(1, Moment.BEFORE, "r/0") << ask(2, Moment.BEFORE, "r/1")
    )
    book >> WorkerMeasured(21, "r/0", 1, "no answer")
    book >> WorkerMeasured(21, "r/1", 2) << ReportCycle(9, "r/0", 2, 1, None, None, "no answer")
    assert book << ReportCycle(9, "r/1", 2, 1, None, None, "it was not tried") << FinishOrder(9, "ready")


def test_who_waits_for_its_gpu_is_promised_nothing_and_comes_as_soon_as_it_is_over():
    book = ready(DEEP, "b") >> validate(20, 0) << ask(1, Moment.BEFORE)
    book >> LeaseAsked(20, 2, "b") >> SwitchAsked(20, 5, "a")
    a, b = book.group("a"), book.group("b")
    assert book.scheduler.switching.lineup.give_way_at([Eviction(a, 2)], b) == inf
    book >> WorkerMeasured(21, "a", 1) << SleepWorker("a", 0)
    assert not a.leaves, "it comes back"
    book >> WorkerAsleep(22, "a") << ask(2, Moment.ASLEEP) >> WorkerMeasured(22, "a", 2) << WakeWorker("a")
    book >> WorkerReady(23, "a", "http://a") << ask(3, Moment.AWAKE)
    book >> WorkerMeasured(24, "a", 3) << ReportCycle(9, "a", 0, 1, 1, 1) << FinishOrder(9, "ready")
    assert book << FinishSwitch(5, "http://a") << SleepWorker("a", 2)
