"""Who has lent GPUs: process groups that are watched, and of which muxd ends no process that the borrower could not."""

import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from muxd.borrowers import Borrower
from muxd.shim.processes import look_up


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


def test_a_process_that_has_the_pid_of_one_that_has_just_ended_is_left_alone(leader, monkeypatch):
    with subprocess.Popen(["sleep", "60"]) as other:
        ended = look_up(other.pid)
        ended.start, ended.group = ended.start - 1, leader.pid
        monkeypatch.setattr("muxd.borrowers.process_table", lambda: {ended.pid: ended})
        Borrower.of(leader.pid, os.getuid()).end(kill=True)
        assert other.poll() is None
        other.send_signal(signal.SIGTERM)
        assert other.wait() == -signal.SIGTERM


#: To run a program as a user who is not root, and where /proc hides others from that one (ProtectProc=invisible).
NO_ROOT = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c")
MOUNT = 'mount -t proc -o hidepid=invisible proc /proc && exec "$@"'
HIDDEN = ("unshare", "--mount", "sh", "-c", MOUNT, "sh", *NO_ROOT)


def skip_unless_possible(started):
    if subprocess.run([*started, "import muxd"], capture_output=True).returncode:
        pytest.skip("needs root, and a mount of /proc")


def test_a_group_whose_processes_are_hidden_from_muxd_is_alive_until_it_has_ended(leader):
    skip_unless_possible(HIDDEN)
    program = "import sys; from muxd.borrowers import Borrower; print(Borrower.of(int(sys.argv[1])).is_alive())"
    asked = [*HIDDEN, program, str(leader.pid)]
    assert subprocess.check_output(asked) == b"True\n"
    os.killpg(leader.pid, signal.SIGKILL)
    leader.wait()
    while subprocess.check_output(asked) != b"False\n":
        pass


@pytest.mark.parametrize("started", [NO_ROOT, HIDDEN], ids=["seen", "hidden"])
def test_that_muxds_user_may_not_end_a_process_is_logged_also_where_it_is_the_borrowers(leader, started):
    skip_unless_possible(started)
    program = "import sys; from muxd.borrowers import Borrower; Borrower.of(int(sys.argv[1]), 0).end(kill=True)"
    ended = subprocess.run([*started, program, str(leader.pid)], check=True, capture_output=True, text=True)
    assert f"cannot end the process group {leader.pid}, to which a GPU is lent" in ended.stderr
    assert leader.poll() is None
