"""A child that an earlier muxd has started is taken over where it is certainly that child, and never touched else."""

import os
import signal
from pathlib import Path

import pytest
from msgspec.structs import replace

from muxd.children import ChildRecord, Children
from muxd.shim.processes import look_up
from tests.childworld import World, eventually


@pytest.fixture
async def left(world: World) -> ChildRecord:
    """A child whose shim has written its record, of a `Children` that is not asked any more."""
    child = world.spawn(world.sh(f"exec {world.sleep}"))
    await eventually(lambda: child.pid)
    return child.record


async def test_it_is_stopped_and_its_end_is_told_like_one_of_our_own(world, left):
    child = Children(world.run_dir).adopt(left)
    assert child is not None
    assert child.pid == (await world.asleep(1))[0].pid
    assert child.pids() == [child.pid]
    child.stop()
    ended = await child.wait()
    assert (ended.signal, ended.requested) == (signal.SIGTERM, True)
    assert not world.sleepers()


async def test_where_its_shim_is_killed_nothing_is_left_of_it(world, left):
    child = Children(world.run_dir).adopt(left)
    assert child is not None
    os.kill(child.shim_pid, signal.SIGKILL)
    ended = await child.wait()
    assert str(ended) == "its shim ended without a report"
    assert not world.sleepers()


async def test_the_sweep_spares_what_was_taken_over(world, left):
    other = world.spawn(world.sh(f"exec {world.sleep}", name="other"))
    await eventually(lambda: other.pid)
    children = Children(world.run_dir)
    assert children.adopt(left) is not None
    assert await children.sweep([other.record]) == ["other"]
    await world.asleep(1)


async def test_another_process_is_never_taken_for_it_nor_touched(world, left):
    """Its pid was used again, the machine was booted anew, another start has its lock, or its record is made up."""
    itself = look_up(os.getpid())
    assert itself is not None
    for changed in (
        replace(left, shim_start=left.shim_start + 1),
        replace(left, shim_pid=itself.pid, shim_start=itself.start),
        replace(left, boot_id="another"),
        replace(left, token="another"),
        replace(left, lock_file=str(Path(left.lock_file).with_name("other.lock"))),
    ):
        assert Children(world.run_dir).adopt(changed) is None
    await world.asleep(1)


async def test_one_that_has_ended_is_not_taken_over(world):
    child = world.spawn(world.sh(f"exec {world.sleep}"))
    await eventually(lambda: child.pid)
    child.kill()
    await child.wait()
    assert Children(world.run_dir).adopt(child.record) is None
