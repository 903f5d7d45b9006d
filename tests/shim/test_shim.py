"""A child's whole life under a real shim."""

# ruff: noqa: ASYNC230, ASYNC240  (small files and short commands: what they block is the test)

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from muxd import shim
from muxd.children import Children
from muxd.merged_logs import LogWindow, MergedLogs
from muxd.shim.shim_spec import ShimSpec
from tests.childworld import TOKEN, eventually, logged, rotated, zombies_of


async def run(world, spec):
    with trio.fail_after(60):
        return await world.spawn(spec).wait()


# ---- how it ends


async def test_a_status_and_the_last_words_are_kept(world):
    ended = await run(world, world.sh("echo last words; echo and complaints >&2; exit 3"))
    assert (ended.status, ended.signal, ended.error) == (3, None, None)
    assert str(ended) == "exited with status 3"
    assert not ended.requested
    assert (world.stdout(), world.stderr()) == ("last words\n", "and complaints\n")


async def test_a_signal_is_told_by_name(world):
    ended = await run(world, world.sh("kill -SEGV $$"))
    assert (ended.status, ended.signal) == (None, signal.SIGSEGV)
    assert str(ended) == "killed by SIGSEGV"


@pytest.mark.parametrize(
    ("argv", "cwd", "message"),
    [
        (["no-such-program"], "/", "could not be executed: No such file or directory: no-such-program"),
        (["/etc/passwd"], "/", "could not be executed: Permission denied: /etc/passwd"),
        (["true"], "/no/such/directory", "could not be executed: No such file or directory: /no/such/directory"),
    ],
)
async def test_what_cannot_be_executed_says_why_and_that_trying_again_is_no_use(world, argv, cwd, message):
    ended = await run(world, world.spec(*argv, cwd=Path(cwd)))
    assert str(ended) == message
    assert ended.refused
    assert (ended.status, ended.signal) == (None, None)
    assert world.stderr() == f"muxd-shim: qwen {message}\n"


async def test_a_status_of_127_is_not_taken_for_a_failed_exec(world):
    ended = await run(world, world.sh("exit 127"))
    assert (ended.status, ended.error, ended.refused) == (127, None, False)


# ---- stopping


async def test_stop_lets_the_child_end_by_itself(world):
    child = world.spawn(world.sh(f"trap 'echo bye; exit 0' TERM; {world.sleep} & echo up; wait"))
    await eventually(lambda: world.stdout() == "up\n")
    child.stop()
    ended = await child.wait()
    assert (ended.status, ended.requested, ended.swept) == (0, True, 1)
    assert world.stdout() == "up\nbye\n"
    assert not world.sleepers()


async def test_term_goes_to_the_main_process_alone(world):
    inner = f"trap 'echo hit' TERM; echo in; {world.sleep} & wait"
    child = world.spawn(world.sh(f"trap 'exit 5' TERM; sh -c \"{inner}\" & echo out; wait"))
    await eventually(lambda: sorted(world.stdout().split()) == ["in", "out"])
    child.stop()
    assert (await child.wait()).status == 5
    assert "hit" not in world.stdout()


async def test_a_child_is_asked_to_end_by_the_signal_it_hears_best(world):
    script = "trap 'exit 7' INT; trap '' TERM; echo up; while :; do sleep 0.01; done"
    child = world.spawn(world.sh(script, stop_signal=signal.SIGINT))
    await eventually(lambda: "up" in world.stdout())
    child.stop()
    assert (await child.wait()).status == 7


async def test_what_ignores_term_is_killed_after_the_stop_timeout(world):
    script = f"trap '' TERM; echo up; {world.sleep} & wait; {world.sleep}"
    child = world.spawn(world.sh(script, stop_timeout=0.2))
    await eventually(lambda: world.stdout() == "up\n")
    child.stop()
    ended = await child.wait()
    assert (ended.signal, ended.requested) == (signal.SIGKILL, True)
    assert not world.sleepers()


