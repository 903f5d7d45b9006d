"""A worker whose next process waits at its engine's gate, on a pretend host."""

import pytest
import trio

from muxd.config import Memory
from muxd.core.events import ActivationFailed, Failure, StandbyPrepared, WorkerExited, WorkerReady
from tests.fakes import GiB

from .one_worker import OneWorker, one_worker


def prepare(worker: OneWorker) -> None:
    worker._began = trio.current_time()
    worker._nursery.start_soon(worker.runner.prepare(is_urgent=False))


async def waits_at_gate(worker: OneWorker) -> None:
    prepare(worker)
    await worker.tells(StandbyPrepared)


async def test_a_process_waits_at_its_gate_without_memory_and_a_start_takes_what_comes_after_that(
    autojump_clock, tmp_path
):
    async with one_worker(tmp_path, sleep_level=3, standby=True) as worker:
        await waits_at_gate(worker)
        assert 3 <= worker.now < 3.2
        assert (worker.record.waits, worker.record.is_at_rest, worker.record.level) == (True, True, None)
        await trio.sleep(1000)
        assert worker.host.gpus.now()["0"].used == 0
        asked = trio.current_time()
        worker.runner.activate()
        await worker.tells(WorkerReady)
        assert 1 <= trio.current_time() - asked < 1.3
        assert worker.host.gpus.now()["0"].used == 50 * GiB
        assert (worker.record.waits, worker.record.is_at_rest, worker.record.call) == (False, True, None)
        assert worker.server.calls == ["activate"]
        worker.runner.stop(kill=False)
        await worker.ends()


async def test_one_that_is_wanted_on_its_way_goes_on_as_soon_as_it_is_at_its_gate(autojump_clock, tmp_path):
    async with one_worker(tmp_path, sleep_level=3, standby=True) as worker:
        prepare(worker)
        await trio.sleep(2)
        worker.runner.activate()
        await worker.tells(WorkerReady)
        assert 4 <= worker.now < 4.3
        worker.runner.stop(kill=False)
        await worker.ends()


async def test_memory_is_waited_for_before_the_gate_is_opened(autojump_clock, tmp_path):
    async with one_worker(tmp_path, sleep_level=3, standby=True, memory=Memory(weights=60 * GiB)) as worker:
        await waits_at_gate(worker)
        end = trio.current_time() + 4
        worker.host.gpus.strangers = lambda now: 70 * GiB if now < end else 0
        worker.runner.activate()
        await worker.tells(WorkerReady)
        assert trio.current_time() >= end + 1
        worker.runner.stop(kill=False)
        await worker.ends()


@pytest.mark.parametrize("fault", ["hang", "break", (500, "no"), "silence"])
async def test_a_gate_that_cannot_be_opened_is_told_and_its_process_is_ended(autojump_clock, tmp_path, fault):
    async with one_worker(tmp_path, sleep_level=3, standby=True, probe_timeout=5.0) as worker:
        await waits_at_gate(worker)
        worker.behaviour.faults["/health" if fault == "silence" else "activate"] = (
            "hang" if fault == "silence" else fault
        )
        asked = trio.current_time()
        worker.runner.activate()
        failed = await worker.tells(ActivationFailed)
        assert failed.reason
        assert trio.current_time() - asked < 5.5
        worker.runner.stop(kill=True)
        await worker.ends()


async def test_one_that_does_not_come_to_its_gate_in_time_is_killed(autojump_clock, tmp_path):
    async with one_worker(tmp_path, sleep_level=3, standby=True, start_timeout=60.0) as worker:
        worker.behaviour.imports = float("inf")
        prepare(worker)
        exited = await worker.ends()
        assert exited.failure is Failure.TIMED_OUT
        assert 60 <= worker.now < 61


async def test_one_whose_gate_somebody_else_opens_is_killed(autojump_clock, tmp_path):
    async with one_worker(tmp_path, sleep_level=3, standby=True, probe_interval=5.0) as worker:
        await waits_at_gate(worker)
        worker.server.open_gate()
        exited = await worker.ends()
        assert "somebody else than muxd has opened its gate" in exited.reason
        assert worker.now < 20


@pytest.mark.parametrize("is_at_gate", [True, False])
async def test_a_waiting_process_is_killed_at_once_when_it_is_stopped(autojump_clock, tmp_path, is_at_gate):
    async with one_worker(tmp_path, sleep_level=3, standby=True) as worker:
        if is_at_gate:
            await waits_at_gate(worker)
        else:
            prepare(worker)
            await trio.sleep(1)
        worker.runner.stop(kill=True)
        assert await worker.ends() == WorkerExited(trio.current_time(), "a", reason="killed by SIGKILL")
        assert worker.child.signals == ["kill"]
