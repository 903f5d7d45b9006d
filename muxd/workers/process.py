"""One life of a worker: from a start until no process of it is left.

It is one trio task.  Sleep and wake are orders to it, taken one after the other; a stop
is heard at any time.  What happens is told as events; the last one is handed back, to be
told when everything of this life is gone.
"""

import logging
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal

import trio

from muxd.children import Child, Dropped, ExitRecord
from muxd.config import Model
from muxd.config.command_lines import Command
from muxd.core.events import (
    Failure,
    SleepFailed,
    WakeFailed,
    WorkerAsleep,
    WorkerDied,
    WorkerExited,
    WorkerHung,
    WorkerReady,
    WorkerStuck,
)
from muxd.engines import Engine, EngineCallFailed, EngineClient, diagnosis
from muxd.engines.diagnosis import Diagnosis, ProcessEnd
from muxd.engines.script import changed
from muxd.errors import CannotSpawn, in_words
from muxd.logfiles import tail
from muxd.ports import PortTaken, Reservation
from muxd.shim.processes import program_of
from muxd.threads import in_thread

from .crash_evidence import CrashEvidence
from .gpu_memory import GpuMemoryTracker
from .launch import LaunchedServer, WorkerContext, launch, log_files, remove_traces
from .port_ownership import PortOwnership, port_told, servers_among

log = logging.getLogger(__name__)

#: How often a loading server is asked whether it is ready.
READY_POLL = 0.1

#: A server that wakes is ready at once or soon: the pauses between two questions double from here.
FIRST_POLL = 0.002

#: And how often its shared memory is noted meanwhile, which costs some milliseconds.
LEFTOVERS_POLL = 1.0

#: After SIGKILL: so long until a worker that is still there is called stuck.
KILL_TIMEOUT = 10.0

#: After an engine call whose connection broke: so long until a server that dies of it is gone.
DYING = 3.0

LOG_TAIL_LINES = 20

Order = Literal["sleep", "wake"]


@dataclass(frozen=True, slots=True)
class WorkerEnd:
    """How a life ended."""

    event: WorkerExited
    log_tail: list[str]
    dropped: Dropped | None = None  # of its output; None: it never had any


class _CannotStart(Exception):
    """Nothing was started; `failure` says whether another try may help."""

    def __init__(self, failure: Failure, reason: str, code: str = "") -> None:
        super().__init__(reason)
        self.failure = failure
        self.reason = reason
        self.code = code


