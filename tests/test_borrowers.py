"""Who has lent GPUs: process groups that are watched, and of which muxd ends no process that the borrower could not."""

import os
import signal
import subprocess
from contextlib import suppress

import pytest

from muxd.borrowers import Borrower


@pytest.fixture
def leader():
    """The leader of a process group of two; it ends at a line, and is not waited for before the test does."""
    command = ["sh", "-c", "sleep 60 & echo; read line"]
    with subprocess.Popen(command, process_group=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as leader:
        leader.stdout.readline()
        yield leader
        with suppress(ProcessLookupError):
            os.killpg(leader.pid, signal.SIGKILL)


def test_it_is_there_until_its_last_process_has_ended_whoever_waits_for_that(leader):
    borrower = Borrower.of(leader.pid)
    leader.stdin.write(b"\n")
    leader.stdin.flush()
    os.waitid(os.P_PID, leader.pid, os.WEXITED | os.WNOWAIT)
    assert borrower.is_alive()  # the leader is a zombie, and the other one runs
    borrower.end(kill=True)
    while borrower.is_alive():
        os.sched_yield()
    assert leader.wait() == 0


def test_of_a_user_who_is_not_root_no_other_users_process_is_ended(leader, caplog):
    Borrower.of(leader.pid, os.getuid() + 1).end(kill=True)
    assert "is not of the user who borrowed it" in caplog.text
    assert leader.poll() is None
    Borrower.of(leader.pid, os.getuid()).end(kill=True)
    assert leader.wait() == -signal.SIGKILL
