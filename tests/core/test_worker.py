import pytest

from muxd.core.cost import Cost
from muxd.core.events import Failure
from muxd.core.spec import WorkerSpec
from muxd.core.states import WorkerState
from muxd.core.worker import Worker, backoff


def test_a_cost_is_a_guess_until_it_is_measured_then_a_moving_average():
    cost = Cost(60.0)
    cost.learn(10.0)
    assert (cost.seconds, cost.measured) == (10.0, True)
    cost.learn(20.0)
    assert cost.seconds == pytest.approx(13.0)


def test_only_what_succeeded_is_learned():
    worker = Worker(WorkerSpec("a"), "a")
    worker.move(WorkerState.STARTING, 0.0)
    worker.move(WorkerState.BACKOFF, 3.0)
    assert not worker.cost(WorkerState.STARTING).measured
    worker.move(WorkerState.STARTING, 4.0)
    worker.move(WorkerState.READY, 11.0)
    assert worker.cost(WorkerState.STARTING).seconds == 7.0


def test_delays_double_up_to_a_minute_and_never_vary_by_more_than_a_tenth():
    delays = [backoff("a", n) for n in range(12)]
    assert delays[0] == 0.0
    for delay, expected in zip(delays[1:], [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60], strict=True):
        assert expected <= delay <= expected * 1.1


def test_workers_that_died_together_do_not_start_together():
    assert backoff("a", 3) != backoff("b", 3)


def test_a_failure_after_a_stable_time_counts_as_the_first():
    worker = Worker(WorkerSpec("a", stable_after=60), "a")
    worker.fail(0.0, Failure.EXITED)
    worker.fail(1.0, Failure.EXITED)
    worker.became_ready(10.0, "http://a")
    assert worker.fail(70.0, Failure.EXITED) is WorkerState.BACKOFF
    assert worker.retry_at == 70.0


def test_one_stable_time_makes_up_for_one_row_of_failures_and_no_more():
    worker = Worker(WorkerSpec("a", stable_after=60), "a")
    worker.became_ready(10.0, "http://a")
    worker.fail(70.0, Failure.EXITED)
    worker.fail(200.0, Failure.EXITED)
    assert worker.retry_at > 200.0


def test_a_failure_at_the_very_edge_of_the_window_still_counts():
    worker = Worker(WorkerSpec("a", restart_limit=2, restart_window=100), "a")
    worker.fail(0.0, Failure.EXITED)
    assert worker.fail(100.0, Failure.EXITED) is WorkerState.FAILED


def test_failures_outside_the_window_are_forgotten():
    worker = Worker(WorkerSpec("a", restart_limit=2, restart_window=100), "a")
    assert worker.fail(0.0, Failure.EXITED) is WorkerState.BACKOFF
    assert worker.fail(150.0, Failure.EXITED) is WorkerState.BACKOFF
    assert worker.fail(160.0, Failure.EXITED) is WorkerState.FAILED
