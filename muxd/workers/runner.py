"""One worker as the supervisor handles it: start, sleep, wake, stop."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path

import trio
from msgspec import structs

from muxd.children import Child, Dropped
from muxd.config import Model
from muxd.config.plan import identity_of
from muxd.core.events import Failure, PortFreed, WorkerDrained
from muxd.core.ledger import GpuId
from muxd.engines.engine import Engine
from muxd.engines.engine_client import EngineCallFailed
from muxd.engines.registry import engine_for
from muxd.engines.routers import RoutedServer
from muxd.ports import PortTaken, is_free
from muxd.threads import in_thread

from .figures import WorkerFigures, ask, host_memory
from .gate_wait import GateWait
from .gpu_memory import GpuMemoryTracker
from .inheritance import end_left, is_as_recorded
from .launch import LaunchOrigin, WorkerContext, take_over, worker_log_files
from .process import WorkerProcess

#: A server that drains is asked what it runs after so many seconds, and must have had nothing for so many: some
#: say what they run once a second, and a router's last request may be on its way.
DRAIN_POLL, IDLE_FOR = 0.25, 2.5

#: Seconds between two looks whether a port that somebody else had is free; one takes 20 us.
PORT_POLL = 0.25


class Runner:
    """Carries out what the core commands for one worker, and reports what happens as events.

    Between two lives of the worker, the runner keeps what outlasts a process: the end of the log, the measured GPU
    memory, the server's context length, and whether it generates text.
    """

    def __init__(self, model: Model, context: WorkerContext) -> None:
        """Take the model as configured; of a worker of several it has the worker's own name, port and GPUs."""
        self.model = model
        self._engine = self._make_engine()
        self._gpu_memory = GpuMemoryTracker(context.gpus, model, context.held_memory)
        self._context = context
        self._life: WorkerProcess | None = None
        self._launched: int | None = None  # the level for which its server was launched; None: the configured one
        self._placed: tuple[GpuId, ...] = ()  # GPUs that were chosen for its server; none: the configured ones
        self._context_length: int | None = None
        self._is_generation: bool | None = None
        self._no_proof = ""  # why its next server is not asked for a wake proof
        self._last_words: list[str] = []
        self._dropped = Dropped()  # output that was lost in the worker's former lives

    def renew(self, model: Model) -> None:
        """Take over a configuration that changes the worker's processes; none of them may be left."""
        assert self._life is None, f"{self.model.name} lives"
        self.model = model
        self._placed = ()
        self._engine = self._make_engine()
        self._gpu_memory = GpuMemoryTracker(self._context.gpus, model, self._context.held_memory)
        self._context_length = None
        self._is_generation = None
        self._no_proof = ""

    def _make_engine(self) -> Engine:
        return engine_for(self.model)

    def update(self, model: Model) -> None:
        """Take over a configuration that changed in nothing that the running processes depend on."""
        self.model = model
        self._gpu_memory.update(self._as_launched())
        if self._life is not None:
            self._life.update(self._as_launched(), identity_of(self.model))

    def _as_launched(self) -> Model:
        model = self.model if self._launched is None else replace(self.model, sleep_level=self._launched)
        return replace(model, gpus=self._placed, any_gpus=0) if self._placed else model

    @property
    def gpu_memory(self) -> GpuMemoryTracker:
        return self._gpu_memory

    @property
    def child(self) -> Child | None:
        return self._life.child if self._life is not None else None

    @property
    def url(self) -> str:
        """Return where the worker's server is, as http://HOST:PORT; "" where there is none."""
        return self._life.url if self._life is not None else ""

    @property
    def as_routed(self) -> RoutedServer:
        """Return the worker's server as a router is told of it."""
        return RoutedServer(self.url, self.model.half, self._engine.bootstrap_port)

    @property
    def pid(self) -> int | None:
        return self.child.pid if self.child is not None else None

    @property
    def context_length(self) -> int | None:
        """Return the longest text that the server takes, in tokens, as of when it was last ready; None: unknown."""
        return (self._life.context_length if self._life is not None else None) or self._context_length

    @property
    def is_generation(self) -> bool | None:
        """Return whether the server generates text, as of when it was last ready; None: unknown.

        A launch script may start another server the next time, with nothing changed in the configuration.
        """
        said = self._life.is_generation if self._life is not None else None
        return self._is_generation if said is None and self.model.script is None else said

    @property
    def notice(self) -> str:
        """Return what an operator should mend although the worker serves; "" where there is nothing."""
        return (self._life.notice or self._engine.notice) if self._life is not None else ""

    @property
    def log_tail(self) -> list[str]:
        """Return the last lines of the worker's log, as of its last end."""
        return self._last_words

    @property
    def dropped(self) -> Dropped:
        """Return how much of the worker's output was lost since muxd started, and why."""
        living = self.child.dropped if self.child is not None else Dropped()
        return living.after(self._dropped)

    @property
    def log_files(self) -> dict[str, Path]:
        """Return the files by stream; one that has both is that of stdout."""
        files = worker_log_files(self._context.config, self.model)
        return {stream: path for stream, path in files.items() if stream == "stdout" or path != files["stdout"]}

    async def metrics(self) -> bytes | None:
        """Return the engine's metrics in Prometheus' text format, as sent; None where there are none.

        Raise EngineCallFailed.  The caller limits the time.
        """
        link = self._life.link if self._life is not None else None
        return await self._engine.metrics(link) if link is not None else None

    async def measure(self, *, awake: bool) -> WorkerFigures:
        """Measure what the worker has and, where it is `awake`, ask it something; nothing else may run on it."""
        said, life = WorkerFigures(), self._life
        if awake and life is not None and life.link is not None:
            said = await ask(life.link, self._engine, self._as_launched(), no_proof=self._no_proof)
        return structs.replace(said, gpu=await self._gpu_memory.taken(), host=await self._host_memory())

    async def _host_memory(self) -> int | None:
        """Return the bytes of its processes in RAM; None where its server may be none of these, or they hide it."""
        if self.child is not None and self._engine.runs_elsewhere:
            return None
        try:
            pids = self.child.pids() if self.child is not None else []
        except OSError:
            return None
        return await in_thread(partial(host_memory, pids), abandon_on_cancel=True)

    def start(self, level: int | None = None, gpus: tuple[GpuId, ...] = ()) -> Callable[[], Awaitable[None]]:
        """Begin a new life of the worker, which `stop` can end from now on.

        `level`: the sleep level for which its server is launched; None: the one that is configured.  `gpus`: those that
        were chosen for it.  Return the async function that the caller has to run; it returns when no process of this
        life is left.
        """
        assert self._life is None, f"{self.model.name} lives already"
        self._launched, self._placed = level, gpus
        self._gpu_memory.update(self._as_launched())
        self._life = WorkerProcess(
            self._as_launched(), self._engine, self._gpu_memory, self._context, self._origin(), self._no_proof
        )
        return self._live

    def prepare(self, *, is_urgent: bool) -> Callable[[], Awaitable[None]]:
        """Begin a new life of the worker that waits at its engine's gate for `activate`; return what `start` returns.

        Unless it `is_urgent`, its processes take only what nobody else wants of this machine until then.
        """
        assert self._life is None, f"{self.model.name} lives already"
        assert self._engine.gate is not None, f"{self.model.name} has no gate"
        self._launched, self._placed = None, ()
        self._gpu_memory.update(self.model)
        wait = GateWait(self._engine.gate, is_urgent=is_urgent)
        self._life = WorkerProcess(
            self.model, self._engine, self._gpu_memory, self._context, self._origin(), self._no_proof, wait=wait
        )
        return self._live

    def activate(self) -> None:
        """Let the worker's processes go on from their gate, once they are there."""
        if self._life is not None:
            self._life.activate()

    def _origin(self) -> LaunchOrigin:
        return LaunchOrigin(identity_of(self.model), self._placed, self._launched)

    async def take_over(self, child: Child) -> Callable[[], Awaitable[None]] | None:
        """Go on with a process that an earlier muxd has left, if it is as the state file says.

        Return what `start` returns; None where it is not: its processes are then ended.  Raises ModelStuck where one
        survives SIGKILL.
        """
        assert self._life is None, f"{self.model.name} lives already"
        record = self._context.state.state.workers[self.model.name]
        self._launched, self._placed = record.launched, tuple(record.gpus)
        self._gpu_memory.update(self._as_launched())
        self._gpu_memory.restore(record.memory)
        model = self._as_launched()
        server = take_over(model, self._engine, self._context, child, record)
        if not await is_as_recorded(model, self._engine, self._context, server):
            await end_left(server, self._context.state, self.model.name)
            self._launched, self._placed = None, ()
            self._gpu_memory = GpuMemoryTracker(self._context.gpus, self.model, self._context.held_memory)
            self._gpu_memory.forget()
            return None
        wait = GateWait(self._engine.gate) if record.waits and self._engine.gate is not None else None
        self._life = WorkerProcess(
            model, self._engine, self._gpu_memory, self._context, self._origin(), server=server, wait=wait
        )
        return self._live

    async def _live(self) -> None:
        life = self._life
        assert life is not None
        end = await life.run()
        self._context_length, self._is_generation = self.context_length, self.is_generation
        if life.died_of_proof:
            self._no_proof = "its former server died of the question"
        self._life = None
        self._last_words = end.log_tail
        self._dropped = end.dropped.after(self._dropped) if end.dropped is not None else self._dropped
        self._context.tell(end.event)
        if end.event.failure is Failure.REFUSED and end.event.code == PortTaken.code:
            await self.watch_port()

    async def watch_port(self) -> None:
        """Tell when nobody else has the worker's port any more; return as well once it lives, or has another port."""
        port = self.model.port
        while self._life is None and self.model.port == port:
            if is_free(port):
                self._context.tell(PortFreed(trio.current_time(), self.model.name))
                return
            await trio.sleep(PORT_POLL)

    def sleep(self, level: int) -> None:
        if self._life is not None:
            self._life.order(level)

    def wake(self) -> None:
        if self._life is not None:
            self._life.order(None)

    async def expect_order(self) -> None:
        """Do what an order that is about to come needs, and what no order is needed for."""
        if self._life is not None:
            await self._life.expect_order()

    async def drain(self) -> None:
        """Look whether this life of the worker has a request left, to which nobody sends more; tell when it has none.

        Return at once where its server does not say what it runs.
        """
        life, idle_since = self._life, inf
        while life is not None and life is self._life and life.link is not None:
            try:
                is_idle = await self._engine.is_idle(life.link)
            except EngineCallFailed:  # its probes find out whether it lives
                is_idle = False
            if is_idle is None:
                return
            idle_since = min(idle_since, trio.current_time()) if is_idle else inf
            if trio.current_time() - idle_since >= IDLE_FOR:
                self._context.tell(WorkerDrained(trio.current_time(), self.model.name))
                return
            await trio.sleep(DRAIN_POLL)

    def stop(self, *, kill: bool) -> None:
        if self._life is not None:
            self._life.stop(kill=kill)
