"""What is measured of a worker that is validated: memory of GPUs and host, the first token, an answer."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from muxd.core.events import WorkerAsleep, WorkerReady
from muxd.engines.wake_proof import ProofAnswer
from muxd.workers import WorkerFigures
from muxd.workers.figures import host_memory
from tests.fakes import GiB

from .one_worker import one_worker

#: What SGLang answers to the wake proof: logprobs of the prompt, and of two tokens and the next likeliest.
SAYS = json.dumps(
    {
        "meta_info": {
            "input_token_logprobs": [[None, 11, None], [-1.0, 13, None]],
            "output_token_logprobs": [[-0.5, 7, None], [-0.25, 8, None]],
            "output_top_logprobs": [[[-0.5, 7, None], [-2.0, 9, None]], [[-0.25, 8, None], [-3.0, 9, None]]],
        }
    }
)


async def test_an_awake_worker_is_asked_and_a_sleeper_only_measured(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        worker.host.servers["a"] = worker.behaviour.__class__(says=SAYS)
        await worker.gets_ready()
        figures = await worker.runner.measure(awake=True)
        assert (figures.gpu, figures.host, figures.error) == (50 * GiB, 0, "")
        assert figures.first_token == pytest.approx(0.05)
        assert isinstance(figures.answer, ProofAnswer)
        assert figures.answer.is_sound
        assert worker.server.asked[-3:] == ["/generate", "/v1/completions", "/generate"]
        worker.runner.sleep(2)
        await worker.tells(WorkerAsleep)
        asked = len(worker.server.asked)
        assert await worker.runner.measure(awake=False) == WorkerFigures(gpu=2 * GiB, host=0)
        assert len(worker.server.asked) == asked
        worker.runner.wake()
        await worker.tells(WorkerReady)
        worker.runner.stop(kill=True)
        await worker.ends()
        assert await worker.runner.measure(awake=False) == WorkerFigures(gpu=0, host=0)


async def test_of_a_server_that_is_none_of_its_processes_the_ram_is_not_known(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        await worker.gets_ready()
        worker.runner._engine.runs_elsewhere = True
        assert (await worker.runner.measure(awake=True)).host is None
        worker.runner.stop(kill=True)
        await worker.ends()
        assert (await worker.runner.measure(awake=False)).host == 0


async def test_one_that_gives_no_answer_says_why(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        await worker.gets_ready()
        worker.behaviour.faults |= {"/generate": (500, "no weights"), "/v1/completions": (404, "")}
        figures = await worker.runner.measure(awake=True)
        assert (figures.first_token, figures.answer) == (None, None)
        assert "500" in figures.error
        assert figures.is_refused
        worker.behaviour.faults |= {"/generate": "break"}
        assert not (await worker.runner.measure(awake=True)).is_refused
        del worker.behaviour.faults["/generate"]
        worker.server.behaviour = replace(worker.behaviour, says=SAYS.replace("-1.0", "null"))
        figures = await worker.runner.measure(awake=True)
        assert (figures.answer, figures.is_refused) == (None, True)


async def test_one_that_died_of_the_question_is_not_asked_again(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        worker.behaviour.faults |= {"/generate": "die"}
        worker.start()
        await worker.ends()
        await worker.gets_ready()
        figures = await worker.runner.measure(awake=True)
        assert (figures.error, figures.is_refused) == ("its former server died of the question", True)
        assert worker.child.signals == []


async def test_where_no_gpu_can_be_measured_nothing_is_made_up(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        await worker.gets_ready()
        worker.host.gpus.measured = False
        assert (await worker.runner.measure(awake=False)).gpu is None


def test_host_memory_is_that_of_all_the_processes_and_shared_pages_count_once():
    own = host_memory([os.getpid()])
    assert own is not None
    assert own > 10 << 20
    code = "import sys; held = bytearray(64 << 20); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        held = host_memory([child.pid])
        assert held is not None
        assert 64 << 20 < held < 128 << 20
        child.communicate()
    assert host_memory([child.pid]) == 0  # it has ended


def test_a_process_that_may_not_be_looked_at_makes_it_unknown(monkeypatch, tmp_path):
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "smaps_rollup").mkdir()  # reading it fails, as that of another user's process does
    monkeypatch.setattr("muxd.workers.figures.PROCESSES", tmp_path)
    assert host_memory([7]) is None
    assert host_memory([8]) == 0
