"""The kernel says who asks; the rule says what they may do."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from muxd.config.schema import Config, Daemon, Proxy
from muxd.control.rights import Peer, Right, Rights, peer_of
from muxd.errors import ConfigError

MUXD, ADMINS, PROXY, STRANGER = 1000, 2000, 1001, 1002


def peer(uid: int, *groups: int) -> Peer:
    return Peer(1, uid, frozenset(groups))


@pytest.mark.parametrize("others_read", [True, False])
def test_each_kind_of_peer_has_its_rights(others_read: bool) -> None:
    rights = Rights(own_uid=MUXD, admin_gid=ADMINS, proxy_uid=PROXY, others_read=others_read)
    assert rights.of(peer(0)) == Right.ALL
    assert rights.of(peer(MUXD)) == Right.ALL
    assert rights.of(peer(STRANGER, 5, ADMINS)) == Right.READ | Right.OPERATE
    assert rights.of(peer(PROXY, 5)) == Right.READ | Right.LEASE
    assert rights.of(peer(PROXY, ADMINS)) == Right.ALL
    assert rights.of(peer(STRANGER, 5)) == (Right.READ if others_read else Right(0))


def test_no_group_and_no_proxy_user_give_nobody_anything() -> None:
    rights = Rights(own_uid=MUXD, others_read=False)
    assert rights.of(peer(STRANGER, 0)) == Right(0)


def test_whoever_lacks_a_right_is_told_what_to_do_about_it() -> None:
    unset = Rights(own_uid=MUXD).way_to(Right.OPERATE)
    assert unset.startswith("use sudo, or be the user that muxd runs as; ")
    assert "set [muxd] admin_group" in unset
    assert (
        Rights(own_uid=MUXD, admin_gid=0).way_to(Right.OPERATE).startswith("add your user to the group root (usermod")
    )
    assert "group 54321 (" in Rights(own_uid=MUXD, admin_gid=54321).way_to(Right.OPERATE)
    assert "[proxy] user" in Rights(own_uid=MUXD, admin_gid=0).way_to(Right.LEASE)


def test_only_root_and_muxds_own_user_have_the_reserve() -> None:
    rights = Rights(own_uid=MUXD, admin_gid=ADMINS)
    assert [rights.owns(peer(uid, ADMINS)) for uid in (0, MUXD, STRANGER)] == [True, True, False]


def test_rights_come_from_the_configuration() -> None:
    where = Path("/none")
    config = Config(Daemon(where, where, where, admin_group="root", others="none"), Proxy(user="nobody"))
    rights = Rights.of_config(config)
    assert (rights.own_uid, rights.admin_gid, rights.others_read) == (os.geteuid(), 0, False)
    assert rights.proxy_uid
    for wrong in (
        Config(Daemon(where, where, where, admin_group="no-such-group")),
        Config(Daemon(where, where, where), Proxy(user="no-such-user")),
    ):
        with pytest.raises(ConfigError, match="no-such"):
            Rights.of_config(wrong)


def test_the_kernel_tells_who_we_are() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        found = peer_of(ours)
    assert (found.pid, found.uid) == (os.getpid(), os.geteuid())
    assert found.groups == {os.getegid(), *os.getgroups()}


CONNECT = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); sys.stdin.read()"


@pytest.fixture
def open_directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("groups", [[], [2000, 2001], list(range(3000, 3300))], ids=len)
def test_the_kernel_tells_another_users_groups(open_directory: Path, groups: list[int]) -> None:
    where = open_directory / "s"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(where))
        where.chmod(0o666)
        listening.listen()
        command = ["/usr/bin/env", "python3", "-c", CONNECT, str(where)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, user=65534, group=65533, extra_groups=groups):
            connection, _ = listening.accept()
            with connection:
                found = peer_of(connection)
    assert found.uid == 65534
    assert found.groups == {65533, *(groups if len(groups) < 256 else ())}


def test_the_interpreter_still_has_no_name_for_peer_groups() -> None:
    assert not hasattr(socket, "SO_PEERGROUPS"), f"use it, {sys.version}"
