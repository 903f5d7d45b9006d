import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from muxd.simulator.gpu_ledger import GpuLedger, OutOfMemory, start_time

GiB = 1 << 30


@pytest.fixture
def ledger(tmp_path):
    return GpuLedger(tmp_path / "gpus", 10 * GiB)


def me():
    return os.getpid(), start_time(os.getpid())


def test_what_a_process_holds_is_used_until_it_releases_it(ledger):
    ledger.hold(*me(), "0", 3 * GiB)
    ledger.hold(*me(), "0", GiB)
    ledger.hold(*me(), "1", 7 * GiB)
    assert (ledger.used("0"), ledger.used("1"), ledger.used("2")) == (4 * GiB, 7 * GiB, 0)
    ledger.release(*me(), "0", GiB)
    assert ledger.holders("0") == {os.getpid(): 3 * GiB}
    ledger.release(*me(), "0")
    assert (ledger.used("0"), ledger.used("1")) == (0, 7 * GiB)


def test_more_than_is_free_is_refused_in_the_words_of_torch_and_changes_nothing(ledger):
    ledger.hold(*me(), "0", 8 * GiB)
    with pytest.raises(OutOfMemory, match=r"^CUDA out of memory\. Tried to allocate 3\.00 GiB\. GPU 0 .* 2\.00 GiB is"):
        ledger.hold(*me(), "0", 3 * GiB)
    assert ledger.used("0") == 8 * GiB
    ledger.hold(*me(), "0", 2 * GiB)


def test_memory_of_a_dead_process_is_free_even_while_it_is_a_zombie(ledger):
    child = subprocess.Popen(["sleep", "60"])
    ledger.hold(child.pid, start_time(child.pid), "0", 9 * GiB)
    assert ledger.used("0") == 9 * GiB
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert ledger.used("0") == 0
    child.wait()
    ledger.hold(*me(), "0", 10 * GiB)


def test_a_reused_pid_does_not_hold_what_its_predecessor_held(ledger):
    pid, start = me()
    ledger.hold(pid, start - 1, "0", 9 * GiB)
    assert ledger.used("0") == 0


def test_memory_can_outlive_its_process(ledger):
    with subprocess.Popen(["sleep", "60"]) as child:
        ledger.hold(child.pid, start_time(child.pid), "0", 9 * GiB, linger=3600)
        child.kill()
    assert ledger.used("0") == 9 * GiB
    with pytest.raises(OutOfMemory):
        ledger.hold(*me(), "0", 2 * GiB)


def test_a_line_left_by_a_killed_writer_does_no_harm(ledger, tmp_path):
    ledger.hold(*me(), "0", GiB)
    with (tmp_path / "gpus").open("ab") as file:
        file.write(b'remains of a longer line"}]\n')
    assert ledger.used("0") == GiB


def test_a_file_of_any_length_is_no_ledger_and_fills_no_memory(ledger, tmp_path):
    with (tmp_path / "gpus").open("wb") as file:
        file.truncate(70 << 30)
    with pytest.raises(ValueError, match=r"Expecting value"):
        ledger.used("0")


def test_many_processes_together_never_hold_more_than_there_is(tmp_path):
    code = """if True:
        import os, sys
        from muxd.simulator.gpu_ledger import GpuLedger, OutOfMemory, start_time
        ledger = GpuLedger(sys.argv[1], 100)
        held = 0
        for _ in range(40):
            try:
                ledger.hold(os.getpid(), start_time(os.getpid()), "0", 1)
                held += 1
            except OutOfMemory:
                pass
            assert ledger.used("0") <= 100
        print(held, flush=True)
        sys.stdin.read()
    """
    argv = [sys.executable, "-c", code, str(tmp_path / "gpus")]
    writers = [subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    with ThreadPoolExecutor() as pool:
        held = list(pool.map(lambda writer: int(writer.stdout.readline()), writers))
    assert sum(held) == 100
    assert GpuLedger(tmp_path / "gpus", 100).used("0") == 100
    for writer in writers:
        writer.communicate()


def test_the_supervisor_can_import_it_cheaply():
    code = "import sys, muxd.simulator.gpu_ledger; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"trio", "httptools", "msgspec", "argparse", "subprocess"} & set(out.split())


def test_the_simulator_knows_nothing_of_the_supervisor():
    code = "import sys, muxd.simulator.main_process; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    ours = {name for name in out.split() if name.startswith("muxd.")}
    assert {name.split(".")[1] for name in ours} == {"errors", "http", "plain_stores", "simulator"}
