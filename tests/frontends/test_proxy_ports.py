"""The managed proxy's ports: kept, taken over, let go, and what happens where somebody has one."""

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from muxd.config import Proxy
from muxd.config.readers import Address
from muxd.frontends.proxy_ports import ProxyPorts
from muxd.notify import Notifier
from muxd.ports import CLIENTS, METRICS, AddressInUse, CannotListen, listen_at

HERE = "127.0.0.1"


class Manager:
    """A service manager: what it was told."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "notify")
        self._bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._bound.bind(self.address)

    def notifier(self, **kept: socket.socket) -> Notifier:
        notifier = Notifier(self.address)
        notifier.kept = list(kept.items())
        return notifier

    def stored(self) -> list[str]:
        """What it was given to keep since the last time: "+name"."""
        told = []
        while True:
            try:
                said, fds, _, _ = socket.recv_fds(self._bound, 4096, 1)
            except BlockingIOError:
                return told
            for fd in fds:
                os.close(fd)
            lines = said.decode().splitlines()
            told += ["+" + line.removeprefix("FDNAME=") for line in lines if line.startswith("FDNAME=") and fds]

    def close(self) -> None:
        self._bound.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path)
    yield manager
    manager.close()


def proxy_at(port: int = 0, **settings: Any) -> Proxy:
    return Proxy(Address(HERE, port), **settings)


def port_of(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


def a_free_port() -> int:
    with socket.create_server((HERE, 0)) as probe:
        return port_of(probe)


def listens(port: int, host: str = HERE) -> bool:
    with socket.socket() as client:
        return client.connect_ex((host, port)) == 0


def test_both_ports_are_bound_and_given_to_the_manager(manager):
    ports = ProxyPorts(proxy_at(metrics_listen=Address(HERE, 0)), manager.notifier())
    assert list(ports.descriptors()) == [CLIENTS, METRICS]
    assert sorted(manager.stored()) == ["+metrics", "+proxy"]
    assert listens(ports.port)
    ports.close()


def open_files(ports: ProxyPorts, processes: int) -> list[socket.socket]:
    """A copy of each process's clients' socket."""
    return [socket.socket(fileno=os.dup(ports.descriptors(number)[CLIENTS])) for number in range(1, processes + 1)]


def accepted(listeners: list[socket.socket]) -> list[int]:
    """How many clients wait at each."""
    counts = []
    for listener in listeners:
        listener.setblocking(False)
        count = 0
        with suppress(BlockingIOError):
            while True:
                listener.accept()[0].close()
                count += 1
        counts.append(count)
        listener.close()
    return counts


def test_each_process_has_a_socket_at_the_address_and_the_first_that_for_metrics(manager):
    ports = ProxyPorts(proxy_at(metrics_listen=Address(HERE, 0)), manager.notifier(), 3)
    assert [list(ports.descriptors(number)) for number in (1, 2, 3)] == [[CLIENTS, METRICS], [CLIENTS], [CLIENTS]]
    assert manager.stored() == ["+proxy", "+proxy-2", "+proxy-3", "+metrics"]
    clients = [socket.create_connection((HERE, ports.port)) for _ in range(90)]
    counts = accepted(open_files(ports, 3))
    assert sum(counts) == 90
    assert min(counts) > 5
    for client in clients:
        client.close()
    ports.close()


def test_who_has_the_port_is_named_also_where_several_would_share_it(manager, caplog):
    """A stranger that shares its port with anybody is noticed, too: nothing is bound beside it."""
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stranger.bind((HERE, 0))
        stranger.listen()
        ports = ProxyPorts(proxy_at(port_of(stranger)), manager.notifier(), 2)
        assert f"process {os.getpid()} listens on it" in ports.trouble
        assert (ports.descriptors(1), ports.descriptors(2), len(caplog.records)) == ({}, {}, 1)
    assert ports.bind()
    assert all(ports.descriptors(number) for number in (1, 2))
    ports.close()


@pytest.mark.parametrize("alone", [True, False])
def test_a_port_of_several_processes_is_not_shared_with_a_second_muxd(manager, alone):
    ports = ProxyPorts(proxy_at(), manager.notifier(), 2)
    second = ProxyPorts(proxy_at(ports.port), Notifier(None), 1 if alone else 2)
    assert second.trouble is not None
    second.close()
    ports.close()


def test_more_processes_than_before_are_bound_beside_what_was_kept(manager):
    kept = listen_at(HERE, 0)
    ports = ProxyPorts(proxy_at(port_of(kept)), manager.notifier(proxy=kept), 2)
    clients = [socket.create_connection((HERE, ports.port)) for _ in range(60)]
    assert min(accepted(open_files(ports, 2))) > 5
    for client in clients:
        client.close()
    ports.close()


def test_with_fewer_processes_no_client_waits_where_nobody_is(manager):
    before = ProxyPorts(proxy_at(), manager.notifier(), 3)
    kept = dict(zip(("proxy", "proxy-2", "proxy-3"), open_files(before, 3), strict=True))
    before.close()
    after = ProxyPorts(proxy_at(before.port), manager.notifier(**kept))
    clients = [socket.create_connection((HERE, after.port)) for _ in range(30)]
    assert accepted(open_files(after, 1)) == [30]
    for client in clients:
        client.close()
    after.close()


def test_what_was_kept_is_taken_over_where_it_is_still_configured(manager):
    with listen_at(HERE, 0) as clients, listen_at(HERE, 0) as metrics:
        config = proxy_at(port_of(clients), metrics_listen=("localhost", port_of(metrics)))
        ports = ProxyPorts(config, manager.notifier(proxy=clients, metrics=metrics))
        assert ports.descriptors() == {CLIENTS: clients.fileno(), METRICS: metrics.fileno()}
        assert (ports.port, manager.stored()) == (port_of(clients), [])


@pytest.mark.parametrize("host", ["0.0.0.0", HERE])
def test_one_that_is_configured_no_more_is_not_in_the_way_of_another(manager, host):
    """The manager has a copy, which would keep a wider address from being bound."""
    kept = listen_at(HERE, 0)
    port, copy = port_of(kept) if host != HERE else a_free_port(), kept.dup()
    ports = ProxyPorts(Proxy(Address(host, port)), manager.notifier(proxy=kept))
    assert (ports.port, ports.trouble) == (port, None)
    assert kept.fileno() == -1
    assert listens(port)
    assert manager.stored() == ["+proxy"]
    copy.close()
    ports.close()


@pytest.mark.parametrize("managed", [True, False])
def test_what_is_not_wanted_any_more_is_let_go(manager, managed):
    kept = {name: listen_at(HERE, 0) for name in ("proxy", "metrics")}
    before = {name: port_of(listener) for name, listener in kept.items()}
    copies = [listener.dup() for listener in kept.values()]
    ports = ProxyPorts(proxy_at(before["proxy"], managed=managed), manager.notifier(**kept))
    assert not listens(before["metrics"])
    assert listens(before["proxy"]) == managed
    assert list(ports.descriptors()) == ([CLIENTS] if managed else [])
    for copy in copies:
        copy.close()
    ports.close()


def test_one_that_is_closed_is_no_port(manager):
    kept = listen_at(HERE, 0)
    port = port_of(kept)
    kept.shutdown(socket.SHUT_RDWR)
    ports = ProxyPorts(proxy_at(port), manager.notifier(proxy=kept))
    assert listens(port)
    ports.close()


def test_who_has_the_port_is_named_and_once_it_is_free_it_is_bound(manager, caplog):
    caplog.set_level("INFO")
    with socket.create_server((HERE, 0)) as taken:
        port = port_of(taken)
        ports = ProxyPorts(proxy_at(port), manager.notifier())
        assert not ports.bind()
        assert f"process {os.getpid()} listens on it" in ports.trouble
        assert caplog.text.count("address already in use") == 1  # not for each attempt
        assert (ports.listen, ports.descriptors()) == (f"{HERE}:{port}", {})
        assert manager.stored() == []
    assert ports.bind()
    assert (ports.port, ports.trouble) == (port, None)
    assert "+proxy" in manager.stored()
    assert f"{HERE}:{port} is free again" in caplog.text
    ports.close()


def test_clients_come_where_only_the_port_for_metrics_is_taken(manager, caplog):
    with socket.create_server((HERE, 0)) as taken:
        ports = ProxyPorts(proxy_at(metrics_listen=taken.getsockname()), manager.notifier())
        assert ports.bind()
        assert (list(ports.descriptors()), ports.trouble) == ([CLIENTS], None)
        assert "see [proxy] metrics_listen" in caplog.text
    ports.bind()
    assert list(ports.descriptors()) == [CLIENTS, METRICS]
    ports.close()


@pytest.mark.parametrize("settings", [{"listen": ("192.0.2.1", 9)}, {"metrics_listen": ("192.0.2.1", 9)}])
def test_an_address_that_cannot_be_had_is_an_error(settings):
    listen = Address(HERE, a_free_port())
    config = Proxy(**{"listen": listen} | {key: Address(*where) for key, where in settings.items()})
    with pytest.raises(CannotListen, match=r"192\.0\.2\.1") as told:
        ProxyPorts(config, Notifier(None))
    assert not isinstance(told.value, AddressInUse)
