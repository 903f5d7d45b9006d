"""Loans of GPUs: models leave them, nobody comes, and who was awake comes back."""

from math import inf

import pytest

from muxd.core.commands import (
    FailLease,
    FailLoan,
    FailOrder,
    FailSwitch,
    FinishLoan,
    FinishOrder,
    GrantLease,
    GrantLoan,
    RecallLoan,
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
    LeaseAsked,
    LeaseEnded,
    LoanAsked,
    LoanEnded,
    OrderGiven,
    Started,
    SwitchAsked,
    TimerFired,
    Verb,
    WorkerAsleep,
    WorkerExited,
    WorkerReady,
)
from muxd.core.progress import next_step
from muxd.core.spec import GroupSpec, LoanTerms
from muxd.core.states import WorkerState

from .playbook import Playbook, anywhere, single

ONE = frozenset({"0"})


def lend(time: float, *gpus: str, until: float = inf, **flags: bool) -> LoanAsked:
    return LoanAsked(time, 7, LoanTerms(frozenset(gpus), until, **flags))


def serving(*specs: GroupSpec | str, requests: int = 0) -> Playbook:
    """The first model serves on GPU 0; its lease is 1."""
    name = specs[0] if isinstance(specs[0], str) else specs[0].name
    return (
        Playbook(*specs, keep_turns=False)
        >> LeaseAsked(1, 1, name) << StartWorker(name)
        >> WorkerReady(5, name, f"http://{name}") << GrantLease(1, f"http://{name}", 1)
        >> DemandReported(10, 1, requests)
    )  # fmt: skip


def lent(*specs: GroupSpec | str, **flags: bool) -> Playbook:
    """The first model was serving, and GPU 0 is lent since second 21."""
    book = serving(*specs) >> lend(20, "0", **flags) << RevokeLease(1, "sleep", "GPU 0 is lent", 320)
    book = book >> LeaseEnded(20.5, 1) << SleepWorker("a", 2)
    return book >> WorkerAsleep(21, "a") << GrantLoan(7, ("0",), ("a",))


def test_a_model_finishes_and_sleeps_and_comes_back_when_the_borrower_is_gone():
    book = lent("a", "b")
    assert book.state("a") is WorkerState.ASLEEP
    assert book >> LoanEnded(100, 7) << WakeWorker("a")


def test_an_operators_sleep_that_a_loan_has_asked_for_already_outlives_the_loan():
    book = serving("a") >> lend(20, "0") << RevokeLease(1, "sleep", "GPU 0 is lent", 320)
    assert book >> OrderGiven(21, 9, "a", Verb.SLEEP, level=2)
    assert book >> LoanEnded(22, 7)
    assert book >> LeaseEnded(23, 1) << SleepWorker("a", 2)
    assert book >> WorkerAsleep(24, "a") << FinishOrder(9, WorkerState.ASLEEP), "and does not come back by itself"


def test_a_free_gpu_is_lent_at_once():
    assert Playbook("a") >> lend(1, "0") << GrantLoan(7, ("0",), ())


def test_requests_wait_meanwhile_and_who_waits_comes_before_who_was_there():
    book = lent("a", "b") >> LeaseAsked(30, 2, "b")
    host, switching = book.scheduler.host, book.scheduler.switching
    said = [next_step(host, switching, book.scheduler.idling, book.group(name), 31) for name in "ab"]
    assert said == [
        "wakes at its next request once its GPU is given back: it is lent",
        "waits until its GPU is given back: it is lent",
    ]
    assert book >> LoanEnded(100, 7) << StartWorker("b")


def test_requests_are_refused_where_that_was_asked_for():
    book = lent("a", refuses=True)
    text = "model a cannot be loaded now: GPU 0 is lent; `muxctl status` shows the loan"
    assert book >> LeaseAsked(30, 2, "a") << FailLease(2, "gpu_lent", text, 60.0)


