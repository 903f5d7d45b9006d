from math import inf

from muxd.core.events import Waiting
from muxd.core.group import Group
from muxd.core.lease import Lease
from muxd.core.states import WorkerState

from .playbook import replicas


def test_a_lease_waits_since_its_oldest_request_came():
    lease = Lease(1, "a", told=100.0, waiting=(Waiting(oldest=3.0), Waiting(oldest=7.0)))
    assert lease.since == 93.0


def test_nobody_waits_when_nothing_waits():
    lease = Lease(1, "a", told=100.0, waiting=())
    assert lease.since == inf


def test_of_several_workers_a_reason_has_its_workers_name():
    group = Group(replicas("q", frozenset({"0"}), frozenset({"1"})))
    group.members[0].move(WorkerState.STARTING, 1.0)
    assert group.reason == ""
    group.members[0].move(WorkerState.FAILED, 2.0, "port taken")
    assert group.reason == "q/0 is failed: port taken"


def test_what_several_workers_have_in_common_is_said_once():
    group = Group(replicas("q", frozenset({"0"}), frozenset({"1"})))
    for worker in group.serving:
        worker.move(WorkerState.STARTING, 1.0, "q is restarted")
    assert group.reason == "q is restarted"
