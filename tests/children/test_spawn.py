"""A start: one copy only, and nothing is left of one that fails."""

import errno
import fcntl
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from muxd.children import Children
from muxd.children.records import is_locked
from muxd.errors import CannotSpawn
from tests.childworld import zombies_of


async def test_a_name_runs_once(world):
    child = world.spawn(world.sh(f"exec {world.sleep}"))
    with pytest.raises(CannotSpawn, match=r"cannot start qwen: an earlier one of it still holds .*qwen.lock"):
        world.spawn(world.sh(f"exec {world.sleep}"))
    await world.asleep(1)
    child.kill()
    await child.wait()
    again = world.spawn(world.sh("exit 4"))
    assert (await again.wait()).status == 4


async def test_who_looks_whether_a_child_lives_is_not_taken_for_its_shim(world):
    child = world.spawn(world.sh(f"exec {world.sleep}"))
    lock_file = Path(child.record.lock_file)
    assert is_locked(lock_file)
    child.kill()
    await child.wait()
    looking = os.open(lock_file, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH | fcntl.LOCK_NB)
    assert not is_locked(lock_file)
    os.close(looking)


async def test_who_looks_at_the_lock_while_a_child_is_started_does_not_keep_it_from_starting(world, monkeypatch):
    child = world.spawn(world.sh("exit 4"))
    await child.wait()
    looking = os.open(child.record.lock_file, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH | fcntl.LOCK_NB)
    monkeypatch.setattr(time, "sleep", lambda seconds: os.close(looking))  # the look is over within the wait
    assert (await world.spawn(world.sh("exit 4")).wait()).status == 4


@contextmanager
def few_descriptors(spare: int) -> Iterator[None]:
    """Only this many files may be opened in here."""
    highest = max(map(int, os.listdir("/proc/self/fd")))
    fillers = [os.open("/dev/null", os.O_RDONLY)]
    while fillers[-1] <= highest:
        fillers.append(os.open("/dev/null", os.O_RDONLY))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (fillers[-1] + 1 + spare, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in fillers:
            os.close(fd)


async def test_without_file_descriptors_a_spawn_is_refused_and_the_next_one_works(world):
    before = len(os.listdir("/proc/self/fd"))
    refusals = []
    for spare in range(15):
        try:
            with few_descriptors(spare):
                child = world.spawn(world.sh("exit 0"))
        except CannotSpawn as refused:  # and nothing was started, or the lock would be the reason next time
            refusals.append(refused.message)
        else:
            assert (await child.wait()).status == 0
    assert 3 <= len(refusals) < 15
    assert all("limit on open files is reached" in message for message in refusals)
    assert len(os.listdir("/proc/self/fd")) == before
    assert zombies_of(os.getpid()) == []


async def test_a_shim_that_could_not_be_watched_is_not_left_running(world, monkeypatch):
    def refuse(pid):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pidfd_open", refuse)
        with pytest.raises(CannotSpawn, match="too many open files"):
            world.spawn(world.sh("exit 0"))
    assert (await world.spawn(world.sh("exit 4")).wait()).status == 4


async def test_a_run_directory_that_was_removed_is_made_again_and_one_that_cannot_be_is_named(tmp_path, world):
    world.run_dir.rmdir()
    assert (await world.spawn(world.sh("exit 4")).wait()).status == 4
    (tmp_path / "file").touch()
    with pytest.raises(CannotSpawn, match=r"cannot start qwen: .*/file/run: not a directory"):
        Children(tmp_path / "file" / "run").spawn(world.sh("exit 0"))


async def test_a_shim_that_cannot_start_says_why(world, monkeypatch, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("raise RuntimeError('no such thing')")
    monkeypatch.setattr("muxd.children.spawn.SHIM", broken)
    ended = await world.spawn(world.sh("exit 0")).wait()
    assert str(ended) == "its shim failed with status 1: RuntimeError: no such thing"
    assert not ended.refused
