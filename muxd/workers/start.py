"""The start of a worker's life: its port, the GPU memory that it waits for, and its launch."""

from contextlib import ExitStack, closing
from functools import partial

import trio

from muxd.config import Model
from muxd.core.events import Failure
from muxd.engines import diagnosis
from muxd.engines.diagnosis import Diagnosis
from muxd.engines.engine import Engine
from muxd.errors import CannotSpawn, in_words
from muxd.launchers.script import changed
from muxd.log_names import file_name
from muxd.ports import PortTaken, Reservation
from muxd.threads import in_thread

from .gate_wait import GateWait
from .gpu_memory import GpuMemoryTracker
from .launch import LaunchedServer, WorkerContext, launch


class StartFailed(Exception):
    """Nothing was started; `failure` says whether another start may help."""

    def __init__(self, failure: Failure, reason: str, code: str = "") -> None:
        super().__init__(reason)
        self.failure = failure
        self.reason = reason
        self.code = code


class Start:
    """The start of one life.  `run` is called once."""

    def __init__(
        self, engine: Engine, gpu_memory: GpuMemoryTracker, context: WorkerContext, wait: GateWait | None
    ) -> None:
        """Prepare it; `wait`: at the engine's gate, before which nobody's memory is waited for."""
        self._engine = engine
        self._gpu_memory = gpu_memory
        self._context = context
        self._wait = wait
        self._before_launch = trio.CancelScope()

    def stop(self) -> None:
        """Have it wait for no memory, and launch nothing."""
        self._before_launch.cancel()

    async def run(self, model: Model, held: ExitStack) -> LaunchedServer:
        """Reserve a port, for as long as `held` is open, wait for GPU memory, and launch; raise StartFailed."""
        await _check_script(model)
        try:
            port = model.port
            if port or model.script is None:  # a script's port that nobody says is found once its server listens
                port = held.enter_context(closing(Reservation(port))).port
        except PortTaken as error:
            raise StartFailed(Failure.REFUSED, error.message, error.code) from None
        except OSError as error:
            raise StartFailed(Failure.EXITED, f"no port can be reserved: {in_words(error)}") from None
        gate_port, least = 0, (0, 0)
        with self._before_launch:
            if self._wait is None:
                await self._await_memory()
            else:
                self._gpu_memory.wait_at_gate()
                gate_port = held.enter_context(closing(Reservation(0))).port
            least = await self._gpu_memory.least()
        if self._before_launch.cancel_called:  # nothing would kill a server that is launched now
            raise StartFailed(Failure.EXITED, "it was stopped first")
        try:
            server = launch(model, self._engine, self._context, port, *least, gate_port)
            if self._wait is not None:
                self._wait.began(server.child)
            return server
        except CannotSpawn as error:
            reason = error.message.removeprefix(f"cannot start {file_name(model.name)}: ")
            raise _cannot_run(error.__cause__, reason, error.code) from None
        except OSError as error:
            raise _cannot_run(error, f"its work folder cannot be made: {in_words(error)}") from None

    async def _await_memory(self) -> None:
        """Wait until there is room on the worker's GPUs; raise StartFailed."""
        if (missing := await self._gpu_memory.until_room_to_load()) is not None:
            raise _caused(diagnosis.of_missing_memory(missing))


async def _check_script(model: Model) -> None:
    """Raise StartFailed where a launch script has changed since muxd read it.

    The new text may name a port or GPUs that belong to another model.
    """
    script = model.script
    if script is not None and (path := await in_thread(partial(changed, script), abandon_on_cancel=True)):
        raise _caused(diagnosis.of_changed_script(path), Failure.REFUSED)


def _cannot_run(error: BaseException | None, reason: str, code: str = "") -> StartFailed:
    cause = diagnosis.of_failed_exec(error.errno if isinstance(error, OSError) else None, reason)
    return _caused(cause) if cause is not None else StartFailed(Failure.EXITED, reason, code)


def _caused(cause: Diagnosis, failure: Failure = Failure.EXITED) -> StartFailed:
    return StartFailed(failure, str(cause), cause.code)
