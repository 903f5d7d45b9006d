"""A folder for logs: what is surely wrong with it, and no guess beyond that."""

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from muxd.config.folders import why_no_logs, why_no_socket, why_not_had
from tests.unprivileged import NOBODY, closed, unprivileged


def test_a_folder_that_is_there_or_can_be_made_is_fine(tmp_path):
    assert why_no_logs(tmp_path, tmp_path) is None
    assert why_no_logs(tmp_path / "a/b/c", tmp_path / "state") is None
    (tmp_path / "link").symlink_to(tmp_path)
    assert why_no_logs(tmp_path / "link/a", tmp_path) is None


@pytest.mark.parametrize("below", ["", "a", "a/b"])
def test_a_file_holds_no_logs(tmp_path, below):
    (tmp_path / "file").touch()
    assert why_no_logs(tmp_path / "file" / below, None) == (
        f"{tmp_path}/file is not a directory; name one that is, or can be made"
    )


@pytest.mark.parametrize(("folder", "place"), [("/proc/nope", "/proc"), ("/proc/self/nope/a", "/proc/self"),
                                               ("/sys", "/sys")])  # fmt: skip
def test_the_kernels_folders_hold_none(tmp_path, folder, place):
    assert why_no_logs(Path(folder), None) == f"{place} takes no files; name a directory on a disk"


def test_a_way_through_proc_to_a_disk_is_one_to_the_disk(tmp_path):
    folder = os.open(tmp_path, os.O_PATH)
    try:
        assert why_no_logs(Path(f"/proc/self/fd/{folder}/logs"), None) is None
    finally:
        os.close(folder)


def test_what_cannot_be_looked_at_is_not_judged(tmp_path):
    assert why_no_logs(tmp_path / ("x" * 300), tmp_path) is None
    (tmp_path / "loop").symlink_to("loop")
    assert why_no_logs(tmp_path / "loop/logs", tmp_path) is None


@pytest.fixture
def folders(tmp_path):
    """Yield the folders `state`, which this user owns, and `closed`, where it may not write; the user is not root."""
    state, closed = tmp_path / "state", tmp_path / "closed"
    state.mkdir()
    closed.mkdir(mode=0o555)
    if os.geteuid() == 0:
        os.chown(state, NOBODY, NOBODY)
    with unprivileged(tmp_path):
        yield state, closed


def test_the_user_who_will_write_must_be_let(folders):
    state, closed = folders
    told = f"{closed} cannot be written to; let this user do it, or name another directory"
    assert why_no_logs(closed, state) == told
    assert why_no_logs(closed / "logs", state / "new") == told
    assert why_no_logs(state / "logs", state) is None


def test_anybody_else_does_not_judge_what_that_user_may(folders):
    _, closed = folders
    assert why_no_logs(closed, None) is None, "an unmanaged proxy has a user of its own"
    assert why_no_logs(closed, Path("/usr")) is None, "root is not who asks"


ON_READ_ONLY_DISK = """\
import subprocess, sys
from pathlib import Path
from muxd.config.folders import why_no_logs, why_no_socket
logs, state = Path(sys.argv[1]), Path(sys.argv[2])
subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "muxd-test", str(logs)], check=True)
print(why_no_logs(logs, state), why_no_logs(logs / "new", state), sep=chr(10))
"""


def test_a_log_whose_disk_has_become_read_only_keeps_nobody_from_a_reload(tmp_path):
    unshare = ("unshare", "--map-root-user", "--mount")
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], capture_output=True).returncode != 0:
        pytest.skip("needs unshare with user and mount namespaces")
    logs = tmp_path / "logs"
    logs.mkdir()
    command = [*unshare, sys.executable, "-c", ON_READ_ONLY_DISK, str(logs), str(tmp_path / "state")]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == [
        "None",
        f"{logs} cannot be written to; let this user do it, or name another directory",
    ]


def test_a_socket_is_no_file_and_in_no_file(tmp_path):
    (tmp_path / "file").touch()
    assert why_no_socket(tmp_path / "s.sock", tmp_path) is None
    assert why_no_socket(tmp_path / "not/there/s.sock", tmp_path) is None
    assert f"{tmp_path}/file is there and is not a socket;" in (why_no_socket(tmp_path / "file", tmp_path) or "")
    assert why_no_socket(tmp_path / "file/s.sock", tmp_path) == (
        f"{tmp_path}/file is not a directory; name a socket in one"
    )


def test_a_socket_in_somebody_elses_folder_is_told_to_whom_the_state_belongs(folders):
    state, closed = folders
    assert why_no_socket(closed / "s.sock", state) == (
        f"{closed} cannot be written to; name a socket in a folder of this user, or run muxd as another one"
    )
    assert why_no_socket(closed / "run/s.sock", state) is None, "systemd may make that folder"
    assert why_no_socket(state / "s.sock", state) is None


def test_a_folder_that_this_user_cannot_have_is_told(tmp_path):
    (tmp_path / "closed/below").mkdir(parents=True)
    (tmp_path / "mine").mkdir(mode=0o777)
    (tmp_path / "mine").chmod(0o777)
    (tmp_path / "link").symlink_to("gone")
    owner = pwd.getpwuid(os.geteuid()).pw_name
    user = pwd.getpwuid(NOBODY).pw_name if os.geteuid() == 0 else owner
    with closed(tmp_path / "closed", 0o555):
        assert why_not_had(tmp_path / "closed") == (
            f"{tmp_path}/closed: dr-xr-xr-x {owner}, in which user {user} cannot write: run this as {owner}, "
            "give it to muxd's user (chown), or name another one"
        )
        advice = "make it for muxd's user, or name another one"
        told = f"{tmp_path}/closed/a/b is not there, and user {user} cannot make it in {tmp_path}/closed: {advice}"
        assert why_not_had(tmp_path / "closed/a/b") == told
        assert why_not_had(tmp_path / "mine/a") is None
        assert why_not_had(tmp_path / "mine") is None
        told = f"{tmp_path}/link is a link to gone, which is not there: make that, or name another one"
        assert why_not_had(tmp_path / "link/logs") == why_not_had(tmp_path / "link") == told
    with closed(tmp_path / "closed"):
        assert why_not_had(tmp_path / "closed/below") == (
            f"{tmp_path}/closed/below cannot be read: Permission denied: {tmp_path}/closed is d--------- {owner}; "
            f"run this as {owner}, or let muxd's user enter it (chown, chgrp)"
        )
