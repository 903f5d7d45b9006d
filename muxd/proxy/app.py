"""`muxd proxy`: put together, run, and brought to its end."""

import ctypes
import logging
import resource
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import trio

from muxd.client import ControlClient as Control
from muxd.config.schema import Config
from muxd.http.shared_page import SharedPage
from muxd.notify import Notifier
from muxd.own_log import setup_logging
from muxd.ports import listen_at

from .auth.api_keys import Keyring
from .auth.exposure import loopback_only, metrics_said_at_start, said_at_start, would_open
from .auth.hosts import Hosts, at_home
from .auth.origins import Origins
from .catalogue import Catalogue
from .dispatcher import RequestDispatcher, shutting_down
from .leases import Leases
from .proxied_request import RequestTimeouts
from .sockets.context import ConnectionContext, ProxyLimits
from .sockets.downstream import ClientConnection
from .sockets.event_loop import run_with_trio_guest
from .sockets.listener import Listener
from .sockets.reactor import Alarm, Reactor
from .telemetry.access_log import open_access_log
from .telemetry.exposition import CONTENT_TYPE, PAUSE, whole_page
from .telemetry.metrics import Gauges, ProxyMetrics
from .telemetry.metrics_port import listen_again, listen_for_metrics, serve_metrics
from .telemetry.recorder import Recorder
from .telemetry.request_ids import RequestIds

log = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_APART = (
    128 << 10
)  # bytes: glibc's own defaults, which it would raise; as long as a read, so that most pieces are apart
_SPARE_DESCRIPTORS = 64  # for the control socket, logs and the like
_MOST_DESCRIPTORS = 1 << 17
_FIRST_WORD = 1.0  # seconds for muxd to say what there is, until clients are let in without
_SETTLE = 0.1  # seconds until the end of a request is told, at most
_LAST_WORDS = 2.0  # seconds for clients to take the errors they are cut off with


def run_proxy(config: Config, listen: socket.socket | None, metrics: socket.socket | None, notifier: Notifier) -> None:
    """Raises what `_run` does, and the groups that nurseries make of it."""
    _give_memory_back()
    limits = _limits(config)
    run_with_trio_guest(partial(_run, config, limits, listen, metrics, notifier))


