"""`muxd proxy`: builds the proxy, runs it, and ends it in order."""

import ctypes
import logging
import resource
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import trio

from muxd.client import ControlClient as Control
from muxd.config.model_schema import Model
from muxd.config.schema import Config
from muxd.http.known_heads import KnownHeads
from muxd.http.shared_page import SharedPage
from muxd.notify import Notifier
from muxd.own_log import setup_logging
from muxd.pool_share import PoolShare
from muxd.ports import listen_at
from muxd.watchdog import feed_watchdog

from .auth.api_keys import Keyring
from .auth.exposure import loopback_only, metrics_said_at_start, said_at_start, would_open
from .auth.failed_keys import MOST
from .auth.hosts import Hosts, at_home
from .auth.origins import Origins
from .catalogue import Catalogue
from .dispatcher import RequestDispatcher, shutting_down
from .leases import Leases
from .request_timeouts import RequestTimeouts
from .requests.plain_heads import own_names
from .sockets.context import HEAD_MEMORY, ConnectionContext, ProxyLimits
from .sockets.downstream import ClientConnection
from .sockets.event_loop import run_with_trio_guest
from .sockets.listener import Listener
from .sockets.reactor import Alarm, Reactor
from .telemetry.access_log import open_access_log
from .telemetry.activity import Activity
from .telemetry.exposition import CONTENT_TYPE, PAUSE, whole_page
from .telemetry.metrics import Gauges, ProxyMetrics
from .telemetry.metrics_port import listen_again, listen_for_metrics, serve_metrics
from .telemetry.pool_counts import PoolCounts, serve_pool
from .telemetry.recorder import Recorder
from .telemetry.request_ids import RequestIds

log = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
# Bytes: glibc's own default for both thresholds, which glibc raises by itself unless they are set.  A read of a body is
# as long, so that most pieces of a body are mapped apart from the heap.
_MALLOC_THRESHOLD = 128 << 10
_SPARE_DESCRIPTORS = 64  # file descriptors for the control socket, logs and the like
_MOST_DESCRIPTORS = 1 << 17
_FIRST_WORD = 1.0  # seconds to wait for muxd's list of models before clients are accepted without it
_SETTLE = 0.1  # seconds, at most, from a request's end to its line in log and metrics
_LAST_WORDS = 2.0  # seconds for clients to read the errors with which they were cut off


def run_proxy(
    config: Config,
    listen: socket.socket | None,
    metrics: socket.socket | None,
    notifier: Notifier,
    share: PoolShare | None = None,
) -> None:
    """Run the proxy until it is told to stop; raise what `_run` raises, perhaps inside an exception group.

    With a `share` this process is one of several at the same address.
    """
    _give_memory_back()
    limits = _limits(config, share)
    run_with_trio_guest(partial(_run, config, limits, listen, metrics, notifier, share))


