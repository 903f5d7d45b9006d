"""Its processes: how they come up, and what their deaths do to each other."""

import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from muxd.simulator.gpu_ledger import GpuLedger
from muxd.simulator.process_tree import DETOKENIZER, SCHEDULER, comm
from tests.seeds import thorough

from .harness import eventually

MiB = 1 << 20
NO_DUMPS = {"SGLANG_PYSPY_DUMP_BEFORE_CRASH": "0", "SGLANG_CUDA_COREDUMP_BEFORE_CRASH": "0"}


def gone(simulator):
    eventually(lambda: not simulator.pids(), "no process of it is left")


def modules_mapped(pid):
    return {line.split("/")[-1].split(".")[0] for line in Path(f"/proc/{pid}/maps").read_text().splitlines()}


def test_it_has_a_main_process_a_scheduler_and_a_detokenizer(simulator):
    names = {simulator.process.pid, simulator.pid(comm(SCHEDULER)), simulator.pid(comm(DETOKENIZER))}
    assert names == set(simulator.pids())


def test_the_children_stay_light(simulator):
    assert "_psutil_linux" not in modules_mapped(simulator.process.pid)
    assert "parser" in modules_mapped(simulator.process.pid)  # httptools
    for name in (SCHEDULER, DETOKENIZER):
        pid = simulator.pid(comm(name))
        assert "parser" not in modules_mapped(pid)
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        assert resident < 20 * MiB


def test_the_port_is_bound_only_after_the_load(start):
    simulator = start("--load-time", "60", ready=False)
    eventually(lambda: simulator.pids(comm(DETOKENIZER)), "the children are there")
    with pytest.raises(ConnectionRefusedError):
        simulator.get("/ready")


@pytest.mark.thorough
def test_a_taken_port_is_noticed_only_after_the_load(start):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        simulator = start(ready=False, port=taken.getsockname()[1])
        assert simulator.ended() == 3
    assert "address already in use" in simulator.output
    gone(simulator)


def test_each_start_leaves_temporary_files(simulator):
    left = list(simulator.tmp.iterdir())
    assert (len(left), sum(path.is_dir() for path in left)) == (6, 1)


@pytest.mark.thorough
def test_sigterm_ends_an_idle_server_with_0(start):
    simulator = start()
    simulator.process.terminate()
    assert simulator.ended() == 0
    gone(simulator)


def test_sigterm_lets_requests_finish_and_takes_new_ones(start):
    simulator = start("--pace", "0.03")  # it ends a poll after its last request: 150 ms, also for a busy machine
    with simulator.open_stream(max_tokens=30_000, ignore_eos=True) as stream:
        simulator.process.terminate()
        eventually(lambda: "Remaining number of requests 1" in simulator.output, "it has noticed")
        assert simulator.get("/ready").status == 503
        assert simulator.chat(max_tokens=1).status == 200
        assert simulator.loads() == (1, 0)
        simulator.post("/abort_request", {"abort_all": True})
        assert stream.rest()[-1] == "[DONE]"
    assert simulator.ended() == 0


@pytest.mark.thorough
def test_sigterm_with_a_held_request_does_not_end_it(start):
    simulator = start("--pace", "0.001")
    simulator.post("/pause_generation", {})
    with ThreadPoolExecutor() as pool:
        held = pool.submit(simulator.says)
        eventually(lambda: simulator.output.count("/v1/chat/completions") == 1, "the request has arrived")
        simulator.process.terminate()
        eventually(lambda: simulator.output.count("Remaining number of requests 1") > 20, "it waits for the request")
        simulator.post("/continue_generation", {})
        assert held.result()
    assert simulator.ended() == 0


@pytest.mark.thorough
def test_a_forced_shutdown_does_not_drain(start):
    simulator = start(SGL_FORCE_SHUTDOWN="1")
    with simulator.open_stream(max_tokens=10_000, ignore_eos=True) as stream:
        stream.next()
        simulator.process.terminate()
        assert simulator.ended() == 0


@pytest.mark.thorough
def test_children_of_a_killed_server_end_by_themselves(start):
    simulator = start()
    simulator.process.kill()
    gone(simulator)


def test_a_server_killed_while_loading_leaves_orphans_that_hold_memory(start, tmp_path):
    ledger = GpuLedger(tmp_path / "gpus", 100 * MiB)
    simulator = start("--load-time", "60", "--ledger", tmp_path / "gpus", "--weights", 60 * MiB, ready=False)
    eventually(lambda: ledger.used("0"), "it holds memory")
    eventually(lambda: simulator.pids(comm(DETOKENIZER)), "all children are there")
    simulator.process.terminate()
    assert simulator.ended() == -signal.SIGTERM
    orphans = {simulator.pid(comm(SCHEDULER)), simulator.pid(comm(DETOKENIZER))}
    assert set(simulator.pids()) == orphans
    assert ledger.used("0") == 60 * MiB


@pytest.mark.parametrize(("name", "env"), [(DETOKENIZER, NO_DUMPS), *thorough((SCHEDULER, {}))])
def test_the_death_of_a_child_is_the_death_of_all(name, env, start):
    simulator = start(**env)
    os.kill(simulator.pid(comm(name)), signal.SIGKILL)
    assert simulator.ended() == -signal.SIGKILL
    assert "usually means one child failed" in simulator.output
    gone(simulator)


@pytest.mark.thorough
def test_it_answers_nobody_while_it_writes_its_dumps(start):
    simulator = start("--pace", "0.3")
    os.kill(simulator.pid(comm(SCHEDULER)), signal.SIGKILL)
    eventually(lambda: "usually means one child failed" in simulator.output, "it has noticed")
    with pytest.raises(TimeoutError):
        simulator.get("/ping", timeout=0.2)
    assert simulator.process.poll() is None


@pytest.mark.parametrize("name", [SCHEDULER, DETOKENIZER])
def test_a_stopped_child_makes_it_unhealthy(name, simulator):
    os.kill(simulator.pid(comm(name)), signal.SIGSTOP)
    assert simulator.get("/health").status == 503
    os.kill(simulator.pid(comm(name)), signal.SIGCONT)
    assert simulator.get("/health").status == 200
