"""muxd's side: it may be killed, its shims may be killed, and nothing is left or started twice."""

# ruff: noqa: ASYNC240  (small files and short commands: what they block is the test)

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import trio

from muxd.children import ChildRecord, Children, ChildSpec
from muxd.errors import CannotSpawn, WorkerStuck
from muxd.shim import boot_id, look_up

from .childworld import World, eventually, zombies_of


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.clean_up()


#: Orphans that differ in what still ties them to their child: own session or not, output kept or not, environment
#: kept or not.  (That with none of the three can be found by its cgroup only.)
ORPHANS = {
    "by its session": "env -i {sleep} <&- >&- 2>&- &",
    "by its output": "setsid env -i {sleep} &",
    "by its error output": "setsid env -i {sleep} >/dev/null &",
    "by its environment": "setsid {sleep} <&- >&- 2>&- &",
    "by its parent": "sh -c 'exec 9<&1 </dev/null >/dev/null 2>&1; setsid env -i {sleep} & wait' &",
}


# ---- waiting


async def test_any_number_of_tasks_may_wait_and_any_may_be_cancelled(world):
    child = world.spawn(world.sh(f"exec {world.sleep}"))
    await world.asleep(1)
    endings = []

    async def waiter(task_status):
        task_status.started()
        endings.append(await child.wait())

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as doomed:
                await doomed.start(waiter)
                await trio.testing.wait_all_tasks_blocked()
                await nursery.start(waiter)
                await nursery.start(waiter)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        child.stop()
    assert len(endings) == 2
    assert endings[0] is endings[1] is await child.wait()


async def test_the_launchers_pid_is_known_once_it_runs(world):
    child = world.spawn(world.sh(f"exec {world.sleep}"))
    [launcher] = await world.asleep(1)
    assert await eventually(lambda: child.pid) == launcher.pid
    assert launcher.ppid == child.shim_pid
    child.kill()
    await child.wait()
    assert child.pid == launcher.pid


async def test_asking_what_has_ended_is_harmless(world):
    child = world.spawn(world.sh("exit 0"))
    assert (await child.wait()).status == 0
    child.stop()
    child.kill()
    assert not (await child.wait()).requested


async def test_a_child_costs_nothing_once_it_is_gone(world):
    async def one(name):
        child = world.spawn(world.sh("exit 0", name=name))
        await child.wait()

    await one("first")
    before = (len(os.listdir("/proc/self/fd")), threading.active_count())
    for number in range(5):
        await one(f"n{number}")
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before
    assert zombies_of(os.getpid()) == []
    assert {path.suffix for path in world.run_dir.iterdir()} == {".lock", ".err"}
    assert sum(path.stat().st_size for path in world.run_dir.iterdir()) == 0


async def test_a_shim_that_was_stopped_still_takes_orders(world):
    child = world.spawn(world.sh(f"exec {world.sleep}"))
    await world.asleep(1)
    os.kill(child.shim_pid, signal.SIGSTOP)
    child.stop()
    assert str(await child.wait()) == "killed by SIGTERM"


# ---- one copy only


async def test_a_name_runs_once(world):
    child = world.spawn(world.sh(f"exec {world.sleep}"))
    with pytest.raises(CannotSpawn, match=r"cannot start qwen: an earlier one of it still holds .*qwen.lock"):
        world.spawn(world.sh(f"exec {world.sleep}"))
    await world.asleep(1)
    child.kill()
    await child.wait()
    again = world.spawn(world.sh("exit 4"))
    assert (await again.wait()).status == 4


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
        with pytest.raises(CannotSpawn, match="Too many open files"):
            world.spawn(world.sh("exit 0"))
    assert (await world.spawn(world.sh("exit 4")).wait()).status == 4


async def test_a_run_directory_that_is_gone_is_named(tmp_path, world):
    with pytest.raises(CannotSpawn, match=r"cannot start qwen: .*No such file or directory: '.*/gone/qwen.lock'"):
        Children(tmp_path / "gone").spawn(world.sh("exit 0"))


