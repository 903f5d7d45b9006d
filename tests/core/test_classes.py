"""Interactive requests and batch: batch waits, but not for ever."""

from muxd.core.commands import GrantLease, RevokeLease, StartWorker
from muxd.core.events import DemandReported, LeaseAsked, TimerFired, Waiting, WorkerReady

from .playbook import Playbook, single

BATCH = (Waiting(is_batch=True),)


def serving(requests: int = 0, switch_timeout: float = 1200.0, **more) -> Playbook:
    """Model a serves since second 4, with so many requests in flight since second 10."""
    specs = (single(name, switch_timeout=switch_timeout) for name in "abc")
    book = Playbook(*specs, wait_target=30.0, **more)
    book.scheduler.switching.lineup.batch_max_wait = 600.0
    return (
        book >> LeaseAsked(0, 1, "a") << StartWorker("a")
        >> WorkerReady(4, "a", "http://a") << GrantLease(1, "http://a", 1)
        >> DemandReported(10, 1, requests)
    )  # fmt: skip


def test_a_busy_model_gives_way_to_batch_only_after_batch_max_wait():
    interactive, batch = (serving(1) >> LeaseAsked(11, 2, "b", waiting) for waiting in ((Waiting(),), BATCH))
    assert interactive.timer is not None
    assert batch.timer is not None
    drain = 5.0  # it was not measured
    assert batch.timer == 11 + 600 - drain
    assert interactive.timer == 11 + 30 - drain
    assert batch >> TimerFired(606) << RevokeLease(1, "switch", "a gives way to b", 906)


def test_batch_is_due_before_its_requests_are_refused():
    book = serving(1, switch_timeout=600.0) >> LeaseAsked(11, 2, "b", BATCH)
    assert book.timer == 11 + 540 - 5 - 61


def test_an_idle_model_is_kept_from_batch_for_as_long_as_a_switch_there_and_back_costs():
    for keep_turns in (True, False):
        book = serving(keep_turns=keep_turns) >> LeaseAsked(11, 2, "b", BATCH)
        there, back = 1.0 + 60.0, 1.0 + book.group("a").comeback_cost(2).seconds
        assert book.timer == 10 + there + back
        book = book >> TimerFired(book.timer)
        assert book.pending[0] == RevokeLease(1, "switch", "a gives way to b", book.scheduler.host.now + 300)
        book.pending.clear()


def test_interactive_comes_before_batch_that_has_waited_longer_and_is_more():
    book = serving(1, keep_turns=False) >> LeaseAsked(11, 2, "b", (Waiting(50, is_batch=True),))
    book = book >> LeaseAsked(12, 3, "c") >> DemandReported(13, 1, 0)
    assert book << RevokeLease(1, "switch", "a gives way to c", 313)


def test_one_interactive_request_makes_its_model_wait_as_one():
    book = serving(1, keep_turns=False) >> LeaseAsked(11, 2, "b", BATCH)
    assert book.timer == 606
    book = book >> DemandReported(12, 2, 0, (*BATCH, Waiting()))
    assert book.timer == 12 + 30 - 5


def test_batch_that_waits_makes_nobody_else_wait_longer():
    alone = serving(1) >> LeaseAsked(11, 2, "b")
    beside = serving(1) >> LeaseAsked(10.5, 3, "c", BATCH) >> LeaseAsked(11, 2, "b")
    assert alone.timer == beside.timer
