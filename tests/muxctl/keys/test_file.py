"""The file that muxctl keys writes: whose it is, what else is in its folder, and who writes it at the same time."""

import fcntl
import os
import stat
import time

import pytest

from tests.muxctl.conftest import ROOT

from .conftest import authenticate


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o600])
def test_who_may_read_the_configuration_may_read_the_keys(muxctl, config, file, mode):
    config.chmod(mode)
    config.parent.chmod(0o750)
    muxctl("keys", "add", "alice")
    assert stat.S_IMODE(file.stat().st_mode) == mode
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o750


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_whose_the_configuration_is_theirs_are_the_keys(muxctl, config, file):
    os.chown(config, 1234, 2345)
    os.chown(config.parent, 1234, 2345)
    muxctl("keys", "add", "alice")
    muxctl("keys", "add", "bob")
    assert [(path.stat().st_uid, path.stat().st_gid) for path in (file, file.parent)] == [(1234, 2345)] * 2


def test_what_everybody_may_write_is_not_followed(muxctl, config, file):
    config.chmod(0o666)
    config.parent.chmod(0o1777)
    muxctl("keys", "add", "alice")
    assert stat.S_IMODE(file.stat().st_mode) == 0o664
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o775


def test_nothing_but_the_file_is_left_in_the_folder(muxctl, config, file):
    muxctl("keys", "add", "alice")
    muxctl("keys", "add", "Alice")
    assert list(file.parent.iterdir()) == [file]


def test_a_link_that_switches_the_file_off_is_not_replaced(muxctl, config, file):
    file.parent.mkdir()
    file.symlink_to(os.devnull)
    code, out, err = muxctl("keys", "add", "alice")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == f"muxctl: {file} is a link; put a file in its place, or remove it"


def test_a_folder_that_cannot_be_is_told(muxctl, config, file):
    file.parent.write_text("")
    code, out, err = muxctl("keys", "add", "alice")
    assert (code, out) == (2, "")
    assert f"{file.parent}: cannot be read" in err


def test_adds_at_the_same_time_come_one_after_the_other(process, config, written):
    names = [f"key{number}" for number in range(4)]
    env = {"PYTHONPATH": str(ROOT)}
    started = [process("keys", "add", name, "--config", str(config), env=env) for name in names]
    told = [child.communicate(timeout=60)[0].strip() for child in started]
    assert sorted(key["name"] for key in written()) == names
    assert len({authenticate(config, secret).name for secret in told}) == 4


def test_an_add_waits_for_the_one_before_it(process, config, file):
    file.parent.mkdir()
    lock = os.open(file.parent, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    child = process("keys", "add", "alice", "--config", str(config))
    try:
        _wait_until_it_waits(child.pid)
        assert not file.exists()
    finally:
        os.close(lock)
    assert child.communicate(timeout=60)[0]
    assert file.exists()


def _wait_until_it_waits(pid):
    """Until the kernel lists it as one who wants a lock that another has: proc_locks(5), "->"."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with open("/proc/locks") as locks:
            if any(" -> " in line and f" {pid} " in line for line in locks):
                return
    pytest.fail("it did not wait for the lock")
