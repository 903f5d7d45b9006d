"""A simulator that cannot start, or lacks a part, is like a SGLang that cannot, or does."""

import signal
from itertools import islice

import pytest

from muxd.simulator.crashes import ENDINGS
from tests.seeds import thorough

from .harness import eventually

TAGS = {"tags": ["kv_cache", "weights"]}


def ends(start, *flags):
    simulator = start(*flags, ready=False)
    status = simulator.ended()
    eventually(lambda: not simulator.pids(), "no process of it is left")
    return status, simulator.output


@pytest.mark.parametrize("name", [*islice(ENDINGS, 5), *thorough(*islice(ENDINGS, 5, None))])
def test_a_start_ends_with_the_words_and_the_status_of_its_reason(start, name):
    status, said = ends(start, "--fault", f"cannot-start={name}")
    assert status == ENDINGS[name].status
    assert ENDINGS[name].text.replace("{model}", "some/model") in said


@pytest.mark.parametrize(
    ("part", "flag"), [("memory-saver", "--enable-memory-saver"), ("cpu-backup", "--enable-weights-cpu-backup")]
)
def test_a_flag_that_it_lacks_is_not_recognised(start, part, flag):
    status, said = ends(start, flag, "--fault", f"lacks={part}")
    assert status == 2
    assert f"error: unrecognized arguments: {flag}" in said


def test_without_its_sleep_routes_it_serves_and_cannot_be_paused(start):
    simulator = start("--enable-memory-saver", "--fault", "lacks=sleep-routes")
    assert simulator.says()
    answer = simulator.post("/pause_generation", {})
    assert (answer.status, answer.json) == (404, {"detail": "Not Found"})


def test_a_release_without_effect_is_a_200_all_the_same(start):
    simulator = start("--enable-memory-saver", "--fault", "lacks=effect")
    said = simulator.says()
    for path in ("/release_memory_occupation", "/resume_memory_occupation"):
        assert simulator.post(path, TAGS).status == 200
    assert simulator.says() == said, "its weights were never given up"
    assert simulator.get("/server_info").json["enable_memory_saver"] is False


def test_a_gpu_is_counted_as_the_process_sees_it(start, tmp_path):
    flags = ("--ledger", tmp_path / "gpus", "--gpus", "3", "--gpu-memory", 100, "--weights", 200)
    status, said = ends(start, *flags)
    assert status == -signal.SIGKILL
    assert "\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 0.00 GiB. GPU 0 has" in said
