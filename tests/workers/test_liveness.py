"""The probes of a server that is ready, on a pretend host."""

import trio

from muxd.config.engine_options import OpenAIOptions
from muxd.config.server_commands import HookStep
from muxd.core.events import (
    WakeFailed,
    WorkerAsleep,
    WorkerHung,
    WorkerReady,
)

from .one_worker import one_worker


async def test_a_server_that_does_not_answer_its_probes_is_reported_once(autojump_clock, tmp_path):
    async with one_worker(tmp_path, probe_interval=5.0, probe_timeout=1.0, probe_failures=3) as worker:
        await worker.gets_ready()
        worker.behaviour.faults["/v1/loads"] = "hang"
        hung = await worker.tells(WorkerHung)
        assert hung.reason == "its liveness probe failed 3 times in a row"
        assert 19 <= worker.now <= 20
        await trio.sleep(100)
        assert worker.is_quiet()


async def test_a_probe_that_succeeds_begins_the_count_anew(autojump_clock, tmp_path):
    async with one_worker(tmp_path, probe_interval=5.0, probe_timeout=1.0, probe_failures=3) as worker:
        await worker.gets_ready()
        for _ in range(5):
            worker.behaviour.faults["/v1/loads"] = "break"
            await trio.sleep(10)
            del worker.behaviour.faults["/v1/loads"]
            await trio.sleep(5)
        assert worker.is_quiet()


async def test_a_server_whose_scheduler_takes_no_step_is_reported_after_hang_timeout(autojump_clock, tmp_path):
    async with one_worker(tmp_path, probe_interval=5.0, hang_timeout=60.0, probe_failures=1) as worker:
        await worker.gets_ready()
        await trio.sleep(30)
        stopped = worker.now
        worker.behaviour.steps = False
        await worker.tells(WorkerHung)
        assert 59.9 <= worker.now - stopped <= 70


async def test_a_server_whose_port_a_stranger_has_taken_is_reported_at_once_and_once(autojump_clock, tmp_path):
    async with one_worker(tmp_path, probe_interval=5.0, probe_failures=3) as worker:
        await worker.gets_ready()
        began = worker.now
        worker.host.strangers[worker.server.port] = None
        hung = await worker.tells(WorkerHung)
        assert hung.reason == f"another process listens on its port {worker.server.port}"
        assert worker.now - began <= 5
        await trio.sleep(100)
        assert worker.is_quiet()


async def test_a_server_that_has_left_its_port_is_not_asked(autojump_clock, tmp_path):
    async with one_worker(tmp_path, probe_interval=5.0, probe_failures=2) as worker:
        await worker.gets_ready()
        asked = len(worker.server.asked)
        worker.behaviour.listens_after = 10_000
        await worker.tells(WorkerHung)
        assert len(worker.server.asked) == asked


def stepped(tmp_path):
    """A worker that sleeps by steps of a user's, here SGLang's own calls."""
    sleep = (HookStep("POST", "/pause_generation", {}), HookStep("POST", "/release_memory_occupation", {"tags": ["a"]}))
    wake = (
        HookStep("POST", "/resume_memory_occupation", {"tags": ["a"]}),
        HookStep("POST", "/continue_generation", {}),
    )
    command = ("serve", "--port", "{port}")
    options = OpenAIOptions(command=command, ready_path="/ready", health_path="/v1/models", sleep=sleep, wake=wake)
    keys = {"engine": "openai", "engine_options": options, "sleep_level": 1, "wake_proof": False}
    return one_worker(tmp_path, probe_interval=5.0, probe_failures=2, **keys)


async def test_a_server_that_its_own_steps_put_to_sleep_need_not_listen_until_it_is_woken(autojump_clock, tmp_path):
    async with stepped(tmp_path) as worker:
        await worker.gets_ready()
        worker.runner.sleep(1)
        await worker.tells(WorkerAsleep)
        asked = len(worker.server.asked)
        worker.behaviour.faults["/v1/models"] = "break"
        await trio.sleep(100)
        assert worker.is_quiet()
        assert len(worker.server.asked) == asked
        worker.runner.wake()
        await worker.tells(WorkerReady)
        await worker.tells(WorkerHung)  # awake, it has to answer


async def test_a_stranger_at_the_port_of_a_server_that_slept_by_steps_gets_no_request(autojump_clock, tmp_path):
    async with stepped(tmp_path) as worker:
        await worker.gets_ready()
        worker.runner.sleep(1)
        await worker.tells(WorkerAsleep)
        worker.host.strangers[worker.server.port] = None
        await trio.sleep(100)
        assert worker.is_quiet()
        worker.runner.wake()
        failed = await worker.tells(WakeFailed)
        assert failed.code == "port_taken"


async def test_a_server_that_wants_another_key_lives(autojump_clock, tmp_path):
    async with one_worker(tmp_path, probe_interval=5.0, probe_failures=1) as worker:
        worker.behaviour.key = "another"
        await worker.gets_ready()
        await trio.sleep(30)
        assert worker.is_quiet()
        assert worker.runner.context_length is None
