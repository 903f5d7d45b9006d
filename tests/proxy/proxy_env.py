"""A proxy with a worker for each of two models and a fake muxd, all on real sockets."""

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trio
from msgspec import structs

from muxd.config.model_capabilities import told_capabilities
from muxd.config.model_schema import Model
from muxd.config.proxy_settings import settings_for_proxy
from muxd.config.schema import Config, Daemon, Key, Proxy
from muxd.proxy.app import ProxyServer as RunningProxy
from muxd.proxy.app import open_proxy
from muxd.proxy.sockets.context import ProxyLimits
from muxd.proxy.sockets.reactor import Reactor

from .fake_muxd import FakeLease, FakeMuxd
from .http_client import HttpClient, Reply
from .worker import Worker

#: No line in an answer that its worker did not send; called by whatever name.
QUIET = Proxy(access_log="off", request_id_headers=(), hosts=("*",))

LIMITS = ProxyLimits(max_body=1 << 20, buffer_memory=4 << 20, max_clients=1000)


@dataclass
class ProxyEnv:
    proxy: RunningProxy
    muxd: FakeMuxd
    alpha: Worker
    beta: Worker
    port: int
    stack: AsyncExitStack
    http_clients: list[HttpClient] = field(default_factory=list)

    async def connect(self) -> HttpClient:
        http_client = HttpClient(await trio.open_tcp_stream("127.0.0.1", self.port))
        self.http_clients.append(http_client)
        return http_client

    async def ask(self, data: bytes) -> Reply:
        """On a connection of its own."""
        return await (await self.connect()).ask(data)

    async def lease(self, index: int = 0) -> FakeLease:
        return await self.muxd.leases.nth(index)

    def close(self) -> None:
        for http_client in self.http_clients:
            http_client.close()


@asynccontextmanager
async def turning() -> AsyncIterator[Reactor]:
    """Turn a reactor in a task of trio; `muxd proxy` has trio in its reactor, see proxy/sockets/event_loop.py."""
    reactor = Reactor()

    async def turn() -> None:
        while True:
            with trio.move_on_after(reactor.patience()):
                await trio.lowlevel.wait_readable(reactor.fileno())
            reactor.turn(0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(turn)
        yield reactor
        nursery.cancel_scope.cancel()
    reactor.close_all()
    reactor.shut()


@asynccontextmanager
async def open_proxy_env(
    tmp_path: Path,
    *,
    granted: bool = True,
    muxd_up: bool = True,
    proxy: Proxy | None = None,
    keys: tuple[Key, ...] = (),
    model: dict[str, Any] | None = None,
    host: str = "127.0.0.1",
    **limits: Any,
) -> AsyncIterator[ProxyEnv]:
    """`granted`: alpha's lease is granted at the first request; `model`: keys of both; `limits` differ from LIMITS."""
    terms = {"engine": "simulator", **(model or {})}
    daemon = Daemon(socket=tmp_path / "muxd.sock", state_dir=tmp_path, log_dir=tmp_path)
    models = (
        Model("alpha", served_names=("org/alpha", "alpha-mini"), **terms),
        Model("beta", **terms),
    )
    muxd, alpha, beta = FakeMuxd(daemon.socket), Worker(), Worker()
    config = Config(daemon=daemon, proxy=proxy or QUIET, models=models, keys=keys)
    muxd.places = terms.get("concurrency_limit")
    muxd.models = [{"name": m.name, "state": "unloaded"} for m in models]
    muxd.settings = settings_for_proxy(config)
    config = replace(config, capabilities=told_capabilities(muxd.settings["capabilities"]))
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(alpha.running())
        await stack.enter_async_context(beta.running())
        if granted:
            muxd.grants["alpha"] = alpha.url
        if muxd_up:
            await stack.enter_async_context(muxd.running())
        listener = socket.create_server((host, 0))
        port = listener.getsockname()[1]
        reactor = await stack.enter_async_context(turning())
        running = await stack.enter_async_context(
            open_proxy(config, structs.replace(LIMITS, **limits), listener, reactor)
        )
        proxy_env = ProxyEnv(running, muxd, alpha, beta, port, stack)
        stack.callback(proxy_env.close)
        yield proxy_env
