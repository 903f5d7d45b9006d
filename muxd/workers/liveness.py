"""The liveness probes of a server that is ready."""

from muxd.config import Model
from muxd.engines.engine import Engine

from .diagnostics import Diagnostics
from .launch import LaunchedServer
from .loading import Loading


class LivenessProbe:
    """The probes of a server until it is told to do something else."""

    def __init__(self, server: LaunchedServer, engine: Engine, seen: Loading, diagnostics: Diagnostics) -> None:
        """Begin to probe a server whose listener and script are as they were `seen` while it loaded."""
        self._server = server
        self._engine = engine
        self._listener = seen.listener
        self._inspection = seen.inspection
        self._diagnostics = diagnostics
        self._misses = self._looks = 0
        self._is_told = False

    async def failure(self, model: Model) -> str:
        """Probe once; return why the server is not alive, once until it is again, and "" where it is.

        The search for a second server of a launch script takes 10 ms, and is made at probes 1, 2, 4, 8 and so on; what
        it finds goes to the diagnostics.
        """
        self._looks += 1
        if model.script is not None and self._looks & (self._looks - 1) == 0:
            self._diagnostics.given_up = await self._inspection.several(self._listener)
        if self._diagnostics.given_up is not None:
            return ""
        if self._engine.is_silent or (
            self._listener.is_there() and await self._engine.is_alive(self._server.link, model)
        ):
            self._misses, self._is_told = 0, False
            if self._engine.tells_by_log:
                self._diagnostics.diagnose(model, is_alive=True)
            return ""
        self._misses += 1
        if self._listener.is_taken():  # what is sent there gets to a stranger: no further probe is waited for
            reason = f"another process listens on its port {self._listener.port}"
        elif self._misses >= model.probe_failures:
            reason = f"its liveness probe failed {self._misses} times in a row"
        else:
            return ""
        was_told, self._is_told = self._is_told, True
        return "" if was_told else reason
