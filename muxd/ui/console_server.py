"""`muxd ui`: the console's server, from its start to its end."""

import logging
import signal
import socket

import trio

from muxd.client import ControlClient
from muxd.config import Config
from muxd.config.load import config_from_supervisor
from muxd.config.loopback import is_loopback, url_host
from muxd.config.schema import Key
from muxd.errors import ConfigError, MuxdError
from muxd.http.server import serve_http
from muxd.http.server_limits import ServerLimits
from muxd.notify import Notifier
from muxd.ports import UI, listen_at

from .access import Access
from .live_feed import LiveFeed
from .routes import ConsoleRoutes

log = logging.getLogger(__name__)

#: Seconds between two looks at the keys: a revoked one loses its sessions so soon.
KEYS_PACE = 5.0

#: A viewer holds one connection for its stream, one for a log, and takes some more for what it asks.
LIMITS = ServerLimits(max_connections=512, max_body=8 << 20, write_timeout=10.0)


async def run_console(config: Config, listen: socket.socket | None, notifier: Notifier) -> None:
    """Serve until SIGTERM or SIGINT.  `listen` is a listening socket that was passed on, or None.

    Raises CannotListen, and ConfigError where the configuration says no place to listen at.
    """
    if listen is None:
        if config.ui.listen is None:
            raise ConfigError(['muxd ui: nothing says where to listen: write listen = "127.0.0.1:30102" under [ui]'])
        listen = listen_at(*config.ui.listen, UI)
    listen.setblocking(False)
    control = ControlClient([config.daemon.socket])
    keys = CurrentKeys(control, config)
    address = listen.getsockname()
    at_home = not isinstance(address, tuple) or is_loopback(address[0])
    access = Access(lambda: keys.keys, config.ui.hosts, at_home=at_home)
    feed = LiveFeed(control)
    routes = ConsoleRoutes(control, access, feed, lambda: keys.proxy)
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listen))]
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed.run)
            nursery.start_soon(keys.run)
            await nursery.start(serve_http, routes.answer, listeners, LIMITS)
            log.info("the console is at http://%s:%s/ui/", *address[:2])
            notifier.ready("the console")
            await anext(signals)
            nursery.cancel_scope.cancel()


class CurrentKeys:
    """The keys and the proxy's address as muxd has them now; as this process was started with, until muxd says."""

    def __init__(self, control: ControlClient, config: Config) -> None:
        self._control = control
        self._take(config)

    def _take(self, config: Config) -> None:
        self.keys: tuple[Key, ...] = config.keys
        self.proxy = f"http://{url_host(config.proxy.host)}:{config.proxy.port}"

    async def run(self) -> None:
        """Ask muxd again and again; never returns."""
        while True:
            try:
                self._take(config_from_supervisor(await self._control.proxy_settings(), {}))
            except MuxdError as error:  # muxd is away, or lets this user see no keys
                log.debug("the keys were not read: %s", error.message)
            await trio.sleep(KEYS_PACE)
