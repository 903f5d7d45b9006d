"""One life of a worker: from a start until no process of the worker is left.

A life is one trio task.  It carries out orders to sleep and to wake one after the other, and hears a stop at any time.
It reports what happens as events.  It returns the last event to its runner, which reports that one when everything of
this life is gone.
"""

import logging
from collections import deque
from contextlib import ExitStack, closing, suppress
from functools import partial
from typing import Any

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
from muxd.engines.diagnosis import Diagnosis, Evidence
from muxd.engines.engine import Engine
from muxd.engines.engine_client import EngineCallFailed, EngineClient
from muxd.errors import CannotSpawn, WokeWrong, in_words
from muxd.launchers.script import changed
from muxd.log_names import file_name
from muxd.logfiles import tail
from muxd.ports import PortTaken, Reservation
from muxd.saved_state import WorkerRecord
from muxd.threads import in_thread

from .crash_evidence import CrashEvidence
from .figures import host_memory
from .gate_wait import GateWait, owner_of_gate
from .gpu_memory import GpuMemoryTracker
from .launch import LaunchedServer, LaunchOrigin, WorkerContext, launch, remove_traces, worker_log_files
from .port_ownership import PortOwnership
from .proof_keeper import DYING, ProofKeeper
from .script_inspection import ScriptInspection

log = logging.getLogger(__name__)

#: Seconds between two probes of a loading server for readiness.
READY_POLL = 0.1

#: Seconds before the second readiness probe after a wake; later pauses double, for a woken server is ready at once
#: or soon.
FIRST_POLL = 0.002

#: Seconds between two notes of a loading server's shared memory; each costs some milliseconds.
LEFTOVERS_POLL = 1.0

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


