"""What a runner keeps between two lives of its worker, and what it does without one."""

import pytest
import trio

from muxd.core.events import WorkerAsleep, WorkerReady
from muxd.engines.engine_client import EngineCallFailed
from tests.fakes import GiB

from .one_worker import one_worker


async def test_without_a_life_commands_do_nothing(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        runner = worker.runner
        runner.sleep(2)
        runner.wake()
        runner.stop(kill=True)
        worker.change(call_timeout=1.0)
        assert {path.name for path in runner.log_files.values()} == {"a.stdout.log", "a.stderr.log"}
        assert (runner.pid, runner.context_length, runner.notice, runner.log_tail) == (None, None, "", [])
        assert await runner.metrics() is None
        await trio.sleep(10)
        assert worker.host.children.all == []


async def test_a_worker_has_one_life_at_a_time(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        worker.start()
        with pytest.raises(AssertionError, match="a lives already"):
            worker.runner.start()
        with pytest.raises(AssertionError, match="a lives"):
            worker.runner.renew(worker.runner.model)
        await worker.tells(WorkerReady)


async def test_a_stop_between_the_command_and_its_task_is_heard(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        worker.start()
        worker.runner.stop(kill=True)
        assert (await worker.ends()).reason == "cannot start: it was stopped first"
        assert worker.host.children.all == []


async def test_what_a_server_said_of_itself_outlasts_it_until_its_configuration_changes(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        await worker.gets_ready()
        worker.runner.stop(kill=True)
        await worker.ends()
        assert (worker.runner.context_length, worker.runner.is_generation) == (4096, True)
        worker.runner.renew(worker.runner.model)
        assert (worker.runner.context_length, worker.runner.is_generation) == (None, None)


async def test_the_memory_of_a_renewed_model_is_measured_anew(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        await worker.gets_ready()
        assert worker.runner.gpu_memory.awake == 50 * GiB
        worker.runner.stop(kill=True)
        await worker.ends()
        worker.runner.renew(worker.runner.model)
        assert worker.runner.gpu_memory.awake is None
        await worker.gets_ready()
        assert worker.runner.gpu_memory.awake == 50 * GiB


async def test_a_new_timeout_holds_for_calls_to_the_running_server(autojump_clock, tmp_path):
    async with one_worker(tmp_path, call_timeout=100.0, probe_timeout=100.0) as worker:
        await worker.gets_ready()
        worker.change(call_timeout=9.0, probe_timeout=3.0)
        worker.behaviour.faults["release"] = "hang"
        worker.runner.sleep(2)
        failed = await worker.host.mailbox.receive()
        assert "no answer in 9 s" in failed.reason


async def test_a_new_timeout_holds_for_a_server_that_is_still_to_be_started(autojump_clock, tmp_path):
    async with one_worker(tmp_path, start_timeout=500.0) as worker:
        worker.behaviour.load_time = 1000
        worker.start()
        worker.change(start_timeout=7.0)
        exited = await worker.ends()
        assert "did not become ready in 7 s" in exited.reason


async def test_the_servers_metrics_are_passed_on_as_they_are(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        await worker.gets_ready()
        assert await worker.runner.metrics() == b"sglang:num_requests_total 1\n"
        worker.behaviour.faults["/metrics"] = (500, "")
        with pytest.raises(EngineCallFailed, match="GET /metrics: 500"):
            await worker.runner.metrics()


async def test_a_sleeper_is_probed_as_well(autojump_clock, tmp_path):
    async with one_worker(tmp_path, probe_interval=5.0) as worker:
        await worker.gets_ready()
        worker.runner.sleep(2)
        await worker.tells(WorkerAsleep)
        asked = len(worker.server.asked)
        await trio.sleep(21)
        assert worker.server.asked[asked:] == ["/v1/loads"] * 4
