"""/metrics on a port of its own, which can be open to Prometheus while the clients' port is not."""

import socket
from collections.abc import Awaitable, Callable

import trio

from muxd.errors import MethodNotAllowed, RouteNotFound
from muxd.http.request import Request
from muxd.http.server import Exchange, Limits, serve_http
from muxd.ports import listen_at

from .page import CONTENT_TYPE

_READING = ("GET", "HEAD")
_LIMITS = Limits(max_connections=32, max_body=0)


def listen_for_metrics(host: str, port: int) -> socket.socket:
    """The listening socket; raises CannotListen."""
    return listen_at(host, port, "metrics_listen")


async def serve_metrics(
    listener: socket.socket,
    page: Callable[[], Awaitable[bytes]],
    task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `page` until cancelled; closes the listener."""

    async def answer(request: Request, exchange: Exchange) -> None:
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
