import pytest
import trio
import trio.testing

from muxd.simulator.batch import Batch, Job


async def run(batch, job, interval=0.01):
    """Through the batch; when it ended, and what its steps made."""
    batch.submit(job)
    steps = []
    try:
        while new := await batch.step(job, interval):
            steps.append(new)
    finally:
        batch.leave(job)
    return trio.current_time(), steps


async def test_a_request_takes_its_tokens_times_the_rate(autojump_clock):
    began = trio.current_time()
    ended, steps = await run(Batch(8, rate=100), Job("a", 50, "length"))
    assert ended - began == pytest.approx(0.5)
    assert steps == [1] * 50


async def test_fast_tokens_come_in_parts(autojump_clock):
    _, steps = await run(Batch(8, rate=1000), Job("a", 95, "length"), interval=0.01)
    assert steps == [10] * 9 + [5]


async def test_a_request_for_nothing_ends_at_once(autojump_clock):
    job = Job("a", 0, "length")
    assert (await run(Batch(8, rate=1), job))[1] == []
    assert job.finish == "length"


async def test_slots_bound_what_runs_and_the_rest_goes_in_order(autojump_clock):
    batch, began, ends = Batch(2, rate=10), trio.current_time(), {}

    async def one(name):
        ends[name] = (await run(batch, Job(name, 10, "stop")))[0] - began

    async with trio.open_nursery() as nursery:
        for name in "abcde":
            nursery.start_soon(one, name)
            await trio.testing.wait_all_tasks_blocked()
        assert (batch.running, batch.waiting) == (2, 3)
    assert ends == pytest.approx({"a": 1, "b": 1, "c": 2, "d": 2, "e": 3})
    assert (batch.running, batch.waiting) == (0, 0)


async def test_abort_ends_by_prefix_what_runs_and_what_waits(autojump_clock):
    batch, jobs = Batch(1, rate=10), [Job("x1", 100, "length"), Job("x2", 100, "length"), Job("y", 20, "length")]
    async with trio.open_nursery() as nursery:
        for job in jobs:
            nursery.start_soon(run, batch, job)
            await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(2.05)
        batch.abort("x")
    assert [(job.finish, job.made) for job in jobs] == [("abort", 20), ("abort", 0), ("length", 20)]


@pytest.mark.parametrize("retract", [False, True])
async def test_what_is_frozen_goes_on_where_it_was(retract, autojump_clock):
    batch, job, began = Batch(1, rate=10), Job("a", 20, "length"), trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, batch, job)
        await trio.sleep(1.05)
        batch.freeze(retract=retract)
        made = job.made
        await trio.sleep(100)
        assert job.made == made
        assert (batch.running, batch.waiting) == ((0, 1) if retract else (1, 0))
        batch.thaw()
    assert trio.current_time() - began == pytest.approx(102)


async def test_nothing_is_admitted_while_frozen(autojump_clock):
    batch, job = Batch(1, rate=10), Job("a", 10, "length")
    batch.freeze(retract=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, batch, job)
        await trio.sleep(100)
        assert (batch.running, batch.waiting, job.made) == (0, 1, 0)
        batch.thaw()
    assert job.made == 10
