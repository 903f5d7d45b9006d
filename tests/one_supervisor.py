"""A supervisor on a pretend host, asked as the control socket and the proxy would ask it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from muxd.config import Model
from muxd.core.events import Verb, Waiting
from muxd.log_losses import LogTeller
from muxd.proxy_child import UnmanagedProxy
from muxd.saved_state import SavedState, StateFile
from muxd.supervisor import Supervisor
from muxd.supervisor.service import SupervisorService

from .fakes import FakeHost, a_model, fake_host

Lines = trio.MemoryReceiveChannel[dict[str, Any]]

#: States of a worker that has its GPUs.
ON_GPU = {"starting", "ready", "draining", "falling_asleep", "waking"}


class FakeProxy(UnmanagedProxy):
    """A proxy of which nothing is known but its log, where a test gives it one."""

    log_teller: LogTeller | None = None  # type: ignore[assignment]


class OneSupervisor:
    def __init__(self, host: FakeHost) -> None:
        self.host = host
        self.proxy = FakeProxy(host.wanted)
        self.supervisor = Supervisor(host.context, host.mailbox, self.proxy, lambda: self.host.reread())
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
        """A proxy that has a request for the model waits for its lease."""
        return Holder(self.service, *self.service.open_lease(name, (Waiting(),)))

    async def serves(self, name: str) -> str:
        """A proxy's request is served, and over: by the worker at this address."""
        holder = self.wants(name)
        granted = await holder.told("granted", "failed")
        assert granted["type"] == "granted", granted
        holder.close()
        return str(granted["url"])

    def left_behind(self) -> list[Path]:
        """The work folders that are still there."""
        return list(self.host.wanted.daemon.state_dir.glob("workers/*"))

    @property
    def saved(self) -> SavedState:
        """What the state file has."""
        return StateFile(self.host.state.path).load()


class Holder:
    """One proxy's lease of one model."""

    def __init__(self, service: SupervisorService, number: int, lines: Lines) -> None:
        self.number, self.lines = number, lines
        self._service = service

    async def told(self, *kinds: str) -> dict[str, Any]:
        """The next line of these kinds."""
        async for line in self.lines:
            if line["type"] in kinds:
                return line
        raise AssertionError(f"the lease ended before any of {kinds}")

    def reports(self, in_flight: int, *waiting: Waiting) -> None:
        self._service.report_demand(self.number, in_flight, waiting)

    def close(self) -> None:
        self._service.close_lease(self.number)


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
