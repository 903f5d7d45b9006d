"""muxd may be killed, its shims may be killed, and nothing is left; nor is anybody else's process taken for theirs."""

# ruff: noqa: ASYNC240  (small files and short commands: what they block is the test)

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE

import msgspec
import pytest

from muxd.children import ChildRecord, Children
from muxd.children.records import records_in
from muxd.errors import ModelStuck
from muxd.shim.processes import boot_id, look_up
from tests.childworld import TOKEN, eventually
from tests.seeds import thorough

#: Orphans that differ in what still ties them to their child: own session or not, output kept or not, environment
#: kept or not.  (That with none of the three can be found by its cgroup only.)
ORPHANS = {
    "by its session": "env -i {sleep} <&- >&- 2>&- &",
    "by its output": "setsid env -i {sleep} &",
    "by its error output": "setsid env -i {sleep} >/dev/null &",
    "by its environment": "setsid {sleep} <&- >&- 2>&- &",
    "by its parent": "sh -c 'exec 9<&1 </dev/null >/dev/null 2>&1; setsid env -i {sleep} & wait' &",
}


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


async def test_a_main_process_does_not_outlive_its_shim(world):
    """The kernel sees to it, whatever becomes of muxd."""
    child = world.spawn(world.sh(f"exec {world.sleep}"))
    [main_process] = await world.asleep(1)
    os.kill(child.shim_pid, signal.SIGKILL)

    def is_dead() -> bool:
        return (now := look_up(main_process.pid)) is None or now.start != main_process.start or not now.alive

    await eventually(is_dead)
    await child.wait()


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
    await eventually(lambda: records_in(world.run_dir))  # the shim writes it once its child runs
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
    monkeypatch.setattr("muxd.children.sweep.SHIM_PATIENCE", 0.0)
    [record] = killed_muxd(world, world.sh(f"trap '' TERM; {world.sleep} & {world.sleep}"))
    await world.asleep(2)
    assert await world.children.sweep([record]) == ["qwen"]
    assert not world.sleepers()


async def test_a_sweep_that_does_not_succeed_names_what_is_stuck(world):
    [record] = killed_muxd(world, world.sh(f"exec {world.sleep}"))
    await world.asleep(1)
    with pytest.raises(ModelStuck, match="processes of qwen from an earlier run survive SIGKILL") as stuck:
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


# ---- what was left on disk cannot be read

#: What may be in a lock file: another version's, half a disk block, somebody's note.
CONTENTS = [b"", b'{"v":2}', b"\xff\0\xff", b"[" * 100_000, b'{"name":["qwen"],"pid":-5}', b"7", b" " * 5000]


@pytest.mark.parametrize("content", [*CONTENTS[:3], *thorough(*CONTENTS[3:])])
async def test_what_nothing_on_disk_names_is_found_by_its_token(world, content):
    """Neither the state file nor a shim's record: shim and main process bear a token that says whose they are."""
    killed_muxd(world, world.sh(f"exec {world.sleep}"))
    await world.asleep(1)
    (world.run_dir / "qwen.lock").write_bytes(content)
    ended = await world.children.sweep([])
    assert len(ended) == 2
    assert all("which no record names" in name for name in ended)
    assert not world.sleepers()
    assert (await world.spawn(world.sh("exit 0")).wait()).status == 0


LIVING = "import os, sys; lock = open(sys.argv[1], 'w'); os.unlink(sys.argv[1]); print(flush=True); sys.stdin.read()"


@contextmanager
def living_muxd(lock: Path) -> Iterator[None]:
    """Let a process live that has this lock of a state_dir, which was removed."""
    with subprocess.Popen([sys.executable, "-c", LIVING, str(lock)], stdin=PIPE, stdout=PIPE) as muxd:
        muxd.stdout.readline()
        yield
        muxd.communicate()


async def test_what_was_in_a_run_directory_that_was_removed_is_found_unless_another_muxd_lives(world):
    killed_muxd(world, world.sh(f"exec {world.sleep}"))
    await world.asleep(1)
    shutil.rmtree(world.run_dir)
    world.run_dir.mkdir()
    beside = world.run_dir.with_name("muxd.lock")
    with living_muxd(beside):
        assert await world.children.sweep([]) == []
        assert len(world.sleepers()) == 1
    with beside.open("w"):  # by this process, as after an upgrade
        beside.unlink()
        assert len(await world.children.sweep([])) == 2
    assert not world.sleepers()


async def test_what_runs_in_a_container_at_the_same_path_is_left_alone(world, monkeypatch):
    killed_muxd(world, world.sh(f"exec {world.sleep}"))
    await world.asleep(1)
    shutil.rmtree(world.run_dir)
    world.run_dir.mkdir()
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("muxd.children.proctree.is_in_container", lambda pid: True)
        assert await world.children.sweep([]) == []
    assert len(world.sleepers()) == 1
    assert len(await world.children.sweep([])) == 2


@pytest.mark.parametrize("content", CONTENTS)
async def test_a_stray_card_is_put_aside_and_said_once(world, content, caplog):
    (world.run_dir / "zz.lock").write_bytes(content)
    (world.run_dir / "yy.lock").mkdir()
    assert await world.children.sweep([]) == []
    assert await world.children.sweep([]) == []
    assert len(caplog.records) == (2 if content.strip() else 1)


async def test_anything_in_the_place_of_a_childs_files_makes_way(world):
    for name in ("qwen.lock", "qwen.exit", "qwen.exit.tmp", "qwen.err"):
        (world.run_dir / name).mkdir()
        (world.run_dir / name / "inside").touch()
    assert (await world.spawn(world.sh("exit 3")).wait()).status == 3


async def test_a_record_names_no_file_elsewhere(world, tmp_path):
    """It is content of a file: what it says of paths is not believed."""
    precious = tmp_path / "precious.lock"
    precious.write_text(json.dumps({"token": TOKEN, "pid": 1 << 22, "start": 0}))
    record = ChildRecord("qwen", 1 << 22, 0, boot_id(), TOKEN, str(precious), str(precious), "/sys/fs/cgroup")
    assert await world.children.sweep([record]) == []
    assert precious.read_text()


async def test_a_shim_has_nothing_of_muxds_environment_but_what_it_needs(world, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    before = os.umask(0)
    try:
        child = world.spawn(world.sh(f"exec {world.sleep}"))
    finally:
        os.umask(before)
    await world.asleep(1)
    environ = Path(f"/proc/{child.shim_pid}/environ").read_bytes().split(b"\0")
    assert b"LC_ALL=C.UTF-8" in environ
    assert not any(word.startswith(b"HF_TOKEN") for word in environ)
    assert all(path.stat().st_mode & 0o077 == 0 for path in world.run_dir.iterdir())
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
    Path(lock).write_text(json.dumps({"token": TOKEN, "pid": process.pid, "start": process.start - 1, "pipes": []}))
    record = ChildRecord("qwen", process.pid, process.start - 1, boot_id(), TOKEN, lock, lock + ".exit")
    world.children = Children(world.run_dir / "other")
    assert await world.children.sweep([record]) == []
    assert bystander.poll() is None


async def test_records_of_an_earlier_boot_are_left_alone(world, bystander):
    process = look_up(bystander.pid)
    lock = str(world.run_dir / "qwen.lock")
    record = ChildRecord("qwen", process.pid, process.start, "another boot", TOKEN, lock, lock + ".exit")
    assert await world.children.sweep([record]) == []
    assert bystander.poll() is None
    del record
    assert look_up(process.pid).start == process.start
