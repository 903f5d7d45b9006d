"""What a new configuration does to the workers: what has changed is started anew, and nothing else is touched."""

import gc

from msgspec.structs import replace

from muxd.core.commands import (
    FailLease,
    FailOrder,
    FailSwitch,
    FinishOrder,
    GrantLease,
    ReconfigureWorker,
    RemoveWorker,
    StartWorker,
    StopWorker,
)
from muxd.core.events import (
    Failure,
    GpusMeasured,
    LeaseAsked,
    LeaseEnded,
    Reconfigured,
    SwitchAsked,
    Verb,
    WorkerExited,
    WorkerReady,
)
from muxd.core.states import WorkerState
from muxd.core.worker import Worker

from .playbook import Playbook, asleep_a, order, revoked, serving_a, single

A, B = single("a"), single("b")


def configured(time, *specs, changed=()):
    return Reconfigured(time, specs, frozenset(changed), 30.0)


def test_an_unchanged_model_is_never_touched():
    assert serving_a() >> configured(20, A, replace(B, drain_timeout=7.0), single("c"))


def test_a_new_model_can_be_asked_for_and_is_preloaded_if_it_says_so():
    preloaded = single("d", frozenset({"1"}), preload=True)
    assert serving_a() >> configured(20, A, B, single("c"), preloaded) << StartWorker("d")


def test_a_model_that_is_removed_drains_and_goes():
    book = (
        serving_a()
        >> configured(20, B) << revoked("retire", "a is no longer in the configuration", 320)
        >> LeaseAsked(21, 2, "a") << FailLease(2, "model_not_found", "model a is no longer in the configuration")
        >> LeaseEnded(25, 1) << StopWorker("a")
        >> WorkerExited(26, "a") << RemoveWorker("a")
    )  # fmt: skip
    assert book
    assert list(book.scheduler.host.workers) == ["b"]


def test_a_changed_model_on_the_gpu_is_restarted_with_its_new_settings():
    book = (
        serving_a()
        >> configured(20, single("a", sleep_level=1), B, changed=["a"]) << revoked("restart", "a is restarted", 320)
        >> LeaseEnded(25, 1) << StopWorker("a")
        >> WorkerExited(26, "a") << ReconfigureWorker("a") << StartWorker("a")
    )  # fmt: skip
    assert book
    assert book.worker("a").spec.sleep_level == 1


def test_a_changed_model_that_sleeps_loses_its_process_and_waits_for_a_request():
    assert (
        asleep_a()
        >> configured(50, single("a", sleep_level=1), B, changed=["a"]) << StopWorker("a", kill=True)
        >> WorkerExited(51, "a") << ReconfigureWorker("a")
        >> configured(60, single("a", sleep_level=1), B)
    )  # fmt: skip


def test_a_changed_model_without_a_process_just_changes():
    book = (
        Playbook("a", "b") >> configured(1, single("a", frozenset({"1"})), B, changed=["a"]) << ReconfigureWorker("a")
    )
    assert book
    assert book >> LeaseAsked(2, 1, "b") << StartWorker("b")
    assert book >> LeaseAsked(3, 2, "a") << StartWorker("a")  # on another GPU now


def test_a_failed_model_that_changed_is_tried_at_the_next_request():
    book = (
        Playbook("a") >> LeaseAsked(0, 1, "a") << StartWorker("a")
        >> WorkerExited(5, "a", Failure.REFUSED, "unknown flag") << FailLease(
            1, "model_failed", "model a failed: unknown flag; see `muxctl logs a`; tried again in 60 s", 60.0)
        >> configured(6, A, changed=["a"]) << ReconfigureWorker("a")
    )  # fmt: skip
    assert book
    assert book >> LeaseAsked(7, 2, "a") << StartWorker("a")


def test_a_model_that_is_removed_while_it_is_restarted_for_a_change_goes():
    book = (
        serving_a()
        >> configured(20, single("a", sleep_level=1), B, changed=["a"]) << revoked("restart", "a is restarted", 320)
        >> LeaseEnded(25, 1) << StopWorker("a")
        >> configured(26, B)
        >> WorkerExited(27, "a") << RemoveWorker("a")
    )  # fmt: skip
    assert book
    assert list(book.scheduler.host.workers) == ["b"]


def test_a_model_that_comes_back_while_it_still_drains_is_kept_as_a_new_one():
    book = (
        serving_a()
        >> configured(20, B) << revoked("retire", "a is no longer in the configuration", 320)
        >> configured(21, A, B)
        >> LeaseAsked(22, 2, "a")
        >> LeaseEnded(25, 1) << StopWorker("a")
        >> WorkerExited(26, "a") << ReconfigureWorker("a") << StartWorker("a")
    )  # fmt: skip
    assert book


