"""A group's router as the supervisor handles it: a worker that is told which other workers of its group serve."""

from collections.abc import Sequence
from contextlib import suppress

import trio

from muxd.config import Model
from muxd.core.events import RouterSynced
from muxd.engines.engine_client import EngineCallFailed
from muxd.engines.routers import RoutedServer, Router, router_for

from .inheritance import PATIENCE
from .launch import WorkerContext
from .runner import Runner

#: Seconds between two looks at whom a router passes requests to: at first, and at most after doubling.
SYNC_POLL, SYNC_INTERVAL = 0.005, 2.0


class RouterRunner(Runner):
    """Carries out what the core commands for a router, and keeps it told of its group's workers."""

    _engine: Router

    def __init__(self, model: Model, context: WorkerContext) -> None:
        super().__init__(model, context)
        self._syncing = trio.CancelScope()

    def _make_engine(self) -> Router:
        return router_for(self.model)

    async def routed_of(self, servers: Sequence[RoutedServer]) -> tuple[str, ...]:
        """Have the router pass requests to these workers alone; return those that it passes them to already."""
        link = self._life.link if self._life is not None else None
        with trio.move_on_after(PATIENCE), suppress(EngineCallFailed):
            return await self._engine.sync(link, servers) if link is not None else ()
        return ()

    async def keep_synced(self, group: str, servers: Sequence[RoutedServer]) -> None:
        """Have this life of the router pass requests to these workers, and report whom it passes them to.

        What a router knows is compared again and again with what it should: its calls need no order and no memory.
        Return when the router ends, or when this is called again.
        """
        self._syncing.cancel()
        life, reported, pause = self._life, None, SYNC_POLL
        with trio.CancelScope() as self._syncing:
            while life is not None and life is self._life and life.link is not None:
                try:
                    known: tuple[str, ...] | None = await self._engine.sync(life.link, servers)
                except EngineCallFailed:  # its probes find out whether it lives
                    known = None
                if known is not None and known != reported and life is self._life:
                    reported = known
                    self._context.tell(RouterSynced(trio.current_time(), group, known))
                await trio.sleep(pause)
                pause = min(2 * pause, SYNC_INTERVAL)
