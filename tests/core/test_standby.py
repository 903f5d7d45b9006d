"""Whose next process waits at a gate, what a start from there is, and who goes first where room is short."""

from math import inf

import pytest

from muxd.core.commands import ActivateStandby, GrantLease, GrantLoan, PrepareStandby, StartWorker, StopWorker
from muxd.core.events import (
    ActivationFailed,
    AdoptedWorker,
    DemandReported,
    Failure,
    HostRamLimited,
    LeaseAsked,
    LeaseEnded,
    LoanAsked,
    OrderGiven,
    Reconfigured,
    ShutdownAsked,
    StandbyPrepared,
    Started,
    SwitchAsked,
    TimerFired,
    Verb,
    WorkerExited,
    WorkerReady,
)
from muxd.core.spec import GroupSpec, LoanTerms
from muxd.core.states import WorkerState

from .playbook import Playbook, single


def gated(name: str, size: int = 0, **more) -> GroupSpec:
    return single(name, sleep_level=3, standby=size, **more)


def told(book: Playbook, *events) -> list[object]:
    """What processes are told because of these events; other commands are left aside."""
    found: list[object] = []
    for event in events:
        book >> event
        kinds = PrepareStandby | ActivateStandby | StartWorker | StopWorker
        found += [command for command in book.pending if isinstance(command, kinds)]
        book.pending.clear()
    return found


def waiting(*specs: GroupSpec | str) -> Playbook:
    """A's next process waits at its gate."""
    book = Playbook(*(specs or (gated("a"),)))
    told(book, Started(0), StandbyPrepared(5, "a"))
    assert book.state("a") == "standby"
    return book


def test_what_is_not_to_be_loaded_waits_at_its_gate_and_a_request_starts_it_from_there():
    book = Playbook(gated("a")) >> Started(0) << PrepareStandby("a")
    assert book >> StandbyPrepared(25, "a")
    assert book >> LeaseAsked(30, 1, "a") << ActivateStandby("a")
    assert book.state("a") == "starting"
    assert book >> WorkerReady(33, "a", "http://a") << GrantLease(1, "http://a", 1)


def test_what_is_to_be_loaded_at_the_start_is_loaded():
    assert Playbook(gated("a", preload=True)) >> Started(0) << StartWorker("a")


def test_nothing_is_begun_before_it_is_known_what_an_earlier_muxd_has_left():
    assert Playbook(gated("a")) >> HostRamLimited(0, 100)


def test_after_its_end_the_next_one_is_begun():
    book = Playbook(gated("a"), "b")
    told(book, Started(0), LeaseAsked(1, 1, "a"), WorkerReady(2, "a", "http://a"), LeaseEnded(3, 1))
    told(book, SwitchAsked(4, 9, "b"))
    assert told(book, WorkerExited(5, "a")) == [StartWorker("b")], "somebody waits for b, which starts"
    assert told(book, WorkerReady(30, "b", "http://b")) == [PrepareStandby("a")]


def test_one_is_begun_at_a_time_and_first_that_for_which_somebody_waits():
    book = Playbook("x", gated("a"), gated("b"))
    events = Started(0), LeaseAsked(0, 1, "x"), WorkerReady(1, "x", "http://x"), DemandReported(1, 1, 1)
    book2 = Playbook(gated("a"), gated("b"))
    assert told(book2, Started(0)) == [PrepareStandby("a")]
    assert told(book2, StandbyPrepared(5, "a")) == [PrepareStandby("b")]
    assert told(book, *events)[0] == PrepareStandby("a")
    told(book, LeaseAsked(2, 2, "b"))
    assert told(book, StandbyPrepared(3, "a")) == [PrepareStandby("b", is_urgent=True)]


def test_one_that_is_on_its_way_to_its_gate_is_told_to_go_on_from_there():
    book = Playbook(gated("a"))
    told(book, Started(0))
    assert told(book, LeaseAsked(1, 1, "a")) == [ActivateStandby("a")]
    assert told(book, StandbyPrepared(20, "a")) == [], "it has been told"
    told(book, WorkerReady(24, "a", "http://a"))
    assert not book.worker("a").costs[WorkerState.STARTING, None].measured
    assert not book.worker("a").costs[WorkerState.STARTING, 3].measured


def test_what_a_start_takes_is_learned_by_where_it_begins():
    book = waiting()
    told(book, LeaseAsked(10, 1, "a"), WorkerReady(13, "a", "http://a"))
    costs = book.worker("a").costs
    assert costs[WorkerState.STARTING, 3].known == 3
    assert not costs[WorkerState.STARTING, None].measured
    told(book, OrderGiven(20, 1, "a", Verb.RESTART, now=True), LeaseEnded(20, 1))
    told(book, WorkerExited(21, "a"), WorkerReady(50, "a", "http://a"))
    assert costs[WorkerState.STARTING, None].known == 29
    assert book.worker("a").comeback_cost(3).seconds == 3, "its next process will wait at the gate"


def test_a_process_that_does_not_go_on_is_killed_and_another_started_at_once():
    book = waiting()
    told(book, LeaseAsked(10, 1, "a"))
    assert told(book, ActivationFailed(12, "a", "its gate does not answer")) == [StopWorker("a", kill=True)]
    assert told(book, WorkerExited(13, "a")) == [StartWorker("a")]
    assert not book.worker("a").failures
    assert book >> WorkerReady(40, "a", "http://a") << GrantLease(1, "http://a", 2)