def test_a_change_that_came_during_a_start_is_applied_as_soon_as_that_is_done():
    assert (
        Playbook("a")
        >> order(0, Verb.START) << StartWorker("a")
        >> configured(5, single("a", sleep_level=1), changed=["a"])
        >> WorkerReady(10, "a", "http://a") << FinishOrder(9, WorkerState.READY) << StopWorker("a")
        >> WorkerExited(11, "a") << ReconfigureWorker("a") << StartWorker("a")
    )  # fmt: skip


def test_nothing_is_kept_of_a_model_that_is_removed():
    book = serving_a(A, B, single("brief"))
    assert book.scheduler.host.placement.never_loads(book.group("brief")) is None, "it is found, and remembered"
    assert book >> configured(20, A, B) << RemoveWorker("brief")
    gc.collect()
    assert not [each for each in gc.get_objects() if isinstance(each, Worker) and each.name == "brief"]


def test_what_was_asked_of_a_model_that_a_reload_has_just_removed_is_refused():
    gone = "model a is no longer in the configuration"
    book = Playbook("a", "b") >> configured(1, B) << RemoveWorker("a")
    assert book >> LeaseAsked(2, 1, "a") << FailLease(1, "model_not_found", gone)
    assert book >> SwitchAsked(3, 2, "a") << FailSwitch(2, "model_not_found", gone)
    assert book >> order(4, Verb.START) << FailOrder(9, "model_not_found", gone)


def test_a_preloaded_model_that_comes_back_while_it_drains_is_preloaded_again():
    preloaded = replace(A, preload=True)
    book = (
        serving_a(preloaded, "b")
        >> configured(20, B) << revoked("retire", "a is no longer in the configuration", 320)
        >> configured(21, preloaded, B)
        >> LeaseEnded(25, 1) << StopWorker("a")
    )  # fmt: skip
    assert book >> WorkerExited(26, "a") << ReconfigureWorker("a") << StartWorker("a")


# What a launch script's server was seen to use


def test_a_claim_that_is_narrowed_leaves_room_for_another_at_once():
    every, first, second = (
        single("a", frozenset({"0", "1"})),
        single("a", frozenset({"0"})),
        single("b", frozenset({"1"})),
    )
    book = (
        Playbook(every, second)
        >> LeaseAsked(1, 1, "a") << StartWorker("a")
        >> configured(2, first, second)
        >> LeaseAsked(3, 2, "b") << StartWorker("b")
        >> WorkerReady(4, "a", "http://a") << GrantLease(1, "http://a", 1)
        >> WorkerReady(5, "b", "http://b") << GrantLease(2, "http://b", 1)
    )  # fmt: skip
    assert book


def test_a_worker_on_other_gpus_than_it_was_granted_is_started_again_on_those_that_it_uses():
    first, second = single("a", frozenset({"0"})), single("a", frozenset({"1"}))
    book = (
        Playbook(first, single("b", frozenset({"1"})))
        >> LeaseAsked(1, 1, "a") << StartWorker("a")
        >> configured(2, second, single("b", frozenset({"1"})), changed={"a"}) << StopWorker("a", True)
        >> WorkerExited(3, "a") << ReconfigureWorker("a") << StartWorker("a")
        >> WorkerReady(4, "a", "http://a") << GrantLease(1, "http://a", 2)
    )  # fmt: skip
    assert book
    assert book.scheduler.host.ledger.holders({"1"}) == ["a"]


def test_who_waits_for_a_model_that_a_reload_has_made_too_large_is_told_when_the_reload_takes_hold():
    def model(size):
        return single("a", share=size, memory=size)

    book = (
        Playbook(model(40))
        >> GpusMeasured(0, {"0": 80})
        >> LeaseAsked(1, 1, "a") << StartWorker("a")
        >> WorkerReady(2, "a", "u") << GrantLease(1, "u", 1)
        >> LeaseEnded(3, 1)
        >> configured(3, model(100), changed={"a"}) << StopWorker("a")
        >> LeaseAsked(4, 2, "a")
        >> WorkerExited(5, "a") << ReconfigureWorker("a")
    )  # fmt: skip
    (failed,) = book.pending
    assert isinstance(failed, FailLease)
    assert (failed.lease, failed.code) == (2, "model_too_large")


def test_models_come_in_the_order_of_the_new_configuration():
    book = Playbook("a", "b") >> configured(5, single("c"), single("b"), single("a"))
    assert list(book.scheduler.host.groups) == ["c", "b", "a"]
    assert book
