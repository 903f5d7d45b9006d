import os
import socket

import pytest

from muxd.host.port_holders import holder_of
from muxd.ports import CannotListen, PortTaken, Reservation, is_free, listen_at


def listening(port: int = 0) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    return listener


def test_a_reserved_port_is_for_the_worker_alone():
    reserved = Reservation(0)
    with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
        stranger.bind(("127.0.0.1", reserved.port))
    with listening(reserved.port) as worker, socket.create_connection(("127.0.0.1", reserved.port)):
        worker.accept()[0].close()
    reserved.close()


def test_a_taken_port_is_refused_and_its_holder_is_named():
    with listening() as other:
        port = other.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"port {port} .* process {os.getpid()} listens on it"):
            Reservation(port)
        assert not is_free(port)
    assert is_free(port)


def test_a_port_is_free_again_after_its_reservation():
    first = Reservation(0)
    first.close()
    Reservation(first.port).close()


def test_a_port_that_a_connection_has_been_given_is_told_as_that():
    with listening() as server, socket.create_connection(server.getsockname()) as client:
        host, port = client.getsockname()
        said = "address already in use: no process listens on it, a connection from this host uses it for a while; "
        with pytest.raises(CannotListen, match=said):
            listen_at(host, port)
        assert str(holder_of(host, port)) == "a connection from this host (no process listens on it)"


def test_where_the_proxy_cannot_listen_is_told_with_who_does():
    with listening() as other:
        port = other.getsockname()[1]
        with pytest.raises(
            CannotListen, match=rf"address already in use: process {os.getpid()} listens on it \("
        ) as told:
            listen_at("127.0.0.1", port, "metrics")
    assert told.value.message.endswith("; end it, or choose another port; see [proxy] metrics_listen")
