"""When a worker is asked for its wake proof, and what becomes of it; on a pretend host, on the test's own clock."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from signal import SIGKILL

import pytest
import trio

from muxd.children import ExitRecord
from muxd.core.events import WakeFailed, WorkerAsleep, WorkerExited, WorkerReady
from muxd.engines.wake_proof import PROMPT

from .one_worker import OneWorker, one_worker

WRONG = "it does not answer as when it was loaded: "


@asynccontextmanager
async def asleep(folder: Path, level: int = 2, **keys: object) -> AsyncIterator[OneWorker]:
    """A worker that was loaded, and sleeps at `level`."""
    async with one_worker(folder, sleep_level=level, **keys) as worker:
        await worker.gets_ready()
        await falls_asleep(worker, level)
        yield worker


async def falls_asleep(worker: OneWorker, level: int) -> None:
    worker.runner.sleep(level)
    await worker.tells(WorkerAsleep)


async def wakes(worker: OneWorker) -> WorkerReady:
    worker.runner.wake()
    return await worker.tells(WorkerReady)


def times_asked(worker: OneWorker) -> int:
    return worker.server.asked.count("/generate")


async def test_it_is_asked_twice_when_it_is_loaded_and_the_answer_is_in_the_state_file(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        worker.start()
        assert (await worker.tells(WorkerReady)).note == ""
        assert times_asked(worker) == 2
        proof = worker.record.proof
        assert proof is not None
        assert proof.tokens == (((31, -1.5),), ((31, -1.5),))
        assert len(proof.prompt) == len(PROMPT) - 1


async def test_it_is_asked_before_it_serves_and_before_its_memory_is_measured(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        worker.behaviour.faults["/generate"] = "hang"
        worker.start()
        with trio.move_on_after(60):
            await worker.host.mailbox.receive()
            raise AssertionError("it serves before it has answered")
        worker.runner.stop(kill=True)
        await worker.ends()


@pytest.mark.parametrize("level", [0, 1, 2])
async def test_one_that_answers_as_before_is_ready_and_asked_after_every_wake(autojump_clock, tmp_path, level):
    async with asleep(tmp_path, level) as worker:
        for asked in (3, 4):
            woke = await wakes(worker)
            assert (woke.note, woke.unproved) == ("", False)
            assert times_asked(worker) == asked
            await falls_asleep(worker, level)


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize(
    ("weights", "why"),
    [(32, "its token 1 is 32, and was 31"), (0, "its answer has something in the place of numbers")],
)
async def test_one_that_answers_otherwise_is_not_ready_and_that_is_told(autojump_clock, tmp_path, level, weights, why):
    async with asleep(tmp_path, level) as worker:
        worker.behaviour.weights = weights
        worker.runner.wake()
        failed = await worker.tells(WakeFailed)
        assert (failed.code, failed.is_wrong) == ("woke_wrong", True)
        assert failed.reason == f"{WRONG}{why}; it is loaded anew"


@pytest.mark.parametrize(
    ("page", "why"),
    [
        ((400, "Out of range float values"), "proof: /generate answered 400 Out of range float values"),
        ((200, "{}"), "proof: the answer has no logprobs"),
        ((200, "<html>"), "proof: it is not JSON"),
    ],
)
async def test_one_that_gives_no_answer_any_more_woke_wrong_as_well(autojump_clock, tmp_path, page, why):
    async with asleep(tmp_path) as worker:
        worker.behaviour.faults["/generate"] = page
        worker.runner.wake()
        failed = await worker.tells(WakeFailed)
        assert failed.is_wrong
        assert failed.reason.startswith(WRONG + why)


async def test_one_that_does_not_answer_in_time_is_in_doubt_and_did_not_wake_wrong(autojump_clock, tmp_path):
    async with asleep(tmp_path, call_timeout=7.0) as worker:
        worker.behaviour.faults["/generate"] = "hang"
        worker.runner.wake()
        failed = await worker.tells(WakeFailed)
        assert (failed.reason, failed.code, failed.is_wrong) == ("proof: no answer in 7 s", "", False)


async def test_one_that_dies_of_the_question_after_a_wake_tells_why_by_its_log(autojump_clock, tmp_path):
    async with asleep(tmp_path) as worker:
        worker.behaviour.faults["/generate"] = "die"
        worker.behaviour.last_words = "torch.OutOfMemoryError: CUDA out of memory.\n"
        worker.runner.wake()
        failed = await worker.tells(WakeFailed)
        assert (failed.code, failed.is_wrong) == ("out_of_memory", False)
        await worker.ends()


# Those of which there is no proof


@pytest.mark.parametrize(
    ("page", "why"),
    [
        ((404, "Not Found"), "proof: /generate answered 404 Not Found"),
        ((200, "{}"), "proof: the answer has no logprobs"),
        ("break", "proof: the connection broke before an answer"),
    ],
)
async def test_one_that_cannot_answer_when_it_is_loaded_serves_and_wakes_without_a_proof_and_says_so(
    autojump_clock, tmp_path, page, why
):
    async with one_worker(tmp_path) as worker:
        worker.behaviour.faults["/generate"] = page
        worker.start()
        assert (await worker.tells(WorkerReady)).note.startswith(f"no wake proof: {why}")
        assert worker.record.proof is None
        await falls_asleep(worker, 2)
        assert (await wakes(worker)).note.startswith(f"no wake proof: {why}")
        assert times_asked(worker) == 1


async def test_one_that_does_not_answer_at_once_is_waited_for_as_long_as_a_call_may_take(autojump_clock, tmp_path):
    async with one_worker(tmp_path, call_timeout=7.0) as worker:
        worker.behaviour.faults["/generate"] = "hang"
        worker.start()
        assert (await worker.tells(WorkerReady)).note == "no wake proof: proof: no answer in 7 s"
        assert 8 <= worker.now <= 9


async def test_an_answer_without_numbers_proves_nothing(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        worker.behaviour.weights = 0
        worker.start()
        ready = await worker.tells(WorkerReady)
        assert ready.note == "no wake proof: its answer has something in the place of numbers"
        assert worker.record.proof is None


async def test_one_that_does_not_repeat_itself_when_it_is_loaded_serves_without_a_proof(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        worker.behaviour.restless = True
        worker.start()
        assert (await worker.tells(WorkerReady)).note.startswith(
            "no wake proof: it does not repeat itself: asked twice, "
        )
        assert worker.record.proof is None
        await falls_asleep(worker, 2)
        await wakes(worker)


async def test_one_that_dies_of_the_question_is_not_asked_in_its_next_life(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        worker.behaviour.faults["/generate"] = "die"
        worker.start()
        await worker.ends()
        worker.start()
        assert (await worker.tells(WorkerReady)).note == "no wake proof: its former server died of the question"
        assert times_asked(worker) == 0


async def test_one_that_is_ended_while_it_is_asked_is_asked_again_in_its_next_life(autojump_clock, tmp_path):
    async with one_worker(tmp_path) as worker:
        worker.behaviour.faults["/generate"] = "hang"
        worker.start()
        await trio.sleep(5)
        worker.runner.stop(kill=True)
        await worker.ends()
        worker.behaviour.faults.clear()
        worker.start()
        assert (await worker.tells(WorkerReady)).note == ""
        assert times_asked(worker) == 2


@pytest.mark.parametrize("keys", [{"wake_proof": False}, {"sleep_level": 3}])
async def test_one_that_is_not_to_be_proved_is_asked_nothing(autojump_clock, tmp_path, keys):
    async with one_worker(tmp_path, **keys) as worker:
        worker.start()
        assert (await worker.tells(WorkerReady)).note == ""
        assert times_asked(worker) == 0


async def test_a_reload_turns_the_proof_off_for_a_worker_that_sleeps(autojump_clock, tmp_path):
    async with asleep(tmp_path) as worker:
        worker.change(wake_proof=False)
        worker.behaviour.weights = 32
        assert (await wakes(worker)).unproved
        assert times_asked(worker) == 2


async def test_one_that_was_loaded_without_a_proof_wakes_without_one_when_a_reload_turns_it_on(
    autojump_clock, tmp_path
):
    async with asleep(tmp_path, wake_proof=False) as worker:
        worker.change(wake_proof=True)
        assert (await wakes(worker)).unproved
        assert times_asked(worker) == 0


async def test_a_new_process_is_compared_with_its_own_first_answer(autojump_clock, tmp_path):
    async with asleep(tmp_path) as worker:
        worker.child.end(ExitRecord(signal=SIGKILL))
        assert isinstance(await worker.host.mailbox.receive(), WorkerExited)
        worker.behaviour.weights = 32
        await worker.gets_ready()
        await falls_asleep(worker, 2)
        await wakes(worker)
