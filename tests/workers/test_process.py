"""One life of a worker on a pretend host: every turn it can take, on the test's own clock."""

import errno
import os
import socket
from collections.abc import Callable
from signal import SIGKILL

import pytest
import trio

from muxd import saved_state
from muxd.children import Dropped, ExitRecord
from muxd.config import Memory, Model
from muxd.config.engine_options import OpenAIOptions
from muxd.config.server_commands import HookStep
from muxd.core.events import (
    Failure,
    SleepFailed,
    WakeFailed,
    WorkerAsleep,
    WorkerDied,
    WorkerExited,
    WorkerHung,
    WorkerReady,
    WorkerStuck,
)
from muxd.engines.diagnosis import Diagnosis
from muxd.engines.engine_client import EngineClient
from muxd.engines.sglang.engine import SGLang
from muxd.errors import CannotSpawn
from muxd.workers import loading, process, proof_keeper, start
from muxd.workers.crash_evidence import CrashEvidence
from tests.fakes import GiB, InlineKeptThread

from .one_worker import OneWorker, one_worker

LARGE = Memory(weights=60 * GiB)
OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB.\n"


def occupied(worker: OneWorker, size: int, until: float) -> None:
    """Let a stranger have so many bytes of each GPU, until so many seconds from now."""
    end = trio.current_time() + until
    worker.host.gpus.strangers = lambda now: size if now < end else 0


# The start


@pytest.mark.parametrize(
    ("is_deaf", "is_ready", "signals"), [(True, False, ["kill"]), (True, True, ["stop"]), (False, False, ["stop"])]
)
async def test_a_server_that_hears_no_signal_while_it_loads_is_killed(
    autojump_clock, tmp_path, monkeypatch, is_deaf, is_ready, signals
):
    monkeypatch.setattr(SGLang, "is_deaf_while_loading", is_deaf)
    async with one_worker(tmp_path) as worker:
        if is_ready:
            await worker.gets_ready()
        else:
            worker.start()
            await trio.sleep(0.5)
        worker.runner.stop(kill=False)
        await worker.ends()
        assert worker.child.signals == signals


async def test_a_server_that_is_told_to_end_is_asked_nothing_meanwhile(autojump_clock, tmp_path):
    async with one_worker(tmp_path, probe_interval=1.0, stop_timeout=100.0) as worker:
        await worker.gets_ready()
        worker.behaviour.stop_time = 50.0
        await trio.sleep(5)
        worker.runner.stop(kill=False)
        await trio.sleep(0.1)
        asked = list(worker.server.asked)
        assert "/v1/loads" in asked
        await worker.ends()
        assert worker.server.asked == asked


async def test_a_server_that_is_of_no_use_to_its_model_is_ended_and_not_started_again(
    autojump_clock, tmp_path, monkeypatch
):
    async def unfitness(self: SGLang, link: EngineClient, model: Model) -> Diagnosis:
        return Diagnosis("engine_too_old", "its sleep is broken", "use sleep_level = 3", refused=True)

    monkeypatch.setattr(SGLang, "unfitness", unfitness)
    async with one_worker(tmp_path) as worker:
        worker.start()
        exited = await worker.ends()
        assert (exited.failure, exited.code) == (Failure.REFUSED, "engine_too_old")
        assert exited.reason == "its sleep is broken; use sleep_level = 3"


