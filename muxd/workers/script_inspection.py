"""Looks at what a launch script has started: how many servers, of which engine, and on whose GPUs."""

from collections.abc import Sequence
from contextlib import suppress

from muxd.config import Model
from muxd.config.command_lines import Command
from muxd.engines import diagnosis
from muxd.engines.diagnosis import Diagnosis
from muxd.engines.engine import Engine
from muxd.engines.engine_client import EngineClient
from muxd.launchers.observed_scripts import ObservedScripts
from muxd.ports import PortTaken
from muxd.shim.processes import program_of

from .port_ownership import PortOwnership


class ScriptInspection:
    """The inspection of one life of a worker that a launch script has started."""

    def __init__(self, engine: Engine, scripts: ObservedScripts) -> None:
        self._engine = engine
        self._scripts = scripts
        self._several: set[int] = set()  # pids of the servers that the script was last seen to run

    async def look(self, model: Model, listener: PortOwnership, link: EngineClient | None) -> Diagnosis | None:
        """Learn what the script has started; return why muxd cannot use that, None where it can.

        `link`: to a server that is ready, and can be asked; without one its processes alone tell.  Raise OSError.
        """
        assert model.script is not None
        processes = await listener.commands()
        servers = self._engine.servers_among(processes)
        if (several := self._diagnose_several(servers, is_up=link is not None)) is not None:
            return several
        if link is None and len(servers) != 1:
            return None
        seen = await self._engine.observe(link, listener.port, processes)
        if seen is None:
            return self._stranger(processes)
        strays = not set(seen.gpus) <= set(model.gpus)
        granted = model.gpus
        if link is not None or strays:
            await self._scripts.learn(model.script.digest, seen)
        return diagnosis.of_wrong_gpus(seen.gpus, granted) if strays else None

    async def why_late(self, model: Model, listener: PortOwnership, link: EngineClient) -> Diagnosis | None:
        """Return why nothing was ready when start_timeout was over; None where a server of the engine still loads."""
        none = diagnosis.of_no_server(model.start_timeout, listener.ambiguous)
        if not listener.port:
            return none
        with suppress(OSError, PortTaken):
            processes = await listener.commands()
            if self._engine.servers_among(processes):
                return None
            if not await listener.is_own():
                return none
            if await self._engine.observe(link, listener.port, processes) is None:
                return self._stranger(processes)
        return None

    async def several(self, listener: PortOwnership) -> Diagnosis | None:
        """Look whether the script has started a second server since the first was ready."""
        with suppress(OSError):
            return self._diagnose_several(self._engine.servers_among(await listener.commands()), is_up=False)
        return None

    def _stranger(self, processes: Sequence[Command]) -> Diagnosis:
        return self._engine.diagnose_stranger(next((program_of(p.pid) for p in processes if p.listens), ""))

    def _diagnose_several(self, servers: Sequence[Command], *, is_up: bool) -> Diagnosis | None:
        """Return that the script runs several servers; None where it runs one.

        Unless `is_up`, the same servers must be seen twice in a row: one may just give way to another.
        """
        before, self._several = self._several, {server.pid for server in servers}
        if len(servers) > 1 and (is_up or before == self._several):
            return diagnosis.of_two_servers([self._engine.port_told(server) or 0 for server in servers])
        return None
