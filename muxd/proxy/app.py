"""`muxd proxy`: put together, run, and brought to its end."""

import logging
import resource
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import trio

from muxd.client import Client as Control
from muxd.config.schema import Config
from muxd.ports import listen_at

from .catalogue import Catalogue
from .desk import Desk, shutting_down
from .leases import Leases
from .sockets.downstream import Client
from .sockets.front import Front, Limits
from .sockets.host import run_hosted
from .sockets.listener import Listener
from .sockets.reactor import Reactor

log = logging.getLogger(__name__)

_SPARE_DESCRIPTORS = 64  # for the control socket, logs and the like
_MOST_DESCRIPTORS = 1 << 17
_LAST_WORDS = 2.0  # seconds for clients to take the errors they are cut off with


def run_proxy(config: Config, listen: socket.socket | None) -> None:
    """Raises what `_run` does, and the groups that nurseries make of it."""
    limits = _limits(config)
    run_hosted(partial(_run, config, limits, listen))


async def _run(config: Config, limits: Limits, listen: socket.socket | None, reactor: Reactor) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is in flight within `shutdown_timeout`.

    `listen` is bound and listening, and closed in the end; without one the address in the
    configuration is bound; raises CannotListen.  A second signal ends the wait at once.
    """
    listener = listen or listen_at(config.proxy.host, config.proxy.port)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with open_proxy(config, limits, listener, reactor) as proxy, trio.open_nursery() as nursery:
            log.info("listening on %s", _name(listener))
            await anext(signals)
            nursery.start_soon(_cancel_at_next, signals, nursery.cancel_scope)
            await proxy.drain(config.daemon.shutdown_timeout)
            nursery.cancel_scope.cancel()
    log.info("stopped")


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy."""

    front: Front
    desk: Desk
    leases: Leases
    listener: Listener

    async def drain(self, seconds: float) -> None:
        """Accept nobody, refuse what waits, let what is in flight finish; cut it after `seconds`."""
        self.listener.close()
        self.front.closing = True
        self.desk.close(shutting_down())
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

    def _clients(self) -> list[Client]:
        return [handler for handler in self.front.reactor.handlers() if isinstance(handler, Client)]


@asynccontextmanager
async def open_proxy(config: Config, limits: Limits, listener: socket.socket, reactor: Reactor) -> AsyncIterator[Proxy]:
    """A proxy that runs while the scope lasts and `reactor` is turned; it accepts once muxd was asked what there is."""
    control = Control([config.daemon.socket])
    catalogue = Catalogue(control, config)
    leases = Leases(control, reactor, catalogue.switch_timeout)
    desk = Desk(catalogue, leases, limits.upstream_timeout)
    front = Front(reactor, limits, desk)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(leases.run)
            await nursery.start(catalogue.run)
            yield Proxy(front, desk, leases, Listener(front, listener))
            nursery.cancel_scope.cancel()
    finally:
        reactor.close_all()
        listener.close()


async def _cancel_at_next(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    await anext(signals)
    scope.cancel()


def _limits(config: Config) -> Limits:
    return Limits(
        max_body=config.proxy.max_body,
        buffer_memory=config.proxy.buffer_memory,
        max_clients=_room_for_clients(),
        upstream_timeout=config.proxy.upstream_timeout,
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
