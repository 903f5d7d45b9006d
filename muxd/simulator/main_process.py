"""A server's main process, as SGLang's: waits for the load, binds the port, warms up, serves, ends as SGLang does."""

import errno
import os
import signal
import sys
import threading
import time
from math import inf
from typing import Never

import trio

from muxd.http.request import Request
from muxd.http.response_writer import ResponseWriter
from muxd.http.server import serve_http
from muxd.http.server_limits import ServerLimits

from .command_line import Flags
from .control import control_routes
from .embeddings import embedding_routes
from .metrics import metrics_routes
from .openai import text_routes
from .process_tree import ServerProcesses
from .routes import AcceptedKeys, RouteIndex
from .simulated_engine import SimulatedEngine, Status

# SGLang's own waits in seconds; Flags.seconds brings them to this simulator's pace.
WARM_UP = 1.5
TERM_POLL = 5.0  # between two checks whether SIGTERM came, and then whether all requests have ended

# The CORS headers that SGLang sends to pages of every origin (Starlette's CORSMiddleware with any origin, and
# credentials).
_CORS = b"access-control-allow-origin: *\r\naccess-control-allow-credentials: true\r\n"

_LIMITS = ServerLimits(
    max_head=64 << 10,
    max_body=64 << 20,
    head_timeout=inf,
    body_timeout=inf,
    idle_timeout=inf,
    write_timeout=inf,
    max_connections=10_000,
)


async def serve(flags: Flags, children: ServerProcesses) -> Never:
    """Load, listen, warm up and serve, until this process is ended by os._exit or a signal."""
    server = _Server(flags, SimulatedEngine(flags, children), children)
    if (rate := flags.faults.number("log-flood")) is not None:
        threading.Thread(target=_flood, args=(rate,), daemon=True).start()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.engine.run)
        nursery.start_soon(server.die_while_loading)
        await server.engine.loaded()
        listeners = await server.listen()
        await nursery.start(serve_http, server.handle, listeners, _LIMITS)
        await server.engine.call("serve")
        nursery.start_soon(server.warm_up)
        await server.end_on_signal()


class _Server:
    """The main process's HTTP side, its ends by signal, and its faults."""

    def __init__(self, flags: Flags, engine: SimulatedEngine, children: ServerProcesses) -> None:
        self.engine = engine
        self._flags = flags
        self._faults = flags.faults
        self._children = children
        self._hung = False
        keys = AcceptedKeys(flags.api_key, flags.admin_api_key)
        routes = {**control_routes(engine), **text_routes(engine), **embedding_routes(engine), **metrics_routes(engine)}
        self._routes = RouteIndex(routes, keys)

    async def handle(self, request: Request, exchange: ResponseWriter) -> None:
        if request.method != "GET":
            print(f'INFO:     "{request.method} {request.path} HTTP/{request.http_version}"', flush=True)
        if self._hung:
            await exchange.disconnected()
            return
        if request.header(b"origin") is not None:
            exchange.lines = _CORS
        await self._routes(request, exchange)

    async def listen(self) -> list[trio.SocketListener]:
        """Bind the port; end the process with status 3 where it is taken, as SGLang does: after the load."""
        try:
            return await trio.open_tcp_listeners(self._flags.port, host=self._flags.host, backlog=2048)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL):
                raise
            where = (self._flags.host, self._flags.port)
            why = os.strerror(error.errno).lower()
            print(
                f"ERROR:    [Errno {error.errno}] error while attempting to bind on address {where}: {why}", flush=True
            )
            self._end(3)

    async def warm_up(self) -> None:
        """Answer probes with 503 for a while, then be up and start the clocks of the faults."""
        print(f"INFO:     Uvicorn running on http://{self._flags.host}:{self._flags.port}", flush=True)
        await trio.sleep(self._flags.seconds(WARM_UP))
        async with self.engine.request("warm-up"):
            self.engine.status = Status.UP
        print("The server is fired up and ready to roll!", flush=True)
        async with trio.open_nursery() as nursery:
            for fault in (self._die, self._hang, self._stop_self):
                nursery.start_soon(fault)

    async def end_on_signal(self) -> Never:
        """Wait for SIGTERM or SIGINT, drain without a deadline, and end with status 0."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                if number == signal.SIGINT or not self._faults.has("ignore-term"):
                    break
            self.engine.exiting = True
            if number == signal.SIGTERM:
                # The signal comes at a random moment between two polls.
                await trio.sleep(self._flags.seconds(TERM_POLL) * (time.time() % 1))
            while self._must_wait():
                print(f"Gracefully exiting... Remaining number of requests {len(self.engine.requests)}.", flush=True)
                await trio.sleep(self._flags.seconds(TERM_POLL))
            await trio.sleep(self._faults.number("slow-term") or 0)
        self._end(0)

    def _must_wait(self) -> bool:
        forced = os.environ.get("SGL_FORCE_SHUTDOWN", "").lower() in ("1", "true")
        return bool(self.engine.requests) and self.engine.status is not Status.UNHEALTHY and not forced

    def _end(self, status: int) -> Never:
        self._children.kill()
        self.engine.end(status)

    # Faults

    async def die_while_loading(self) -> None:
        """End the main process after the fault's seconds, if loading takes that long."""
        if (after := self._faults.number("die-while-loading")) is None:
            return
        with trio.move_on_after(after) as scope:
            await self.engine.loaded()
        if scope.cancelled_caught:
            self.engine.end(self._faults.exit_code)

    async def _die(self) -> None:
        if (after := self._faults.number("die-after")) is not None:
            await trio.sleep(after)
            self.engine.end(self._faults.exit_code)

    async def _hang(self) -> None:
        if (after := self._faults.number("hang")) is not None:
            await trio.sleep(after)
            self._hung = True

    async def _stop_self(self) -> None:
        if (after := self._faults.number("sigstop-self")) is not None:
            await trio.sleep(after)
            os.kill(os.getpid(), signal.SIGSTOP)


_FLOOD = 20_000  # lines per write, at most


def _flood(rate: float) -> None:
    """Write numbered lines of 100 bytes to stdout, `rate` bytes per second, for ever."""
    began, written = time.monotonic(), 0
    while True:
        due = int((time.monotonic() - began) * rate) // 100
        sys.stdout.write(
            "".join(f"flood {n:012d} ".ljust(99, "x") + "\n" for n in range(written, min(due, written + _FLOOD)))
        )
        sys.stdout.flush()
        written = min(due, written + _FLOOD)
        time.sleep(0.01)
