"""Children in cgroups of their own: the real hierarchy, where one may be written to."""

# ruff: noqa: ASYNC220  (a short command)

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from muxd.children import ChildRecord, Children, cgroups
from muxd.errors import CannotSpawn
from muxd.shim.cgroup import cgroup_populated
from tests.childworld import eventually


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup of our own, to be divided."""
    parent = cgroups.delegated() or cgroups.own()
    base = parent / f"muxd-test-{os.getpid()}" if parent else Path("/nowhere")
    try:
        base.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup v2 hierarchy that may be written to: {error}")
    yield base
    for directory, _, _ in os.walk(base, topdown=False):
        os.rmdir(directory)


#: Nothing but its cgroup tells what it belongs to.
UNTRACEABLE = "(setsid env -i {sleep} <&- >&- 2>&- &) ;"


async def test_a_child_lives_and_ends_in_its_cgroup(world, cgroup):
    world.children = Children(world.run_dir, cgroup)
    child = world.spawn(world.sh(f"{UNTRACEABLE.format(sleep=world.sleep)} exec {world.sleep}"))
    pids = {process.pid for process in await world.asleep(2)}
    members = set(map(int, (cgroup / "child-qwen" / "cgroup.procs").read_text().split()))
    assert pids == members
    child.kill()
    assert (await child.wait()).swept == 1
    assert not world.sleepers()
    assert not (cgroup / "child-qwen").exists()


async def test_with_a_cgroup_the_untraceable_is_found_after_both_were_killed(world, cgroup):
    world.children = Children(world.run_dir, cgroup)
    child = world.spawn(world.sh(f"{UNTRACEABLE.format(sleep=world.sleep)} exec {world.sleep}"))
    await world.asleep(2)
    os.kill(child.shim_pid, signal.SIGKILL)
    await world.asleep(1)
    record = msgspec.json.decode(msgspec.json.encode(child.record), type=ChildRecord)
    assert await Children(world.run_dir).sweep([record]) == ["qwen"]
    assert not world.sleepers()
    assert not (cgroup / "child-qwen").exists()
    await child.wait()


async def test_a_cgroup_that_is_not_empty_is_not_shared(world, cgroup):
    with subprocess.Popen(world.sleep.split()) as stranger:
        home = cgroups.make(cgroup, "qwen")
        (home / "cgroup.procs").write_text(str(stranger.pid))
        with pytest.raises(CannotSpawn, match="still has processes"):
            Children(world.run_dir, cgroup).spawn(world.sh("exit 0"))
        stranger.kill()
    await eventually(lambda: not cgroup_populated(str(home)))


async def test_a_cgroup_that_cannot_be_joined_is_done_without(world, tmp_path):
    world.children = Children(world.run_dir, tmp_path)
    child = world.spawn(world.sh(f"setsid {world.sleep} & exit 2"))
    ended = await child.wait()
    assert (ended.status, ended.swept <= 1) == (2, True)
    assert not world.sleepers()
    assert "muxd-shim: not in a cgroup of its own" in world.stderr()


def test_muxd_moves_aside_once_and_finds_its_place_again(cgroup):
    script = f"""
from pathlib import Path
from muxd.children import cgroups
base = Path({str(cgroup)!r})
assert cgroups.enter(base) == base
assert cgroups.own() == base / "supervisor"
assert cgroups.delegated() == base, cgroups.delegated()
assert cgroups.enter() == base
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


def test_a_cgroup_that_may_not_be_written_is_none(tmp_path, caplog):
    assert cgroups.enter(tmp_path / "absent" / "deeper") is None
    assert "no cgroups for the children" in caplog.text