async def test_a_stopped_process_is_continued_so_that_it_can_hear(world):
    child = world.spawn(world.sh(f"trap 'exit 5' TERM; {world.sleep} & wait"))
    [sleeper] = await world.asleep(1)
    os.kill(sleeper.ppid, signal.SIGSTOP)
    child.stop()
    assert (await child.wait()).status == 5


async def test_a_stop_asked_at_once_is_not_lost(world):
    for _ in range(5):
        child = world.spawn(world.sh(f"exec {world.sleep}"))
        child.stop()
        ended = await child.wait()
        assert (str(ended), ended.requested) == ("killed by SIGTERM", True)


async def test_kill_does_not_wait_for_anybody(world):
    child = world.spawn(world.sh(f"trap '' TERM; {world.sleep} & {world.sleep} & {world.sleep}"))
    await world.asleep(3)
    child.stop()
    child.kill()
    ended = await child.wait()
    assert (ended.signal, ended.swept, ended.requested) == (signal.SIGKILL, 3, True)
    assert not world.sleepers()


async def test_an_interrupt_at_the_terminal_does_not_reach_the_shim(world):
    child = world.spawn(world.sh(f"exec {world.sleep}"))
    await world.asleep(1)
    assert os.getsid(child.shim_pid) == child.shim_pid
    status = dict(line.split(":", 1) for line in Path(f"/proc/{child.shim_pid}/status").read_text().splitlines())
    ignored = int(status["SigIgn"], 16)
    assert ignored & (1 << signal.SIGINT - 1)
    assert ignored & (1 << signal.SIGHUP - 1)
    child.kill()
    await child.wait()


# ---- nothing is left


@pytest.mark.parametrize("end", ["exit 1", "kill -KILL $$"])
async def test_after_a_crash_everything_it_started_is_killed(world, end):
    """In its session, in one of its own, holding its output, ignoring TERM, forked twice."""
    orphans = [
        f"{world.sleep} &",
        f"setsid {world.sleep} &",
        f"(trap '' TERM; {world.sleep}) &",
        f"(setsid env -i {world.sleep} <&- >&- 2>&- & ) &",
    ]
    crash = world.run_dir / "crash"
    os.mkfifo(crash)
    child = world.spawn(world.sh(f"{' '.join(orphans)} read line < {crash}; {end}"))
    await world.asleep(4)
    crash.write_text("now\n")
    ended = await child.wait()
    assert ended.swept >= 4
    assert not ended.requested
    assert not world.sleepers()
    assert f"muxd-shim: killed {ended.swept} processes that outlived qwen" in world.stderr()


async def test_the_dead_among_the_childs_orphans_are_buried(world):
    child = world.spawn(world.sh(f"for i in 1 2 3 4 5 6 7 8; do (setsid true &) ; done; exec {world.sleep}"))
    await world.asleep(1)
    await eventually(lambda: not zombies_of(child.shim_pid))
    child.kill()
    await child.wait()


async def test_a_process_that_forks_while_it_is_killed_does_not_escape(world):
    forever = f"sh -c 'while :; do {world.sleep} & sleep 0.001; done'"
    child = world.spawn(world.sh(f"{forever} & {forever} & wait"))
    await eventually(lambda: len(world.sleepers()) > 10)
    child.kill()
    await child.wait()
    assert not world.sleepers()


# ---- output

FLOOD = """
import sys
line = b"%010d " + b"x" * 88 + b"\\n"
for start in range(0, 1_000_000, 1000):
    sys.stdout.buffer.write(b"".join(line % number for number in range(start, start + 1000)))
"""


async def test_of_100_mb_of_output_no_line_is_lost_doubled_or_cut(world):
    ended = await run(world, world.python(FLOOD, log_max_bytes=16 << 20, log_backups=9))
    assert (ended.status, ended.dropped_bytes) == (0, 0)
    path = world.log_dir / "qwen.stdout.log"
    lines = logged(path).splitlines()
    assert [int(line[:10]) for line in lines] == list(range(1_000_000))
    assert {len(line) for line in lines} == {99}
    assert len(rotated(path)) > 5
    assert all(file.stat().st_size <= 16 << 20 for file in rotated(path))


