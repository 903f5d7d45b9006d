"""One muxd per socket, and a socket that only the right people can open."""

# ruff: noqa: ASYNC220, ASYNC240 - closing the listener needs a running trio; nothing else runs in it

import grp
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from muxd.control import ControlSocket
from muxd.errors import AlreadyRunning, ConfigError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "muxd.sock"


async def test_it_listens_as_soon_as_it_exists_and_leaves_nothing_but_the_lock_file(path: Path) -> None:
    control = ControlSocket(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    assert path.with_name("muxd.sock.lock").read_text() == f"{os.getpid()}\n"
    control.close()
    assert [file.name for file in path.parent.iterdir()] == ["muxd.sock.lock"]


@pytest.mark.parametrize(("others", "expected"), [(False, 0o660), (True, 0o666)])
async def test_its_mode_does_not_depend_on_the_umask(path: Path, others: bool, expected: int) -> None:
    before = os.umask(0)
    try:
        control = ControlSocket(path, others=others)
        assert os.umask(0o22) == 0
    finally:
        os.umask(before)
    assert mode(path) == expected
    control.close()


async def test_it_belongs_to_the_admin_group(path: Path) -> None:
    group = grp.getgrgid(os.getgid()).gr_name
    control = ControlSocket(path, admin_group=group)
    assert path.stat().st_gid == os.getgid()
    control.close()


async def test_nobody_else_can_open_it_before_it_has_its_group(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chown, modes = os.chown, []

    def watched(where: Path, uid: int, gid: int) -> None:
        modes.append(mode(path))
        chown(where, uid, gid)

    monkeypatch.setattr(os, "chown", watched)
    ControlSocket(path, admin_group=grp.getgrgid(os.getgid()).gr_name, others=True).close()
    assert modes == [0o600]


async def test_a_group_that_does_not_exist_is_a_config_error(path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no group no-such-group"):
        ControlSocket(path, admin_group="no-such-group")
    assert not path.parent.exists()


HOLD = """
import sys, trio
from pathlib import Path
from muxd.control import ControlSocket
control = ControlSocket(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.read()
"""


async def test_a_second_muxd_is_refused_with_the_first_ones_pid_until_that_dies(path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"ready\n"
        with pytest.raises(AlreadyRunning, match=rf"pid {first.pid}\b") as caught:
            ControlSocket(path)
        assert caught.value.details == {"pid": first.pid}
        first.kill()
    assert path.is_socket()  # stale now
    ControlSocket(path).close()


async def test_a_living_socket_is_not_taken_even_when_its_lock_file_was_removed(path: Path) -> None:
    first = ControlSocket(path)
    path.with_name("muxd.sock.lock").unlink()
    with pytest.raises(AlreadyRunning):
        ControlSocket(path)
    first.close()


async def test_the_lock_is_free_again_after_a_failure(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("precious")
    for _ in range(2):
        with pytest.raises(ConfigError, match="not a socket"):
            ControlSocket(path)
    assert path.read_text() == "precious"
    path.unlink()
    ControlSocket(path).close()


async def test_a_symlink_and_a_directory_at_the_path_are_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("elsewhere")
    (tmp_path / "directory").mkdir()
    for name in ("link", "directory"):
        with pytest.raises(ConfigError, match="not a socket"):
            ControlSocket(tmp_path / name)


async def test_a_path_longer_than_the_system_allows_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="107 bytes"):
        ControlSocket(Path("/tmp/" + "x" * 103))


async def test_a_directory_that_cannot_be_made_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"not a directory|file exists"):
        ControlSocket(tmp_path / "file" / "muxd.sock")


async def test_close_leaves_the_socket_of_a_successor(path: Path) -> None:
    first = ControlSocket(path)
    path.unlink()
    path.with_name("muxd.sock.lock").unlink()
    second = ControlSocket(path)
    first.close()
    assert path.is_socket()
    second.close()
    assert not path.exists()
