"""What is made to go wrong does go wrong."""

import os
import signal
import socket
from pathlib import Path

import httpx
import pytest

from muxd.simulator.gpu_ledger import GpuLedger
from muxd.simulator.process_tree import DETOKENIZER, SCHEDULER, STRAY, comm

from .harness import eventually

PATHS = {
    "release": "/release_memory_occupation",
    "resume": "/resume_memory_occupation",
    "reload": "/update_weights_from_disk",
}
BODY = {"model_path": "some/model"}


def faulty(start, *faults, ready=True):
    flags = [part for fault in faults for part in ("--fault", fault)]
    return start("--enable-memory-saver", *flags, ready=ready)


def state(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_it_dies_after_a_while_and_only_the_first_time(start, tmp_path):
    fault = f"die-after=0,once={tmp_path / 'marker'}"
    assert faulty(start, fault, "exit-code=9", ready=False).ended() == 9
    assert faulty(start, fault).says()


@pytest.mark.thorough
def test_it_dies_while_loading_and_leaves_orphans(start):
    simulator = start("--load-time", "60", "--fault", "die-while-loading", "--fault", "exit-code=4", ready=False)
    assert simulator.ended() == 4
    assert set(simulator.pids()) == {simulator.pid(comm(SCHEDULER)), simulator.pid(comm(DETOKENIZER))}


@pytest.mark.thorough
def test_a_load_that_was_in_time_is_not_killed_for_it(start):
    assert faulty(start, "die-while-loading=60").says()


def test_loading_can_end_in_an_out_of_memory_error(start):
    simulator = faulty(start, "oom-text", ready=False)
    assert simulator.ended() == -signal.SIGKILL
    assert "CUDA out of memory" in simulator.output


@pytest.mark.thorough
def test_loading_can_take_longer_than_it_should(start):
    simulator = faulty(start, "load-time=60", ready=False)
    eventually(lambda: simulator.pids(comm(DETOKENIZER)), "the children are there")
    with pytest.raises(ConnectionRefusedError):
        simulator.get("/ready")


def test_it_hangs_and_still_takes_connections(start):
    simulator = faulty(start, "hang", ready=False)
    eventually(lambda: "fired up" in simulator.output, "it was ready")
    with pytest.raises(TimeoutError):
        simulator.get("/ping", timeout=0.2)
    assert simulator.process.poll() is None


@pytest.mark.thorough
def test_it_stops_itself(start):
    simulator = faulty(start, "sigstop-self", ready=False)
    eventually(lambda: state(simulator.process.pid) == "T", "it is stopped")
    with socket.create_connection(("127.0.0.1", simulator.port), timeout=5):
        pass  # the kernel still takes connections


@pytest.mark.thorough
def test_it_floods_its_log_with_numbered_lines(start):
    simulator = faulty(start, "log-flood=1000000")
    eventually(lambda: "flood 000000001999" in simulator.output, "2000 lines are there")
    numbers = [int(line[6:18]) for line in simulator.output.splitlines()[:-1] if line.startswith("flood ")]
    assert numbers == list(range(len(numbers)))


@pytest.mark.thorough
def test_it_ignores_sigterm(start):
    simulator = faulty(start, "ignore-term")
    simulator.process.terminate()
    assert simulator.says()
    simulator.process.kill()
    assert simulator.ended() == -signal.SIGKILL


@pytest.mark.thorough
def test_it_takes_its_time_to_end(start):
    simulator = faulty(start, "slow-term=60")
    simulator.process.terminate()
    eventually(lambda: simulator.get("/ready").status == 503, "it has noticed")
    assert simulator.process.poll() is None


def test_calls_fail(start):
    simulator = faulty(start, *(f"fail-on={call}" for call in PATHS))
    assert [simulator.post(path, BODY).status for path in PATHS.values()] == [500, 500, 400]
    assert simulator.says()


@pytest.mark.thorough
def test_a_call_kills(start):
    simulator = faulty(start, "die-on=reload", "exit-code=6")
    with pytest.raises(OSError, match=r"closed connection|reset"):
        simulator.post(PATHS["reload"], BODY)
    assert simulator.ended() == 6


@pytest.mark.thorough
def test_a_call_that_hangs_was_carried_out(start):
    simulator = faulty(start, "hang-on=release", "hang-on=reload")
    simulator.post("/pause_generation", {})
    for path in (PATHS["reload"], PATHS["release"]):
        with pytest.raises(TimeoutError):
            simulator.post(path, BODY, timeout=0.2)
    assert simulator.get("/ping").status == 200
    assert simulator.post(PATHS["resume"], BODY).status == 200


@pytest.mark.thorough
def test_a_descendant_escapes_the_session(start):
    simulator = faulty(start, "setsid-grandchild")
    stray = simulator.pid(comm(STRAY))
    assert os.getsid(stray) != os.getsid(simulator.process.pid)
    simulator.process.kill()
    eventually(lambda: simulator.pids() == [stray], "only the stray is left")
    os.kill(stray, signal.SIGTERM)
    assert simulator.pids() == [stray]


@pytest.mark.thorough
def test_memory_stays_taken_after_the_end(start, tmp_path):
    ledger = GpuLedger(tmp_path / "gpus", 100)
    simulator = start("--ledger", tmp_path / "gpus", "--gpu-memory", 100, "--kv", 70, "--fault", "stubborn-memory=3600")
    simulator.process.kill()
    eventually(lambda: not simulator.pids(), "no process of it is left")
    assert ledger.used("0") == 70


@pytest.mark.thorough
def test_a_stream_has_garbage_in_it(start):
    simulator = faulty(start, "garbage-chunk")
    answer = httpx.post(
        f"{simulator.url}/v1/chat/completions",
        json={"messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 8},
    )
    assert b"\xff\xfe" in answer.content
    assert answer.content.endswith(b"data: [DONE]\n\n")


@pytest.mark.thorough
def test_answers_end_too_early(start):
    simulator = faulty(start, "close-early=3")
    for stream in (True, False):
        body = {"messages": [{"role": "user", "content": "hi"}], "stream": stream, "max_tokens": 8}
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
            httpx.post(f"{simulator.url}/v1/chat/completions", json=body)