async def test_a_worker_is_ready_at_its_address_once_its_server_says_so(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        worker.start()
        ready = await worker.tells(WorkerReady)
        assert 1.0 <= worker.now <= 1.2 + loading.READY_POLL
        assert ready.url == f"http://127.0.0.1:{worker.record.port}"
        assert worker.runner.pid == worker.child.pid


async def test_its_port_is_kept_for_it_as_long_as_it_lives(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        await worker.gets_ready()
        address = ("127.0.0.1", worker.record.port)
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(address)
        worker.runner.stop(kill=True)
        await worker.ends()
        with socket.socket() as other:
            other.bind(address)


async def test_a_port_that_another_process_has_is_refused_before_anything_runs(autojump_clock, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        async with one_worker(tmp_path, port=port) as worker:
            worker.start()
            exited = await worker.ends()
            assert (exited.failure, exited.code) == (Failure.REFUSED, "port_taken")
            assert f"cannot start: port {port} cannot be used" in exited.reason
            assert worker.host.children.all == []


async def test_where_no_port_can_be_had_another_start_may_help(autojump_clock, tmp_path, monkeypatch):
    def refuse(port: int) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(start, "Reservation", refuse)
    async with one_worker(tmp_path) as worker:
        worker.start()
        exited = await worker.ends()
        assert (exited.failure, exited.code) == (Failure.EXITED, "")
        assert "no port can be reserved: too many open files" in exited.reason.lower()


async def test_nothing_is_launched_before_there_is_room_for_it(autojump_clock, tmp_path):
    async with one_worker(tmp_path, memory=LARGE) as worker:
        occupied(worker, 30 * GiB, until=5)
        worker.start()
        await worker.tells(WorkerReady)
        assert worker.now >= 6


async def test_a_start_without_room_ends_and_says_what_is_missing(autojump_clock, tmp_path):
    async with one_worker(tmp_path, memory=LARGE, gpu_release_timeout=7.0) as worker:
        occupied(worker, 30 * GiB, until=100)
        worker.start()
        exited = await worker.ends()
        assert (exited.failure, exited.code) == (Failure.EXITED, "out_of_memory")
        assert "has 50.0 GiB free of 60.0 GiB needed" in exited.reason
        assert worker.now >= 7
        assert worker.host.children.all == []


async def test_a_stop_while_it_waits_for_room_ends_it_at_once(autojump_clock, tmp_path):
    async with one_worker(tmp_path, memory=LARGE) as worker:
        occupied(worker, 30 * GiB, until=100)
        worker.start()
        await trio.sleep(3)
        worker.runner.stop(kill=False)
        exited = await worker.ends()
        assert exited.reason == "cannot start: it was stopped first"
        assert worker.now == 3
        assert worker.host.children.all == []


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.ENOENT, "engine_missing"), (errno.ENOMEM, "host_out_of_memory"), (errno.EMFILE, "cannot_spawn")],
)
async def test_a_shim_that_cannot_be_started_is_told_by_what_the_system_says(autojump_clock, tmp_path, number, code):
    async with one_worker(tmp_path) as worker:
        refusal = CannotSpawn("cannot start a: the system said no", name="a")
        refusal.__cause__ = OSError(number, os.strerror(number))
        worker.behaviour.refuses_to_spawn = refusal
        worker.start()
        exited = await worker.ends()
        assert (exited.failure, exited.code) == (Failure.EXITED, code)
        assert exited.reason.startswith("cannot start: the system said no")


