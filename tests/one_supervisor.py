"""A supervisor on a pretend host, asked as the control socket and the proxy would ask it."""

from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio

from muxd.config import Config, Model
from muxd.core.events import Verb
from muxd.frontends.proxy_pool import UnmanagedProxy
from muxd.log_losses import LogTeller
from muxd.protocol import (
    DemandReport,
    LeaseDemand,
    LeaseFailed,
    LeaseGranted,
    LeaseOver,
    LeaseWish,
    MuxdMessage,
    UnloadAnswer,
    UnloadWish,
    WaitingRequests,
)
from muxd.saved_state import SavedState, StateFile
from muxd.supervisor import Supervisor
from muxd.supervisor.sessions import ProxySession

from .fakes import FakeChild, FakeHost, a_model, fake_host

Lines = trio.MemoryReceiveChannel[dict[str, Any]]

#: States of a worker that has its GPUs.
ON_GPU = {"starting", "ready", "draining", "falling_asleep", "waking"}


class FakeProxy(UnmanagedProxy):
    """A proxy of which nothing is known but its log, where a test gives it one."""

    log_teller: LogTeller | None = None  # type: ignore[assignment]


class OneSupervisor:
    def __init__(self, host: FakeHost, left: Mapping[str, FakeChild] | None = None) -> None:
        self.host = host
        self.proxy = FakeProxy(host.wanted)
        self.supervisor = Supervisor(host.context, host.mailbox, self.proxy, lambda: self.host.reread(), left)  # type: ignore[arg-type]
        self.service = self.supervisor.service

    # Asked by operators

    async def switch(self, name: str) -> dict[str, Any]:
        """The last line to an operator who switches."""
        return (await all_of(self.service.switch(name)))[-1]

    async def order(self, name: str, verb: Verb, *, now: bool = False) -> dict[str, Any]:
        return (await all_of(self.service.order(name, verb, now=now)))[-1]

    def status(self, name: str) -> dict[str, Any]:
        return self.service.model_status(name)

    def states(self) -> dict[str, str]:
        return {model["name"]: model["state"] for model in self.service.status()["models"]}

    async def until(self, name: str, *states: str) -> None:
        """Wait until the model is in one of these states."""
        if self.status(name)["state"] not in states:
            await self.next_move(name, *states)

    async def next_move(self, name: str, *states: str) -> None:
        """Wait until the model comes to one of these states, from now on."""
        async for event in self.service.events(None, follow=True):
            if event["type"] == "state" and event["model"] == name and event["to"] in states:
                return

    async def moves(self) -> list[tuple[str, str, str]]:
        """Every change of a state so far: model, from, to."""
        events = [event async for event in self.service.events(0, follow=False)]
        return [(event["model"], event["from"], event["to"]) for event in events if event["type"] == "state"]

    # Asked by a proxy

    def wants(self, name: str) -> "Holder":
        """A proxy that has a request for the model waits for its lease, in a session of its own."""
        return Holder(self.service.open_session(), name)

    async def lets_go(self, name: str) -> str | None:
        """A proxy's client lets the model go: why it does not sleep, or None where it does."""
        session = self.service.open_session()
        session.take(UnloadWish(name))
        (answer,) = await session.messages()
        assert isinstance(answer, UnloadAnswer)
        session.close()
        return answer.reason

    async def serves(self, name: str) -> str:
        """A proxy's request is served, and over: by the worker at this address."""
        holder = self.wants(name)
        granted = await holder.told("granted", "failed")
        assert isinstance(granted, LeaseGranted), granted
        holder.close()
        return granted.url

    def left_behind(self) -> list[Path]:
        """The work folders that are still there."""
        return list(self.host.wanted.daemon.state_dir.glob("workers/*"))

    @property
    def saved(self) -> SavedState:
        """What the state file has."""
        return StateFile(self.host.state.path).load()


class Holder:
    """One proxy's session, with a lease of one model."""

    def __init__(self, session: ProxySession, model: str) -> None:
        self._session = session
        self._session.take(LeaseWish(1, model))
        self._heard: deque[MuxdMessage] = deque()

    async def told(self, *types: str) -> Any:
        """The next message of one of these types."""
        while type_of(message := await self.hears()) not in types:
            assert not isinstance(message, LeaseOver | LeaseFailed), f"the lease ended before any of {types}"
        return message

    async def hears(self) -> MuxdMessage:
        """The next message, whatever it is."""
        while not self._heard:
            self._heard.extend(await self._session.messages())
        return self._heard.popleft()

    def reports(self, in_flight: int, *waiting: WaitingRequests) -> None:
        self._session.take(DemandReport((LeaseDemand(1, in_flight, waiting),)))

    def close(self) -> None:
        self._session.close()


def type_of(message: MuxdMessage) -> str:
    return str(message.__struct_config__.tag)


async def all_of(lines: Lines) -> list[dict[str, Any]]:
    return [line async for line in lines]


@asynccontextmanager
async def one_supervisor(folder: Path, *models: Model, stuck: bool = False) -> AsyncIterator[OneSupervisor]:
    """A supervisor of these models, and its shutdown, which must leave nothing behind but what is `stuck`."""
    async with fake_host(folder, *models) as host, trio.open_nursery() as nursery:
        muxd = OneSupervisor(host)
        await nursery.start(muxd.supervisor.run)
        yield muxd
        muxd.supervisor.shutdown(hurry=True)
        await muxd.supervisor.finished.wait()
        if not stuck:
            assert muxd.supervisor.stuck == []
            assert muxd.saved.workers == {}
            assert not muxd.left_behind()
        muxd.supervisor.close()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def two_models(folder: Path, **of_a: object) -> AsyncIterator[OneSupervisor]:
    """Models a, with these keys, and b, on one GPU that has room for one of them."""
    async with one_supervisor(folder, a_model("a", **of_a), a_model("b")) as muxd:
        yield muxd


def assert_never_two_awake(moves: list[tuple[str, str, str]]) -> None:
    """By the journal: whenever one came to the GPU, no other was on it."""
    states: dict[str, str] = {}
    for model, before, after in moves:
        assert states.get(model, before) == before, f"{model}: {states.get(model)} is not {before}"
        states[model] = after
        awake = [name for name, state in states.items() if state in ON_GPU]
        assert len(awake) <= 1, f"{awake} after {model}: {before} -> {after}"


def wants(muxd: OneSupervisor, *models: Model) -> Config:
    """What a reload reads from now on; gives what it read before."""
    before = muxd.host.wanted
    muxd.host.wanted = replace(before, models=models)
    return before
