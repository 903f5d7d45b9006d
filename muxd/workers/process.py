"""One life of a worker: from a start until no process of the worker is left.

A life is one trio task.  It carries out orders to sleep and to wake one after the other, and hears a stop at any time.
It reports what happens as events.  It returns the last event to its runner, which reports that one when everything of
this life is gone.
"""

import logging
from collections import deque
from contextlib import ExitStack, closing, suppress
from functools import partial

import trio
from msgspec import Struct
from msgspec.structs import replace

from muxd.children import Child, Dropped, ExitRecord
from muxd.config import Model
from muxd.core.events import (
    ActivationFailed,
    Failure,
    SleepFailed,
    StandbyPrepared,
    WakeFailed,
    WorkerAsleep,
    WorkerDied,
    WorkerExited,
    WorkerHung,
    WorkerReady,
    WorkerStuck,
)
from muxd.engines import diagnosis
from muxd.engines.engine import Engine
from muxd.engines.engine_client import EngineCallFailed, EngineClient
from muxd.errors import WokeWrong
from muxd.logfiles import tail
from muxd.ports import PortTaken, Reservation
from muxd.saved_state import WorkerRecord
from muxd.threads import in_thread

from .diagnostics import Diagnostics
from .figures import host_memory
from .gate_wait import GateWait, owner_of_gate
from .gpu_memory import GpuMemoryTracker
from .launch import LaunchedServer, LaunchOrigin, WorkerContext, remove_traces, worker_log_files
from .liveness import LivenessProbe
from .loading import Loading
from .port_ownership import PortOwnership
from .proof_keeper import ProofKeeper
from .start import Start, StartFailed

log = logging.getLogger(__name__)

#: Seconds after SIGKILL until a worker whose processes are still there is reported as stuck.
KILL_TIMEOUT = 10.0

LOG_TAIL_LINES = 20

#: The level to sleep at; None: to wake.
Order = int | None


class WorkerEnd(Struct, frozen=True):
    """How one life of a worker ended: its last event, still to be reported, and the last lines of its log."""

    event: WorkerExited
    log_tail: list[str]
    dropped: Dropped | None = None  # output that was lost; None: no process was started