# ---- a shim that is killed


@pytest.mark.parametrize("orphan", ORPHANS.values(), ids=ORPHANS)
async def test_what_a_killed_shim_leaves_is_found(world, orphan):
    child = world.spawn(world.sh(f"{orphan.format(sleep=world.sleep)} exec {world.sleep}"))
    await world.asleep(2)
    await eventually(lambda: child.pid)
    os.kill(child.shim_pid, signal.SIGKILL)
    ended = await child.wait()
    assert str(ended) == "its shim was killed by SIGKILL"
    assert not ended.requested
    assert ended.swept >= 1
    assert not world.sleepers()


async def test_a_launcher_does_not_outlive_its_shim(world):
    """The kernel sees to it, whatever becomes of muxd."""
    child = world.spawn(world.sh(f"exec {world.sleep}"))
    [launcher] = await world.asleep(1)
    os.kill(child.shim_pid, signal.SIGKILL)
    await eventually(lambda: not world.sleepers())
    assert (now := look_up(launcher.pid)) is None or now.start != launcher.start or not now.alive
    await child.wait()


async def test_a_shim_that_cannot_start_says_why(world, monkeypatch, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("raise RuntimeError('no such thing')")
    monkeypatch.setattr("muxd.shim.__file__", str(broken))
    ended = await world.spawn(world.sh("exit 0")).wait()
    assert str(ended) == "its shim failed with status 1: RuntimeError: no such thing"
    assert not ended.refused


# ---- muxd that is killed

MUXD = """
import sys, trio
from pathlib import Path
import msgspec
from muxd.children import Children, ChildSpec

async def main():
    children = Children(Path(sys.argv[1]))
    specs = msgspec.json.decode(sys.argv[2], type=list[ChildSpec], dec_hook=lambda kind, text: kind(text))
    spawned = [children.spawn(spec) for spec in specs]
    print(msgspec.json.encode([child.record for child in spawned]).decode(), flush=True)
    await trio.sleep_forever()

trio.run(main)
"""


def is_alive(pid: int) -> bool:
    process = look_up(pid)
    return process is not None and process.alive


def killed_muxd(world, *specs) -> list[ChildRecord]:
    """Let a muxd start these and be killed; what its state file would hold."""
    orders = msgspec.json.encode(specs, enc_hook=str).decode()
    command = [sys.executable, "-c", MUXD, str(world.run_dir), orders]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as muxd:
        state = muxd.stdout.readline()
        muxd.kill()
    return msgspec.json.decode(state, type=list[ChildRecord])


async def test_a_child_does_not_notice_that_muxd_was_killed(world):
    gate = world.run_dir / "gate"
    os.mkfifo(gate)
    [record] = killed_muxd(world, world.sh(f"echo before; read line < {gate}; echo after; exit 3"))
    gate.write_text("go\n")
    await eventually(lambda: not is_alive(record.shim_pid))
    ended = json.loads(Path(record.exit_file).read_text())
    assert (ended["status"], ended["requested"]) == (3, False)
    assert world.stdout() == "before\nafter\n"
    assert await world.children.sweep([record]) == []


async def test_a_new_muxd_sweeps_what_its_state_names(world):
    orphan = ORPHANS["by its environment"].format(sleep=world.sleep)
    running = world.sh(f"{orphan} {world.sleep}", name="running")
    ended = world.sh("exit 0", name="ended")
    records = killed_muxd(world, running, ended)
    await world.asleep(2)
    await eventually(lambda: not is_alive(records[1].shim_pid))
    assert await world.children.sweep(records) == ["running"]
    assert not world.sleepers()
    assert not is_alive(records[0].shim_pid)
    assert await world.children.sweep(records) == []
    again = world.spawn(world.sh("exit 0", name="running"))
    assert (await again.wait()).status == 0


async def test_a_child_that_missed_the_state_file_is_found_by_its_card(world):
    killed_muxd(world, world.sh(f"exec {world.sleep}"))
    await world.asleep(1)
    assert await world.children.sweep([]) == ["qwen"]
    assert not world.sleepers()


@pytest.mark.parametrize("orphan", [o for i, o in ORPHANS.items() if i not in ("by its session", "by its parent")])
async def test_orphans_are_found_when_muxd_and_the_shim_were_killed(world, orphan):
    [record] = killed_muxd(world, world.sh(f"{orphan.format(sleep=world.sleep)} exec {world.sleep}"))
    await world.asleep(2)
    os.kill(record.shim_pid, signal.SIGKILL)
    await world.asleep(1)
    assert await world.children.sweep([record]) == ["qwen"]
    assert not world.sleepers()


async def test_a_shim_that_was_stopped_is_swept_too(world, caplog):
    [record] = killed_muxd(world, world.sh(f"exec {world.sleep}"))
    await world.asleep(1)
    os.kill(record.shim_pid, signal.SIGSTOP)
    assert await world.children.sweep([record]) == ["qwen"]
    assert not world.sleepers()
    assert not caplog.records  # it did its work, and did not have to be killed


async def test_a_shim_that_does_not_end_is_killed_itself(world, monkeypatch):
    monkeypatch.setattr("muxd.children.SHIM_PATIENCE", 0.0)
    [record] = killed_muxd(world, world.sh(f"trap '' TERM; {world.sleep} & {world.sleep}"))
    await world.asleep(2)
    assert await world.children.sweep([record]) == ["qwen"]
    assert not world.sleepers()


async def test_a_sweep_that_does_not_succeed_names_what_is_stuck(world):
    [record] = killed_muxd(world, world.sh(f"exec {world.sleep}"))
    await world.asleep(1)
    with pytest.raises(WorkerStuck, match="processes of qwen from an earlier run survive SIGKILL") as stuck:
        await world.children.sweep([record], patience=0.0)
    assert stuck.value.details == {"names": ["qwen"]}
    assert await world.children.sweep([record]) in (["qwen"], [])
    assert not world.sleepers()


async def test_a_sweep_leaves_the_living_children_of_this_muxd_alone(world):
    child = world.spawn(world.sh(f"exec {world.sleep}"))
    await world.asleep(1)
    await eventually(lambda: child.pid)
    assert await world.children.sweep([child.record]) == []
    assert len(world.sleepers()) == 1
    child.kill()
    await child.wait()


# ---- never somebody else's


@pytest.fixture
def bystander(world) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(world.sleep.split(), start_new_session=True) as process:
        yield process
        process.kill()


async def test_a_pid_that_was_used_again_is_left_alone(world, bystander):
    process = look_up(bystander.pid)
    lock = str(world.run_dir / "qwen.lock")
    Path(lock).write_text(json.dumps({"token": "t0", "pid": process.pid, "start": process.start - 1, "pipes": []}))
    record = ChildRecord("qwen", process.pid, process.start - 1, boot_id(), "t0", lock, lock + ".exit")
    world.children = Children(world.run_dir / "other")
    assert await world.children.sweep([record]) == []
    assert bystander.poll() is None


async def test_records_of_an_earlier_boot_are_left_alone(world, bystander):
    process = look_up(bystander.pid)
    lock = str(world.run_dir / "qwen.lock")
    record = ChildRecord("qwen", process.pid, process.start, "another boot", "t0", lock, lock + ".exit")
    assert await world.children.sweep([record]) == []
    assert bystander.poll() is None
    del record
    assert look_up(process.pid).start == process.start


# ---- orphans come to muxd

SUBREAPER = """
import os, signal, subprocess, sys, trio
from pathlib import Path
import msgspec
from muxd.children import Children, ChildSpec, become_subreaper
from muxd.shim import process_table

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
