"""The end of muxd."""

from muxd.core.commands import (
    EndLease,
    FailLease,
    FinishShutdown,
    RevokeLease,
    SleepWorker,
    StartWorker,
    StopWorker,
)
from muxd.core.events import (
    LeaseAsked,
    LeaseEnded,
    ShutdownAsked,
    TimerFired,
    WorkerAsleep,
    WorkerExited,
)

from .playbook import Playbook, idle_a, serving_a


def test_shutdown_drains_then_stops_everything_and_says_when_it_is_done():
    assert (
        serving_a()
        >> LeaseAsked(20, 2, "b")
        >> ShutdownAsked(25, 55)
        << RevokeLease(1, "shutdown", "muxd is shutting down", 55)
        << FailLease(2, "shutting_down", "muxd is shutting down; send the request again when it is back", None)
        >> LeaseEnded(30, 1) << StopWorker("a")
        >> WorkerExited(31, "a") << FinishShutdown()
    )  # fmt: skip


def test_shutdown_kills_what_loads_and_what_sleeps():
    assert (
        idle_a()
        >> LeaseEnded(20, 1)
        >> LeaseAsked(30, 2, "b") << SleepWorker("a", 2)
        >> WorkerAsleep(32, "a") << StartWorker("b")
        >> ShutdownAsked(33, 63)
        << StopWorker("a", kill=True) << StopWorker("b", kill=True)
        << FailLease(2, "shutting_down", "muxd is shutting down; send the request again when it is back", None)
        >> WorkerExited(34, "b")
        >> WorkerExited(35, "a") << FinishShutdown()
    )  # fmt: skip


def test_shutdown_takes_leases_away_at_the_deadline():
    assert (
        serving_a()
        >> ShutdownAsked(20, 50) << RevokeLease(1, "shutdown", "muxd is shutting down", 50)
        >> TimerFired(51) << EndLease(1) << StopWorker("a")
    )  # fmt: skip


def test_a_second_shutdown_hurries():
    assert (
        serving_a()
        >> ShutdownAsked(20, 50) << RevokeLease(1, "shutdown", "muxd is shutting down", 50)
        >> ShutdownAsked(21, 21) << RevokeLease(1, "shutdown", "muxd is shutting down", 21)
        >> TimerFired(22) << EndLease(1) << StopWorker("a", kill=True)
        >> ShutdownAsked(23, 23) << StopWorker("a", kill=True)
        >> WorkerExited(24, "a") << FinishShutdown()
    )  # fmt: skip


def test_with_nothing_running_shutdown_is_done_at_once():
    assert Playbook("a") >> ShutdownAsked(1, 31) << FinishShutdown()
