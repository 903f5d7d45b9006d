from muxd.core.events import Waiting
from muxd.core.group import Lease


def test_a_wait_grows_while_its_holder_is_silent():
    lease = Lease(1, "a", told=100.0, waiting=(Waiting(oldest=3.0), Waiting(oldest=7.0)))
    assert lease.oldest(105.0) == 12.0


def test_nobody_waits_when_nothing_waits():
    lease = Lease(1, "a", told=100.0, waiting=())
    assert lease.oldest(200.0) == 0.0
