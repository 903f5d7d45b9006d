"""An operator's order to let so many replicas serve: it ends when they do, or says why there are not as many."""

import pytest

from muxd.core.commands import (
    FailOrder,
    FinishOrder,
    PersistStopped,
    RecordScale,
    RevokeLease,
    SleepWorker,
    StartWorker,
    SyncRouter,
    WakeWorker,
)
from muxd.core.events import (
    DemandReported,
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
from muxd.core.spec import LoanTerms, Scaling

from .playbook import Playbook, replicas, single
from .scaled_pool import GPUS, ONE, RULE, TWO, ZERO, pool, scale, two


def test_an_operators_scale_ends_when_all_of_them_serve():
    assert (
        pool(scaling=None) >> scale(20, 3) << RecordScale("q", 1, 3, "an operator ordered it")
        << StartWorker("q/1") << StartWorker("q/2")
        >> WorkerReady(30, "q/1", ONE) << SyncRouter("q", (ZERO, ONE))
        >> RouterSynced(30, "q", (ZERO, ONE))
        >> WorkerReady(31, "q/2", TWO) << SyncRouter("q", (ZERO, ONE, TWO))
        >> RouterSynced(32, "q", (ZERO, ONE, TWO)) << FinishOrder(9, "ready")
    )  # fmt: skip


def test_an_operators_scale_brings_a_model_that_is_stopped():
    spec = replicas("q", *GPUS, at_first=1)
    assert (
        Playbook(spec) >> OrderGiven(0, 8, "q", Verb.STOP) << PersistStopped("q", True) << FinishOrder(8, "stopped")
        >> scale(1, 2) << PersistStopped("q", False) << RecordScale("q", 1, 2, "an operator ordered it")
        << StartWorker("q/0") << StartWorker("q/1") << StartWorker("q/router")
    )  # fmt: skip


def test_an_operators_scale_to_none_brings_back_one_at_the_next_request():
    book = (
        two(scaling=RULE) >> DemandReported(40, 1, 0)
        >> scale(41, 0) << RecordScale("q", 2, 0, "an operator ordered it")
        << RevokeLease(1, "sleep", "q is scaled to 0 by an operator", 341)
        >> LeaseEnded(42, 1) << SleepWorker("q/0", 2) << SleepWorker("q/1", 2) << SyncRouter("q", ())
        >> WorkerAsleep(43, "q/0")
        >> WorkerAsleep(44, "q/1") << RecordScale("q", 2, 1, "q is scaled to 0 by an operator")
        << FinishOrder(9, "asleep")
        >> LeaseAsked(50, 2, "q") << WakeWorker("q/0")
    )  # fmt: skip
    assert book


def test_more_than_fit_are_refused_with_how_many_do_and_who_is_there():
    refusal = (
        "2 of 3 replicas of q fit now; there is no room for 3: GPU 1 has no room: b (starting); "
        "ask for fewer, or make room"
    )
    assert (
        pool(single("b", gpus=GPUS[1])) >> LeaseAsked(11, 2, "b") << StartWorker("b")
        >> scale(20, 3) << FailOrder(9, "no_room", refusal)
        >> scale(21, 2) << RecordScale("q", 1, 2, "an operator ordered it") << StartWorker("q/2")
    )  # fmt: skip


def test_an_operators_scale_brings_nobody_to_gpus_that_are_lent():
    refusal = "2 of 3 replicas of q fit now; there is no room for 3: GPU 2 is lent; ask for fewer, or make room"
    book = pool() >> GpusMeasured(11, {"0": 80, "1": 80, "2": 80}) >> LoanAsked(12, 5, LoanTerms(frozenset({"2"})))
    book.pending.clear()
    assert book >> scale(20, 3) << FailOrder(9, "no_room", refusal)
    assert book >> scale(21, 2) << RecordScale("q", 1, 2, "an operator ordered it") << StartWorker("q/1")


def test_replicas_on_one_gpu_fit_by_their_sizes():
    spec = replicas("q", GPUS[0], GPUS[0], GPUS[0], share=30, at_first=1)
    book = Playbook(spec) >> GpusMeasured(0, {"0": 80}) >> scale(1, 3)
    assert book.pending[0].message.startswith("2 of 3 replicas of q fit now")


def test_fewer_of_those_that_never_fit_together_come():
    book = Playbook(replicas("q", GPUS[0], GPUS[0], share=50)) >> GpusMeasured(0, {"0": 80})
    book >> OrderGiven(1, 8, "q", Verb.START)
    assert "1 of them fit" in book.pending.pop().message
    book >> scale(2, 1) << RecordScale("q", 2, 1, "an operator ordered it")
    assert book << StartWorker("q/0") << StartWorker("q/router")


@pytest.mark.parametrize(
    ("count", "why"),
    [
        (4, "q has at most 3 replicas, not 4: see its max_replicas"),
        (1, "q has at least 2 replicas: see its min_replicas"),
    ],
)
def test_what_the_configuration_does_not_allow_is_refused(count, why):
    rule = Scaling(least=2, load=4, queue_wait=5, up_after=30, down_after=60)
    assert pool(scaling=rule) >> scale(20, count) << FailOrder(9, "scale_refused", why)


def test_a_model_of_one_worker_has_no_replicas():
    why = "q has one worker, and no replicas; give it max_replicas, and reload"
    assert Playbook("q") >> scale(1, 2) << FailOrder(9, "scale_refused", why)


def test_a_scale_whose_room_others_take_meanwhile_ends_with_who_did():
    book = (
        pool(single("b", gpus=GPUS[1]), scaling=None)
        >> scale(20, 2) << RecordScale("q", 1, 2, "an operator ordered it") << StartWorker("q/1")
        >> WorkerExited(21, "q/1", reason="exited with status 1") << StartWorker("q/1")
    )  # fmt: skip
    assert book, "its memory is kept for it, as it died"
