"""Which processes are taken for a child's, and which are not."""

# ruff: noqa: ASYNC220, ASYNC221  (a short command)

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from muxd.proctree import Marks, find
from muxd.shim import look_up, process_table, send

from .childworld import World, eventually


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.clean_up()


async def test_a_pid_is_not_signalled_when_it_means_another_process_now(world):
    with subprocess.Popen(world.sleep.split()) as bystander:
        process = look_up(bystander.pid)
        process.start -= 1
        assert not send(process, signal.SIGKILL)
        assert bystander.poll() is None
        bystander.terminate()
        assert bystander.wait() == -signal.SIGTERM


async def test_a_session_whose_leader_is_gone_is_trusted_only_by_who_saw_it(world):
    """Its number may have been used again since; a muxd that lost its shim this moment knows that it was not."""
    subprocess.run(["setsid", "sh", "-c", f"{world.sleep} &"], check=True)
    [process] = await world.asleep(1)
    await eventually(lambda: look_up(process.session) is None)
    marks = Marks(token="t0", leader=(process.session, 1))
    assert find(marks) == []
    assert [found.pid for found in find(replace(marks, just_now=True))] == [process.pid]


def test_muxd_itself_is_spared_even_if_it_bears_the_token():
    script = "from muxd.proctree import Marks, find; print(find(Marks('t0')))"
    run = subprocess.run([sys.executable, "-c", script], env=os.environ | {"MUXD_TOKEN": "t0"}, stdout=subprocess.PIPE)
    assert run.stdout == b"[]\n"


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
