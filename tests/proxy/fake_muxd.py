"""A muxd that speaks the lease protocol on a real socket and does what the test says."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import trio

from muxd.control.session_route import check_version
from muxd.errors import ModelNotFound, RouteNotFound
from muxd.http.request import Request
from muxd.http.response_writer import ClientGone, ResponseWriter
from muxd.http.server import serve_http
from muxd.http.server_limits import ServerLimits
from muxd.protocol import (
    UPGRADE,
    VERSION,
    VERSION_HEADER,
    DemandReport,
    KeepWish,
    LeaseClaim,
    LeaseComing,
    LeaseFailed,
    LeaseGranted,
    LeaseMessage,
    LeaseOver,
    LeaseQueued,
    LeaseRelease,
    LeaseRestored,
    LeaseRevoked,
    LeaseWish,
    MuxdMessage,
    ProxyMessage,
    RevocationReason,
    SessionRefused,
    ToldError,
    UnloadAnswer,
    UnloadWish,
    WaitingRequests,
)

from .record import PATIENCE, Record

Message = dict[str, Any]
_decoder = msgspec.json.Decoder(ProxyMessage)


@dataclass
class FakeLease:
    """One lease as the holder asked for it; `reports` are (in_flight, waiting)."""

    number: int
    model: str
    asked: tuple[WaitingRequests, ...]
    session: "FakeSession"
    reports: Record[tuple[int, int]] = field(default_factory=Record)
    oldest: list[float] = field(default_factory=list)
    answering: list[tuple[float | None, float | None]] = field(default_factory=list)  # age of the oldest, usual seconds
    over: trio.Event = field(default_factory=trio.Event)
    places: int | None = None  # that the grant tells

    def say(self, message: LeaseMessage) -> None:
        """Tell the holder something, unless the lease is over."""
        if not self.over.is_set():
            self.session.outbox.send_nowait(message)

    def queue(self, position: int = 1, eta: float | None = None) -> None:
        self.say(LeaseQueued(self.number, position, eta))

    def switching(self, phase: str, eta: float | None = None) -> None:
        self.say(LeaseComing(self.number, phase, (), eta))

    def grant(self, url: str, generation: int = 1) -> None:
        self.say(LeaseGranted(self.number, url, generation, self.places, 1))

    def revoke(self, reason: str = "switch", deadline: float | None = None, message: str = "another waits") -> None:
        self.say(LeaseRevoked(self.number, RevocationReason(reason), message, deadline))

    def restore(self) -> None:
        self.say(LeaseRestored(self.number))

    def fail(self, code: str, message: str, retry_after: float | None = None) -> None:
        self.say(LeaseFailed(self.number, ToldError(code, message, True), retry_after))
        self.over.set()

    def end(self) -> None:
        self.say(LeaseOver(self.number))
        self.over.set()

    async def ended(self) -> None:
        with trio.fail_after(PATIENCE):
            await self.over.wait()


class FakeSession:
    """One proxy's session, and its leases by their numbers."""

    def __init__(self) -> None:
        self.leases: dict[int, FakeLease] = {}
        self.outbox, self.inbox = trio.open_memory_channel[MuxdMessage](1000)

    def end(self) -> None:
        for lease in self.leases.values():
            lease.over.set()


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
        self.kept: Record[tuple[str, float | None]] = Record()  # models that a client wants awake, and for how long
        self.kept_ages: list[float] = []  # how many seconds before the client said so
        self.unloads: Record[str] = Record()  # models that a client let go
        self.adopted: set[str] = set()  # URLs of workers that it has taken over from an earlier muxd
        self.sessions: Record[FakeSession] = Record()
        self.lines: Record[ProxyMessage] = Record()  # all that proxies said in their sessions
        self.places: int | None = None  # of each lease
        self.version = VERSION  # of the protocol
        self.refusal: ToldError | None = None  # of whatever the proxy says first in a session
        self._followers: set[trio.MemorySendChannel[Message]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Leaving is a sudden death: every connection breaks."""
        self.path.unlink(missing_ok=True)
        sock = trio.socket.socket(trio.socket.AF_UNIX)
        await sock.bind(str(self.path))
        sock.listen(100)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_http, self._handle, [trio.SocketListener(sock)], ServerLimits(upgrades=(UPGRADE,)))
            yield
            nursery.cancel_scope.cancel()
        self.path.unlink()
        self._followers.clear()

    def set_state(self, name: str, state: str) -> None:
        for model in self.models:
            if model["name"] == name:
                model["state"] = state
        self.tell("state", model=name, to=state)

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
            case "GET", ["session"]:
                await self._session(request, exchange)
            case _:
                raise RouteNotFound(f"there is no {request.path}")

    def _settings(self) -> Message:
        """What was set; else the models under the names they have, and a proxy of whatever name."""
        models = {model["name"]: {"served_names": model.get("served_names", [])} for model in self.models}
        return self.settings or {"models": models, "proxy": {"hosts": ["*"]}}

    async def _events(self, exchange: ResponseWriter) -> None:
        send, receive = trio.open_memory_channel[Message](100)
        self._followers.add(send)
        await exchange.start_stream("application/x-ndjson")
        await self._relay(receive, exchange)

    async def _session(self, request: Request, exchange: ResponseWriter) -> None:
        check_version(request.header(VERSION_HEADER))
        await exchange.switch_protocol(UPGRADE, [(VERSION_HEADER, b"%d" % self.version)])
        session = FakeSession()
        self.sessions.append(session)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, session, exchange)
                received = b""
                while data := await exchange.receive():
                    *lines, received = (received + data).split(b"\n")
                    for line in lines:
                        self._take(_decoder.decode(line), session)
                nursery.cancel_scope.cancel()
        finally:
            session.end()

    async def _send(self, session: FakeSession, exchange: ResponseWriter) -> None:
        async for message in session.inbox:
            await exchange.write(msgspec.json.encode(message) + b"\n")

    def _take(self, message: ProxyMessage, session: FakeSession) -> None:
        self.lines.append(message)
        if self.refusal is not None:
            session.outbox.send_nowait(SessionRefused(self.refusal))
            return
        match message:
            case LeaseWish(number, model, waiting):
                self._lease(FakeLease(number, model, waiting, session, places=self.places))
            case LeaseClaim(number, model, url, in_flight):
                lease = FakeLease(number, model, (), session, places=self.places)
                lease.reports.append((in_flight, 0))
                session.leases[number] = lease
                if url in self.adopted:
                    self.leases.append(lease)
                    lease.grant(url, 2)
                else:
                    lease.end()
            case DemandReport(leases):
                for demand in leases:
                    lease = session.leases[demand.lease]
                    lease.oldest += [entry.oldest_s for entry in demand.waiting]
                    lease.answering.append((demand.oldest_s, demand.usual_s))
                    lease.reports.append((demand.in_flight, sum(entry.count for entry in demand.waiting)))
            case LeaseRelease(number):
                session.leases[number].over.set()
            case KeepWish(model, seconds, age):
                self.kept.append((model, seconds))
                self.kept_ages.append(age)
            case UnloadWish(model):
                self.unloads.append(model)
                session.outbox.send_nowait(UnloadAnswer(model))

    def _lease(self, lease: FakeLease) -> None:
        lease.session.leases[lease.number] = lease
        if lease.model not in [model["name"] for model in self.models]:
            lease.fail(ModelNotFound.code, f"no model {lease.model}")
            return
        lease.queue()
        if lease.model in self.grants:
            lease.grant(self.grants[lease.model])
        self.leases.append(lease)

    async def _relay(self, messages: trio.MemoryReceiveChannel[Message], exchange: ResponseWriter) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, exchange, nursery.cancel_scope)
            async for message in messages:
                try:
                    await exchange.write(msgspec.json.encode(message) + b"\n")
                except ClientGone:
                    break
            nursery.cancel_scope.cancel()


async def _watch(exchange: ResponseWriter, scope: trio.CancelScope) -> None:
    await exchange.disconnected()
    scope.cancel()
