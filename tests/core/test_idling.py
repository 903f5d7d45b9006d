"""What becomes of models that nobody uses: ladders, shelter, holds, and the default model."""

from math import inf

import pytest

from muxd.core.commands import (
    AnswerUnload,
    FailLease,
    FailSwitch,
    FinishOrder,
    FinishSwitch,
    GrantLease,
    PersistHold,
    RemoveWorker,
    RestoreLease,
    RevokeLease,
    SleepWorker,
    StartWorker,
    StopWorker,
    WakeWorker,
)
from muxd.core.events import (
    DemandReported,
    GpusMeasured,
    HoldAsked,
    HoldEnded,
    KeepAsked,
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
from muxd.core.spec import DefaultGroup, GroupSpec, Rung
from muxd.core.states import WorkerState
from muxd.core.view import CoreView

from .playbook import Playbook, single

LADDER = (Rung(300, 0), Rung(600, 1), Rung(3600, 3))
SHALLOW = {"share": 40, "sleep_level": 0, "levels": frozenset({0, 1, 2})}


def idle(*specs: GroupSpec, **more) -> Playbook:
    """The first model serves, and is idle from second 10 on; its lease is 1."""
    name = specs[0].name
    return (
        Playbook(*specs, keep_turns=False, **more)
        >> LeaseAsked(1, 1, name) << StartWorker(name)
        >> WorkerReady(5, name, f"http://{name}") << GrantLease(1, f"http://{name}", 1)
        >> DemandReported(10, 1, 0)
    )  # fmt: skip


# Ladders


def test_an_unused_model_sleeps_deeper_step_by_step_and_ends():
    book = idle(single("a", ladder=LADDER, **SHALLOW))
    assert book.timer == 310
    book = book >> TimerFired(310) << RevokeLease(1, "unload", "nobody has used a for 300 s", 610)
    book = book >> LeaseEnded(310, 1) << SleepWorker("a", 0) >> WorkerAsleep(311, "a", 20)
    assert book.timer == 610
    book = book >> TimerFired(610) << SleepWorker("a", 1) >> WorkerAsleep(611, "a", 0)
    assert book.timer == 3610
    book = book >> TimerFired(3610) << StopWorker("a", kill=True) >> WorkerExited(3611, "a")
    assert (book.state("a"), book.timer) == (WorkerState.UNLOADED, None)


def test_a_use_begins_the_ladder_anew():
    book = idle(single("a", ladder=LADDER, **SHALLOW)) >> DemandReported(200, 1, 1)
    assert book.timer is None
    book = book >> DemandReported(400, 1, 0)
    assert book.timer == 700


def test_a_request_that_comes_while_it_drains_for_its_ladder_is_served_on():
    book = idle(single("a", ladder=LADDER, **SHALLOW))
    book = book >> TimerFired(310) << RevokeLease(1, "unload", "nobody has used a for 300 s", 610)
    book = book >> LeaseAsked(310.1, 2, "a")
    assert book.state("a") is WorkerState.READY


def test_one_that_an_operator_wakes_has_its_time_from_then_on():
    book = idle(single("a", ladder=(Rung(100, None),)))
    book = book >> LeaseEnded(20, 1) >> TimerFired(110) << SleepWorker("a", 2) >> WorkerAsleep(111, "a")
    book = book >> SwitchAsked(200, 9, "a") << WakeWorker("a")
    book = book >> WorkerReady(205, "a", "http://a") << FinishSwitch(9, "http://a")
    assert book.timer == 305


def test_one_that_another_model_sent_away_ends_in_its_time():
    book = idle(single("a", ladder=(Rung(50, None), Rung(100, 3))), single("b"))
    book = book >> LeaseEnded(20, 1) >> LeaseAsked(21, 2, "b") << SleepWorker("a", 2)
    book = book >> WorkerAsleep(22, "a") << StartWorker("b")
    assert book >> TimerFired(110) << StopWorker("a", kill=True)


def test_several_rungs_that_are_due_are_taken_in_one_step():
    book = idle(single("a", ladder=LADDER, **SHALLOW)) >> LeaseEnded(20, 1)
    assert book >> TimerFired(700) << SleepWorker("a", 1)


def test_a_rung_that_the_process_does_not_have_leads_to_the_next_deeper_level():
    book = idle(single("a", ladder=(Rung(100, 1),))) >> LeaseEnded(20, 1)
    assert book >> TimerFired(110) << SleepWorker("a", 2)


@pytest.mark.parametrize("more", [{"pinned": True}, {}])
def test_a_pinned_model_and_the_default_model_do_not_sleep_by_themselves(more):
    default = DefaultGroup("" if more else "a")
    book = idle(single("a", ladder=LADDER, **SHALLOW, **more), default=default)
    assert book.timer is None
    assert book >> TimerFired(9000)


def test_a_client_may_keep_a_model_longer_or_for_ever_or_shorter():
    book = idle(single("a", ladder=LADDER, **SHALLOW)) >> KeepAsked(20, "a", 1200, as_of=20)
    assert book.timer == 1210
    book = book >> KeepAsked(30, "a", inf, as_of=30)
    assert book.timer is None
    book = book >> KeepAsked(40, "a", 60, as_of=40)
    assert book.timer == 70
    book = book >> LeaseEnded(50, 1) >> TimerFired(70) << SleepWorker("a", 0) >> WorkerAsleep(71, "a", 20)
    assert book.timer == 610


def test_what_a_client_said_last_counts_in_whatever_order_it_is_told():
    book = idle(single("a", ladder=LADDER, **SHALLOW)) >> KeepAsked(20, "a", 1200, as_of=15)
    book = book >> KeepAsked(30, "a", 60, as_of=14)
    assert book.timer == 1210


def test_without_a_ladder_a_client_may_have_it_sleep_after_its_time():
    book = idle(single("a")) >> KeepAsked(20, "a", 60, as_of=20) >> LeaseEnded(21, 1)
    assert book >> TimerFired(70) << SleepWorker("a", 2) >> WorkerAsleep(71, "a")
    assert book.timer is None


def test_status_can_say_what_comes_next():
    book = idle(single("a", ladder=LADDER, **SHALLOW))
    assert CoreView(book.scheduler).group("a", 20).next_step == "sleeps at level 0 in 290s, unless it is used"
    book = book >> LeaseEnded(20, 1) >> TimerFired(700) << SleepWorker("a", 1) >> WorkerAsleep(701, "a", 0)
    assert CoreView(book.scheduler).group("a", 710).next_step == (
        "wakes at its next request; ends in 2900s, unless it is used"
    )


# Shelter


def kept_out(name):
    why = f"model {name} cannot be loaded now: a is in use, and kept for 900 s after the last request (evict)"
    return f"{why}; `muxctl switch {name}` goes before that"


def test_while_a_model_is_in_use_or_was_lately_others_are_refused_with_the_reason():
    book = idle(single("a", sheltered_for=900.0), single("b"))
    text = kept_out("b")
    assert book >> LeaseAsked(110, 2, "b") << FailLease(2, "model_in_use", text, 800.0)
    book = book >> DemandReported(200, 1, 1)
    assert book >> LeaseAsked(210, 3, "b") << FailLease(3, "model_in_use", text, 900.0)
    book = book >> DemandReported(300, 1, 0)
    assert book.timer == 1200
    book = book >> TimerFired(1200) >> LeaseAsked(1201, 4, "b")
    assert book << RevokeLease(1, "switch", "a gives way to b", 1501)


def test_a_use_keeps_it_again():
    book = idle(single("a", sheltered_for=900.0), single("b")) >> TimerFired(910)
    assert not book.group("a").is_sheltered
    assert (book >> DemandReported(911, 1, 1)).group("a").is_sheltered


def test_who_fits_beside_one_that_is_kept_is_loaded():
    book = idle(single("a", sheltered_for=900.0, gpus=frozenset({"0"})), single("b", gpus=frozenset({"1"})))
    assert book >> LeaseAsked(20, 2, "b") << StartWorker("b")


def test_an_operators_switch_goes_before_that():
    book = idle(single("a", sheltered_for=900.0), single("b"))
    book = book >> SwitchAsked(20, 9, "b") << RevokeLease(1, "switch", "a gives way to b", 320)
    book = book >> LeaseEnded(21, 1) << SleepWorker("a", 2) >> WorkerAsleep(22, "a") << StartWorker("b")
    book = book >> WorkerReady(25, "b", "http://b") << FinishSwitch(9, "http://b")
    book = book >> LeaseAsked(26, 3, "a") << SleepWorker("b", 2)
    book = book >> WorkerAsleep(27, "b") << WakeWorker("a") >> WorkerReady(28, "a", "http://a")
    assert book << GrantLease(3, "http://a", 2)
    assert book.group("a").is_sheltered


def test_an_operators_switch_that_is_refused_takes_no_model_its_shelter():
    pinned, kept = single("p", pinned=True, share=10), single("a", sheltered_for=900.0, share=20)
    book = Playbook(pinned, kept, single("b", share=100), single("c", share=85), keep_turns=False)
    book = book >> GpusMeasured(0, {"0": 100}, frozenset({"0"}))
    book = book >> LeaseAsked(1, 1, "p") << StartWorker("p")
    book = book >> WorkerReady(2, "p", "http://p") << GrantLease(1, "http://p", 1)
    book = book >> LeaseAsked(3, 2, "a") << StartWorker("a")
    book = book >> WorkerReady(4, "a", "http://a") << GrantLease(2, "http://a", 1)
    text = "model b cannot be loaded: p is pinned, and b does not fit beside it; `muxctl stop p` makes room"
    book = book >> DemandReported(10, 2, 0) >> SwitchAsked(11, 9, "b") << FailSwitch(9, "pinned_in_the_way", text)
    assert book >> LeaseAsked(12, 3, "c") << FailLease(3, "model_in_use", kept_out("c"), 898.0)


def test_a_model_whose_operators_switch_comes_to_nothing_leaves_the_others_sheltered():
    book = idle(single("a", sheltered_for=900.0), single("b")) >> DemandReported(20, 1, 1)
    book = book >> SwitchAsked(21, 9, "b") << RevokeLease(1, "switch", "a gives way to b", 321)
    assert not book.group("a").is_sheltered
    book = book >> SwitchAsked(22, 8, "a")
    book = book << FailSwitch(9, "superseded", "a newer switch, to a, took its place")
    book = book << RestoreLease(1) << FinishSwitch(8, "http://a")
    assert book >> LeaseAsked(23, 2, "b") << FailLease(2, "model_in_use", kept_out("b"), 900.0)


def test_a_model_on_other_gpus_is_sheltered_again_once_another_switch_takes_the_place_of_the_operators():
    both, other = single("b", frozenset({"0", "1"})), frozenset({"2"})
    kept = single("a", frozenset({"0"}), sheltered_for=900.0)
    book = idle(kept, both, single("c", frozenset({"0"})), single("d", other), single("e", frozenset({"1"})))
    book = book >> LeaseAsked(20, 2, "e") << StartWorker("e")
    book = book >> SwitchAsked(21, 9, "b")  # which waits for the start of e, and a is exposed for it
    book = book >> SwitchAsked(22, 8, "d") << FailSwitch(9, "superseded", "a newer switch, to d, took its place")
    book = book << StartWorker("d")
    assert book >> LeaseAsked(23, 3, "c") << FailLease(3, "model_in_use", kept_out("c"), 887.0)


def test_the_end_of_an_operators_switch_forgets_nobody_who_waits_for_a_model_that_was_removed_and_is_back():
    specs = single("a", sheltered_for=900.0), single("b")
    book = idle(*specs) >> SwitchAsked(20, 9, "b") << RevokeLease(1, "switch", "a gives way to b", 320)
    book = book >> Reconfigured(21, specs[1:], frozenset(), 30.0, keep_turns=False)
    book = book >> LeaseEnded(22, 1) << StopWorker("a")
    book = book >> WorkerExited(23, "a") << RemoveWorker("a") << StartWorker("b")
    book = book >> Reconfigured(24, specs, frozenset(), 30.0, keep_turns=False) >> LeaseAsked(25, 2, "a")
    assert book >> WorkerReady(30, "b", "http://b") << FinishSwitch(9, "http://b") << SleepWorker("b", 2)


def test_a_model_that_could_stay_beside_the_one_switched_to_is_sheltered_again_before_anybody_else_is_looked_at():
    kept = [single(name, sheltered_for=900.0, share=40) for name in "ad"]
    book = Playbook(*kept, single("b", sheltered_for=900.0, share=50), single("c", share=40), keep_turns=False)
    book = book >> GpusMeasured(0, {"0": 100}, frozenset({"0"}))
    for number, name in ((1, "a"), (2, "d")):
        book = book >> LeaseAsked(number, number, name) << StartWorker(name)
        book = book >> WorkerReady(number, name, f"http://{name}") << GrantLease(number, f"http://{name}", 1)
        book = book >> LeaseEnded(number, number)
    book = book >> SwitchAsked(10, 9, "b") << SleepWorker("a", 2) >> LeaseAsked(11, 3, "c")
    book = book >> WorkerAsleep(12, "a") << StartWorker("b") >> WorkerReady(20, "b", "http://b")
    text = kept_out("c").replace("a is in use", "d and b are in use")
    assert book << FinishSwitch(9, "http://b") << FailLease(3, "model_in_use", text, 900.0)


# Holds


def test_a_held_model_is_brought_and_leaves_for_nobody_until_its_time():
    book = Playbook("a", "b", keep_turns=False)
    book = book >> HoldAsked(1, 9, "a", until=1000.0) << PersistHold("a", 1000.0) << StartWorker("a")
    book = book >> WorkerReady(2, "a", "http://a") << FinishSwitch(9, "http://a")
    text = (
        "model b cannot be loaded: a is held by an operator, and b does not fit beside it; `muxctl unhold a` makes room"
    )
    assert book >> LeaseAsked(3, 1, "b") << FailLease(1, "pinned_in_the_way", text, None)
    assert book >> SwitchAsked(4, 8, "b") << FailSwitch(8, "pinned_in_the_way", text)
    assert book.timer == 1000
    assert book >> TimerFired(1000) << PersistHold("a", None)
    assert book >> LeaseAsked(1001, 2, "b") << SleepWorker("a", 2)


def test_a_hold_ends_when_an_operator_says_so_and_only_then_its_ladder_counts():
    book = idle(single("a", ladder=(Rung(100, None),)), single("b"))
    book = book >> HoldAsked(20, 9, "a") << PersistHold("a", inf) << FinishSwitch(9, "http://a")
    assert book >> TimerFired(500)
    assert book >> UnloadAsked(501, 3, "a") << AnswerUnload(3, "an operator holds it")
    book = (
        book
        >> HoldEnded(600, "a")
        << PersistHold("a", None)
        << RevokeLease(1, "unload", "nobody has used a for 590 s", 900)
    )
    assert book >> LeaseEnded(601, 1) << SleepWorker("a", 2)
    assert book >> HoldEnded(602, "a")


def test_a_hold_calls_a_switch_off_that_has_not_begun():
    book = idle(single("a"), single("b")) >> LeaseAsked(20, 2, "b")
    book = book << RevokeLease(1, "switch", "a gives way to b", 320)
    book = book >> HoldAsked(21, 9, "a")
    assert PersistHold("a", inf) in book.pending
    assert any(isinstance(command, FailLease) for command in book.pending)
    assert book.state("a") is WorkerState.READY
    book.pending.clear()


def test_one_that_is_refused_is_not_held():
    book = Playbook(single("a", pinned=True), "b", keep_turns=False) >> LeaseAsked(1, 1, "a") << StartWorker("a")
    book = book >> WorkerReady(2, "a", "http://a") << GrantLease(1, "http://a", 1)
    book = book >> HoldAsked(3, 9, "b")
    (failed,) = book.pending
    assert isinstance(failed, FailSwitch)
    book.pending.clear()
    assert book.group("b").held_until is None


def test_a_hold_outlasts_muxd():
    book = Playbook("a", "b") >> Started(0, held={"a": 500.0, "gone": 1.0}) << PersistHold("a", 500.0)
    assert book.group("a").is_pinned
    assert book.timer == 500


# The default model


def by_default(**more) -> Playbook:
    book = Playbook("a", single("b", **more), keep_turns=False, default=DefaultGroup("a", 60.0))
    book = book >> Started(0) << StartWorker("a") >> WorkerReady(5, "a", "http://a")
    return (
        book >> LeaseAsked(10, 1, "b") << SleepWorker("a", 2) >> WorkerAsleep(11, "a") << StartWorker("b")
        >> WorkerReady(15, "b", "http://b") << GrantLease(1, "http://b", 1)
    )  # fmt: skip


def test_the_default_model_comes_back_when_nothing_else_is_wanted_for_a_while():
    book = by_default()
    assert book.timer is None
    book = book >> DemandReported(20, 1, 0)
    assert book.timer == 80
    book = book >> DemandReported(50, 1, 1) >> TimerFired(81) >> DemandReported(90, 1, 0)
    assert book.timer == 150
    book = book >> TimerFired(150) << RevokeLease(1, "switch", "b gives way to a", 450)
    assert book >> LeaseEnded(151, 1) << SleepWorker("b", 2) >> WorkerAsleep(152, "b") << WakeWorker("a")


def test_it_does_not_come_back_while_others_wait():
    book = by_default() >> DemandReported(20, 1, 0) >> LeaseEnded(21, 1)
    book = book >> LeaseAsked(22, 2, "b") << GrantLease(2, "http://b", 1)
    assert book >> TimerFired(81)


def test_it_stays_away_where_an_operator_has_put_it_to_sleep_until_it_is_wanted():
    book = Playbook("a", "b", keep_turns=False, default=DefaultGroup("a", 60.0))
    book = book >> Started(0) << StartWorker("a") >> WorkerReady(5, "a", "http://a")
    book = book >> OrderGiven(6, 9, "a", Verb.SLEEP) << SleepWorker("a", 2)
    book = book >> WorkerAsleep(7, "a") << FinishOrder(9, WorkerState.ASLEEP)
    assert book >> TimerFired(1000)
    assert book >> LeaseAsked(1001, 1, "a") << WakeWorker("a")


def test_another_configuration_may_name_another_one():
    book = by_default() >> DemandReported(20, 1, 0)
    specs = single("a"), single("b")
    book = book >> Reconfigured(30, specs, frozenset(), 30.0, keep_turns=False, default=DefaultGroup("b"))
    assert book >> TimerFired(5000)
    assert book.state("b") is WorkerState.READY


def test_a_client_does_not_unload_the_default_model():
    book = Playbook("a", default=DefaultGroup("a")) >> Started(0) << StartWorker("a")
    book = book >> WorkerReady(5, "a", "http://a")
    assert book >> UnloadAsked(6, 3, "a") << AnswerUnload(3, "it is the default model")


# Priority


def test_of_two_that_wait_the_one_of_the_model_with_the_higher_priority_comes_first():
    for priority, first in ((0, "b"), (3, "c")):
        book = idle(single("a"), single("b"), single("c", priority=priority)) >> DemandReported(11, 1, 1)
        book = book >> LeaseAsked(12, 2, "b") >> LeaseAsked(12.1, 3, "c")
        book = book >> DemandReported(13, 1, 0) << RevokeLease(1, "switch", f"a gives way to {first}", 313)
        assert book


def test_the_model_with_the_lower_priority_leaves():
    for low, lease in (("a", 1), ("b", 2)):
        specs = [single(name, share=40, priority=-2 if name == low else 2) for name in "ab"]
        book = idle(*specs, single("c", share=40)) >> GpusMeasured(11, {"0": 80})
        book = book >> LeaseAsked(11, 2, "b") << StartWorker("b")
        book = book >> WorkerReady(15, "b", "http://b") << GrantLease(2, "http://b", 1) >> DemandReported(16, 2, 0)
        assert book >> LeaseAsked(20, 3, "c") << RevokeLease(lease, "switch", f"{low} gives way to c", 320)