async def test_both_streams_may_go_to_one_file(world):
    both = world.log_dir / "both.log"
    script = "for i in 1 2 3 4 5; do echo out $i; echo err $i >&2; done"
    await run(world, world.sh(script, stdout=both, stderr=both, log_max_bytes=1000))
    assert sorted(both.read_text().split("\n")) == sorted(
        [f"{stream} {i}" for i in range(1, 6) for stream in ("out", "err")] + [""]
    )


async def test_a_log_directory_that_vanishes_comes_back(world):
    gate = world.run_dir / "gate"
    os.mkfifo(gate)
    child = world.spawn(world.sh(f"echo before; read line < {gate}; echo after"))
    path = world.log_dir / "qwen.stdout.log"
    await eventually(lambda: world.stdout() == "before\n")
    shutil.rmtree(world.log_dir)
    gate.write_text("go\n")
    assert (await child.wait()).dropped_bytes == 0
    assert path.read_text() == "after\n"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, stderr=subprocess.DEVNULL).returncode != 0:
        pytest.skip("needs the right to mount a small tmpfs")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


async def test_that_a_log_can_be_written_again_is_noticed_though_the_child_says_nothing(world, small_disk):
    path, ballast = small_disk / "out.log", small_disk / "ballast"
    with open("/dev/zero", "rb") as zeros, pytest.raises(OSError, match="No space left"):
        ballast.write_bytes(zeros.read(1 << 20))
    child = world.spawn(world.sh(f"echo lost; exec {world.sleep}", stdout=path))
    await eventually(lambda: child.dropped == (5, "no space left on device", True))
    ballast.unlink()
    await eventually(lambda: child.dropped == (5, "no space left on device", False))
    assert path.read_text() == "muxd-shim: 5 bytes of the log were lost here: no space left on device\n"
    child.kill()
    await child.wait()


async def test_a_full_disk_neither_blocks_the_child_nor_goes_unnoticed(world, small_disk):
    """It is full of something else at first; when that is removed, logging goes on."""
    path, ballast, gate = small_disk / "out.log", small_disk / "ballast", world.run_dir / "gate"
    os.mkfifo(gate)
    with open("/dev/zero", "rb") as zeros, pytest.raises(OSError, match="No space left"):
        ballast.write_bytes(zeros.read(1 << 20))
    script = f"""
import os
os.write(1, b"lost line\\n" * 400_000)
open({str(world.run_dir / "went on")!r}, "w").close()
open({str(gate)!r}).read()
os.write(1, b"kept line\\n" * 3)
"""
    child = world.spawn(world.python(script, stdout=path))
    await eventually((world.run_dir / "went on").exists)
    dropped = await eventually(lambda: child.dropped.bytes >= 4_000_000 - 4096 and child.dropped.bytes)
    ballast.unlink()
    gate.write_text("go\n")
    ended = await child.wait()
    assert ended.status == 0
    assert (ended.dropped_bytes, ended.dropped_why) == (dropped, "no space left on device")
    *kept, notice, third, second, first = path.read_text().splitlines()
    assert notice.startswith(f"muxd-shim: {dropped} bytes of the log were lost here: no space left on device")
    assert first == second == third == "kept line"
    assert "".join(kept).replace("lost line", "") in ("", *("lost line"[:n] for n in range(9)))


async def test_a_full_run_directory_is_said_to_be_the_reason(world, small_disk):
    filler = small_disk / "filler"
    world.children = Children(small_disk)
    child = world.spawn(world.sh(f"exec {world.sleep}"))
    await world.asleep(1)
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(bytes(1 << 20))
    child.kill()
    ended = await child.wait()
    assert str(ended) == "its shim failed with status 1: see its log"
    assert f"could not write {small_disk}/qwen.exit: no space left on device" in world.stderr()
    assert "'signal': 9" in world.stderr()


# ---- the shim itself


