"""A server on its way to being of use, on a pretend host: how long it is waited for, and what ends it earlier."""

import errno
import os

import pytest
import trio

from muxd.config import Model
from muxd.core.events import (
    Failure,
    WorkerReady,
)
from muxd.engines.diagnosis import Diagnosis
from muxd.engines.engine_client import EngineClient
from muxd.engines.sglang.engine import SGLang
from muxd.workers import loading

from .one_worker import OOM, one_worker


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


async def test_what_the_server_says_of_itself_is_known(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        worker.behaviour.context_length, worker.behaviour.is_generation = 8192, False
        await worker.gets_ready()
        assert (worker.runner.context_length, worker.runner.is_generation) == (8192, False)
