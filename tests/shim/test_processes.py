"""The process table, and signals that reach one process and no other."""

# ruff: noqa: ASYNC220  (a short command)

import os
import signal
import subprocess
import sys
from pathlib import Path

from muxd.shim.processes import look_up, process_table, send


async def test_a_pid_is_not_signalled_when_it_means_another_process_now(world):
    with subprocess.Popen(world.sleep.split()) as bystander:
        process = look_up(bystander.pid)
        process.start -= 1
        assert not send(process, signal.SIGKILL)
        assert bystander.poll() is None
        bystander.terminate()
        assert bystander.wait() == -signal.SIGTERM


def test_a_process_with_many_threads_is_alive_until_the_last_one_ends():
    script = "import ctypes, threading; threading.Thread(target=input).start(); ctypes.CDLL(None).pthread_exit(None)"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as process:
        stat = Path(f"/proc/{process.pid}/stat")
        while b") Z " not in stat.read_bytes():
            pass
        assert process_table()[process.pid].alive
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not process_table()[process.pid].alive