async def test_a_shim_takes_less_than_8_mb(world, record_property):
    child = world.spawn(world.python(f"{FLOOD}\nimport os\nos.execvp('sleep', {world.sleep.split()!r})"))
    await world.asleep(1)
    rollup = Path(f"/proc/{child.shim_pid}/smaps_rollup").read_text()
    pss = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    record_property("shim_pss_kib", pss)
    assert pss < 8 * 1024
    child.kill()
    await child.wait()


async def test_a_shim_is_named_so_in_ps(world):
    child = world.spawn(world.sh(f"exec {world.sleep}"))
    await world.asleep(1)
    assert Path(f"/proc/{child.shim_pid}/comm").read_text() == "muxd-shim\n"
    assert Path(f"/proc/{child.shim_pid}/cmdline").read_bytes().endswith(b"/muxd/shim/__main__.py\0qwen\0")
    child.kill()
    await child.wait()


def test_the_shim_runs_from_its_folder_without_muxd(tmp_path):
    alone = tmp_path / "muxd" / "shim"
    shutil.copytree(Path(shim.__file__).parent, alone)
    with tempfile.TemporaryFile() as lock, tempfile.TemporaryFile("w+") as order:
        spec = ShimSpec(
            name="alone",
            token=TOKEN,
            argv=["sh", "-c", "echo $MUXD_TOKEN"],
            env={"PATH": os.environ["PATH"]},
            cwd="/",
            stdout=str(tmp_path / "out"),
            stderr=str(tmp_path / "err"),
            log_max_bytes=1000,
            log_backups=1,
            stop_timeout=1.0,
            stop_signal=15,
            exit_file=str(tmp_path / "exit"),
            lock_fd=lock.fileno(),
        )
        json.dump(vars(spec), order)
        order.seek(0)
        command = [sys.executable, "-I", "-S", str(alone / "__main__.py")]
        subprocess.run(command, stdin=order, pass_fds=[lock.fileno()], check=True, timeout=30)
    assert (tmp_path / "out").read_text() == f"{TOKEN}\n"
    assert json.loads((tmp_path / "exit").read_text())["status"] == 0


# ---- when its output came

IN_TURNS = """
import os, time
from pathlib import Path
out, err = Path({folder!r}, "qwen.stdout.log"), Path({folder!r}, "qwen.stderr.log")
for number in range(10, 60):
    order = (1, 2) if number % 3 else (2, 1)
    for stream in order:
        os.write(stream, b"%d %d\\n" % (number, stream))
    while sum(file.stat().st_size for file in (out, err) if file.exists()) < (number - 9) * 10:
        time.sleep(0.001)  # until the shim has both
"""


async def test_what_comes_to_stdout_and_stderr_is_in_the_order_in_which_it_was_written(world):
    turns = range(10, 60)
    began = time.time()
    await run(world, world.python(IN_TURNS.format(folder=str(world.log_dir))))
    paths = {stream: world.log_dir / f"qwen.{stream}.log" for stream in ("stdout", "stderr")}
    with MergedLogs(paths, LogWindow()) as merged:
        lines = merged.rest()
    expected = [f"{number} {stream}" for number in turns for stream in ((1, 2) if number % 3 else (2, 1))]
    assert [line["line"] for line in lines] == expected
    times = [line["time"] for line in lines]
    assert began <= times[0]
    assert times == sorted(times)
    assert times[-1] <= time.time()


async def test_the_last_words_of_a_child_are_in_order_too(world):
    await run(world, world.sh("echo complaint >&2; echo farewell; kill -9 $$"))
    paths = {stream: world.log_dir / f"qwen.{stream}.log" for stream in ("stdout", "stderr")}
    with MergedLogs(paths, LogWindow()) as merged:
        assert [line["line"] for line in merged.rest()] == ["complaint", "farewell"]


async def test_with_one_file_for_both_every_write_is_in_its_place(world):
    writes = "import os\nfor number in range(5000): os.write(1 + number % 7 % 2, b'%d\\n' % number)"
    spec = world.python(writes)
    await run(world, replace(spec, stderr=spec.stdout))
    assert world.stdout() == "".join(f"{number}\n" for number in range(5000))
    assert not (world.log_dir / "qwen.stderr.log").exists()