def test_one_that_dies_at_its_gate_is_begun_again_later_and_later_and_the_model_can_be_started_all_the_same():
    book = waiting(gated("a", restart_limit=3))
    assert told(book, WorkerExited(10, "a", Failure.EXITED, "exited with status 1")) == []
    assert book.timer is not None
    assert book.timer <= 11.2
    assert book.worker("a").reason == "its process at the gate: exited with status 1"
    assert told(book, TimerFired(book.timer)) == [PrepareStandby("a")]
    told(book, WorkerExited(20, "a"))
    assert 21.9 <= (book.timer or 0) <= 22.3
    assert told(book, TimerFired(22.3)) == [PrepareStandby("a")]
    assert told(book, WorkerExited(30, "a"), TimerFired(100)) == [], "three times is enough"
    assert told(book, LeaseAsked(101, 1, "a")) == [StartWorker("a")]
    told(book, WorkerReady(130, "a", "http://a"), LeaseEnded(131, 1), OrderGiven(132, 5, "a", Verb.SLEEP))
    assert told(book, WorkerExited(133, "a")) == [PrepareStandby("a")], "it has served since"


def test_one_that_cannot_be_executed_is_not_begun_again():
    book = Playbook(gated("a"))
    assert told(book, Started(0), WorkerExited(1, "a", Failure.REFUSED, "no such flag"), TimerFired(99)) == [
        PrepareStandby("a")
    ]


def test_an_operators_stop_ends_it_and_a_start_goes_on_from_its_gate():
    book = waiting()
    assert told(book, OrderGiven(6, 1, "a", Verb.STOP)) == [StopWorker("a", kill=True)]
    assert told(book, WorkerExited(7, "a")) == []
    assert book.group("a").shown_state == "stopped"
    assert told(book, OrderGiven(8, 2, "a", Verb.START)) == [StartWorker("a")]
    book = waiting()
    assert told(book, OrderGiven(6, 1, "a", Verb.START)) == [ActivateStandby("a")]


def test_an_order_to_sleep_leaves_it_where_it_is():
    assert told(waiting(), OrderGiven(6, 1, "a", Verb.SLEEP)) == []


def test_a_new_configuration_ends_it_and_the_next_one_is_begun():
    book = waiting()
    other = gated("a", drain_timeout=7.0)
    assert told(book, Reconfigured(6, (other,), frozenset({"a"}), 30.0)) == [StopWorker("a", kill=True)]
    assert told(book, WorkerExited(7, "a")) == [PrepareStandby("a")]
    assert book.group("a").spec is other
    without = single("a", sleep_level=3)
    assert told(book, Reconfigured(8, (without,), frozenset(), 30.0)) == [StopWorker("a", kill=True)]
    assert told(book, WorkerExited(9, "a")) == []


def test_it_is_begun_where_a_running_model_gets_standby():
    book = Playbook(single("a", sleep_level=3))
    told(book, Started(0))
    assert told(book, Reconfigured(1, (gated("a"),), frozenset(), 30.0)) == [PrepareStandby("a")]


def test_a_shutdown_ends_it():
    assert told(waiting(), ShutdownAsked(6, 30)) == [StopWorker("a", kill=True)]


def test_it_leaves_lent_gpus_before_they_are_lent():
    book = waiting()
    assert told(book, LoanAsked(6, 1, LoanTerms())) == [StopWorker("a", kill=True)]
    assert book >> WorkerExited(7, "a") << GrantLoan(1, ("0",), ())


def test_it_is_begun_only_where_host_ram_has_room_and_what_it_was_measured_to_take_counts():
    book = Playbook(gated("a", 40), gated("b", 40))
    assert told(book, HostRamLimited(0, 60), Started(0)) == [PrepareStandby("a")]
    assert told(book, StandbyPrepared(5, "a", 10)) == [PrepareStandby("b")]
    assert told(book, StandbyPrepared(9, "b", 55))[0] == StopWorker("a", kill=True), "65 of 60"


def test_it_is_the_first_to_go_where_weights_need_its_host_ram():
    book = Playbook(gated("a", 40), single("b", sleep_level=1, copy=30))
    told(book, HostRamLimited(0, 60), Started(0), StandbyPrepared(5, "a"))
    assert told(book, LeaseAsked(6, 1, "b")) == [StopWorker("a", kill=True)]
    assert told(book, WorkerExited(7, "a")) == [StartWorker("b")], "for level 1, as it is configured"
    assert told(book, WorkerReady(8, "b", "http://b")) == [], "40 more are not there"


def test_none_is_ended_where_that_would_not_be_enough():
    book = Playbook(gated("a", 40), single("b", sleep_level=1, copy=70))
    told(book, HostRamLimited(0, 60), Started(0), StandbyPrepared(5, "a"))
    assert told(book, LeaseAsked(6, 1, "b")) == [StartWorker("b", 2)]


def test_what_an_earlier_muxd_left_at_its_gate_waits_on():
    book = Playbook(gated("a", 40))
    found = AdoptedWorker("a", "", waits=True, gate_size=30)
    assert told(book, HostRamLimited(0, 60), Started(0, adopted=(found,))) == []
    assert book.state("a") == "standby"
    assert book.scheduler.host.ledger.total("host").size == 30
    assert told(book, LeaseAsked(1, 1, "a")) == [ActivateStandby("a")]
    assert book.scheduler.host.ledger.total("host").size == 0


def test_what_is_to_be_loaded_at_the_start_is_loaded_from_the_gate_where_it_was_left():
    book = Playbook(gated("a", preload=True))
    assert told(book, Started(0, adopted=(AdoptedWorker("a", "", waits=True),))) == [ActivateStandby("a")]


@pytest.mark.parametrize("event", [StandbyPrepared(1, "a"), ActivationFailed(1, "a", "no answer")])
def test_an_answer_that_comes_too_late_changes_nothing(event):
    book = Playbook("a")
    told(book, Started(0))
    assert told(book, event) == []
    assert book.state("a") == "unloaded"
    assert book.worker("a").gate_retry_at < inf
