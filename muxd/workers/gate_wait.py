"""The wait of one server, started before its worker is wanted, at its engine's gate."""

from contextlib import suppress

import trio

from muxd.children import Child
from muxd.engines.engine import Engine
from muxd.engines.engine_client import EngineCallFailed
from muxd.engines.gate import LaunchGate
from muxd.host.priority import bring_to_foreground, send_to_background
from muxd.ports import PortTaken

from .launch import LaunchedServer, WorkerContext, gate_of
from .port_ownership import PortOwnership

#: Seconds between two looks whether a server has come to its gate.
GATE_POLL = 0.1


class GateWait:
    """A server's way to its gate, its wait there, and its way on.

    Unless it `is_urgent`, the server is in the background until then: nobody waits for it.
    """

    def __init__(self, gate: LaunchGate, *, is_urgent: bool = False) -> None:
        self._gate = gate
        self._is_urgent = is_urgent
        self._ended = trio.Event()

    @property
    def is_over(self) -> bool:
        """Say whether the worker is wanted."""
        return self._ended.is_set()

    def end(self) -> None:
        self._ended.set()

    def began(self, child: Child) -> None:
        """Note that the server's shim has been started: the server's processes inherit what it is told now.

        On a busy machine the shim may have started one of them already.
        """
        if not self._is_urgent:
            send_to_background(child.shim_pid)
            with suppress(OSError):
                for pid in child.pids():
                    send_to_background(pid)

    async def is_reached(self, port: PortOwnership, server: LaunchedServer) -> bool:
        """Say whether the server waits at its gate; nobody else is asked."""
        try:
            return await port.is_own() and await self._gate.is_reached(gate_of(server))
        except (OSError, PortTaken):
            return False

    async def until_reached(self, port: PortOwnership, server: LaunchedServer) -> None:
        while not await self.is_reached(port, server):
            await trio.sleep(GATE_POLL)

    async def lasts(self, seconds: float) -> bool:
        """Wait so long, or until the worker is wanted; return whether the wait goes on."""
        with trio.move_on_after(seconds):
            await self._ended.wait()
        return not self.is_over

    async def open(self, port: PortOwnership, server: LaunchedServer, patience: float) -> None:
        """Bring the server to the foreground, and let it go on; raise EngineCallFailed, after `patience` at last."""
        child = server.child
        bring_to_foreground([child.shim_pid, *child.pids()])
        with trio.move_on_after(patience):
            if not await self.is_reached(port, server):
                raise EngineCallFailed("its gate does not answer")
            await self._gate.open(gate_of(server))
            return
        raise EngineCallFailed(f"its gate did not answer in {patience:g} s")


def owner_of_gate(server: LaunchedServer, engine: Engine, context: WorkerContext) -> PortOwnership:
    """Return who listens at the gate of a server."""
    return context.own_port(server.record.gate_port, server.child.shim_pid, server.child.record.cgroup, engine)