async def _run(
    config: Config,
    limits: ProxyLimits,
    listen: socket.socket | None,
    metrics: socket.socket | None,
    notifier: Notifier,
    reactor: Reactor,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is in flight within `drain_timeout`.

    `listen` and `metrics` are bound and listening, and closed in the end; without one the address in the
    configuration is bound; raises CannotListen.  A second signal ends the wait at once.
    """
    listener = listen or listen_at(config.proxy.host, config.proxy.port)
    loopback_only(config, listener.getsockname())
    where = config.proxy.metrics_listen
    if metrics is None and where is not None:
        metrics = listen_for_metrics(*where, notifier)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with open_proxy(config, limits, listener, reactor) as proxy, trio.open_nursery() as nursery:
            log.info("listening on %s", _name(listener))
            for warning in (said_at_start(config, listener.getsockname()), metrics_said_at_start(config)):
                if warning is not None:
                    log.warning("%s", warning)
            if where is not None:
                names = config.proxy.hosts
                nursery.start_soon(_serve_metrics, where, metrics, notifier, proxy.metrics, names, name="metrics port")
            await anext(signals)
            nursery.start_soon(_cancel_at_next, signals, nursery.cancel_scope)
            await proxy.drain(config.proxy.drain_timeout)
            nursery.cancel_scope.cancel()
    log.info("stopped")


async def _serve_metrics(
    where: tuple[str, int],
    listener: socket.socket | None,
    notifier: Notifier,
    page: Callable[[], Awaitable[bytes]],
    names: tuple[str, ...],
) -> None:
    await serve_metrics(listener or await listen_again(*where, notifier), page, names)


class ProxyServer:
    """A running proxy: what it is made of, and how its parts hear of each other."""

    def __init__(self, config: Config, limits: ProxyLimits, reactor: Reactor, nursery: trio.Nursery) -> None:
        """Raises CannotWriteLog."""
        proxy = config.proxy
        control = Control([config.daemon.socket])
        meters = ProxyMetrics()
        meters.gauges = self._gauges
        self.log = open_access_log(proxy.access_log, proxy.access_log_dir)
        self.metrics: Callable[[], Awaitable[bytes]] = SharedPage(partial(whole_page, meters, control), PAUSE)
        self.catalogue = Catalogue(control, config, self._hear)
        self.leases = Leases(control, reactor, self.catalogue.terms, meters, limits.most_idle)
        self._settling = Alarm(reactor, self.flush)
        self._recorder = Recorder(meters, self.log, RequestIds(proxy.request_id_headers), self._settle_soon)
        pace = RequestTimeouts(proxy.upstream_timeout, proxy.comment_interval)
        self.dispatcher = RequestDispatcher(
            self.catalogue, self.leases, Keyring(config.keys), pace, self._recorder, self._begin_page
        )
        self.front = ConnectionContext(reactor, limits, self.dispatcher)
        self._nursery = nursery
        self._config = config
        self._logging = _logging(config)
        self._listener: Listener | None = None
        self._sockname: object = None
        self._where = ""

    async def start(self, listener: socket.socket) -> None:
        """Accept once muxd was asked what there is."""
        self._sockname, self._where = listener.getsockname(), _name(listener)
        self._renew_doors(self._config)
        if self.log is not None:
            await self._nursery.start(self.log.run)
        await self._nursery.start(self.leases.run)
        self._nursery.start_soon(self.catalogue.run, name="catalogue")
        with trio.move_on_after(_FIRST_WORD):
            await self.catalogue.tried.wait()
        self._listener = Listener(self.front, listener)

    def _hear(self, config: Config) -> None:
        """muxd may run with another configuration than before."""
        self._renew_keys(config)
        self._renew_doors(config)
        self.leases.renew()
        if self._logging != _logging(config):
            self._logging = _logging(config)
            setup_logging(*self._logging)

    def _renew_keys(self, config: Config) -> None:
        """Our socket may be one that muxd knows nothing of: no reload opens it to anybody."""
        if would_open(config, self._sockname):
            log.error("the new configuration has no API key, and %s is open to others: the old keys stay", self._where)
        else:
            self.dispatcher.keyring = self.dispatcher.keyring.renewed(config.keys)

    def _renew_doors(self, config: Config) -> None:
        """Who may ask from a browser depends on whether keys are asked for."""
        home, proxy = at_home(self._sockname, keyed=bool(self.dispatcher.keyring)), config.proxy
        checked = proxy.hosts or (home and not proxy.allow_anonymous)
        self.dispatcher.hosts = Hosts(proxy.hosts) if checked and "*" not in proxy.hosts else None
        self.dispatcher.origins = Origins(proxy.allow_origins, at_home=home)

    def _begin_page(self, deliver: Callable[[bytes, bytes], None]) -> None:
        async def make() -> None:
            deliver(CONTENT_TYPE.encode(), await self.metrics())

        self._nursery.start_soon(make, name="metrics")

    def flush(self) -> None:
        """Tell of everything that has ended."""
        self._recorder.flush()

    def _settle_soon(self) -> None:
        self._settling.set(_SETTLE)

    def _gauges(self) -> Gauges:
        """Asked for by a page, which is to tell of everything that has ended."""
        self.flush()
        figures = {lease.name: lease.figures() for lease in self.leases.all()}
        models = {name: (waiting, in_flight) for name, (in_flight, waiting) in figures.items()}
        buffered = self.front.held + self.front.heads
        return Gauges(self.front.clients, buffered, self.log.dropped if self.log is not None else 0, models)

    async def drain(self, seconds: float) -> None:
        """Accept nobody, refuse what waits, let what is in flight finish; cut it after `seconds`."""
        if self._listener is not None:
            self._listener.close()
        self.front.closing = True
        self.dispatcher.close(shutting_down())
        self.leases.refuse_waiting(shutting_down())
        for client in self._clients():
            client.retire()
        with trio.move_on_after(seconds):
            await self.front.empty()
            return
        log.warning("%d connections did not end within %g s: cut", self.front.clients, seconds)
        for client in self._clients():
            client.expel(shutting_down())
        with trio.move_on_after(_LAST_WORDS):
            await self.front.empty()

    def part(self) -> None:
        """Whoever is left has had all that they get."""
        for client in self._clients():
            client.on_lost()

    def _clients(self) -> list[ClientConnection]:
        return [handler for handler in self.front.reactor.handlers() if isinstance(handler, ClientConnection)]


@asynccontextmanager
async def open_proxy(
    config: Config, limits: ProxyLimits, listener: socket.socket, reactor: Reactor
) -> AsyncIterator[ProxyServer]:
    """A proxy that runs while the scope lasts and `reactor` is turned; it accepts once muxd was asked what there is."""
    try:
        async with trio.open_nursery() as nursery:
            proxy = ProxyServer(config, limits, reactor, nursery)
            await proxy.start(listener)
            yield proxy
            proxy.part()
            proxy.flush()
            nursery.cancel_scope.cancel()
    finally:
        reactor.close_all()
        listener.close()


def _logging(config: Config) -> tuple[str, str]:
    return config.daemon.log_level, config.daemon.log_format


async def _cancel_at_next(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    await anext(signals)
    scope.cancel()


def _give_memory_back() -> None:
    """Have the memory of large bodies go back to the system with them, where the C library is glibc.

    It would learn from the first to keep it: with 512 MiB of bodies at most, the process grew to 883 MiB, and had 452
    when all were gone; so it is 591 and 34.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _APART)
        mallopt(_M_TRIM_THRESHOLD, _APART)


def _limits(config: Config) -> ProxyLimits:
    clients = _room_for_clients()
    return ProxyLimits(
        max_body=config.proxy.max_body,
        buffer_memory=config.proxy.buffer_memory,
        max_clients=clients,
        most_idle=max(8, clients // 8),  # several models' together must not take the descriptors that clients need
    )


def _room_for_clients() -> int:
    """Raise the limit of open files to what the system allows; a client can need two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = max(soft, min(hard, _MOST_DESCRIPTORS))
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(1, (allowed - _SPARE_DESCRIPTORS) // 2)


def _name(listener: socket.socket) -> str:
    name = listener.getsockname()
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else str(name)
