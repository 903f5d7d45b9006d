"""Orphans come to muxd, and are buried there; what somebody waits for is not."""

import subprocess
import sys

import msgspec

from muxd.children import ChildSpec

SUBREAPER = """
import os, signal, subprocess, sys, trio
from pathlib import Path
import msgspec
from muxd.children import Children, ChildSpec, become_subreaper
from muxd.shim.processes import process_table

children = Children(Path(sys.argv[1]))
specs = msgspec.json.decode(sys.argv[2], type=list[ChildSpec], dec_hook=lambda kind, text: kind(text))

def zombies():
    return [p.pid for p in process_table().values() if p.ppid == os.getpid() and not p.alive]

async def until(condition):
    while not condition():
        await trio.sleep(0.01)

def leave_orphans(count):
    for _ in range(count):
        subprocess.run(["sh", "-c", "setsid sleep 0 & exit 0"], check=True)

async def guarded():
    become_subreaper()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await main(nursery)
            nursery.cancel_scope.cancel()
    print("done")
"""


def as_subreaper(world, script: str, *specs: ChildSpec) -> str:
    """What a process prints that runs this `main` as a subreaper; it is "done" at the end."""
    orders = msgspec.json.encode(specs, enc_hook=str).decode()
    command = [sys.executable, "-c", f"{SUBREAPER}{script}trio.run(guarded)", str(world.run_dir), orders]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=False).stdout


def test_orphans_are_buried_and_no_status_is_taken_from_who_waits_for_it(world):
    script = """
async def main(nursery):
    leave_orphans(3)
    await until(lambda: len(zombies()) == 3)
    nursery.start_soon(children.reap_orphans, 1.0)
    for _ in range(20):
        ended = await trio.run_process(["sh", "-c", "exit 7"], check=False)
        assert ended.returncode == 7, ended
    await until(lambda: not zombies())
"""
    assert as_subreaper(world, script) == "done\n"


def test_a_zombie_is_left_alone_as_long_as_someone_may_come_for_it(world):
    script = """
async def main(nursery):
    nursery.start_soon(children.reap_orphans, 1000.0)
    late = subprocess.Popen(["sh", "-c", "exit 7"])
    await until(lambda: late.pid in zombies())
    for _ in range(20):
        await trio.run_process(["true"])
    print(late.wait())
"""
    assert as_subreaper(world, script) == "7\ndone\n"


def test_a_dead_shim_is_left_to_who_waits_for_it(world):
    script = """
async def main(nursery):
    child = children.spawn(specs[0])
    nursery.start_soon(children.reap_orphans, 0.0)
    os.kill(child.shim_pid, signal.SIGKILL)
    await until(lambda: child.shim_pid in zombies())
    leave_orphans(3)
    await until(lambda: zombies() == [child.shim_pid])
    print(await child.wait())
"""
    assert as_subreaper(world, script, world.sh("exit 0")) == "its shim was killed by SIGKILL\ndone\n"


def test_what_a_killed_shim_leaves_to_muxd_is_buried_with_it(world):
    script = """
async def main(nursery):
    child = children.spawn(specs[0])
    await until(lambda: child.pid)
    os.kill(child.shim_pid, signal.SIGKILL)
    await child.wait()
    print(zombies())
"""
    spec = world.sh(f"setsid {world.sleep} & {world.sleep} & {world.sleep}")
    assert as_subreaper(world, script, spec) == "[]\ndone\n"
    assert not world.sleepers()
