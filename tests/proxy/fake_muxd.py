"""A muxd that speaks the lease protocol on a real socket and does what the test says."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import trio

from muxd.errors import LeaseNotFound, ModelNotFound
from muxd.http.request import Request
from muxd.http.server import ClientGone, ResponseWriter, ServerLimits, serve_http

from .record import PATIENCE, Record

Message = dict[str, Any]


@dataclass
class FakeLease:
    """One lease as the holder asked for it; `reports` are (in_flight, waiting)."""

    id: str
    model: str
    asked: list[Message]
    reports: Record[tuple[int, int]] = field(default_factory=Record)
    oldest: list[float] = field(default_factory=list)
    over: trio.Event = field(default_factory=trio.Event)

    def __post_init__(self) -> None:
        self.messages, self.inbox = trio.open_memory_channel[Message](100)

    def say(self, type: str, **facts: Any) -> None:
        self.messages.send_nowait({"type": type, "lease": self.id, "model": self.model, **facts})

    def grant(self, url: str, generation: int = 1) -> None:
        self.say("granted", url=url, generation=generation)

    def revoke(self, reason: str = "switch", deadline: float | None = None, message: str = "another waits") -> None:
        self.say("revoked", reason=reason, message=message, deadline_s=deadline)

    def fail(self, code: str, message: str, retry_after: float | None = None) -> None:
        error = {"code": code, "message": message, "retryable": True, "details": {}}
        self.say("failed", error=error, retry_after_s=retry_after)
        self.messages.close()

    def end(self) -> None:
        self.messages.close()

    async def ended(self) -> None:
        with trio.fail_after(PATIENCE):
            await self.over.wait()


class FakeMuxd:
    """`grants`: models that are granted at once, to a URL.  `calls` is every request it got."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.models: list[Message] = []
        self.settings: Message = {}
        self.silent = False  # it takes every call and answers none
        self.grants: dict[str, str] = {}
        self.leases: Record[FakeLease] = Record()
        self.calls: Record[str] = Record()
        self.unloads: Record[str] = Record()  # models that a client let go
        self._followers: set[trio.MemorySendChannel[Message]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Leaving is a sudden death: every connection breaks."""
        self.path.unlink(missing_ok=True)
        sock = trio.socket.socket(trio.socket.AF_UNIX)
        await sock.bind(str(self.path))
        sock.listen(100)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_http, self._handle, [trio.SocketListener(sock)], ServerLimits())
            yield
            nursery.cancel_scope.cancel()
        self.path.unlink()
        self._followers.clear()

    def set_state(self, name: str, state: str) -> None:
        for model in self.models:
            if model["name"] == name:
                model["state"] = state
        self.tell("state", model=name)

    def tell(self, type: str, **facts: Any) -> None:
        """An event for everybody who follows them."""
        for follower in self._followers:
            follower.send_nowait({"id": 1, "time": 0.0, "type": type, **facts})

    async def _handle(self, request: Request, exchange: ResponseWriter) -> None:
        self.calls.append(f"{request.method} {request.path}")
        if self.silent:
            await trio.sleep_forever()
        match request.method, request.path.split("/")[2:]:
            case "GET", ["version"]:
                await exchange.send_json(200, {"version": "0", "pid": 1, "api": 1, "started": 0})
            case "GET", ["proxy"]:
                await exchange.send_json(200, self._settings())
            case "GET", ["status"]:
                await exchange.send_json(200, {"models": self.models})
            case "GET", ["events"]:
                await self._events(exchange)
            case "POST", ["leases"]:
                await self._lease(request, exchange)
            case "POST", ["models", name, "unload"]:
                self.unloads.append(name)
                await exchange.send_json(200, {"model": name, "sleeps": True, "reason": None})
            case "PUT", ["leases", id]:
                await self._report(id, request, exchange)

    def _settings(self) -> Message:
        """What was set; else the models under the names they have, and a proxy of whatever name."""
        models = {model["name"]: {"served_names": model.get("served_names", [])} for model in self.models}
        return self.settings or {"models": models, "proxy": {"hosts": ["*"]}}

    async def _events(self, exchange: ResponseWriter) -> None:
        send, receive = trio.open_memory_channel[Message](100)
        self._followers.add(send)
        await exchange.start_stream("application/x-ndjson")
        await self._relay(receive, exchange)

    async def _lease(self, request: Request, exchange: ResponseWriter) -> None:
        asked = request.json()
        if asked["model"] not in [model["name"] for model in self.models]:
            raise ModelNotFound(f"no model {asked['model']}")
        lease = FakeLease(str(len(self.leases)), asked["model"], asked["waiting"])
        lease.say("queued", position=1, eta_s=None)
        if lease.model in self.grants:
            lease.grant(self.grants[lease.model])
        self.leases.append(lease)
        try:
            await exchange.start_stream("application/x-ndjson")
            await self._relay(lease.inbox, exchange)
        finally:
            lease.over.set()

    async def _relay(self, messages: trio.MemoryReceiveChannel[Message], exchange: ResponseWriter) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, exchange, nursery.cancel_scope)
            async for message in messages:
                try:
                    await exchange.write(msgspec.json.encode(message) + b"\n")
                except ClientGone:
                    break
            nursery.cancel_scope.cancel()

    async def _report(self, id: str, request: Request, exchange: ResponseWriter) -> None:
        lease = self.leases[int(id)]
        if lease.over.is_set():
            raise LeaseNotFound(f"no lease {id}")
        report = request.json()
        await exchange.send_json(200, {})
        lease.oldest += [entry["oldest_s"] for entry in report["waiting"]]
        lease.reports.append((report["in_flight"], sum(entry["count"] for entry in report["waiting"])))


async def _watch(exchange: ResponseWriter, scope: trio.CancelScope) -> None:
    await exchange.disconnected()
    scope.cancel()
