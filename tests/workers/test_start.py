"""The start of a worker's life on a pretend host: what must be there first, and what keeps it from starting."""

import errno
import os
import socket

import pytest
import trio

from muxd.children import ExitRecord
from muxd.config import Memory
from muxd.core.events import (
    Failure,
    WorkerExited,
    WorkerReady,
)
from muxd.errors import CannotSpawn
from muxd.workers import start
from muxd.workers.gpu_memory import GpuMemoryTracker
from tests.fakes import GiB

from .one_worker import one_worker

LARGE = Memory(weights=60 * GiB)


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
        worker.occupied(30 * GiB, until=5)
        worker.start()
        await worker.tells(WorkerReady)
        assert worker.now >= 6


async def test_a_start_without_room_ends_and_says_what_is_missing(autojump_clock, tmp_path):
    async with one_worker(tmp_path, memory=LARGE, gpu_release_timeout=7.0) as worker:
        worker.occupied(30 * GiB, until=100)
        worker.start()
        exited = await worker.ends()
        assert (exited.failure, exited.code) == (Failure.EXITED, "out_of_memory")
        assert "has 50.0 GiB free of 60.0 GiB needed" in exited.reason
        assert worker.now >= 7
        assert worker.host.children.all == []


async def test_a_stop_while_it_waits_for_room_ends_it_at_once(autojump_clock, tmp_path):
    async with one_worker(tmp_path, memory=LARGE) as worker:
        worker.occupied(30 * GiB, until=100)
        worker.start()
        await trio.sleep(3)
        worker.runner.stop(kill=False)
        exited = await worker.ends()
        assert exited.reason == "cannot start: it was stopped first"
        assert worker.now == 3
        assert worker.host.children.all == []


async def test_a_stop_while_its_free_memory_is_read_launches_nothing(autojump_clock, tmp_path, monkeypatch):
    at_the_reading = trio.Event()

    async def least(_: GpuMemoryTracker) -> tuple[int, int]:
        at_the_reading.set()
        await trio.sleep(1)
        return 80 * GiB, 80 * GiB

    monkeypatch.setattr(GpuMemoryTracker, "least", least)
    async with one_worker(tmp_path) as worker:
        worker.start()
        await at_the_reading.wait()
        worker.runner.stop(kill=True)
        assert (await worker.ends()).reason == "cannot start: it was stopped first"
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
