import grp
import os
import socket

import pytest

from muxctl.exit_codes import CommandFailed, ExitCode
from muxctl.socket_path import candidates, find_socket
from muxd.demo import FOLDER

from .fake_muxd import FakeMuxd


def test_the_option_comes_first_then_the_variable_then_what_exists(elsewhere):
    users, systems = elsewhere / "run/muxd/muxd.sock", elsewhere / "system/muxd.sock"
    for path in (users, systems):
        path.parent.mkdir(parents=True)
        path.touch()
    environ = {"MUXD_SOCKET": "/named", "XDG_RUNTIME_DIR": str(elsewhere / "run")}
    assert find_socket("/given", environ) == "/given"
    assert find_socket(None, environ) == "/named"
    del environ["MUXD_SOCKET"]
    assert find_socket(None, environ) == str(users)
    users.unlink()
    assert find_socket(None, environ) == str(systems)


def test_without_any_socket_all_places_are_told(muxctl, elsewhere):
    assert muxctl("status") == (
        7,
        "",
        f"muxctl: muxd is not running: no socket at {elsewhere}/run/muxd/muxd.sock, {elsewhere}/system/muxd.sock, "
        f"{elsewhere}/home/.local/state/muxd/muxd.sock; "
        "start it with muxd start, or name its socket with --socket or MUXD_SOCKET\n",
    )


def a_demo(elsewhere, name: str) -> FakeMuxd:
    folder = elsewhere / "tmp" / f"{FOLDER}{name}"
    folder.mkdir()
    return FakeMuxd(folder / "muxd.sock")


def test_a_running_demo_is_found_where_there_is_no_other_muxd(elsewhere):
    dead, demo = a_demo(elsewhere, "dead"), a_demo(elsewhere, "b")
    dead.close()
    environ = {"TMPDIR": str(elsewhere / "tmp")}
    try:
        assert find_socket(None, environ) == str(demo.path)
        second = a_demo(elsewhere, "a")
        with pytest.raises(CommandFailed, match=r"choose one with --socket: .*-a/muxd.sock, .*-b/muxd.sock"):
            find_socket(None, environ)
        second.close()
        (elsewhere / "system").mkdir()
        (elsewhere / "system/muxd.sock").touch()
        assert find_socket(None, environ) == str(elsewhere / "system/muxd.sock")
    finally:
        demo.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder away")
def test_what_another_user_puts_in_the_place_of_a_demo_is_left_alone(elsewhere):
    demo = a_demo(elsewhere, "theirs")
    os.chown(demo.path.parent, 1234, 1234)
    try:
        with pytest.raises(CommandFailed, match="muxd is not running"):
            find_socket(None, {"TMPDIR": str(elsewhere / "tmp")})
    finally:
        demo.close()


def test_a_named_socket_that_is_not_there_is_the_only_one_told(muxctl):
    code, out, err = muxctl("status", "--socket", "/no/such.sock")
    assert (code, out) == (7, "")
    assert err.startswith("muxctl: muxd is not running: no socket at /no/such.sock; start it")


def test_a_socket_nobody_listens_on_is_stale(muxctl, short_dir):
    path = short_dir / "stale.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    assert muxctl("--socket", str(path), "status") == (
        7,
        "",
        f"muxctl: stale socket {path}: muxd died; start it again and it replaces the socket\n",
    )


def test_a_path_no_socket_can_have_is_one_line_too(muxctl):
    code, _, err = muxctl("--socket", "/" + "x" * 200, "status")
    said = "a socket's path has at most 107 bytes; name muxd's with --socket or MUXD_SOCKET"
    assert (code, err) == (7, f"muxctl: no socket can be at /{'x' * 200}: {said}\n")


@pytest.fixture
def as_nobody():
    """The rights of this process are those of nobody, if it had root's."""
    if os.getuid() != 0:
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(65534)
    os.seteuid(65534)
    yield
    os.seteuid(0)
    os.setegid(0)
    os.setgroups(groups)


@pytest.fixture
def closed(short_dir):
    """(directory, socket): a muxd in a directory of its own, made ready for the test to close."""
    directory = short_dir / "run"
    directory.mkdir()
    short_dir.chmod(0o755)
    fake = FakeMuxd(directory / "muxd.sock")
    yield directory, fake.path
    directory.chmod(0o700)
    fake.close()


def test_without_a_group_that_would_help_none_is_proposed(closed, muxctl, request):
    directory, path = closed
    directory.chmod(0)
    request.getfixturevalue("as_nobody")
    assert muxctl("status", "--socket", str(path)) == (
        5,
        "",
        f"muxctl: no permission for {path}: use sudo, or set admin_group in muxd.toml to a group of yours\n",
    )


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to give a file to another group")
@pytest.mark.parametrize("what", ["directory", "socket"])
def test_the_group_that_may_enter_is_named(closed, muxctl, request, what):
    directory, path = closed
    os.chown(directory if what == "directory" else path, -1, grp.getgrnam("daemon").gr_gid)
    directory.chmod(0o750 if what == "directory" else 0o755)
    path.chmod(0o660)
    request.getfixturevalue("as_nobody")
    assert muxctl("status", "--socket", str(path)) == (
        5,
        "",
        f"muxctl: no permission for {path}: add yourself to group daemon "
        "(usermod -aG daemon USER, then log in again), or use sudo\n",
    )


def test_a_place_that_may_not_be_looked_into_counts_as_there(closed, request):
    directory, path = closed
    os.renames(path, directory / "muxd/muxd.sock")
    directory.chmod(0)
    request.getfixturevalue("as_nobody")
    assert find_socket(None, {"XDG_RUNTIME_DIR": str(directory)}) == str(directory / "muxd/muxd.sock")


def test_without_a_runtime_directory_two_places_are_left():
    assert len(candidates({})) == 2


def test_finding_nothing_is_unreachable(elsewhere):
    with pytest.raises(CommandFailed) as caught:
        find_socket(None, {})
    assert caught.value.code == ExitCode.UNREACHABLE