async def test_a_work_folder_that_cannot_be_made_is_told(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        folder = worker.host.wanted.daemon.state_dir / "workers"
        folder.touch()
        worker.start()
        exited = await worker.tells(WorkerExited)
        assert exited.failure is Failure.EXITED
        assert "its work folder cannot be made" in exited.reason
        assert worker.host.children.all == []


@pytest.mark.parametrize(
    ("number", "failure", "code"),
    [(errno.ENOENT, Failure.REFUSED, "engine_missing"), (errno.ENOMEM, Failure.EXITED, "host_out_of_memory")],
)
async def test_a_program_that_cannot_be_executed_is_tried_again_only_where_that_may_help(
    autojump_clock, tmp_path, number, failure, code
):
    async with one_worker(tmp_path) as worker:
        worker.behaviour.dies_after = 0.0
        worker.behaviour.exit = ExitRecord(error="cannot execute python3", errno=number)
        worker.start()
        exited = await worker.ends()
        assert (exited.failure, exited.code) == (failure, code)
        assert exited.reason.startswith("cannot execute python3")


# The load


async def test_a_server_that_takes_too_long_is_killed_and_that_is_told(autojump_clock, tmp_path):
    async with one_worker(tmp_path, start_timeout=20.0) as worker:
        worker.behaviour.load_time = 1000
        worker.start()
        exited = await worker.ends()
        assert 20 <= worker.now < 20.1
        assert worker.child.signals == ["kill"]
        assert (exited.failure, exited.code) == (Failure.TIMED_OUT, "start_timeout")
        assert "did not become ready in 20 s" in exited.reason


async def test_where_its_log_tells_why_it_took_too_long_that_is_told(autojump_clock, tmp_path):
    async with one_worker(tmp_path, start_timeout=20.0) as worker:
        worker.behaviour.load_time = 1000
        worker.start()
        await trio.sleep(5)
        worker.child.say(OOM)
        exited = await worker.ends()
        assert (exited.failure, exited.code) == (Failure.TIMED_OUT, "out_of_memory")


async def test_a_server_that_dies_while_it_loads_is_told_by_its_last_words_which_are_kept(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        worker.behaviour.dies_after, worker.behaviour.last_words = 0.7, f"first\n{OOM}"
        worker.start()
        exited = await worker.ends()
        assert (exited.failure, exited.code) == (Failure.EXITED, "out_of_memory")
        assert worker.runner.log_tail == ["first", OOM.strip()]


async def test_a_server_that_cannot_be_mended_by_a_restart_is_refused(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        worker.behaviour.dies_after = 0.7
        worker.behaviour.last_words = "launch_server.py: error: unrecognized arguments: --nonsense\n"
        worker.start()
        exited = await worker.ends()
        assert (exited.failure, exited.code) == (Failure.REFUSED, "bad_flag")


async def test_a_server_that_says_that_it_will_never_be_ready_is_not_waited_for(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        worker.behaviour.load_time = 1000
        worker.start()
        await trio.sleep(2)
        worker.child.say(
            "ERROR: [Errno 98] error while attempting to bind on address ('127.0.0.1', 1): address already in use\n"
        )
        exited = await worker.ends()
        assert exited.code == "port_taken"
        assert worker.now <= 2 + loading.LEFTOVERS_POLL + loading.READY_POLL


async def test_nothing_is_sent_to_a_stranger_at_its_port(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        worker.behaviour.listens_after = 1000
        worker.start()
        await trio.sleep(2)
        worker.host.strangers[worker.record.port] = None
        exited = await worker.ends()
        assert exited.code == "port_taken"
        assert worker.server.asked == []


async def test_while_nobody_can_see_who_listens_the_server_is_not_asked(autojump_clock, tmp_path, caplog):
    async with one_worker(tmp_path) as worker:
        worker.start()
        await trio.sleep(0.05)
        port = worker.record.port
        worker.host.strangers[port] = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        await trio.sleep(10)
        assert worker.server.asked == []
        del worker.host.strangers[port]
        await worker.tells(WorkerReady)
        assert "who listens at its port cannot be seen" in caplog.text


async def test_a_server_that_listens_elsewhere_is_ended_before_it_has_loaded_in_vain(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        worker.behaviour.listens_at, worker.behaviour.load_time = 7, 1000
        worker.start()
        exited = await worker.ends()
        assert (exited.failure, exited.code) == (Failure.REFUSED, "wrong_port")
        assert "listens on port 7" in exited.reason
        assert worker.now < 5


async def test_a_stop_while_it_loads_is_no_failure_of_its_own(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        worker.start()
        await trio.sleep(0.3)
        worker.runner.stop(kill=False)
        exited = await worker.ends()
        assert (exited.code, exited.reason) == ("", "exited with status 0")
        assert worker.child.signals == ["stop"]


async def test_what_a_kill_would_leave_is_in_the_state_file_and_removed_at_its_end(
    autojump_clock, tmp_path, monkeypatch
):
    left = tmp_path / "sem.mp-x"
    left.touch()
    monkeypatch.setattr(SGLang, "leftovers", lambda self, pids: [left])
    async with one_worker(tmp_path) as worker:
        worker.start()
        await trio.sleep(0.05)
        assert worker.record.leftovers == [str(left)]
        await worker.tells(WorkerReady)
        worker.runner.stop(kill=True)
        await worker.ends()
        assert not left.exists()


async def test_what_a_kill_would_leave_is_looked_for_again_where_it_cannot_be_seen(
    autojump_clock, tmp_path, monkeypatch, caplog
):
    looks = []

    def leftovers(self, pids):
        looks.append(trio.current_time())
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(SGLang, "leftovers", leftovers)
    async with one_worker(tmp_path) as worker:
        worker.behaviour.load_time = 3
        await worker.gets_ready()
        assert len(looks) >= 4, "once a second, and when it is ready"
        assert "what a kill would leave cannot be seen" in caplog.text


async def test_before_its_shim_has_forked_there_is_nothing_to_look_at(autojump_clock, tmp_path, monkeypatch):
    monkeypatch.setattr(SGLang, "leftovers", lambda self, pids: pytest.fail("nothing runs yet"))
    async with one_worker(tmp_path) as worker:
        worker.behaviour.load_time = 3
        worker.behaviour.pid = False
        await worker.gets_ready()


# It serves


async def test_what_the_server_says_of_itself_is_known(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        worker.behaviour.context_length, worker.behaviour.is_generation = 8192, False
        await worker.gets_ready()
        assert (worker.runner.context_length, worker.runner.is_generation) == (8192, False)


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


async def test_a_server_that_dies_is_told_by_how_it_ended(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        await worker.gets_ready()
        worker.child.end(ExitRecord(signal=SIGKILL))
        exited = await worker.ends()
        assert (exited.failure, exited.code, exited.reason) == (Failure.EXITED, "", "killed by SIGKILL")


@pytest.mark.parametrize(("kills", "code"), [(0, ""), (1, "host_out_of_memory"), (None, "host_out_of_memory")])
async def test_a_kill_is_the_kernels_where_the_kernel_killed_or_nobody_knows(
    autojump_clock, tmp_path, monkeypatch, kills, code
):
    monkeypatch.setattr(CrashEvidence, "oom_kills", lambda self: kills)
    async with one_worker(tmp_path) as worker:
        await worker.gets_ready()
        worker.child.end(ExitRecord(signal=SIGKILL))
        assert (await worker.ends()).code == code


async def test_what_it_said_before_it_was_ready_does_not_explain_its_death(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        worker.start()
        await trio.sleep(0.2)
        worker.child.say(OOM)
        await worker.tells(WorkerReady)
        worker.child.end(ExitRecord(status=1))
        assert (await worker.ends()).code == ""


async def test_what_an_earlier_life_said_does_not_explain_this_ones_death(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        worker.behaviour.dies_after, worker.behaviour.last_words = 0.7, OOM
        worker.start()
        assert (await worker.ends()).code == "out_of_memory"
        worker.behaviour.last_words = ""
        worker.start()
        assert (await worker.ends()).code == ""


# Sleep


BOTH = ["kv_cache", "weights"]


async def asleep(worker: OneWorker) -> WorkerAsleep:
    worker.runner.sleep(worker.runner.model.sleep_level)
    return await worker.tells(WorkerAsleep)


async def test_a_sleep_is_over_when_its_memory_is_seen_to_be_free(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        worker.behaviour.lag = 2.0
        await worker.gets_ready()
        began = worker.now
        slept = await asleep(worker)
        assert worker.server.calls == ["pause", "release"]
        assert slept.kept == worker.behaviour.asleep
        assert worker.now - began >= 2
        assert (worker.record.released, worker.record.call) == (BOTH, None)
        assert (worker.runner.gpu_memory.awake, worker.runner.gpu_memory.asleep) == (50 * GiB, 2 * GiB)


async def test_a_call_is_in_the_state_file_before_it_is_answered(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        await worker.gets_ready()
        worker.behaviour.call_time = 1.0
        worker.runner.sleep(2)
        await trio.sleep(0.5)
        assert worker.record.call == "pause"
        await trio.sleep(1.0)
        assert (worker.record.call, worker.record.released) == ("release", [])
        await worker.tells(WorkerAsleep)


@pytest.mark.parametrize(
    ("fault", "reason", "code"),
    [
        ((500, "out of order"), "release was refused: 500 out of order", ""),
        ((404, ""), "this engine knows no release", "engine_too_old"),
        ((401, ""), "the engine did not take muxd's key for release", "engine_locked"),
        ("hang", "release: no answer in 9 s", ""),
    ],
)
async def test_a_release_that_is_not_answered_well_leaves_the_worker_in_doubt(
    autojump_clock, tmp_path, fault, reason, code
):
    async with one_worker(tmp_path, call_timeout=9.0) as worker:
        await worker.gets_ready()
        worker.behaviour.faults["release"] = fault
        worker.runner.sleep(2)
        failed = await worker.tells(SleepFailed)
        assert failed.reason.startswith(reason)
        assert failed.code == code
        assert (worker.record.call, worker.record.released) == ("release", [])


async def test_a_server_that_dies_of_its_sleep_is_told_by_its_log_though_that_comes_late(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        await worker.gets_ready()
        worker.behaviour.faults["release"] = "break"
        worker.runner.sleep(2)
        await trio.sleep(1)
        worker.child.end(ExitRecord(status=1), last_words=OOM)
        failed = await worker.tells(SleepFailed)
        assert (failed.code, "fell asleep" in failed.reason) == ("out_of_memory", True)
        await worker.ends()


async def test_where_the_server_lives_on_after_its_call_broke_only_the_call_is_told(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        await worker.gets_ready()
        worker.behaviour.faults["release"] = "break"
        worker.runner.sleep(2)
        began = worker.now
        failed = await worker.tells(SleepFailed)
        assert (failed.reason, failed.code) == (
            "release: the connection broke before an answer (the connection broke)",
            "",
        )
        assert worker.now - began >= proof_keeper.DYING


async def test_a_busy_server_is_not_released(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        await worker.gets_ready()
        worker.behaviour.running = 1
        worker.runner.sleep(2)
        failed = await worker.tells(SleepFailed)
        assert "it was not seen idle" in failed.reason
        assert worker.server.calls == ["pause"]


@pytest.mark.parametrize(("saver", "code"), [(False, "engine_too_old"), (True, "memory_not_released")])
async def test_memory_that_does_not_come_back_is_a_failed_sleep(autojump_clock, tmp_path, saver, code):
    async with one_worker(tmp_path, gpu_release_timeout=4.0) as worker:
        worker.behaviour.asleep = worker.behaviour.awake
        worker.behaviour.info = {"enable_memory_saver": saver}
        await worker.gets_ready()
        worker.runner.sleep(2)
        failed = await worker.tells(SleepFailed)
        assert failed.code == code
        assert "of its memory did not come back in 4 s" in failed.reason
        assert worker.record.released == BOTH, "the server said so"


# Wake


async def woken(worker: OneWorker) -> WorkerReady:
    worker.runner.wake()
    return await worker.tells(WorkerReady)


@pytest.mark.parametrize(
    ("level", "calls"), [(1, ["resume", "continue"]), (2, ["resume", "reload", "resume", "continue"])], ids=["1", "2"]
)
async def test_a_wake_resumes_and_reloads_what_its_level_has_discarded(autojump_clock, tmp_path, level, calls):
    async with one_worker(tmp_path, sleep_level=level) as worker:
        await worker.gets_ready()
        await asleep(worker)
        ready = await woken(worker)
        assert worker.server.calls == ["pause", "release", *calls]
        assert ready.url == f"http://127.0.0.1:{worker.server.port}"
        assert (worker.record.released, worker.record.call) == ([], None)


async def test_a_wake_waits_for_all_that_its_sleep_gave_up(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        await worker.gets_ready()
        await asleep(worker)
        occupied(worker, 40 * GiB, until=5)
        began = worker.now
        await woken(worker)
        assert worker.now - began >= 5
        assert worker.runner.gpu_memory.waited >= 5


async def test_a_wake_without_room_calls_nothing(autojump_clock, tmp_path):
    async with one_worker(tmp_path, gpu_release_timeout=4.0) as worker:
        await worker.gets_ready()
        await asleep(worker)
        occupied(worker, 40 * GiB, until=100)
        worker.runner.wake()
        failed = await worker.tells(WakeFailed)
        assert failed.code == "out_of_memory"
        assert "GiB free of 48.0 GiB needed after 4 s" in failed.reason
        assert worker.server.calls == ["pause", "release"]


@pytest.mark.parametrize(
    ("call", "fault", "reason", "code"),
    [
        ("resume", "hang", "resume: no answer in 9 s", ""),
        ("resume", (500, "no"), "resume was refused: 500 no", ""),
        (
            "reload",
            (400, '{"success": false, "message": "no loader"}'),
            "the engine could not reload",
            "reload_refused",
        ),
        ("reload", "die", "the engine died of reloading its weights", "reload_refused"),
        ("continue", "hang", "continue: no answer in 9 s", ""),
    ],
)
async def test_a_wake_that_goes_wrong_is_told_with_its_call(autojump_clock, tmp_path, call, fault, reason, code):
    async with one_worker(tmp_path, sleep_level=2, call_timeout=9.0) as worker:
        await worker.gets_ready()
        await asleep(worker)
        worker.behaviour.faults[call] = fault
        worker.runner.wake()
        failed = await worker.tells(WakeFailed)
        assert failed.reason.startswith(reason)
        assert failed.code == code
        if fault == "die":
            await worker.ends()
        else:
            assert (worker.record.released, worker.record.call) == (BOTH, call)


async def test_a_server_that_wakes_and_does_not_serve_is_a_failed_wake(autojump_clock, tmp_path):
    async with one_worker(tmp_path, call_timeout=9.0) as worker:
        await worker.gets_ready()
        await asleep(worker)
        worker.behaviour.faults["/ready"] = (503, "")
        worker.runner.wake()
        failed = await worker.tells(WakeFailed)
        assert failed.reason == "not ready 9 s after its wake"


async def test_a_woken_server_is_asked_again_until_it_serves(autojump_clock, tmp_path):
    async with one_worker(tmp_path, call_timeout=9.0) as worker:
        await worker.gets_ready()
        await asleep(worker)
        worker.behaviour.faults["/ready"] = (503, "")
        worker.runner.wake()
        await trio.sleep(5)
        del worker.behaviour.faults["/ready"]
        await worker.tells(WorkerReady)
        assert worker.now <= 8


async def test_orders_are_carried_out_one_after_the_other_and_at_once(autojump_clock, tmp_path):
    async with one_worker(tmp_path, probe_interval=1000.0) as worker:
        await worker.gets_ready()
        worker.runner.sleep(2)
        worker.runner.wake()
        worker.runner.sleep(2)
        for kind in (WorkerAsleep, WorkerReady, WorkerAsleep):
            await worker.tells(kind)
        assert worker.now < 5


async def test_an_order_that_comes_during_a_probe_is_not_slept_over(autojump_clock, tmp_path):
    async with one_worker(tmp_path, probe_interval=1000.0, probe_timeout=20.0) as worker:
        await worker.gets_ready()
        worker.behaviour.faults["/v1/loads"] = "hang"
        await trio.sleep(1010)
        del worker.behaviour.faults["/v1/loads"]
        await asleep(worker)
        assert worker.now < 1030


async def test_a_stop_leaves_the_orders_that_are_still_to_come_undone(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        worker.behaviour.call_time, worker.behaviour.stop_time = 1.0, 10.0
        await worker.gets_ready()
        worker.runner.sleep(2)
        worker.runner.wake()
        await trio.sleep(0.5)
        worker.runner.stop(kill=False)
        await worker.tells(WorkerAsleep)
        await worker.ends()
        assert worker.server.calls == ["pause", "release"]


# The disk


async def test_on_a_slow_disk_a_sleep_a_wake_and_a_stop_wait_for_their_record_once(
    autojump_clock, tmp_path, monkeypatch
):
    class SlowThread(InlineKeptThread):
        def begin(self, work: Callable[[], None], then: Callable[[], None]) -> None:
            trio.lowlevel.spawn_system_task(self._slowly, work, then)

        async def _slowly(self, work: Callable[[], None], then: Callable[[], None]) -> None:
            await trio.sleep(1.0)
            work()
            then()

    async def in_order(until: Callable[[], object]) -> float:
        """Seconds until something is done to the server, which the state file no longer calls at rest by then."""
        began = worker.now
        while not until():
            await trio.sleep(0.01)
        assert not worker.record.is_at_rest
        return worker.now - began

    monkeypatch.setattr(saved_state, "KeptThread", SlowThread)
    async with one_worker(tmp_path, stop_timeout=100.0) as worker, worker.host.state.kept():
        await worker.gets_ready()
        await trio.sleep(5)
        assert worker.record.is_at_rest
        worker.runner.sleep(2)
        assert await in_order(lambda: worker.server.calls) == pytest.approx(1, abs=0.02)
        began = worker.now
        await worker.tells(WorkerAsleep)
        assert worker.now - began < 1
        await trio.sleep(5)
        assert (worker.record.is_at_rest, worker.record.call) == (True, None)
        worker.runner.wake()
        assert await in_order(lambda: "resume" in worker.server.calls) == pytest.approx(1, abs=0.02)
        await worker.tells(WorkerReady)
        await trio.sleep(5)
        worker.runner.stop(kill=False)
        assert await in_order(lambda: worker.child.signals) == pytest.approx(1, abs=0.02)
        await worker.tells(WorkerExited)


# The end


async def test_a_stop_asks_the_server_to_end(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        await worker.gets_ready()
        worker.runner.stop(kill=False)
        exited = await worker.ends()
        assert (exited.failure, exited.reason, exited.code) == (Failure.EXITED, "exited with status 0", "")
        assert worker.child.signals == ["stop"]


async def test_a_server_that_does_not_heed_the_signal_is_killed_after_the_time_that_holds_now(autojump_clock, tmp_path):
    async with one_worker(tmp_path, stop_timeout=30.0) as worker:
        worker.behaviour.stop_time = 1000
        await worker.gets_ready()
        worker.change(stop_timeout=4.0)
        began = worker.now
        worker.runner.stop(kill=False)
        assert (await worker.ends()).reason == "killed by SIGKILL"
        assert round(worker.now - began, 6) == 4
        assert worker.child.signals == ["stop", "kill"]


async def test_a_second_stop_with_kill_hastens_the_end(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        worker.behaviour.stop_time = 1000
        await worker.gets_ready()
        began = worker.now
        worker.runner.stop(kill=False)
        await trio.sleep(1)
        worker.runner.stop(kill=True)
        await worker.ends()
        assert round(worker.now - began, 6) == 1


async def test_a_server_that_survives_sigkill_is_stuck_until_it_has_ended(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        worker.behaviour.kill_time = 60.0
        await worker.gets_ready()
        began = worker.now
        worker.runner.stop(kill=True)
        stuck = await worker.tells(WorkerStuck)
        assert stuck.reason == "its processes are still there 10 s after SIGKILL"
        assert round(worker.now - began, 6) == process.KILL_TIMEOUT
        await worker.ends()
        assert round(worker.now - began, 6) == 60


async def test_a_death_is_told_at_once_and_its_end_when_its_memory_is_free(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        worker.behaviour.lag = 3.0
        await worker.gets_ready()
        began = worker.now
        worker.child.end(ExitRecord(status=1))
        died = await worker.tells(WorkerDied)
        assert (died.reason, worker.now - began) == ("exited with status 1", 0)
        await worker.ends()
        assert worker.now - began >= 3


async def test_memory_that_stays_taken_after_its_death_is_stuck_as_long_as_it_does(autojump_clock, tmp_path):
    async with one_worker(tmp_path, gpu_release_timeout=4.0) as worker:
        worker.behaviour.lag = 10.0
        await worker.gets_ready()
        worker.child.end(ExitRecord(status=1))
        await worker.tells(WorkerDied)
        for _ in range(2):
            stuck = await worker.tells(WorkerStuck)
            assert stuck.reason.startswith("its processes are gone, but ")
        await worker.ends()


async def test_a_worker_that_ends_asleep_waits_for_no_memory(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        await worker.gets_ready()
        await asleep(worker)
        occupied(worker, 70 * GiB, until=1000)
        worker.runner.stop(kill=True)
        await worker.ends()
        assert worker.now < 10


async def test_output_that_the_disk_refused_is_counted_over_its_lives(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        worker.behaviour.dropped = Dropped(100, "No space left on device", True)
        await worker.gets_ready()
        assert worker.runner.dropped == Dropped(100, "No space left on device", True)
        worker.runner.stop(kill=True)
        await worker.ends()
        assert worker.runner.dropped == Dropped(100, "No space left on device", False)
        worker.behaviour.dropped = Dropped(20, "")
        await worker.gets_ready()
        assert worker.runner.dropped == Dropped(120, "No space left on device", False)


async def test_a_start_that_came_to_nothing_dropped_nothing(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        worker.behaviour.dropped = Dropped(100, "No space left on device")
        await worker.gets_ready()
        worker.runner.stop(kill=True)
        await worker.ends()
        worker.behaviour.refuses_to_spawn = CannotSpawn("cannot start a: no", name="a")
        worker.start()
        await worker.ends()
        assert worker.runner.dropped.bytes == 100
