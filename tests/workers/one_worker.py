"""One worker on a pretend host: its runner is commanded as the core would, and every event that it tells is seen."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import trio

from muxd.core.events import WorkerExited, WorkerReady
from muxd.saved_state import StateFile, WorkerRecord
from muxd.workers import Runner
from tests.fakes import Behaviour, FakeChild, FakeHost, FakeServer, a_model, fake_host

E = TypeVar("E")

#: What a server says that dies for want of GPU memory.
OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB.\n"


class OneWorker:
    def __init__(self, host: FakeHost, nursery: trio.Nursery) -> None:
        self.host = host
        self.runner = Runner(host.wanted.models[0], host.context)
        self.behaviour: Behaviour = host.servers["a"]
        self._nursery = nursery
        self._began = trio.current_time()

    @property
    def now(self) -> float:
        """Seconds since the worker was last started."""
        return round(trio.current_time() - self._began, 6)

    @property
    def child(self) -> FakeChild:
        return self.host.children.all[-1]

    @property
    def server(self) -> FakeServer:
        return self.child.server

    @property
    def record(self) -> WorkerRecord:
        """What the state file has of it."""
        return StateFile(self.host.state.path).load().workers["a"]

    def start(self) -> None:
        self._began = trio.current_time()
        self._nursery.start_soon(self.runner.start())

    async def tells(self, kind: type[E]) -> E:
        """The next event that it tells, which must be one of these."""
        event = await self.host.mailbox.receive()
        assert type(event) is kind, event
        return event

    async def gets_ready(self) -> None:
        self.start()
        await self.tells(WorkerReady)

    async def ends(self) -> WorkerExited:
        """Its last event; nothing of it is left then."""
        exited = await self.tells(WorkerExited)
        assert self.runner.pid is None
        assert StateFile(self.host.state.path).load().workers == {}
        assert not list(self.host.wanted.daemon.state_dir.glob("workers/*"))
        return exited

    def is_quiet(self) -> bool:
        """Nothing that it told is left to be read."""
        return self.host.mailbox.statistics().current_buffer_used == 0

    def occupied(self, size: int, until: float) -> None:
        """Let a stranger have so many bytes of each GPU, until so many seconds from now."""
        end = trio.current_time() + until
        self.host.gpus.strangers = lambda now: size if now < end else 0

    def change(self, **keys: object) -> None:
        self.runner.update(replace(self.runner.model, **keys))  # type: ignore[arg-type]


@asynccontextmanager
async def one_worker(folder: Path, **keys: object) -> AsyncIterator[OneWorker]:
    """A worker of a model with these keys, which must have told nothing that the test has not seen."""
    async with fake_host(folder, a_model("a", **keys)) as host, trio.open_nursery() as nursery:
        worker = OneWorker(host, nursery)
        yield worker
        assert worker.is_quiet(), host.mailbox.receive_nowait()
        nursery.cancel_scope.cancel()
