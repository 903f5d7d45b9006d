"""One life of a worker on a pretend host, on the test's own clock: its sleep, its wake, and its end."""

from collections.abc import Callable

import pytest
import trio

from muxd import saved_state
from muxd.children import Dropped, ExitRecord
from muxd.core.events import (
    Failure,
    SleepFailed,
    WakeFailed,
    WorkerAsleep,
    WorkerDied,
    WorkerExited,
    WorkerReady,
    WorkerStuck,
)
from muxd.engines.sglang.engine import SGLang
from muxd.errors import CannotSpawn
from muxd.gpus import GpuMemory
from muxd.workers import process, proof_keeper
from tests.fakes import GiB, InlineKeptThread

from .one_worker import OOM, OneWorker, one_worker


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


async def test_what_it_has_is_measured_before_anything_is_done_to_it(autojump_clock, tmp_path, monkeypatch):
    async with one_worker(tmp_path) as worker:
        await worker.gets_ready()
        plain, server = worker.host.gpus.read, worker.server
        held: list[list[str]] = []

        async def read_slowly(*, holders: bool = False) -> dict[str, GpuMemory]:
            await trio.sleep(1.0)
            held.append(list(server.calls))
            return await plain(holders=holders)

        monkeypatch.setattr(worker.host.gpus, "read", read_slowly)
        slept = await asleep(worker)
        assert held[0] == []
        assert slept.taken == 50 * GiB


async def test_on_a_disk_that_hangs_one_call_of_an_order_waits_and_not_each(autojump_clock, tmp_path, monkeypatch):
    async with one_worker(tmp_path) as worker:
        await worker.gets_ready()
        waited: list[int] = []

        async def until_written(change: int) -> None:
            waited.append(change)
            await trio.sleep(saved_state.PATIENCE if change else 0)

        monkeypatch.setattr(worker.host.state, "until_written", until_written)
        await asleep(worker)
        worker.runner.wake()
        await worker.tells(WorkerReady)
        assert worker.server.calls == ["pause", "release", "resume", "reload", "resume", "continue"]
        assert len([change for change in waited if change]) == 2


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
        worker.occupied(40 * GiB, until=5)
        began = worker.now
        await woken(worker)
        assert worker.now - began >= 5
        assert worker.runner.gpu_memory.waited >= 5


async def test_a_wake_without_room_calls_nothing(autojump_clock, tmp_path):
    async with one_worker(tmp_path, gpu_release_timeout=4.0) as worker:
        await worker.gets_ready()
        await asleep(worker)
        worker.occupied(40 * GiB, until=100)
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
        worker.occupied(70 * GiB, until=1000)
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
