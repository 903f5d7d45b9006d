"""Who listens, by both ways to learn it."""

import os
import socket
from contextlib import ExitStack

import pytest

from muxd.shim import listening
from muxd.shim.listening import all_listening, asked, read

ADDRESSES = {"127.0.0.1": socket.AF_INET, "0.0.0.0": socket.AF_INET, "::1": socket.AF_INET6, "::": socket.AF_INET6}

WAYS = pytest.mark.parametrize("way", [asked, read])


@WAYS
def test_a_socket_that_listens_is_found_among_connections_that_are_older(way):
    with ExitStack() as stack:
        before = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=200))
        for _ in range(150):
            stack.enter_context(socket.create_connection(before.getsockname()))
        later = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        for server in (before, later):
            port = server.getsockname()[1]
            names = [s.name for s in way() if s.port == port]
            assert names == [os.readlink(f"/proc/self/fd/{server.fileno()}")]
        port = later.getsockname()[1]
        later.close()
        assert [s.name for s in way() if s.port == port] == []


@pytest.mark.parametrize("address", ADDRESSES)
def test_both_ways_tell_the_same(address):
    try:
        server = socket.create_server((address, 0), family=ADDRESSES[address])
    except OSError as error:
        pytest.skip(f"{address}: {error}")
    with server:
        port = server.getsockname()[1]
        told = [[(s.address, s.uid, s.inode) for s in way() if s.port == port] for way in (asked, read)]
    assert len(told[0]) == 1
    assert told[0] == told[1]


def test_many_are_all_told():
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(1000)]
        assert {server.getsockname()[1] for server in servers} <= {s.port for s in asked()}


def test_a_kernel_that_cannot_be_asked_is_read(monkeypatch):
    monkeypatch.setattr(listening, "_BY_FAMILY", 9999)
    with pytest.raises(OSError, match=r"supported|Invalid"):
        list(asked())
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert server.getsockname()[1] in [s.port for s in all_listening()]
