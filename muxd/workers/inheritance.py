"""Whether a worker that an earlier muxd has left is as the state file says, and its end where it is not."""

import logging
from collections.abc import Mapping
from contextlib import suppress

import trio

from muxd.children import Child
from muxd.config import Model
from muxd.engines.engine import Engine
from muxd.errors import ModelStuck
from muxd.ports import PortTaken
from muxd.saved_state import StateFile

from .launch import LaunchedServer, WorkerContext, gate_of, remove_traces
from .port_ownership import PortOwnership

#: The children of workers that an earlier muxd has left, by the workers' names.
LeftWorkers = Mapping[str, Child]

log = logging.getLogger(__name__)

#: Seconds in which a worker must show that it lives; all that were left are asked at once.
PATIENCE = 2.0

#: Seconds that the processes of one that does not may take to end.
END_TIMEOUT = 30.0


async def is_as_recorded(model: Model, engine: Engine, context: WorkerContext, server: LaunchedServer) -> bool:
    """Say whether the worker itself listens at its port, answers, and serves unless it sleeps.

    One that waits at its engine's gate listens there alone.  One that sleeps by steps of its own need neither listen
    nor answer: its shim has it.
    """
    record = server.record
    if engine.is_silent:
        return True
    port = record.gate_port if record.waits else record.port
    listener = context.own_port(port, server.child.shim_pid, server.child.record.cgroup, engine)
    with trio.move_on_after(PATIENCE), suppress(OSError, PortTaken):
        if not await _is_own(listener, model):
            return False
        if record.waits:
            return engine.gate is not None and await engine.gate.is_reached(gate_of(server))
        if model.script is not None:
            await engine.find_keys(server.link, await listener.commands())
        is_ready = record.level is None  # what is ready lives: each question may cost a second
        if not await (engine.is_ready(server.link) if is_ready else engine.is_alive(server.link, model)):
            return False
        await engine.is_generation(server.link)  # an engine may ask otherwise for its proof by the answer
        return True
    return False


async def _is_own(listener: PortOwnership, model: Model) -> bool:
    """Say whether the worker listens at its port, which may be forwarded to a script's container.  Raise OSError."""
    if await listener.is_own():
        return True
    return model.script is not None and await listener.elsewhere() is None and await listener.is_own()


async def end_left(server: LaunchedServer, state: StateFile, name: str) -> None:
    """End all processes of a worker that an earlier muxd has left; raises ModelStuck."""
    log.warning("%s was left running by an earlier muxd, and is not as that one left it: ended", name)
    server.child.kill()
    with trio.move_on_after(END_TIMEOUT) as scope:
        await server.child.wait()
    if scope.cancelled_caught:
        raise ModelStuck(f"processes of {name} from an earlier run survive SIGKILL", names=[name])
    del state.state.workers[name]
    remove_traces(server.record)
    state.save()
