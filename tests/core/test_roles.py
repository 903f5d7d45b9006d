"""A group of two roles, prefill and decode: it serves while both are filled, and one's death concerns the other."""

from muxd.core.commands import (
    EndLease,
    FailLease,
    FailOrder,
    GrantLease,
    RevokeLease,
    SleepWorker,
    StartWorker,
    SyncRouter,
)
from muxd.core.events import (
    DemandReported,
    Failure,
    LeaseAsked,
    LeaseEnded,
    OrderGiven,
    RouterSynced,
    Verb,
    WorkerDied,
    WorkerExited,
    WorkerReady,
)
from muxd.core.spec import GroupSpec, Role, WorkerSpec
from muxd.core.states import WorkerState

from .playbook import Playbook
from .serving_replicas import GPU_0, GPU_1, ONE, ZERO


def halves():
    """A group whose prompts are read by one worker and answered by another, both known to the router."""
    prefill = WorkerSpec("q/prefill/0", GPU_0, role=Role.PREFILL)
    decode = WorkerSpec("q/decode/0", GPU_1, role=Role.DECODE)
    router = WorkerSpec("q/router", frozenset(), role=Role.ROUTER)
    return (
        Playbook(GroupSpec("q", (prefill, decode, router)))
        >> LeaseAsked(0, 1, "q") << StartWorker("q/prefill/0") << StartWorker("q/decode/0") << StartWorker("q/router")
        >> WorkerReady(1, "q/router", "http://q") << SyncRouter("q", ())
        >> WorkerReady(10, "q/prefill/0", ZERO) << SyncRouter("q", (ZERO,))
        >> RouterSynced(10, "q", (ZERO,))
        >> WorkerReady(12, "q/decode/0", ONE) << SyncRouter("q", (ZERO, ONE))
        >> RouterSynced(12, "q", (ZERO, ONE)) << GrantLease(1, "http://q", 3)
    )  # fmt: skip


def test_a_group_of_two_roles_serves_when_both_are_filled():
    assert halves()


def test_one_half_that_dies_takes_the_leases_and_the_other_one_waits_for_it():
    book = (
        halves()
        >> WorkerExited(20, "q/decode/0", Failure.EXITED, "killed by SIGKILL")
        << RevokeLease(1, "worker_exited", "the worker of q/decode/0 killed by SIGKILL", 20) << EndLease(1)
        << StartWorker("q/decode/0") << SyncRouter("q", (ZERO,))
    )  # fmt: skip
    assert book
    assert (book.state("q"), book.worker("q/prefill/0").state) == (WorkerState.STARTING, WorkerState.READY)


def test_a_half_that_cannot_come_back_lets_the_other_one_sleep_and_is_named():
    book = (
        halves() >> LeaseEnded(15, 1)
        >> WorkerExited(20, "q/prefill/0") << StartWorker("q/prefill/0") << SyncRouter("q", (ONE,))
        >> WorkerExited(21, "q/prefill/0", Failure.REFUSED, "no such file")
        << SleepWorker("q/decode/0", 2) << SyncRouter("q", ())
        >> LeaseAsked(22, 2, "q")
    )  # fmt: skip
    refusal = "model q failed: no such file; see `muxctl logs q/prefill/0`; tried again in 59 s"
    assert book << FailLease(2, "model_failed", refusal, 59)


# Prefill and decode


def three_halves() -> GroupSpec:
    roles = {"prefill-0": Role.PREFILL, "prefill-1": Role.PREFILL, "decode-0": Role.DECODE}
    workers = (
        WorkerSpec(f"q/{part}", frozenset({str(gpu)}), role=role, sleep_level=3)
        for gpu, (part, role) in enumerate(roles.items())
    )
    return GroupSpec("q", (*workers, WorkerSpec("q/router", frozenset(), role=Role.ROUTER)))


URLS = ("http://q/p0", "http://q/p1", "http://q/d0")


def serving_three() -> Playbook:
    return (
        Playbook(three_halves()) >> LeaseAsked(0, 1, "q") << StartWorker("q/prefill-0") << StartWorker("q/prefill-1")
        << StartWorker("q/decode-0") << StartWorker("q/router")
        >> WorkerReady(1, "q/router", "http://q") << SyncRouter("q", ())
        >> WorkerReady(10, "q/prefill-0", URLS[0]) << SyncRouter("q", URLS[:1])
        >> WorkerReady(10, "q/prefill-1", URLS[1]) << SyncRouter("q", URLS[:2])
        >> RouterSynced(10, "q", URLS[:2])
        >> WorkerReady(11, "q/decode-0", URLS[2]) << SyncRouter("q", URLS)
        >> RouterSynced(11, "q", URLS) << GrantLease(1, "http://q", 4)
    )  # fmt: skip


def test_what_a_dead_half_was_reading_is_not_waited_for_though_another_one_is_there():
    why = "the worker of q/prefill-0 exited with status 1"
    book = (
        serving_three() >> DemandReported(20, 1, 3)
        >> WorkerDied(21, "q/prefill-0", "exited with status 1")
        << RevokeLease(1, "worker_exited", why, 21) << EndLease(1) << SyncRouter("q", URLS[1:])
        >> RouterSynced(21, "q", URLS[1:])
        >> LeaseAsked(21, 2, "q") << GrantLease(2, "http://q", 4)
    )  # fmt: skip
    assert book


def test_halves_are_not_scaled():
    why = "q has no replicas: how many prefill and how many decode is in its configuration"
    order = OrderGiven(20, 9, "q", Verb.SCALE, replicas=2)
    assert serving_three() >> order << FailOrder(9, "scale_refused", why)