class WorkerProcess:
    def __init__(self, model: Model, engine: Engine, gpu_memory: GpuMemoryTracker, context: WorkerContext) -> None:
        self._model = model
        self._engine = engine
        self._gpu_memory = gpu_memory
        self._context = context
        self._server: LaunchedServer | None = None
        self._orders: deque[Order] = deque()
        self._ordered = trio.Event()
        self._stopping = trio.Event()
        self._kill = False
        self._timed_out = False
        self._noted_at = 0.0
        self._before_launch = trio.CancelScope()
        self._crash_evidence = CrashEvidence(
            log_files(context.config, model)[stream] for stream in ("stderr", "stdout")
        )
        self._doing: str | None = None  # since it was first ready
        self._given_up: Diagnosis | None = None  # it was killed for this before it was ready
        self._listener: PortOwnership | None = None
        self.context_length: int | None = None  # as its server says
        self.notice = ""  # what somebody should mend, though it serves
        self._several: set[int] = set()  # processes of servers that its launch script was last seen to run

    @property
    def child(self) -> Child | None:
        return self._server.child if self._server is not None else None

    @property
    def link(self) -> EngineClient | None:
        """The line to its server, once that was started."""
        return self._server.link if self._server is not None else None

    def update(self, model: Model) -> None:
        """The configuration changed in what does not concern its processes."""
        self._model = model
        if self._server is not None:
            self._server.link.call_timeout = model.call_timeout
            self._server.link.probe_timeout = model.probe_timeout

    def order(self, order: Order) -> None:
        self._orders.append(order)
        self._ordered.set()

    def stop(self, *, kill: bool) -> None:
        self._kill = self._kill or kill
        self._stopping.set()
        self._before_launch.cancel()
        if self.child is not None:
            self.child.kill() if kill else self.child.stop()

    async def run(self) -> WorkerEnd:
        with ExitStack() as held:
            try:
                self._server = await self._start(held)
            except _CannotStart as error:
                return self._end(error.failure, f"cannot start: {error.reason}", error.code)
            return await self._live(self._server)

    async def _start(self, held: ExitStack) -> LaunchedServer:
        """Reserve what it needs, the port for as long as `held` is, then launch it; raises _CannotStart."""
        await self._check_script()
        try:
            port = self._model.port
            if port or self._model.script is None:  # else it is found once it listens
                port = held.enter_context(closing(Reservation(port))).port
        except PortTaken as error:
            raise _CannotStart(Failure.REFUSED, error.message, error.code) from None
        except OSError as error:
            raise _CannotStart(Failure.EXITED, f"no port can be reserved: {in_words(error)}") from None
        await self._await_memory()
        try:
            return launch(self._model, self._engine, self._context, port)
        except CannotSpawn as error:
            reason = error.message.removeprefix(f"cannot start {self._model.name}: ")
            raise self._cannot_run(error.__cause__, reason, error.code) from None
        except OSError as error:
            raise self._cannot_run(error, f"its work folder cannot be made: {in_words(error)}") from None

    async def _check_script(self) -> None:
        """Another text than the one read may say a port or GPUs that are somebody else's.  Raises _CannotStart."""
        script = self._model.script
        if script is not None and (path := await in_thread(partial(changed, script), abandon_on_cancel=True)):
            cause = diagnosis.of_changed_script(path)
            raise _CannotStart(Failure.REFUSED, str(cause), cause.code)

    def _cannot_run(self, error: BaseException | None, reason: str, code: str = "") -> _CannotStart:
        cause = diagnosis.of_failed_exec(error.errno if isinstance(error, OSError) else None, reason)
        return _CannotStart(Failure.EXITED, str(cause or reason), cause.code if cause is not None else code)

    async def _await_memory(self) -> None:
        """Until there is room on its GPUs; raises _CannotStart."""
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

    # While it lives

    async def _serve(self, server: LaunchedServer) -> None:
        listener = PortOwnership(server.record.port, server.child.shim_pid, server.child.record.cgroup)
        self._listener = listener
        if not await self._until_loaded(server, listener) or not await self._is_usable(listener, server):
            self.stop(kill=True)
            return
        self._note_leftovers(server)
        self.context_length = await self._engine.context_length(server.link)
        await self._tell_ready(server)
        while not self._stopping.is_set():
            await self._probe_until_ordered(server)
            while self._orders and not self._stopping.is_set():
                await (self._wake(server) if self._orders.popleft() == "wake" else self._sleep(server))

    async def _until_loaded(self, server: LaunchedServer, listener: PortOwnership) -> bool:
        with trio.move_on_after(self._model.start_timeout):
            while not (await self._may_ask(listener, server) and await self._engine.is_ready(server.link)):
                if self._given_up is None and trio.current_time() >= self._noted_at + LEFTOVERS_POLL:
                    self._note_leftovers(server)
                    self._given_up = diagnosis.of_living(self._crash_evidence.said(), self._model)
                    self._given_up = self._given_up or await self._misplaced(listener, server)
                if self._given_up is not None:
                    return False
                await trio.sleep(READY_POLL)
            return True
        self._timed_out = True
        if self._model.script is not None and not listener.port:
            self._given_up = diagnosis.of_no_server(self._model.start_timeout)
        log.warning("%s: not ready %g s after its start: killed", self._model.name, self._model.start_timeout)
        return False

    async def _may_ask(self, listener: PortOwnership, server: LaunchedServer) -> bool:
        """Who listens at its port is itself: keys and questions go to nobody else."""
        try:
            if not listener.port and (found := await listener.find()) is not None:
                self._move(listener, server, found)
            return bool(listener.port) and await listener.is_own()
        except PortTaken as error:
            self._given_up = diagnosis.of_taken_port(error.message)
        except OSError as error:
            log.warning("%s: who listens at its port cannot be seen: %s", self._model.name, in_words(error))
        return False

    async def _misplaced(self, listener: PortOwnership, server: LaunchedServer) -> Diagnosis | None:
        """It is not to load what muxd could not use, or where another model is."""
        try:
            if self._model.script is None:
                found = await listener.elsewhere()
                return diagnosis.of_wrong_port(found, listener.port) if found is not None else None
            if listener.port and (found := await listener.elsewhere()) is not None:
                self._move(listener, server, found)
            return await self._look(listener, server)
        except OSError:
            return None

    def _two(self, servers: Sequence[Command], *, is_up: bool) -> Diagnosis | None:
        """While it loads, those of two looks in a row: one may just give way to the other."""
        before, self._several = self._several, {server.pid for server in servers}
        if len(servers) > 1 and (is_up or before == self._several):
            return diagnosis.of_two_servers([port_told(server.pid, server.words) or 0 for server in servers])
        return None

    async def _several_servers(self, listener: PortOwnership) -> Diagnosis | None:
        """A launch script may start another one later."""
        if self._model.script is None:
            return None
        with suppress(OSError):
            return self._two(servers_among(await listener.commands()), is_up=False)
        return None

    def _move(self, listener: PortOwnership, server: LaunchedServer, port: int) -> None:
        """A launch script has put its server elsewhere than was said, or nobody has said where."""
        listener.port = port
        server.move(port)
        self._context.state.save()

    async def _look(self, listener: PortOwnership, server: LaunchedServer, *, is_up: bool = False) -> Diagnosis | None:
        """See what a launch script has started; why that cannot be used."""
        processes = await listener.commands()
        servers = servers_among(processes)
        if (two := self._two(servers, is_up=is_up)) is not None:
            return two
        if not is_up and len(servers) != 1:
            return None
        seen = await self._engine.see(server.link if is_up else None, listener.port, processes)
        if seen is None:
            return diagnosis.of_stranger(next((program_of(p.pid) for p in processes if p.listens), ""))
        strays = not set(seen.gpus) <= set(self._model.gpus)
        granted = self._model.gpus
        if (is_up or strays) and self._model.script is not None:
            await self._context.scripts.learn(self._model.script.digest, seen)
        return diagnosis.of_wrong_gpus(seen.gpus, granted) if strays else None

    def _note_leftovers(self, server: LaunchedServer) -> None:
        """Write down what a kill would leave outside its work folder."""
        self._noted_at = trio.current_time()
        if server.child.pid is None:
            return
        try:
            found = [str(path) for path in self._engine.leftovers(server.child.pid)]
        except OSError as error:  # no descriptor is left: the next time
            log.warning("%s: what a kill would leave cannot be seen: %s", self._model.name, in_words(error))
            return
        if found != server.record.leftovers:
            server.record.leftovers = found
            self._context.state.save()

    async def _is_usable(self, listener: PortOwnership, server: LaunchedServer) -> bool:
        """What a launch script started is one SGLang server, on GPUs that were set aside for it; it is served with the
        keys that it asks for, and known from now on."""
        if self._model.script is None:
            return True
        try:
            processes = await listener.commands()
        except OSError:
            processes = []
        cause = await self._engine.unlock(server.link, processes)
        if cause is not None:
            self._log_cause(cause.code, str(cause))
            self.notice = f"{cause} ({cause.code})"
        self._given_up = await self._look(listener, server, is_up=True)
        return self._given_up is None

    async def _tell_ready(self, server: LaunchedServer) -> None:
        await self._gpu_memory.came()
        self._doing = "served"
        self._crash_evidence.reset()
        self._context.tell(WorkerReady(trio.current_time(), self._model.name, server.url))

    async def _probe_until_ordered(self, server: LaunchedServer) -> None:
        """Ask every few seconds whether it is alive, until there is an order; tell when it is not.

        Whether a launch script has started another server is looked for ever more seldom: it takes 10 ms.
        """
        misses = looks = 0
        while not self._orders:
            self._ordered = trio.Event()
            with trio.move_on_after(self._model.probe_interval):
                await self._ordered.wait()
                return
            assert self._listener is not None
            looks += 1
            if looks & (looks - 1) == 0 and (two := await self._several_servers(self._listener)) is not None:
                self._given_up = two
                self.stop(kill=True)
                return
            if self._listener.is_there() and await self._engine.is_alive(server.link, self._model):
                misses = 0
                continue
            misses += 1
            if misses == self._model.probe_failures:
                reason = f"its liveness probe failed {misses} times in a row"
                self._context.tell(WorkerHung(trio.current_time(), self._model.name, reason))

    async def _sleep(self, server: LaunchedServer) -> None:
        self._doing = "fell asleep"
        try:
            await self._engine.sleep(server.link, self._model)
            if over := await self._gpu_memory.until_released():
                raise EngineCallFailed(over, cause=await self._engine.kept_memory(server.link, over))
            server.record.asleep = True  # its memory is seen to be free
            self._context.state.save()
        except EngineCallFailed as error:
            reason, code = await self._explain(error, server)
            self._context.tell(SleepFailed(trio.current_time(), self._model.name, reason, code))
        else:
            self._context.tell(WorkerAsleep(trio.current_time(), self._model.name))

    async def _wake(self, server: LaunchedServer) -> None:
        self._doing = "woke"
        try:
            if missing := await self._gpu_memory.until_room_to_wake():
                raise EngineCallFailed(missing, cause=diagnosis.of_missing_memory(missing))
            server.record.asleep = False  # written with the first call
            await self._engine.wake(server.link, self._model)
            await self._until_serving(server)
        except EngineCallFailed as error:
            reason, code = await self._explain(error, server)
            self._context.tell(WakeFailed(trio.current_time(), self._model.name, reason, code))
        else:
            await self._tell_ready(server)
            self._context.state.save()

    async def _explain(self, error: EngineCallFailed, server: LaunchedServer) -> tuple[str, str]:
        """Reason and code; a server that died of the call is heard out first, even when it ends meanwhile."""
        cause = error.cause
        if cause is None and error.broken:
            with trio.move_on_after(DYING, shield=True):
                await server.child.wait()
            said = self._crash_evidence.said()
            cause = diagnosis.of_log(said, self._model, self._doing) or diagnosis.of_broken_call(error.broken)
        if cause is None:
            return error.message, ""
        self._log_cause(cause.code, str(cause))
        return str(cause), cause.code

    async def _until_serving(self, server: LaunchedServer) -> None:
        pause = FIRST_POLL
        with trio.move_on_after(self._model.call_timeout):
            while not await self._engine.is_ready(server.link):
                await trio.sleep(pause)
                pause = min(2 * pause, READY_POLL)
            return
        raise EngineCallFailed(f"not ready {self._model.call_timeout:g} s after its wake")

    async def _watch_for_wedge(self, server: LaunchedServer) -> None:
        """Once a stop is asked for: tell when it takes longer than any stop may.

        The shim kills after the stop_timeout that it was started with; a shorter one of today counts too.
        """
        await self._stopping.wait()
        if not self._kill:
            await trio.sleep(self._model.stop_timeout)
            server.child.kill()
        await trio.sleep(KILL_TIMEOUT)
        reason = f"its processes are still there {KILL_TIMEOUT:.0f} s after SIGKILL"
        self._context.tell(WorkerStuck(trio.current_time(), self._model.name, reason))

    # Its end

    async def _after(self, server: LaunchedServer, exit: ExitRecord) -> WorkerEnd:
        """Its processes are gone: wait for their memory, and remove what they left."""
        if not server.record.asleep:
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
        """Why it ended; None where it was asked to, or nobody knows."""
        if exit.error is not None:
            return diagnosis.of_failed_exec(exit.errno, exit.error)
        if self._given_up is not None:
            return self._given_up
        said = self._crash_evidence.said()
        if self._timed_out:
            return diagnosis.of_log(said, self._model) or diagnosis.of_start_timeout(self._model.start_timeout)
        if exit.requested:
            return None
        ending = ProcessEnd(said, exit.signal, exit.status, self._crash_evidence.oom_kills(), self._doing)
        cause = diagnosis.of_end(ending, self._model)
        if cause is None and self._model.script is not None and exit.status == 0 and not diagnosis.is_crash(exit.left):
            return diagnosis.of_ended_script(said, exit.left, self._doing)
        return cause

    async def _until_memory_is_back(self, how: str) -> None:
        """Nobody may come to the GPU before; but that it is dead is told at once."""
        if await self._gpu_memory.until_gone(patience=0.0):
            self._context.tell(WorkerDied(trio.current_time(), self._model.name, how))
        while over := await self._gpu_memory.until_gone():
            reason = f"its processes are gone, but {over}"
            self._context.tell(WorkerStuck(trio.current_time(), self._model.name, reason))

    def _end(self, failure: Failure, reason: str, code: str, dropped: Dropped | None = None) -> WorkerEnd:
        log_tail: list[str] = []
        with suppress(OSError):
            log_tail = tail(log_files(self._context.config, self._model)["stderr"], LOG_TAIL_LINES)
        self._log_cause(code, reason)
        event = WorkerExited(trio.current_time(), self._model.name, failure, reason, code)
        return WorkerEnd(event, log_tail, dropped)

    def _log_cause(self, code: str, reason: str) -> None:
        if code:
            log.warning("%s: %s: %s", self._model.name, code, reason)
