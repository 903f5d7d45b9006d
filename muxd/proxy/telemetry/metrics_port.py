"""/metrics on a port of its own, which can be open to Prometheus while the clients' port is not.

On loopback no Host is taken that would be a web page's (see muxd/proxy/auth/hosts.py).
"""

import logging
import socket
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from muxd.errors import MethodNotAllowed, RouteNotFound
from muxd.http.request import Request
from muxd.http.server import ResponseWriter, ServerLimits, serve_http
from muxd.notify import Notifier
from muxd.ports import METRICS, AddressInUse, CannotListen, listen_at
from muxd.proxy.answers import Refusal
from muxd.proxy.auth.hosts import Hosts, at_home
from muxd.threads import in_thread

from .exposition import CONTENT_TYPE

log = logging.getLogger(__name__)

#: Seconds until a port that somebody else has is tried again.
RETRY = 5.0

_READING = ("GET", "HEAD")
_LIMITS = ServerLimits(max_connections=32, max_body=0)


def listen_for_metrics(host: str, port: int, notifier: Notifier) -> socket.socket | None:
    """The listening socket, kept for the next proxy where that is possible; None: somebody has the port.

    Who has it is logged: clients are served meanwhile.  Raises CannotListen.
    """
    try:
        listener = listen_at(host, port, METRICS)
    except AddressInUse as error:
        log.error("%s; until then there are no metrics there, and it is tried again", error.message)
        return None
    notifier.keep(listener, METRICS)
    return listener


async def listen_again(host: str, port: int, notifier: Notifier) -> socket.socket:
    """The same, once nobody has the port any more."""
    while True:
        await trio.sleep(RETRY)
        try:  # who has it is looked for among all processes: not in the thread that passes bytes
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
    """Serve `page` until cancelled; closes the listener.  `names`: `hosts` as the configuration has them."""
    home = at_home(listener.getsockname(), keyed=False)
    hosts = Hosts(names) if home and "*" not in names else None

    async def answer(request: Request, exchange: ResponseWriter) -> None:
        try:
            if hosts is not None:
                hosts.check(request)
        except Refusal as refusal:
            await exchange.send_json(refusal.status, refusal.as_json())
            return
        if request.method not in _READING:
            message = f"{request.path} takes GET, not {request.method}"
            raise MethodNotAllowed(message, allowed=_READING)
        if request.path == "/metrics":
            await exchange.send_body(CONTENT_TYPE, await page())
        elif request.path == "/":
            await exchange.send_body("text/plain; charset=utf-8", b"muxd's metrics are at /metrics\n")
        else:
            raise RouteNotFound(f"there is no {request.path} here: see /metrics")

    listener.setblocking(False)
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listener))]
    await serve_http(answer, listeners, _LIMITS, task_status=task_status)
