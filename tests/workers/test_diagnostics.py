"""What a server's end is told by."""

from signal import SIGKILL

import pytest
import trio

from muxd.children import ExitRecord
from muxd.core.events import (
    Failure,
    WorkerReady,
)
from muxd.workers.crash_evidence import CrashEvidence

from .one_worker import OOM, one_worker


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