class WorkerProcess:
    """The process tree of one worker in one life, and the task that follows it.  `run` is called once."""

    def __init__(
        self,
        model: Model,
        engine: Engine,
        gpu_memory: GpuMemoryTracker,
        context: WorkerContext,
        origin: LaunchOrigin,
        no_proof: str = "",
        server: LaunchedServer | None = None,
        wait: GateWait | None = None,
    ) -> None:
        """Prepare a life of a model as it is launched.

        `no_proof`: why its server is not asked for the wake proof, "" where it is.  `server`: one that an earlier muxd
        has launched, and that goes on.  `wait`: it is started ahead, and waits for `activate`.
        """
        self._origin = origin
        self._was_there = server is not None
        self._model = model
        self._engine = engine
        self._gpu_memory = gpu_memory
        self._context = context
        self._server = server
        self._wait = wait
        self._orders: deque[Order] = deque()
        self._ordered = trio.Event()
        self._stopping = trio.Event()
        self._beside: trio.Nursery | None = None  # for what is done beside an order, while the server runs
        self._change = 0  # of the state, which says that the server is not at rest
        self._is_measured: trio.Event | None = None  # what it has while it is awake, since its last sleep began
        self._kill = False
        files = worker_log_files(context.config, model)
        self._diagnostics = Diagnostics(engine, dict.fromkeys(files[stream] for stream in ("stderr", "stdout")))
        self._start = Start(engine, gpu_memory, context, wait)
        self._loading: Loading | None = None
        self.context_length: int | None = None  # in tokens, as the server says
        self.is_generation: bool | None = None  # as the server says
        self._proof = ProofKeeper(engine, context.state, no_proof)

    @property
    def child(self) -> Child | None:
        return self._server.child if self._server is not None else None

    @property
    def url(self) -> str:
        """Return the server's address; "" until it was started."""
        return self._server.url if self._server is not None else ""

    @property
    def link(self) -> EngineClient | None:
        """Return the client for calls to the server; None until the server was started."""
        return self._server.link if self._server is not None else None

    @property
    def notice(self) -> str:
        """Return what an operator should mend although the worker serves; the supervisor logs it."""
        return self._loading.notice if self._loading is not None else ""

    def update(self, model: Model, digest: str) -> None:
        """Take over a configuration, with its digest, that changed in nothing that the running processes depend on."""
        self._model, self._origin = model, replace(self._origin, digest=digest)
        if self._server is not None:
            self._server.link.call_timeout = model.call_timeout
            self._server.link.probe_timeout = model.probe_timeout
            if self._server.record.is_at_rest and self._server.record.digest != digest:
                self._server.record.digest = digest
                self._context.state.save()

    def order(self, order: Order) -> None:
        """Have the worker sleep at a level, or wake, after the orders that it already has.

        That it will not be at rest is written at once: what need not wait for that goes on meanwhile.
        """
        self._orders.append(order)
        self._ordered.set()
        if self._server is not None:
            self._write_ahead(self._server)

    def activate(self) -> None:
        """Let a server that was started ahead go on from its gate, as soon as it is there."""
        assert self._wait is not None, f"{self._model.name} does not wait"
        self._wait.end()

    def stop(self, *, kill: bool) -> None:
        """Begin to end this life, by the stop signal or at once by SIGKILL; a later call with `kill` hastens the end.

        A server that was never ready has no request to finish, and is killed where it would not hear the signal.
        """
        kill = kill or (self._engine.is_deaf_while_loading and self._diagnostics.doing is None)
        self._kill = self._kill or kill
        self._stopping.set()
        self._ordered.set()
        self._start.stop()
        if self._server is not None:
            self._server.record.is_at_rest = False
            if kill:
                self._context.state.save()
                self._server.child.kill()

    async def run(self) -> WorkerEnd:
        """Start the server and follow it until no process of it is left; return how this life ended."""
        with ExitStack() as held:
            if self._server is not None:
                if self._wait is not None:
                    with suppress(PortTaken):
                        held.enter_context(closing(Reservation(self._server.record.port)))
                return await self._live(self._server)
            try:
                self._server = await self._start.run(self._model, held)
            except StartFailed as error:
                return self._end(error.failure, f"cannot start: {error.reason}", error.code)
            return await self._live(self._server)

    async def _live(self, server: LaunchedServer) -> WorkerEnd:
        async with trio.open_nursery() as nursery:
            self._beside = nursery
            nursery.start_soon(self._serve, server, name=f"worker {self._model.name}")
            nursery.start_soon(self._watch_for_wedge, server, name=f"end of {self._model.name}")
            exit = await server.child.wait()
            nursery.cancel_scope.cancel()
        return await self._after(server, exit)

    # While the server runs

    async def _serve(self, server: LaunchedServer) -> None:
        loading = Loading(self._model.name, server, self._engine, self._context, self._diagnostics)
        self._loading = loading
        if self._was_there and self._wait is None:
            self._diagnostics.doing = "was taken over"
            self.context_length, self.is_generation = server.record.context_length, server.record.is_generation
        else:
            is_let_on = self._wait is None or await self._pass_gate(server, loading, self._wait)
            if not is_let_on or not await self._come(server, loading):
                return
        while not self._stopping.is_set():
            await self._probe_until_ordered(server, loading)
            while self._orders and not self._stopping.is_set():
                level = self._orders.popleft()
                await (self._wake(server, loading) if level is None else self._sleep(server, level))

    async def _come(self, server: LaunchedServer, loading: Loading) -> bool:
        """Wait until a server that was just started is ready, and tell it; return whether it is of use."""
        if not await loading.until_loaded(self._model) or not await loading.is_usable(self._model):
            self.stop(kill=True)
            return False
        loading.note_leftovers()
        self.context_length = await self._engine.context_length(server.link)
        self.is_generation = await self._engine.is_generation(server.link)
        await self._proof.keep(server, self._model)
        await self._tell_ready(server)
        return True

    async def _pass_gate(self, server: LaunchedServer, loading: Loading, wait: GateWait) -> bool:
        """Wait at the engine's gate until the worker is wanted, and go on from there; return whether the server does.

        Where its gate stays shut, that is told, and muxd starts another one without a gate.
        """
        gate = owner_of_gate(server, self._engine, self._context)
        if not await self._wait_at_gate(server, loading, gate, wait):
            self.stop(kill=True)
            return False
        server.record.is_at_rest = server.record.waits = False
        await self._context.state.write_ahead()
        if missing := await self._gpu_memory.until_room_to_load():
            self._diagnostics.given_up = diagnosis.of_missing_memory(missing)
            self.stop(kill=True)
            return False
        try:
            await wait.open(gate, server, self._model.probe_timeout)
        except EngineCallFailed as error:
            self._context.tell(ActivationFailed(trio.current_time(), self._model.name, error.message))
            return False
        return True

    async def _wait_at_gate(
        self, server: LaunchedServer, loading: Loading, gate: PortOwnership, wait: GateWait
    ) -> bool:
        """Wait until the server is at its gate, and wanted; return whether it is of use for that.

        It has start_timeout to come to its gate.  Whoever else opens that makes it load beside others.
        """
        found = self._diagnostics
        with trio.move_on_after(self._model.start_timeout) as scope:
            await wait.until_reached(gate, server)
            if not wait.is_over:
                await self._tell_waiting(server, loading, wait)
        found.timed_out = scope.cancelled_caught and not wait.is_over
        while not (wait.is_over or found.timed_out or found.given_up is not None or self._stopping.is_set()):
            if await wait.lasts(self._model.probe_interval) and await loading.may_ask():
                found.given_up = diagnosis.of_opened_gate(server.record.gate_port)
        return wait.is_over and not self._stopping.is_set()

    async def _tell_waiting(self, server: LaunchedServer, loading: Loading, wait: GateWait) -> None:
        """Measure what a server takes that has come to its gate, and tell that it waits there."""
        loading.note_leftovers()
        pids = server.child.pids()
        await self._gpu_memory.came_to_gate(pids)
        size = await in_thread(partial(host_memory, pids), abandon_on_cancel=True)
        server.record.waits, server.record.gate_size = True, size
        if not wait.is_over:
            self._context.tell(StandbyPrepared(trio.current_time(), self._model.name, size))
            self._note_rest(server.record, None)

    async def _tell_ready(self, server: LaunchedServer, *, unproved: bool = False) -> None:
        await self._gpu_memory.came()
        self._diagnostics.served()
        remark = self._proof.remark(self._model)
        self._context.tell(WorkerReady(trio.current_time(), self._model.name, server.url, remark, unproved))
        self._note_rest(server.record, None)

    def _note_rest(self, record: WorkerRecord, level: int | None) -> None:
        """Write down that the worker is ready, or asleep at a level, with all that the next muxd must know of it.

        The next step of a switch may be written ahead a moment later, and need not wait for two writes.
        """
        record.is_at_rest, record.level = True, level
        record.digest, record.gpus, record.launched = self._origin.digest, list(self._origin.gpus), self._origin.level
        record.memory = self._gpu_memory.saved()
        record.context_length, record.is_generation = self.context_length, self.is_generation
        self._context.state.save(at_leisure=True)

    @property
    def died_of_proof(self) -> bool:
        """Say whether the server ended by itself while it was first asked for its proof."""
        return self._proof.is_asking and not self._stopping.is_set()

    async def _probe_until_ordered(self, server: LaunchedServer, loading: Loading) -> None:
        """Probe every probe_interval seconds until there is an order or a stop; report a server that is not alive.

        A server that ends is asked nothing: the answer may want an engine that is gone, and the server wait for it.
        """
        probe = LivenessProbe(server, self._engine, loading, self._diagnostics)
        while not (self._orders or self._stopping.is_set()):
            self._ordered = trio.Event()
            with trio.move_on_after(self._model.probe_interval):
                await self._ordered.wait()
                return
            failure = await probe.failure(self._model)
            if self._diagnostics.given_up is not None:
                self.stop(kill=True)
                return
            if failure:
                self._context.tell(WorkerHung(trio.current_time(), self._model.name, failure))

    async def _sleep(self, server: LaunchedServer, level: int) -> None:
        self._diagnostics.doing = "fell asleep"
        record = server.record
        self._write_ahead(server)
        is_sized_by_script = self._model.script is not None  # scripts' models take turns, whatever they need
        peak = None if record.released or is_sized_by_script else self._measure_peak(server)
        try:
            record.released = await self._engine.sleep(server.link, self._model, level, record.released)
            self._context.state.save(at_leisure=True)
            if over := await self._gpu_memory.until_released(level):
                raise EngineCallFailed(over, cause=await self._engine.kept_memory(server.link, over))
        except EngineCallFailed as error:
            reason, code = await self._diagnostics.explain(error, server, self._model)
            self._context.tell(SleepFailed(trio.current_time(), self._model.name, reason, code))
        else:
            taken = peak[0] if peak else None
            record.peak = max(record.peak, taken or 0)
            self._note_rest(record, level)
            kept = self._gpu_memory.asleep
            share = kept // max(1, self._model.gpus_each) if kept is not None else None
            self._context.tell(WorkerAsleep(trio.current_time(), self._model.name, share, taken))

    async def _wake(self, server: LaunchedServer, loading: Loading) -> None:
        self._diagnostics.doing = "woke"
        self._write_ahead(server)
        await server.link.connect()
        try:
            if missing := await self._gpu_memory.until_room_to_wake():
                raise EngineCallFailed(missing, cause=diagnosis.of_missing_memory(missing))
            await self._engine.wake(server.link, self._model, server.record.released)
            server.record.released = []
            await loading.until_serving(self._model)
            is_proved = await self._proof.prove(server, self._model)
        except EngineCallFailed as error:
            reason, code = await self._diagnostics.explain(error, server, self._model)
            is_wrong = code == WokeWrong.code
            self._context.tell(WakeFailed(trio.current_time(), self._model.name, reason, code, is_wrong))
        else:
            await self._tell_ready(server, unproved=not is_proved)

    async def expect_order(self) -> None:
        """Have a connection to the server ready; one that sleeps is asked what its wake needs to know, too."""
        if (server := self._server) is not None:
            await server.link.connect()
            with suppress(EngineCallFailed):  # the wake asks again
                if server.record.released:
                    await self._engine.prepare_wake(server.link, self._model, server.record.released)

    def _measure_peak(self, server: LaunchedServer) -> list[int | None]:
        """Begin to measure what the awake worker has; its engine's calls wait for that as for their record."""
        assert self._beside is not None
        found: list[int | None] = []
        is_measured = self._is_measured = trio.Event()

        async def measure() -> None:
            found.append(await self._gpu_memory.peak())
            is_measured.set()

        self._beside.start_soon(measure, name=f"memory of {self._model.name}")
        server.link.recorded = self._until_recorded
        return found

    def _write_ahead(self, server: LaunchedServer) -> None:
        """Begin to write down that the server is not at rest; its engine's calls wait for that."""
        if server.record.is_at_rest:
            server.record.is_at_rest = False
            self._change = self._context.state.save_ahead()
            server.link.recorded = self._until_recorded

    async def _until_recorded(self) -> None:
        await self._context.state.until_written(self._change)
        self._change = 0  # on a disk that hangs one call of an order waits, and not each
        if self._is_measured is not None:
            await self._is_measured.wait()

    async def _watch_for_wedge(self, server: LaunchedServer) -> None:
        """Carry out a stop, and report WorkerStuck when processes are left KILL_TIMEOUT after SIGKILL.

        The stop signal waits for the record that this worker ends: the next muxd must not take it over.
        The shim kills after the stop_timeout that it was started with; this kill comes first where a new configuration
        has a shorter one.
        """
        await self._stopping.wait()
        if not self._kill:
            await self._context.state.write_ahead()
            server.child.stop()
            await trio.sleep(self._model.stop_timeout)
            server.child.kill()
        await trio.sleep(KILL_TIMEOUT)
        reason = f"its processes are still there {KILL_TIMEOUT:.0f} s after SIGKILL"
        self._context.tell(WorkerStuck(trio.current_time(), self._model.name, reason))

    # The end of this life

    async def _after(self, server: LaunchedServer, exit: ExitRecord) -> WorkerEnd:
        """Wait for the GPU memory of a server whose processes are gone, remove its traces, and say why it ended."""
        await self._until_memory_is_back(str(exit))
        del self._context.state.state.workers[self._model.name]
        remove_traces(server.record)
        self._context.state.save()
        cause = self._diagnostics.cause_of(exit, self._model)
        reason, code = (str(exit), "") if cause is None else (str(cause), cause.code)
        refused = exit.refused or (cause is not None and cause.refused)
        failure = Failure.TIMED_OUT if self._diagnostics.timed_out else Failure.REFUSED if refused else Failure.EXITED
        return self._end(failure, reason, code, Dropped(exit.dropped_bytes, exit.dropped_why))

    async def _until_memory_is_back(self, how: str) -> None:
        """Wait until the dead worker's GPU memory is free: only then may another worker come to the GPU.

        Report the death at once where the memory is not free yet, and WorkerStuck after each gpu_release_timeout.
        """
        if await self._gpu_memory.until_gone(patience=0.0):
            self._context.tell(WorkerDied(trio.current_time(), self._model.name, how))
        while over := await self._gpu_memory.until_gone():
            reason = f"its processes are gone, but {over}"
            self._context.tell(WorkerStuck(trio.current_time(), self._model.name, reason))

    def _end(self, failure: Failure, reason: str, code: str, dropped: Dropped | None = None) -> WorkerEnd:
        self._gpu_memory.forget()
        log_tail: list[str] = []
        with suppress(OSError):
            log_tail = tail(worker_log_files(self._context.config, self._model)["stderr"], LOG_TAIL_LINES)
        if code:
            log.warning("%s: %s: %s", self._model.name, code, reason)
        event = WorkerExited(trio.current_time(), self._model.name, failure, reason, code)
        return WorkerEnd(event, log_tail, dropped)
