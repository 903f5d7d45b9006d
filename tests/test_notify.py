import os
import socket
import tempfile
from pathlib import Path

import pytest

from muxd.notify import Notifier


@pytest.fixture
def manager():
    """A service manager's socket: (its address for $NOTIFY_SOCKET, the socket)."""
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        address = str(Path(directory) / "notify")
        bound.bind(address)
        bound.settimeout(5)
        yield address, bound


def test_each_state_is_sent_as_systemd_spells_it(manager):
    address, bound = manager
    notifier = Notifier(address)
    assert notifier.ready("2 models")
    assert notifier.status("switching a -> b\nsecond line")
    assert notifier.watchdog()
    assert notifier.stopping()
    assert [bound.recv(4096) for _ in range(4)] == [
        b"READY=1\nSTATUS=2 models",
        b"STATUS=switching a -> b second line",
        b"WATCHDOG=1",
        b"STOPPING=1",
    ]


def test_an_abstract_address_is_understood():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind("")  # the kernel chooses an abstract name
        bound.settimeout(5)
        name = bound.getsockname()
        assert Notifier("@" + name[1:].decode()).ready()
        assert bound.recv(4096) == b"READY=1"


@pytest.mark.parametrize("address", [None, "", "relative", "/no/such/socket", "@no-such-muxd-socket"])
def test_nobody_to_tell_is_no_error(address):
    assert not Notifier(address).ready()


def test_a_manager_that_does_not_read_never_blocks_us(manager):
    address, _ = manager
    notifier = Notifier(address)
    assert any(not notifier.watchdog() for _ in range(100_000))


def test_children_do_not_inherit_the_managers_variables():
    environ = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid()), "HOME": "/h"}
    notifier = Notifier.from_environ(environ)
    assert environ == {"HOME": "/h"}
    assert notifier.watchdog_interval == 15.0


@pytest.mark.parametrize(
    "variables",
    [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}],
)
def test_a_watchdog_that_is_not_for_us_has_no_interval(variables):
    assert Notifier.from_environ(dict(variables)).watchdog_interval is None


def test_a_socket_that_is_kept_is_sent_with_its_name(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, socket.create_server(("127.0.0.1", 0)) as port:
        manager.bind(str(tmp_path / "notify"))
        assert Notifier(str(tmp_path / "notify")).keep(port, "proxy")
        assert manager.recv(100) == b"FDSTOREREMOVE=1\nFDNAME=proxy"
        said, fds, _, _ = socket.recv_fds(manager, 100, 1)
        assert said == b"FDSTORE=1\nFDNAME=proxy\nFDPOLL=0"
        with socket.socket(fileno=fds[0]) as copy:
            assert copy.getsockname() == port.getsockname()


def test_sockets_for_another_process_are_not_taken():
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "proxy"}
    assert Notifier.from_environ(environ).kept == []
    assert environ == {}
