"""What the machine is short of, or refuses, when a child ends: muxd sees the end all the same, and lives."""

import errno
import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio

from muxd.children import proctree, records
from muxd.children.orphans import reap_orphans
from muxd.shim.processes import process_table
from muxd.threads import in_thread
from tests.childworld import eventually


@contextmanager
def no_descriptors() -> Iterator[None]:
    """As where clients hold all of them."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[0], 256), before[1]))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextmanager
def no_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        yield


async def test_the_end_of_a_child_is_read_though_clients_hold_every_descriptor(world):
    child = world.spawn(world.sh(f"exec {world.sleep}"))
    await world.asleep(1)
    with no_descriptors():
        child.kill()
        assert str(await child.wait()) == "killed by SIGKILL"
    assert Path(child.record.exit_file) not in world.run_dir.iterdir()


async def test_what_a_killed_shim_leaves_is_ended_though_clients_hold_every_descriptor(world):
    child = world.spawn(world.sh(f"setsid {world.sleep} & exec {world.sleep}"))
    await world.asleep(2)
    await eventually(lambda: child.pid)
    with no_descriptors():
        os.kill(child.shim_pid, signal.SIGKILL)
        exit = await child.wait()
    assert str(exit) == "its shim was killed by SIGKILL"
    assert not world.sleepers()


async def test_what_a_killed_shim_leaves_is_ended_though_no_thread_can_be_started(world, monkeypatch):
    child = world.spawn(world.sh(f"setsid {world.sleep} & exec {world.sleep}"))
    await world.asleep(2)
    await eventually(lambda: child.pid)
    with no_threads(monkeypatch):
        os.kill(child.shim_pid, signal.SIGKILL)
        await child.wait()
    assert not world.sleepers()


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
async def test_a_report_that_cannot_be_read_is_an_end_like_another(world, monkeypatch, number):
    def refuse(path: str) -> dict[str, object]:
        raise OSError(number, os.strerror(number), path)

    child = world.spawn(world.sh("exit 3"))
    monkeypatch.setattr(records, "_read", refuse)
    exit = await child.wait()
    assert str(exit).startswith("it ended, but how cannot be read")
    assert os.strerror(number).lower() in str(exit)
    assert "Errno" not in str(exit)
    assert not exit.refused


@pytest.mark.parametrize(
    "content", [b"\xff{", b"[" * 100_000, b'{"token": 5}', b"[]", b'{"token": "%s", "status": []}']
)
async def test_a_report_of_another_shape_is_none(world, content):
    child = world.spawn(world.sh("exit 3"))
    await trio.lowlevel.wait_readable(child._pidfd)
    (world.run_dir / "qwen.exit").write_bytes(content.replace(b"%s", child.record.token.encode()))
    assert str(await child.wait()).startswith("its shim failed with status 0")


@pytest.mark.parametrize("content", [b"\xff", b"[" * 100_000, b'{"token": 5, "name": []}', b'{"pid": "x"}', None])
def test_a_lock_file_of_another_shape_tells_of_no_child(tmp_path, content):
    lock = tmp_path / "qwen.lock"
    lock.mkdir() if content is None else lock.write_bytes(content)
    assert records.records_in(tmp_path) == []
    assert records.read_shim_record(str(lock), "token") is None


async def test_a_machine_that_cannot_be_seen_is_looked_at_again(monkeypatch, autojump_clock):
    looks = []

    def find(marks: object, known: object = ()) -> list[object]:
        looks.append(marks)
        if len(looks) < 5:
            raise OSError(errno.EMFILE, "none left")
        return []

    monkeypatch.setattr(proctree, "find", find)
    assert await proctree.end_all(proctree.ProcessFingerprint("token")) == 0
    assert len(looks) >= 5


async def test_orphans_wait_for_better_times(monkeypatch):
    with no_threads(monkeypatch), no_descriptors(), trio.move_on_after(0.05):
        await reap_orphans(set(), 0.01)
    assert process_table()


async def test_work_raises_what_it_raises(monkeypatch):
    def fail() -> None:
        raise RuntimeError("of its own")

    with pytest.raises(RuntimeError, match="of its own"):
        await in_thread(fail)
    with no_threads(monkeypatch):
        assert await in_thread(lambda: 5) == 5