class _CannotStart(Exception):
    """Nothing was started; `failure` says whether another start may help."""

    def __init__(self, failure: Failure, reason: str, code: str = "") -> None:
        super().__init__(reason)
        self.failure = failure
        self.reason = reason
        self.code = code


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
        self._kill = False
        self._timed_out = False
        self._noted_at = 0.0
        self._before_launch = trio.CancelScope()
        files = worker_log_files(context.config, model)
        self._crash_evidence = CrashEvidence(dict.fromkeys(files[stream] for stream in ("stderr", "stdout")))
        self._doing: str | None = None  # what the server did last, for messages, such as "woke"; None: never ready
        self._given_up: Diagnosis | None = None  # why muxd itself ends this life
        self._listener: PortOwnership | None = None
        self.context_length: int | None = None  # in tokens, as the server says
        self.is_generation: bool | None = None  # as the server says
        self.notice = ""  # what an operator should mend although the worker serves; the supervisor logs it
        self._proof = ProofKeeper(engine, context.state, no_proof)
        self._inspection = ScriptInspection(engine, context.scripts)

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
        kill = kill or (self._engine.is_deaf_while_loading and self._doing is None)
        self._kill = self._kill or kill
        self._stopping.set()
        self._ordered.set()
        self._before_launch.cancel()
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
                self._server = await self._start(held)
            except _CannotStart as error:
                return self._end(error.failure, f"cannot start: {error.reason}", error.code)
            return await self._live(self._server)

    async def _start(self, held: ExitStack) -> LaunchedServer:
        """Reserve a port, for as long as `held` is open, wait for GPU memory, and launch; raise _CannotStart."""
        await self._check_script()
        try:
            port = self._model.port
            if port or self._model.script is None:  # a script's port that nobody says is found once its server listens
                port = held.enter_context(closing(Reservation(port))).port
        except PortTaken as error:
            raise _CannotStart(Failure.REFUSED, error.message, error.code) from None
        except OSError as error:
            raise _CannotStart(Failure.EXITED, f"no port can be reserved: {in_words(error)}") from None
        gate_port = 0
        if self._wait is None:
            await self._await_memory()
        else:
            self._gpu_memory.wait_at_gate()
            gate_port = held.enter_context(closing(Reservation(0))).port
        try:
            least = await self._gpu_memory.least()
            server = launch(self._model, self._engine, self._context, port, *least, gate_port)
            if self._wait is not None:
                self._wait.began(server.child)
            return server
        except CannotSpawn as error:
            reason = error.message.removeprefix(f"cannot start {file_name(self._model.name)}: ")
            raise self._cannot_run(error.__cause__, reason, error.code) from None
        except OSError as error:
            raise self._cannot_run(error, f"its work folder cannot be made: {in_words(error)}") from None

    async def _check_script(self) -> None:
        """Raise _CannotStart where a launch script has changed since muxd read it.

        The new text may name a port or GPUs that belong to another model.
        """
        script = self._model.script
        if script is not None and (path := await in_thread(partial(changed, script), abandon_on_cancel=True)):
            cause = diagnosis.of_changed_script(path)
            raise _CannotStart(Failure.REFUSED, str(cause), cause.code)

    def _cannot_run(self, error: BaseException | None, reason: str, code: str = "") -> _CannotStart:
        cause = diagnosis.of_failed_exec(error.errno if isinstance(error, OSError) else None, reason)
        return _CannotStart(Failure.EXITED, str(cause or reason), cause.code if cause is not None else code)

    async def _await_memory(self) -> None:
        """Wait until there is room on the worker's GPUs; raise _CannotStart."""
        missing: str | None = None
        with self._before_launch:
            missing = await self._gpu_memory.until_room_to_load()
        if self._stopping.is_set():
            raise _CannotStart(Failure.EXITED, "it was stopped first")
        if missing is not None:
            cause = diagnosis.of_missing_memory(missing)
            raise _CannotStart(Failure.EXITED, str(cause), cause.code)

    async def _live(self, server: LaunchedServer) -> WorkerEnd:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._serve, server, name=f"worker {self._model.name}")
            nursery.start_soon(self._watch_for_wedge, server, name=f"end of {self._model.name}")
            exit = await server.child.wait()
            nursery.cancel_scope.cancel()
        return await self._after(server, exit)

    # While the server runs

    async def _serve(self, server: LaunchedServer) -> None:
        listener = self._context.own_port(
            server.record.port, server.child.shim_pid, server.child.record.cgroup, self._engine
        )
        self._listener = listener
        if self._was_there and self._wait is None:
            self._doing = "was taken over"
            self.context_length, self.is_generation = server.record.context_length, server.record.is_generation
        if self._wait is not None and not await self._pass_gate(server, listener, self._wait):
            return
        if (self._wait is not None or not self._was_there) and not await self._come(server, listener):
            return
        while not self._stopping.is_set():
            await self._probe_until_ordered(server)
            while self._orders and not self._stopping.is_set():
                level = self._orders.popleft()
                await (self._wake(server) if level is None else self._sleep(server, level))

    async def _come(self, server: LaunchedServer, listener: PortOwnership) -> bool:
        """Wait until a server that was just started is ready, and tell it; return whether it is of use."""
        if not await self._until_loaded(server, listener) or not await self._is_usable(listener, server):
            self.stop(kill=True)
            return False
        self._note_leftovers(server)
        self.context_length = await self._engine.context_length(server.link)
        self.is_generation = await self._engine.is_generation(server.link)
        await self._proof.keep(server, self._model)
        await self._tell_ready(server)
        return True

    async def _pass_gate(self, server: LaunchedServer, listener: PortOwnership, wait: GateWait) -> bool:
        """Wait at the engine's gate until the worker is wanted, and go on from there; return whether the server does.

        Where its gate stays shut, that is told, and muxd starts another one without a gate.
        """
        gate = owner_of_gate(server, self._engine, self._context)
        if not await self._wait_at_gate(server, listener, gate, wait):
            self.stop(kill=True)
            return False
        server.record.is_at_rest = server.record.waits = False
        await self._context.state.write_ahead()
        if missing := await self._gpu_memory.until_room_to_load():
            self._given_up = diagnosis.of_missing_memory(missing)
            self.stop(kill=True)
            return False
        try:
            await wait.open(gate, server, self._model.probe_timeout)
        except EngineCallFailed as error:
            self._context.tell(ActivationFailed(trio.current_time(), self._model.name, error.message))
            return False
        return True

    async def _wait_at_gate(
        self, server: LaunchedServer, listener: PortOwnership, gate: PortOwnership, wait: GateWait
    ) -> bool:
        """Wait until the server is at its gate, and wanted; return whether it is of use for that.

        It has start_timeout to come to its gate.  Whoever else opens that makes it load beside others.
        """
        with trio.move_on_after(self._model.start_timeout) as scope:
            await wait.until_reached(gate, server)
            if not wait.is_over:
                await self._tell_waiting(server, wait)
        self._timed_out = scope.cancelled_caught and not wait.is_over
        while not (wait.is_over or self._timed_out or self._given_up is not None or self._stopping.is_set()):
            if await wait.lasts(self._model.probe_interval) and await self._may_ask(listener, server):
                self._given_up = diagnosis.of_opened_gate(server.record.gate_port)
        return wait.is_over and not self._stopping.is_set()

    async def _tell_waiting(self, server: LaunchedServer, wait: GateWait) -> None:
        """Measure what a server takes that has come to its gate, and tell that it waits there."""
        self._note_leftovers(server)
        pids = server.child.pids()
        await self._gpu_memory.came_to_gate(pids)
        size = await in_thread(partial(host_memory, pids), abandon_on_cancel=True)
        server.record.waits, server.record.gate_size = True, size
        if not wait.is_over:
            self._context.tell(StandbyPrepared(trio.current_time(), self._model.name, size))
            self._note_rest(server.record, None)

    async def _until_loaded(self, server: LaunchedServer, listener: PortOwnership) -> bool:
        with trio.move_on_after(self._model.start_timeout):
            while not (await self._may_ask(listener, server) and await self._engine.is_ready(server.link)):
                if self._given_up is None and trio.current_time() >= self._noted_at + LEFTOVERS_POLL:
                    self._note_leftovers(server)
                    self._given_up = self._diagnose(is_alive=True)
                    self._given_up = self._given_up or await self._misplaced(listener, server)
                if self._given_up is not None:
                    return False
                await trio.sleep(READY_POLL)
            return True
        if self._model.script is not None:
            self._given_up = await self._inspection.why_late(self._model, listener, server.link)
        self._timed_out = self._given_up is None or not self._given_up.refused
        log.warning("%s: not ready %g s after its start: killed", self._model.name, self._model.start_timeout)
        return False

    async def _may_ask(self, listener: PortOwnership, server: LaunchedServer) -> bool:
        """Say whether the worker itself listens on its port: keys and probes go to nobody else."""
        try:
            if (not listener.port or listener.is_guess) and (found := await listener.find()) is not None:
                self._move(listener, server, found)
            return bool(listener.port) and await listener.is_own()
        except PortTaken as error:
            self._given_up = diagnosis.of_taken_port(error.message)
        except OSError as error:
            log.warning("%s: who listens at its port cannot be seen: %s", self._model.name, in_words(error))
        return False

    async def _misplaced(self, listener: PortOwnership, server: LaunchedServer) -> Diagnosis | None:
        """Return why a loading server will be of no use (wrong port, GPUs, engine); None where nothing is seen.

        Such a server is ended before it has loaded in vain, or taken another model's GPUs.
        """
        try:
            if self._model.script is None:
                found = await listener.elsewhere()
                return diagnosis.of_wrong_port(found, listener.port) if found is not None else None
            if listener.port and (found := await listener.elsewhere()) is not None:
                self._move(listener, server, found)
            return await self._inspection.look(self._model, listener, None)
        except OSError:
            return None

    def _move(self, listener: PortOwnership, server: LaunchedServer, port: int) -> None:
        """Use this port from now on: a launch script's server was found to listen there."""
        listener.port = port
        server.move(port)
        self._context.state.save()

    def _note_leftovers(self, server: LaunchedServer) -> None:
        """Write into the state file what a kill of the server would leave outside its work folder."""
        self._noted_at = trio.current_time()
        if server.child.pid is None:
            return
        try:
            leftovers = [str(path) for path in self._engine.leftovers(server.child.pids())]
        except OSError as error:  # no file descriptor is free: the next call will see
            log.warning("%s: what a kill would leave cannot be seen: %s", self._model.name, in_words(error))
            return
        if leftovers != server.record.leftovers:
            server.record.leftovers = leftovers
            self._context.state.save()

    async def _is_usable(self, listener: PortOwnership, server: LaunchedServer) -> bool:
        """Say whether the server is of use to its model; find a launch script's keys.

        A launch script's server must be one, of its engine, on its model's GPUs; it is remembered for the next start.
        While muxd cannot see the server's processes it looks again: nothing is granted on GPUs that nobody knows.
        """
        self._given_up = await self._engine.unfitness(server.link, self._model)
        if self._given_up is not None or self._model.script is None:
            return self._given_up is None
        while True:
            try:
                return await self._judge(listener, server)
            except OSError as error:
                log.warning("%s: its processes cannot be seen: %s", self._model.name, in_words(error))
                await trio.sleep(LEFTOVERS_POLL)

    async def _judge(self, listener: PortOwnership, server: LaunchedServer) -> bool:
        """Find the keys of a launch script's ready server, and say whether muxd can use that; raise OSError."""
        processes = await listener.commands()
        cause = await self._engine.find_keys(server.link, processes)
        if cause is not None:
            self.notice = f"{cause} ({cause.code})"
        self._given_up = await self._inspection.look(self._model, listener, server.link)
        return self._given_up is None

    async def _tell_ready(self, server: LaunchedServer, *, unproved: bool = False) -> None:
        await self._gpu_memory.came()
        self._doing = "served"
        self._crash_evidence.reset()
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

    async def _probe_until_ordered(self, server: LaunchedServer) -> None:
        """Probe every probe_interval seconds until there is an order or a stop; report a server that is not alive.

        A server that ends is asked nothing: the answer may want an engine that is gone, and the server wait for it.
        The search for a second server of a launch script takes 10 ms, and is made at probes 1, 2, 4, 8 and so on.
        """
        misses = looks = 0
        is_told = False
        while not (self._orders or self._stopping.is_set()):
            self._ordered = trio.Event()
            with trio.move_on_after(self._model.probe_interval):
                await self._ordered.wait()
                return
            assert self._listener is not None
            looks += 1
            if self._model.script is not None and looks & (looks - 1) == 0:
                self._given_up = await self._inspection.several(self._listener)
            if self._given_up is not None:
                self.stop(kill=True)
                return
            if self._engine.is_silent or (
                self._listener.is_there() and await self._engine.is_alive(server.link, self._model)
            ):
                misses, is_told = 0, False
                if self._engine.tells_by_log:
                    self._diagnose(is_alive=True)
                continue
            misses += 1
            if self._listener.is_taken():  # what is sent there gets to a stranger: no further probe is waited for
                reason = f"another process listens on its port {self._listener.port}"
            elif misses >= self._model.probe_failures:
                reason = f"its liveness probe failed {misses} times in a row"
            else:
                continue
            if not is_told:
                is_told = True
                self._context.tell(WorkerHung(trio.current_time(), self._model.name, reason))

    async def _sleep(self, server: LaunchedServer, level: int) -> None:
        self._doing = "fell asleep"
        record = server.record
        self._write_ahead(server)
        is_sized_by_script = self._model.script is not None  # scripts' models take turns, whatever they need
        taken = None
        if not (record.released or is_sized_by_script):
            taken = await self._gpu_memory.peak()
        try:
            record.released = await self._engine.sleep(server.link, self._model, level, record.released)
            self._context.state.save(at_leisure=True)
            if over := await self._gpu_memory.until_released(level):
                raise EngineCallFailed(over, cause=await self._engine.kept_memory(server.link, over))
        except EngineCallFailed as error:
            reason, code = await self._explain(error, server)
            self._context.tell(SleepFailed(trio.current_time(), self._model.name, reason, code))
        else:
            record.peak = max(record.peak, taken or 0)
            self._note_rest(record, level)
            kept = self._gpu_memory.asleep
            share = kept // max(1, self._model.gpus_each) if kept is not None else None
            self._context.tell(WorkerAsleep(trio.current_time(), self._model.name, share, taken))

    async def _wake(self, server: LaunchedServer) -> None:
        self._doing = "woke"
        self._write_ahead(server)
        await server.link.connect()
        try:
            if missing := await self._gpu_memory.until_room_to_wake():
                raise EngineCallFailed(missing, cause=diagnosis.of_missing_memory(missing))
            await self._engine.wake(server.link, self._model, server.record.released)
            server.record.released = []
            await self._until_serving(server)
            is_proved = await self._proof.prove(server, self._model)
        except EngineCallFailed as error:
            reason, code = await self._explain(error, server)
            is_wrong = code == WokeWrong.code
            self._context.tell(WakeFailed(trio.current_time(), self._model.name, reason, code, is_wrong))
        else:
            await self._tell_ready(server, unproved=not is_proved)

    def _write_ahead(self, server: LaunchedServer) -> None:
        """Begin to write down that the server is not at rest; its engine's calls wait for that."""
        if server.record.is_at_rest:
            server.record.is_at_rest = False
            server.link.recorded = partial(self._context.state.until_written, self._context.state.save())

    async def _explain(self, error: EngineCallFailed, server: LaunchedServer) -> tuple[str, str]:
        """Return the reason and the error code of a failed engine call.

        Where the call's connection broke, wait up to DYING seconds for the server's death, so that its log can tell;
        a cancellation because the server has ended does not cut this short.
        """
        cause = error.cause
        if cause is None and error.broken:
            with trio.move_on_after(DYING, shield=True):
                await server.child.wait()
            cause = self._diagnose(broken_call=error.broken)
        if cause is None:
            return error.message, ""
        self._log_cause(cause.code, str(cause))
        return str(cause), cause.code

    async def _until_serving(self, server: LaunchedServer) -> None:
        """Wait until a woken server is ready; raise EngineCallFailed.

        It may listen anew, where its steps have ended and started it.
        """
        assert self._listener is not None
        pause = FIRST_POLL
        with trio.move_on_after(self._model.call_timeout):
            while not (await self._may_ask(self._listener, server) and await self._engine.is_ready(server.link)):
                if self._given_up is not None:
                    raise EngineCallFailed(str(self._given_up), cause=self._given_up)
                await trio.sleep(pause)
                pause = min(2 * pause, READY_POLL)
            return
        raise EngineCallFailed(f"not ready {self._model.call_timeout:g} s after its wake")

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
        cause = self._cause_of(exit)
        reason, code = (str(exit), "") if cause is None else (str(cause), cause.code)
        refused = exit.refused or (cause is not None and cause.refused)
        failure = Failure.TIMED_OUT if self._timed_out else Failure.REFUSED if refused else Failure.EXITED
        return self._end(failure, reason, code, Dropped(exit.dropped_bytes, exit.dropped_why))

    def _cause_of(self, exit: ExitRecord) -> Diagnosis | None:
        """Return why the server ended; None where a stop was asked for, or nothing tells."""
        if exit.error is not None:
            return diagnosis.of_failed_exec(exit.errno, exit.error)
        if self._given_up is not None:
            return self._given_up
        if self._timed_out:
            return self._diagnose(timed_out=True) or diagnosis.of_start_timeout(self._model.start_timeout)
        if exit.requested:
            return None
        kills = self._crash_evidence.oom_kills()
        cause = self._diagnose(signal=exit.signal, status=exit.status, oom_kills=kills)
        was_script = self._model.script is not None and exit.status == 0
        if cause is None and was_script and not self._engine.are_parts(exit.left):
            return diagnosis.of_ended_script(self._crash_evidence.said(), exit.left, self._doing)
        return cause

    def _diagnose(self, **known: Any) -> Diagnosis | None:
        """Ask the engine why its server ended, or will never be ready; `known` are further fields of the evidence."""
        evidence = Evidence(self._crash_evidence.said(), self._doing, **known)
        return self._engine.diagnose(evidence, self._model)

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
        self._log_cause(code, reason)
        event = WorkerExited(trio.current_time(), self._model.name, failure, reason, code)
        return WorkerEnd(event, log_tail, dropped)

    def _log_cause(self, code: str, reason: str) -> None:
        if code:
            log.warning("%s: %s: %s", self._model.name, code, reason)
