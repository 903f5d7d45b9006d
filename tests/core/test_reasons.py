"""Why a switch begins comes out of the decision as data: who waited, who ordered, and what was compared."""

import pytest

from muxd.core.commands import Cause, RecordSwitch
from muxd.core.events import (
    DemandReported,
    LeaseAsked,
    OrderGiven,
    Started,
    SwitchAsked,
    TimerFired,
    Verb,
    Waiting,
    WorkerExited,
    WorkerReady,
)

from .playbook import Playbook, single


def reasons(book: Playbook) -> list[RecordSwitch]:
    """Why switches began since the last look; other commands are left aside."""
    found = [command for command in book.pending if isinstance(command, RecordSwitch)]
    book.pending.clear()
    return found


def busy(**more) -> Playbook:
    """A is ready and has a request in flight."""
    book = Playbook("a", "b", "c", switches=True, **more)
    for event in (Started(0), LeaseAsked(0, 1, "a"), WorkerReady(1, "a", "http://a"), DemandReported(1, 1, 1)):
        book >> event
        book.pending.clear()
    return book


def test_who_comes_to_a_free_gpu_is_the_best_of_those_who_wait_with_its_lease():
    book = Playbook("a", "b", switches=True)
    book >> Started(0)
    book.pending.clear()
    (reason,) = reasons(book >> LeaseAsked(2, 7, "a", (Waiting(3, 1.5),)))
    assert (reason.target, reason.victims, reason.cause, reason.leases) == ("a", (), Cause.BEST, (7,))
    (compared,) = reason.compared
    assert (compared.group, compared.waiting, compared.waited) == ("a", 3, 1.5)
    assert compared.comes_in <= 0


def test_who_has_waited_to_its_bound_is_due_and_the_others_are_told_with_what_was_compared():
    book = busy(wait_target=20.0)
    assert reasons(book >> LeaseAsked(10, 2, "b", (Waiting(2),))) == []
    assert reasons(book >> LeaseAsked(11, 3, "c")) == []
    while not (found := reasons(book >> TimerFired(book.timer))):
        pass
    (reason,) = found
    assert (reason.target, reason.victims, reason.cause, reason.leases) == ("b", (("a", 2),), Cause.DUE, (2,))
    b, c = reason.compared
    assert (b.group, b.waiting) == ("b", 2)
    assert b.due_in <= 0.001
    assert (c.group, c.waiting) == ("c", 1)
    assert b.waited == c.waited + 1.0
    assert b.score > c.score
    assert reason.wait_target == 20.0


def test_batch_that_is_due_is_told_with_its_own_bound():
    book = busy(wait_target=5.0)
    book.scheduler.switching.lineup.batch_max_wait = 60.0
    assert reasons(book >> LeaseAsked(10, 2, "b", (Waiting(is_batch=True),))) == []
    while not (found := reasons(book >> TimerFired(book.timer))):
        pass
    assert (found[0].target, found[0].wait_target) == ("b", 60.0)


def test_an_operators_switch_is_told_with_its_tickets_and_ahead_of_whoever_waits():
    book = busy()
    book >> LeaseAsked(2, 2, "b")
    book.pending.clear()
    (reason,) = reasons(book >> SwitchAsked(3, 40, "c"))
    assert (reason.target, reason.cause, reason.tickets, reason.compared) == ("c", Cause.OPERATOR, (40,), ())


@pytest.mark.parametrize(("verb", "cause"), [(Verb.START, Cause.ORDER), (Verb.VALIDATE, Cause.VALIDATION)])
def test_an_order_that_brings_a_model_is_told_with_its_ticket(verb, cause):
    book = Playbook("a", switches=True)
    book >> Started(0)
    book.pending.clear()
    (reason,) = reasons(book >> OrderGiven(1, 9, "a", verb))
    assert (reason.cause, reason.tickets) == (cause, (9,))


def test_a_crash_and_a_preload_are_told_apart():
    book = Playbook(single("a", preload=True), switches=True)
    (reason,) = reasons(book >> Started(0))
    assert reason.cause is Cause.PRELOAD
    book >> WorkerReady(1, "a", "http://a")
    book.pending.clear()
    (reason,) = reasons(book >> WorkerExited(2, "a"))
    assert (reason.target, reason.cause) == ("a", Cause.CRASH)


def test_of_many_who_wait_the_best_are_told():
    names = [f"m{number:02}" for number in range(40)]
    book = Playbook("a", *names, switches=True, wait_target=5000.0)
    for event in (Started(0), LeaseAsked(0, 1, "a"), WorkerReady(1, "a", "http://a"), DemandReported(1, 1, 1)):
        book >> event
        book.pending.clear()
    for number, name in enumerate(names):
        book >> LeaseAsked(2 + number / 100, 100 + number, name)
    book.pending.clear()
    (reason,) = reasons(book >> DemandReported(5000, 1, 0))
    assert reason.target == "m00"
    assert reason.compared[0].group == "m00"
    assert len(reason.compared) == 16
