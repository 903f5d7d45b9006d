"""A server on its way to being of use: from its launch, or its wake, until it answers, and what is seen meanwhile."""

import logging

import trio

from muxd.config import Model
from muxd.engines import diagnosis
from muxd.engines.diagnosis import Diagnosis
from muxd.engines.engine import Engine
from muxd.engines.engine_client import EngineCallFailed
from muxd.errors import in_words
from muxd.ports import PortTaken

from .diagnostics import Diagnostics
from .launch import LaunchedServer, WorkerContext
from .script_inspection import ScriptInspection

log = logging.getLogger(__name__)

#: Seconds between two probes of a loading server for readiness.
READY_POLL = 0.1

#: Seconds before the second readiness probe after a wake; later pauses double, for a woken server is ready at once
#: or soon.
FIRST_POLL = 0.002

#: Seconds between two notes of a loading server's shared memory; each costs some milliseconds.
LEFTOVERS_POLL = 1.0


class Loading:
    """What is seen of one launched server until it is of use; why it never will be goes to the diagnostics."""

    def __init__(
        self, name: str, server: LaunchedServer, engine: Engine, context: WorkerContext, diagnostics: Diagnostics
    ) -> None:
        """Begin to look at a server of the worker of this name."""
        child = server.child
        self.listener = context.own_port(server.record.port, child.shim_pid, child.record.cgroup, engine)
        self.inspection = ScriptInspection(engine, context.scripts)
        self.notice = ""  # what an operator should mend although the worker serves
        self._name = name
        self._server = server
        self._engine = engine
        self._state = context.state
        self._diagnostics = diagnostics
        self._noted_at = 0.0

    async def until_loaded(self, model: Model) -> bool:
        """Wait until the server is ready, for start_timeout at most; return whether it is."""
        with trio.move_on_after(model.start_timeout):
            while not await self._is_ready():
                if self._diagnostics.given_up is None and trio.current_time() >= self._noted_at + LEFTOVERS_POLL:
                    self.note_leftovers()
                    hopeless = self._diagnostics.diagnose(model, is_alive=True)
                    self._diagnostics.given_up = hopeless or await self._misplaced(model)
                if self._diagnostics.given_up is not None:
                    return False
                await trio.sleep(READY_POLL)
            return True
        if model.script is not None:
            self._diagnostics.given_up = await self.inspection.why_late(model, self.listener, self._server.link)
        given_up = self._diagnostics.given_up
        self._diagnostics.timed_out = given_up is None or not given_up.refused
        log.warning("%s: not ready %g s after its start: killed", model.name, model.start_timeout)
        return False

    async def until_serving(self, model: Model) -> None:
        """Wait until a woken server is ready; raise EngineCallFailed.

        It may listen anew, where its steps have ended and started it.
        """
        pause = FIRST_POLL
        with trio.move_on_after(model.call_timeout):
            while not await self._is_ready():
                if (cause := self._diagnostics.given_up) is not None:
                    raise EngineCallFailed(str(cause), cause=cause)
                await trio.sleep(pause)
                pause = min(2 * pause, READY_POLL)
            return
        raise EngineCallFailed(f"not ready {model.call_timeout:g} s after its wake")

    async def _is_ready(self) -> bool:
        return await self.may_ask() and await self._engine.is_ready(self._server.link)

    async def may_ask(self) -> bool:
        """Say whether the worker itself listens on its port: keys and probes go to nobody else."""
        listener = self.listener
        try:
            if (not listener.port or listener.is_guess) and (found := await listener.find()) is not None:
                self._move(found)
            return bool(listener.port) and await listener.is_own()
        except PortTaken as error:
            self._diagnostics.given_up = diagnosis.of_taken_port(error.message)
        except OSError as error:
            log.warning("%s: who listens at its port cannot be seen: %s", self._name, in_words(error))
        return False

    async def _misplaced(self, model: Model) -> Diagnosis | None:
        """Return why a loading server will be of no use (wrong port, GPUs, engine); None where nothing is seen.

        Such a server is ended before it has loaded in vain, or taken another model's GPUs.
        """
        listener = self.listener
        try:
            if model.script is None:
                found = await listener.elsewhere()
                return diagnosis.of_wrong_port(found, listener.port) if found is not None else None
            if listener.port and (found := await listener.elsewhere()) is not None:
                self._move(found)
            return await self.inspection.look(model, listener, None)
        except OSError:
            return None

    def _move(self, port: int) -> None:
        """Use this port from now on: a launch script's server was found to listen there."""
        self.listener.port = port
        self._server.move(port)
        self._state.save()

    def note_leftovers(self) -> None:
        """Write into the state file what a kill of the server would leave outside its work folder."""
        self._noted_at = trio.current_time()
        if self._server.child.pid is None:
            return
        try:
            leftovers = [str(path) for path in self._engine.leftovers(self._server.child.pids())]
        except OSError as error:  # no file descriptor is free: the next call will see
            log.warning("%s: what a kill would leave cannot be seen: %s", self._name, in_words(error))
            return
        if leftovers != self._server.record.leftovers:
            self._server.record.leftovers = leftovers
            self._state.save()

    async def is_usable(self, model: Model) -> bool:
        """Say whether the server, which is ready, is of use to its model; find a launch script's keys.

        A launch script's server must be one, of its engine, on its model's GPUs; it is remembered for the next start.
        While muxd cannot see the server's processes it looks again: nothing is granted on GPUs that nobody knows.
        """
        self._diagnostics.given_up = await self._engine.unfitness(self._server.link, model)
        while self._diagnostics.given_up is None and model.script is not None:
            try:
                processes = await self.listener.commands()
                cause = await self._engine.find_keys(self._server.link, processes)
                if cause is not None:
                    self.notice = f"{cause} ({cause.code})"
                self._diagnostics.given_up = await self.inspection.look(model, self.listener, self._server.link)
                break
            except OSError as error:
                log.warning("%s: its processes cannot be seen: %s", self._name, in_words(error))
                await trio.sleep(LEFTOVERS_POLL)
        return self._diagnostics.given_up is None