async def _run(
    config: Config,
    limits: ProxyLimits,
    listen: socket.socket | None,
    metrics: socket.socket | None,
    notifier: Notifier,
    share: PoolShare | None,
    reactor: Reactor,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is in flight within `drain_timeout`.

    `listen` and `metrics` are listening sockets, which are closed in the end; where one is None, the address in the
    configuration is bound.  Raises CannotListen.  A second signal ends the wait at once.
    """
    listener = listen or listen_at(config.proxy.host, config.proxy.port)
    loopback_only(config, listener.getsockname())
    where = config.proxy.metrics_listen if share is None or share.number == 1 else None
    if metrics is None and where is not None:
        metrics = listen_for_metrics(*where, notifier)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with open_proxy(config, limits, listener, reactor, share) as proxy, trio.open_nursery() as nursery:
            log.info("listening on %s", _address_text(listener))
            for warning in (said_at_start(config, listener.getsockname()), metrics_said_at_start(config)):
                if warning is not None:
                    log.warning("%s", warning)
            if where is not None:
                names = config.proxy.hosts
                nursery.start_soon(_serve_metrics, where, metrics, notifier, proxy.metrics, names, name="metrics port")
            nursery.start_soon(feed_watchdog, notifier, name="watchdog")
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
    """A running proxy: its parts, and how they are connected."""

    def __init__(
        self, config: Config, limits: ProxyLimits, reactor: Reactor, nursery: trio.Nursery, share: PoolShare | None
    ) -> None:
        """Build all parts without starting any; raise CannotWriteLog."""
        proxy = config.proxy
        control = Control([config.daemon.socket])
        meters = ProxyMetrics()
        meters.gauges = self._gauges
        self._share = share
        self._pool = PoolCounts(share, meters) if share is not None else None
        self.log = open_access_log(proxy.access_log, proxy.access_log_dir, share.number if share is not None else None)
        counted = self._pool.of_all if self._pool is not None else _as_coroutine(meters)
        self.metrics: Callable[[], Awaitable[bytes]] = SharedPage(partial(whole_page, counted, control), PAUSE)
        self.catalogue = Catalogue(control, config, self._apply_config)
        activity = Activity()
        self.leases = Leases(
            control, reactor, self._terms, meters, limits.most_idle, activity, lambda: self.catalogue.lost_at
        )
        self.leases.batch_max_wait = config.policy.batch_max_wait
        self._settling = Alarm(reactor, self.flush)
        ids = RequestIds(proxy.request_id_headers)
        self._recorder = Recorder(meters, self.log, activity, ids, self._settle_soon)
        activity.settle = self.flush
        pace = RequestTimeouts(proxy.upstream_timeout, proxy.comment_interval)
        self.dispatcher = RequestDispatcher(
            self.catalogue,
            self.leases,
            Keyring(config.keys, share=share),
            pace,
            self._recorder,
            self._begin_page,
            MOST if share is None else share.of(MOST),
        )
        self.front = ConnectionContext(reactor, limits, self.dispatcher, known_heads=KnownHeads(own_names(ids.names)))
        self._nursery = nursery
        self._config = config
        self._log_settings = _log_settings(config)
        self._listener: Listener | None = None
        self._sockname: object = None
        self._where = ""

    async def start(self, listener: socket.socket) -> None:
        """Accept clients once muxd was asked for its models, or after `_FIRST_WORD`."""
        self._sockname, self._where = listener.getsockname(), _address_text(listener)
        self._renew_doors(self._config)
        if self.log is not None:
            await self._nursery.start(self.log.run)
        await self._nursery.start(self.leases.run)
        if self._share is not None and self._pool is not None:
            await self._nursery.start(serve_pool, self._share, self._pool.told)
        self._nursery.start_soon(self.catalogue.run, name="catalogue")
        with trio.move_on_after(_FIRST_WORD):
            await self.catalogue.tried.wait()
        self._listener = Listener(self.front, listener)

    def _terms(self, model: str) -> Model:
        """Return the model's configuration, with this process's share of queue_limit."""
        terms = self.catalogue.terms(model)
        return terms if self._share is None else replace(terms, queue_limit=self._share.of(terms.queue_limit))

    def _apply_config(self, config: Config) -> None:
        """Apply the configuration that muxd runs with, which may differ from the one before."""
        self._renew_keys(config)
        self._renew_doors(config)
        self.leases.batch_max_wait = config.policy.batch_max_wait
        self.leases.renew()
        if self._log_settings != _log_settings(config):
            self._log_settings = _log_settings(config)
            setup_logging(*self._log_settings)

    def _renew_keys(self, config: Config) -> None:
        """Take over the configured keys, unless that would open the proxy's socket to anybody.

        systemd may have passed a socket that muxd knows nothing of, so that muxd's own check does not cover it.
        """
        if would_open(config, self._sockname):
            log.error("the new configuration has no API key, and %s is open to others: the old keys stay", self._where)
        else:
            self.dispatcher.keyring = self.dispatcher.keyring.renewed(config.keys)

    def _renew_doors(self, config: Config) -> None:
        """Renew the rules for hosts and origins: they depend on whether clients must show an API key."""
        home, proxy = at_home(self._sockname, keyed=bool(self.dispatcher.keyring)), config.proxy
        checked = proxy.hosts or (home and not proxy.allow_anonymous)
        hosts = Hosts(proxy.hosts) if checked and "*" not in proxy.hosts else None
        self.dispatcher.set_rules(hosts, Origins(proxy.allow_origins, at_home=home))

    def _begin_page(self, deliver: Callable[[bytes, bytes], None]) -> None:
        async def make() -> None:
            deliver(CONTENT_TYPE.encode(), await self.metrics())

        self._nursery.start_soon(make, name="metrics")

    def flush(self) -> None:
        """Write every request that has ended to log and metrics."""
        self._recorder.flush()

    def _settle_soon(self) -> None:
        self._settling.set(_SETTLE)

    def _gauges(self) -> Gauges:
        """Return the gauges for a metrics page, after every ended request was counted for the same page."""
        self.flush()
        figures = {lease.name: lease.figures() for lease in self.leases.all()}
        models = {name: (waiting, in_flight) for name, (in_flight, waiting) in figures.items()}
        batch = {lease.name: lease.batch_figures()[::-1] for lease in self.leases.all()}
        buffered = self.front.held + self.front.heads
        dropped = self.log.dropped if self.log is not None else 0
        dropped += self._pool.dropped_before if self._pool is not None else 0
        return Gauges(self.front.clients, buffered, dropped, models, batch=batch)

    async def drain(self, seconds: float) -> None:
        """Accept no client, refuse waiting requests, let those in flight finish; cut what is left after `seconds`.

        In the end muxd is told of all that was done.
        """
        if self._listener is not None:
            self._listener.close()
        self.front.closing = True
        self.dispatcher.close(shutting_down())
        self.leases.refuse_waiting(shutting_down())
        for client in self._clients():
            client.retire()
        with trio.move_on_after(seconds) as patience:
            await self.front.empty()
        if patience.cancelled_caught:
            log.warning("%d connections did not end within %g s: cut", self.front.clients, seconds)
            for client in self._clients():
                client.expel(shutting_down())
            with trio.move_on_after(_LAST_WORDS):
                await self.front.empty()
        await self.leases.finish()

    def part(self) -> None:
        """Close the connections of all clients that are left, and record how their requests ended."""
        for client in self._clients():
            client.expel(shutting_down())
            client.on_lost()
        self.flush()

    def _clients(self) -> list[ClientConnection]:
        return [handler for handler in self.front.reactor.handlers() if isinstance(handler, ClientConnection)]


@asynccontextmanager
async def open_proxy(
    config: Config,
    limits: ProxyLimits,
    listener: socket.socket,
    reactor: Reactor,
    share: PoolShare | None = None,
) -> AsyncIterator[ProxyServer]:
    """Run a proxy for as long as the scope lasts; the caller runs `reactor` meanwhile.

    The proxy accepts clients once muxd was asked for its models.  Raises CannotWriteLog, in an exception group.
    """
    try:
        async with trio.open_nursery() as nursery:
            proxy = ProxyServer(config, limits, reactor, nursery, share)
            try:
                await proxy.start(listener)
                yield proxy
            finally:
                proxy.part()
                nursery.cancel_scope.cancel()
                if proxy.log is not None:
                    await proxy.log.finish()  # where all was cancelled, the log's own task may have ended before
    finally:
        reactor.close_all()
        listener.close()


def _as_coroutine(meters: ProxyMetrics) -> Callable[[], Awaitable[ProxyMetrics]]:
    """Return a function that returns the counts of the only process, as `PoolCounts.of_all` does those of several."""

    async def counted() -> ProxyMetrics:
        return meters

    return counted


def _log_settings(config: Config) -> tuple[str, str]:
    return config.daemon.log_level, config.daemon.log_format


async def _cancel_at_next(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    await anext(signals)
    scope.cancel()


def _give_memory_back() -> None:
    """Make glibc return the memory of large bodies to the system when they are freed; other C libraries are left alone.

    By default glibc raises its thresholds at the first large free, and keeps the memory from then on.  With 512 MiB of
    bodies at most, the process grew to 883 MiB and kept 452 MiB when all bodies were gone; with fixed thresholds it is
    591 MiB and 34 MiB.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MALLOC_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, _MALLOC_THRESHOLD)


def _limits(config: Config, share: PoolShare | None) -> ProxyLimits:
    """Return what one process may take; each of several gets at least what the largest body needs."""
    clients, proxy = _room_for_clients(), config.proxy
    own = share.of if share is not None else int
    return ProxyLimits(
        max_body=proxy.max_body,
        buffer_memory=max(own(proxy.buffer_memory), proxy.max_body),
        head_memory=own(HEAD_MEMORY),
        max_clients=clients,
        most_idle=max(8, clients // 8),  # the idle connections of several models must leave descriptors for clients
    )


def _room_for_clients() -> int:
    """Raise the limit of open files to what the system allows; return the room for clients, at two files each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = max(soft, min(hard, _MOST_DESCRIPTORS))
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(1, (allowed - _SPARE_DESCRIPTORS) // 2)


def _address_text(listener: socket.socket) -> str:
    name = listener.getsockname()
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else str(name)