def test_who_may_run_elsewhere_is_served_there():
    book = Playbook(anywhere("a", 1, "0", "1"), keep_turns=False) >> lend(1, "0") << GrantLoan(7, ("0",), ())
    assert book >> LeaseAsked(2, 1, "a") << StartWorker("a", gpus=("1",))


def test_one_that_sleeps_on_a_lent_gpu_is_started_anew_on_another():
    book = Playbook(anywhere("a", 1, "0", "1"), keep_turns=False) >> LeaseAsked(1, 1, "a")
    book = book << StartWorker("a", gpus=("0",)) >> WorkerReady(2, "a", "http://a") << GrantLease(1, "http://a", 1)
    book = book >> LeaseEnded(3, 1) >> lend(4, "0") << SleepWorker("a", 2)
    book = book >> WorkerAsleep(5, "a") << GrantLoan(7, ("0",), ("a",))
    book = book >> LeaseAsked(6, 2, "a") << StopWorker("a", kill=True) >> WorkerExited(7, "a")
    assert book << StartWorker("a", gpus=("1",))


def test_operators_orders_for_lent_gpus_are_refused_with_the_reason():
    book = lent("a")
    text = "model a cannot be loaded now: GPU 0 is lent; `muxctl status` shows the loan"
    assert book >> SwitchAsked(30, 9, "a") << FailSwitch(9, "gpu_lent", text)
    assert book >> HoldAsked(31, 9, "a") << FailSwitch(9, "gpu_lent", text)
    said = "a may run, but its GPU is lent; a request for it brings it once that is over"
    assert book >> OrderGiven(32, 9, "a", Verb.START) << FailOrder(9, "gpu_lent", said)
    said = "a cannot be validated: its GPU is lent"
    assert book >> OrderGiven(33, 9, "a", Verb.VALIDATE) << FailOrder(9, "gpu_lent", said)


@pytest.mark.parametrize(
    ("pinned", "how", "verb"), [(True, "pinned", "stop"), (False, "held by an operator", "unhold")]
)
def test_a_gpu_with_a_pinned_or_held_model_is_not_lent(pinned, how, verb):
    book = serving(single("a", pinned=pinned))
    if not pinned:
        book = book >> HoldAsked(11, 9, "a")
        book.pending.clear()
    text = f"GPU 0 cannot be lent: a is {how}, and leaves for nobody; `muxctl {verb} a` makes room"
    assert book >> lend(20, "0") << FailLoan(7, "pinned_in_the_way", text)


def test_gpus_that_are_lent_or_not_there_are_not_lent():
    book = lent("a") >> LoanAsked(30, 8, LoanTerms(frozenset({"0"})))
    assert book << FailLoan(8, "gpu_lent", "GPU 0 is lent already; muxctl status shows until when")
    given_up = Playbook("a") >> LoanAsked(1, 7, LoanTerms(is_borrowed=False))
    given_up.pending.clear()
    text = "GPU 0 is given up already (muxctl yield); `muxctl yield --end` ends that"
    assert given_up >> LoanAsked(2, 8, LoanTerms(is_borrowed=False)) << FailLoan(8, "gpu_lent", text)
    text = "no model may use GPU 5; there are 0"
    assert book >> LoanAsked(31, 8, LoanTerms(frozenset({"5"}))) << FailLoan(8, "gpu_missing", text)


def test_a_load_that_is_under_way_is_ended_and_begun_again_afterwards():
    book = Playbook("a", keep_turns=False) >> LeaseAsked(1, 1, "a") << StartWorker("a")
    book = book >> lend(2, "0") << StopWorker("a", kill=True) >> WorkerExited(3, "a") << GrantLoan(7, ("0",), ("a",))
    assert book >> LoanEnded(10, 7) << StartWorker("a")


