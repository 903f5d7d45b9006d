"""One life of a worker that its launch script starts: what that has started is found, and judged, while it loads."""

import errno
import os
from hashlib import sha256
from pathlib import Path

import pytest
import trio

from muxd.children import ExitRecord
from muxd.config.command_lines import Command
from muxd.config.model_schema import Script
from muxd.core.events import Failure, WorkerReady
from tests.fakes import NO_PID

from .one_worker import OneWorker, one_worker

PORT = 17_470  # nobody listens there, a pretend server does not, and no connection gets it for its own end
UNSEEN = OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def the_script(folder: Path) -> Script:
    path = folder / "a.sh"
    path.write_text("exec serve\n")
    return Script(argv=("bash", str(path)), digests={str(path): sha256(path.read_bytes()).hexdigest()}, digest="d")


def a_server(number: int = 1, port: int = PORT, gpu: str = "0", *, listens: bool = True) -> Command:
    """A process as /proc has it: a server that its command line and environment describe."""
    words = ["python3", "-m", "sglang.launch_server", "--model-path", "/models/a", "--port", str(port)]
    environ = {"CUDA_VISIBLE_DEVICES": gpu, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return Command(NO_PID + number, 1, words, environ, listens)


def serves(worker: OneWorker, *processes: Command) -> None:
    """Let the script's server listen at PORT, and have these processes."""
    worker.behaviour.listens_at = PORT
    worker.behaviour.info = {"model_path": "/models/a"}
    worker.behaviour.processes = list(processes) or [a_server()]


async def test_a_script_that_was_changed_since_it_was_read_is_not_run(autojump_clock, tmp_path):
    async with one_worker(tmp_path, script=the_script(tmp_path)) as worker:
        (tmp_path / "a.sh").write_text("exec serve --port 1\n")
        worker.start()
        exited = await worker.ends()
        assert (exited.failure, exited.code) == (Failure.REFUSED, "script_changed")
        assert worker.host.children.all == []


async def test_its_server_is_found_where_it_listens_and_remembered(autojump_clock, tmp_path):
    async with one_worker(tmp_path, script=the_script(tmp_path)) as worker:
        serves(worker)
        worker.start()
        ready = await worker.tells(WorkerReady)
        assert ready.url == f"http://127.0.0.1:{PORT}"
        assert worker.record.port == PORT
        seen = worker.host.context.scripts.known["d"]
        assert (seen.port, seen.model, seen.gpus) == (PORT, "/models/a", ("0",))


async def test_a_port_that_was_only_guessed_is_given_up_for_another(autojump_clock, tmp_path):
    async with one_worker(tmp_path, script=the_script(tmp_path)) as worker:
        serves(worker)
        worker.behaviour.guesses = True
        worker.start()
        await trio.sleep(0.7)
        assert worker.record.port == PORT
        worker.server.port = PORT + 1
        ready = await worker.tells(WorkerReady)
        assert ready.url == f"http://127.0.0.1:{PORT + 1}"


async def test_a_server_that_listens_elsewhere_than_its_script_says_is_followed(autojump_clock, tmp_path):
    async with one_worker(tmp_path, script=the_script(tmp_path), port=PORT + 1) as worker:
        serves(worker)
        worker.behaviour.load_time = 5
        worker.start()
        ready = await worker.tells(WorkerReady)
        assert ready.url == f"http://127.0.0.1:{PORT}"


@pytest.mark.parametrize(
    ("ports", "words"), [(set(), "started no server that listens"), ({5, 7}, "listen on ports 5, 7")]
)
async def test_a_script_without_a_server_is_told_when_its_time_is_over(autojump_clock, tmp_path, ports, words):
    async with one_worker(tmp_path, script=the_script(tmp_path), start_timeout=9.0) as worker:
        serves(worker)
        worker.behaviour.listens_after, worker.behaviour.ambiguous = 1000, ports
        worker.start()
        exited = await worker.ends()
        assert (exited.failure, exited.code) == (Failure.TIMED_OUT, "script_unusable")
        assert words in exited.reason


async def test_a_script_without_a_server_is_told_so_where_its_port_is_known_too(autojump_clock, tmp_path):
    async with one_worker(tmp_path, script=the_script(tmp_path), port=PORT, start_timeout=9.0) as worker:
        serves(worker, Command(NO_PID + 1, 1, ["sleep", "1000"], {}))
        worker.behaviour.listens_after = 1000
        worker.start()
        exited = await worker.ends()
        assert (exited.failure, exited.code) == (Failure.TIMED_OUT, "script_unusable")
        assert "has run for 9 s, and started no server that listens" in exited.reason


async def test_a_server_of_the_engine_that_loads_for_too_long_is_no_stranger(autojump_clock, tmp_path):
    async with one_worker(tmp_path, script=the_script(tmp_path), port=PORT, start_timeout=9.0) as worker:
        serves(worker)
        worker.behaviour.load_time = 1000
        worker.start()
        exited = await worker.ends()
        assert (exited.failure, exited.code) == (Failure.TIMED_OUT, "start_timeout")


async def test_a_server_of_another_engine_that_is_never_ready_is_told_so_and_not_tried_again(autojump_clock, tmp_path):
    async with one_worker(tmp_path, script=the_script(tmp_path), port=PORT, start_timeout=9.0) as worker:
        serves(worker, Command(NO_PID + 1, 1, ["python3", "-m", "http.server"], {}, True))
        worker.behaviour.load_time = 1000
        worker.behaviour.faults = {"/server_info": (404, ""), "/get_server_info": (404, "")}
        worker.start()
        exited = await worker.ends()
        assert (exited.failure, exited.code) == (Failure.REFUSED, "script_unusable")
        assert "which is not the simulator" in exited.reason


async def test_two_servers_are_told_once_they_were_seen_twice(autojump_clock, tmp_path):
    async with one_worker(tmp_path, script=the_script(tmp_path)) as worker:
        serves(worker, a_server(1), a_server(2, PORT + 1, listens=False))
        worker.behaviour.load_time = 100
        worker.start()
        exited = await worker.ends()
        assert (exited.failure, exited.code) == (Failure.REFUSED, "script_unusable")
        assert f"runs 2 servers at a time, on ports {PORT} and {PORT + 1}" in exited.reason
        assert 1 <= worker.now < 3


async def test_a_server_that_gives_way_to_another_is_no_second_one(autojump_clock, tmp_path):
    async with one_worker(tmp_path, script=the_script(tmp_path)) as worker:
        serves(worker, a_server(1), a_server(2, PORT + 1, listens=False))
        worker.behaviour.load_time = 3
        worker.start()
        await trio.sleep(0.5)
        worker.behaviour.processes = [a_server(1)]
        await worker.tells(WorkerReady)


async def test_two_servers_of_which_one_is_ready_are_told_at_once(autojump_clock, tmp_path):
    async with one_worker(tmp_path, script=the_script(tmp_path)) as worker:
        serves(worker, a_server(1), a_server(2, PORT + 1, listens=False))
        worker.behaviour.load_time = worker.behaviour.listens_after = 0.5
        worker.start()
        assert "runs 2 servers" in (await worker.ends()).reason


async def test_a_second_server_that_comes_later_is_found_at_a_probe(autojump_clock, tmp_path):
    async with one_worker(tmp_path, script=the_script(tmp_path), probe_interval=5.0) as worker:
        serves(worker)
        await worker.gets_ready()
        await trio.sleep(7)
        worker.behaviour.processes = [a_server(1), a_server(2, PORT + 1, listens=False)]
        exited = await worker.ends()
        assert "runs 2 servers" in exited.reason
        assert 20 <= worker.now <= 45, "at probes 4 and 8: twice in a row"


async def test_where_processes_cannot_be_seen_a_second_server_is_not_missed_for_ever(autojump_clock, tmp_path):
    async with one_worker(tmp_path, script=the_script(tmp_path), probe_interval=5.0) as worker:
        serves(worker)
        await worker.gets_ready()
        worker.behaviour.unseen = UNSEEN
        await trio.sleep(12)
        worker.behaviour.processes = [a_server(1), a_server(2, PORT + 1, listens=False)]
        worker.behaviour.unseen = None
        assert "runs 2 servers" in (await worker.ends()).reason


async def test_a_server_that_is_not_of_its_engine_is_told(autojump_clock, tmp_path):
    async with one_worker(tmp_path, script=the_script(tmp_path)) as worker:
        serves(worker, Command(NO_PID + 1, 1, ["python3", "-m", "http.server"], {}, True))
        worker.behaviour.faults = {"/server_info": (404, ""), "/get_server_info": (404, "")}
        worker.start()
        exited = await worker.ends()
        assert (exited.failure, exited.code) == (Failure.REFUSED, "script_unusable")
        assert "which is not the simulator" in exited.reason


async def test_a_server_on_other_gpus_is_ended_while_it_loads_and_they_are_remembered(autojump_clock, tmp_path):
    async with one_worker(tmp_path, script=the_script(tmp_path)) as worker:
        serves(worker, a_server(gpu="1"))
        worker.behaviour.load_time = 100
        worker.start()
        exited = await worker.ends()
        assert exited.code == "wrong_gpus"
        assert worker.now < 5
        assert worker.host.context.scripts.known["d"].gpus == ("1",)


async def test_while_its_processes_cannot_be_seen_it_loads_on(autojump_clock, tmp_path):
    async with one_worker(tmp_path, script=the_script(tmp_path), start_timeout=9.0) as worker:
        serves(worker)
        worker.behaviour.listens_after = 1000
        worker.behaviour.unseen = UNSEEN
        worker.start()
        assert (await worker.ends()).failure is Failure.TIMED_OUT


async def test_a_ready_server_is_used_even_where_its_keys_cannot_be_read(autojump_clock, tmp_path, caplog):
    async with one_worker(tmp_path, script=the_script(tmp_path)) as worker:
        serves(worker)
        worker.behaviour.key = "hidden"
        await worker.gets_ready()
        assert worker.runner.notice.startswith("the engine did not take muxd's key for /v1/loads")
        assert worker.runner.notice.endswith("(engine_locked)")
        assert "engine_locked" not in caplog.text, "the supervisor logs every notice"


async def test_a_ready_server_is_not_served_before_its_processes_are_seen(autojump_clock, tmp_path, caplog):
    async with one_worker(tmp_path, script=the_script(tmp_path)) as worker:
        serves(worker, a_server(gpu="1"))
        worker.behaviour.unseen = UNSEEN
        worker.start()
        await trio.sleep(20)
        assert worker.is_quiet()
        worker.behaviour.unseen = None
        assert (await worker.ends()).code == "wrong_gpus"
        assert "its processes cannot be seen: too many open files" in caplog.text


async def test_the_key_in_its_command_line_is_used(autojump_clock, tmp_path):
    async with one_worker(tmp_path, script=the_script(tmp_path)) as worker:
        server = a_server()
        serves(worker, server._replace(words=[*server.words, "--api-key", "k1"]))
        worker.behaviour.key = "k1"
        await worker.gets_ready()
        assert worker.runner.notice == ""
        assert worker.runner.context_length == 4096


@pytest.mark.parametrize(
    ("exit", "failure", "code"),
    [
        (ExitRecord(status=0), Failure.REFUSED, "script_ended"),
        (ExitRecord(status=0, left=("python3",)), Failure.REFUSED, "script_ended"),
        (ExitRecord(status=0, left=("sglang::scheduler",)), Failure.EXITED, ""),
        (ExitRecord(status=1), Failure.EXITED, ""),
    ],
    ids=["nothing left", "a server left", "a part left", "failed"],
)
async def test_a_script_that_ends_by_itself_is_told_unless_its_server_ended(
    autojump_clock, tmp_path, exit, failure, code
):
    async with one_worker(tmp_path, script=the_script(tmp_path)) as worker:
        serves(worker)
        worker.behaviour.dies_after, worker.behaviour.exit = 0.3, exit
        worker.start()
        exited = await worker.ends()
        assert (exited.failure, exited.code) == (failure, code)


async def test_a_container_that_a_script_left_running_is_named_with_what_ends_it(autojump_clock, tmp_path):
    async with one_worker(tmp_path, script=the_script(tmp_path)) as worker:
        worker.behaviour.dies_after, worker.behaviour.exit = 0.3, ExitRecord(status=0)
        worker.behaviour.last_words = f"{'0f' * 32}\n"
        worker.start()
        exited = await worker.ends()
        assert (exited.failure, exited.code) == (Failure.REFUSED, "script_ended")
        assert exited.reason.endswith("docker stop 0f0f0f0f0f0f")


async def test_what_its_server_generates_is_not_taken_over_to_the_next_life(autojump_clock, tmp_path):
    async with one_worker(tmp_path, script=the_script(tmp_path)) as worker:
        serves(worker)
        await worker.gets_ready()
        assert worker.runner.is_generation is True
        worker.runner.stop(kill=True)
        await worker.ends()
        assert worker.runner.is_generation is None
        assert worker.runner.context_length == 4096
