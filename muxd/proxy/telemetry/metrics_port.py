"""Serves /metrics on a port of its own, which can be open to Prometheus while the clients' port is not.

On loopback a Host that is a web page's name is refused (see muxd/proxy/auth/hosts.py).
"""

import logging
import socket
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from muxd.errors import MethodNotAllowed, RouteNotFound
from muxd.http.request import Request
from muxd.http.response_writer import ResponseWriter
from muxd.http.server import serve_http
from muxd.http.server_limits import ServerLimits
from muxd.notify import Notifier
from muxd.ports import METRICS, AddressInUse, CannotListen, listen_at
from muxd.proxy.answers import Refusal
from muxd.proxy.auth.hosts import Hosts, at_home
from muxd.threads import in_thread

from .exposition import CONTENT_TYPE

log = logging.getLogger(__name__)

#: Seconds between two attempts to bind a port that another process has.
RETRY = 5.0

_READING = ("GET", "HEAD")
_LIMITS = ServerLimits(max_connections=32, max_body=0)


def listen_for_metrics(host: str, port: int, notifier: Notifier) -> socket.socket | None:
    """Return the listening socket, which `notifier` keeps for the next proxy; None where another process has the port.

    The other process is logged, and the proxy serves clients meanwhile.  Raises CannotListen.
    """
    try:
        listener = listen_at(host, port, METRICS)
    except AddressInUse as error:
        log.error("%s; until then there are no metrics there, and it is tried again", error.message)
        return None
    notifier.keep(listener, METRICS)
    return listener


async def listen_again(host: str, port: int, notifier: Notifier) -> socket.socket:
    """Wait until the port is free; return the listening socket as `listen_for_metrics` does."""
    while True:
        await trio.sleep(RETRY)
        try:
            # `listen_at` searches all processes for the port's holder: too slow for the thread that serves clients.
            listener = await in_thread(partial(listen_at, host, port, METRICS))
        except (CannotListen, OSError):
            continue
        notifier.keep(listener, METRICS)
        log.info("metrics: %s:%d is free again: listening", host, port)
        return listener


async def serve_metrics(
    listener: socket.socket,
    page: Callable[[], Awaitable[bytes]],
    names: tuple[str, ...] = (),
    task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `page` until cancelled, then close the listener.  `names`: the configuration's `hosts`."""
    home = at_home(listener.getsockname(), keyed=False)
    hosts = Hosts(names) if home and "*" not in names else None

    async def answer(request: Request, writer: ResponseWriter) -> None:
        try:
            if hosts is not None:
                hosts.check(request)
        except Refusal as refusal:
            await writer.send_json(refusal.status, refusal.as_json())
            return
        if request.method not in _READING:
            message = f"{request.path} takes GET, not {request.method}"
            raise MethodNotAllowed(message, allowed=_READING)
        if request.path == "/metrics":
            await writer.send_body(CONTENT_TYPE, await page())
        elif request.path == "/":
            await writer.send_body("text/plain; charset=utf-8", b"muxd's metrics are at /metrics\n")
        else:
            raise RouteNotFound(f"there is no {request.path} here: see /metrics")

    listener.setblocking(False)
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listener))]
    await serve_http(answer, listeners, _LIMITS, task_status=task_status)