def test_weights_that_a_sleeper_keeps_on_the_gpu_leave_it_too():
    book = serving(single("a", share=40, sleep_level=0, levels=frozenset({0, 2}), resident=30))
    book = book >> GpusMeasured(11, {"0": 80}) >> LeaseEnded(12, 1) >> OrderGiven(13, 9, "a", Verb.SLEEP)
    book = book << SleepWorker("a", 0) >> WorkerAsleep(14, "a", 30)
    book.pending.clear()
    assert book >> lend(20, "0") << SleepWorker("a", 2) >> WorkerAsleep(21, "a") << GrantLoan(7, ("0",), ())


def test_a_loan_that_is_over_before_a_model_has_left_lets_that_serve_on():
    book = serving("a", requests=1) >> lend(20, "0") << RevokeLease(1, "sleep", "GPU 0 is lent", 320)
    book = book >> LoanEnded(21, 7)
    assert book.state("a") is WorkerState.READY
    book.pending.clear()


def test_when_its_time_is_over_a_borrower_is_recalled():
    book = serving("a") >> LeaseEnded(11, 1) >> lend(20, "0", until=500) << SleepWorker("a", 2)
    book = book >> WorkerAsleep(21, "a") << GrantLoan(7, ("0",), ("a",))
    assert book.timer == 500
    assert book >> TimerFired(500) << RecallLoan(7, "its time is over")
    assert book >> TimerFired(600)
    assert book >> LoanEnded(601, 7) << WakeWorker("a")


@pytest.mark.parametrize("is_preemptible", [True, False])
def test_a_preemptible_loan_is_recalled_for_a_request_that_waits_for_its_gpu(is_preemptible):
    book = lent("a", single("b", frozenset({"1"})), is_preemptible=is_preemptible)
    assert book >> LeaseAsked(30, 2, "b") << StartWorker("b")
    book = book >> LeaseAsked(31, 3, "a")
    recalled = [RecallLoan(7, "a request waits for a")] if is_preemptible else []
    assert book.pending == recalled
    book.pending.clear()
    assert book >> LeaseAsked(32, 4, "a")


def test_a_preemptible_loan_is_not_granted_where_a_request_waits_and_the_model_that_was_to_leave_serves_on():
    book = serving("a", requests=1) >> lend(20, "0", is_preemptible=True)
    book = book << RevokeLease(1, "sleep", "GPU 0 is lent", 320)
    why = "GPU 0 is not lent: a request waits for a, and goes before a preemptible loan"
    refused = FailLoan(7, "gpu_awaited", f"{why}; ask again once none waits, or without --preemptible")
    assert book >> LeaseAsked(21, 2, "a") << refused << RestoreLease(1) << GrantLease(2, "http://a", 1)


def test_a_preemptible_loan_is_refused_at_once_where_a_request_waits_for_its_turn():
    book = serving("a", "b", requests=1) >> LeaseAsked(19, 2, "b") >> lend(20, "0", is_preemptible=True)
    assert isinstance(book.pending.pop(), FailLoan)
    assert book.group("a").state is WorkerState.READY


def test_all_gpus_are_given_up_for_a_time_and_then_all_that_were_awake_come_back():
    pair = single("a", pinned=True), single("b", frozenset({"1"}))
    book = serving(*pair) >> LeaseEnded(11, 1) >> LeaseAsked(12, 2, "b") << StartWorker("b")
    book = book >> WorkerReady(13, "b", "http://b") << GrantLease(2, "http://b", 1) >> LeaseEnded(14, 2)
    book = book >> lend(20, until=100, is_borrowed=False) << SleepWorker("a", 2) << SleepWorker("b", 2)
    book = book >> WorkerAsleep(21, "a") >> WorkerAsleep(22, "b") << GrantLoan(7, ("0", "1"), ("a", "b"))
    assert book >> TimerFired(100) << FinishLoan(7) << WakeWorker("a") << WakeWorker("b")


def test_a_loan_of_an_earlier_muxd_goes_on():
    book = Playbook("a") >> Started(0, loans={3: (LoanTerms(ONE), ("a",))})
    assert book >> LeaseAsked(1, 1, "a")
    assert book >> LoanEnded(10, 3) << StartWorker("a")
