"""All leases of a proxy: one for each model, made when the model is first asked for."""

from collections.abc import Callable
from math import inf

import trio

from muxd.client import ControlClient

from .answers import Refusal
from .grant import ModelLimits, QueuedRequest
from .lease import ModelLease
from .lease_session import LeaseSession
from .sockets.pool import Pool
from .sockets.reactor import Reactor
from .telemetry.activity import Activity
from .telemetry.metrics import ProxyMetrics


class Leases:
    """All leases of a proxy; their tasks live in `run`."""

    def __init__(
        self,
        control: ControlClient,
        reactor: Reactor,
        terms: Callable[[str], ModelLimits],
        meters: ProxyMetrics,
        most_idle: int,
        activity: Activity,
        lost_at: Callable[[], float],
    ) -> None:
        """Take the parts that all leases share.

        `most_idle`: idle connections that are kept to each worker.  `lost_at`: when muxd was last lost; monotonic.
        """
        self.lost_at = lost_at
        self.batch_max_wait = inf  # seconds that batch requests wait at most while others go before them
        self.asked = 0  # leases for which requests wait: every look at who is idle may let one come
        self._most_idle = most_idle
        self._session = LeaseSession(control, activity, reactor)
        activity.under_way = self._under_way
        self._meters = meters
        self._terms = terms
        self._leases: dict[str, ModelLease] = {}
        self._nursery: trio.Nursery | None = None
        self.reactor = reactor

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold leases until cancelled."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._session.run, name="session with muxd")
            task_status.started()
            await trio.sleep_forever()

    def of(self, model: str) -> ModelLease:
        """Return the lease of the model with muxd's name `model`, made at the first call."""
        lease = self._leases.get(model)
        if lease is None:
            lease = self._leases[model] = ModelLease(model, self, self._terms(model), self._meters.of(model))
        return lease

    def all(self) -> list[ModelLease]:
        """Return the leases of all models that were asked for so far, held or not."""
        return list(self._leases.values())

    def _under_way(self) -> list[QueuedRequest]:
        """Return every request that waits for a model or is with its worker."""
        return [request for lease in self._leases.values() for request in lease.under_way()]

    def renew(self) -> None:
        """Apply the limits of a new configuration to every lease."""
        for lease in self._leases.values():
            lease.renew(self._terms(lease.name))

    def granted(self) -> list[str]:
        """Return muxd's names of the models whose requests are admitted now."""
        return [lease.name for lease in self._leases.values() if lease.grant is not None]

    def refuse_waiting(self, refusal: Refusal) -> None:
        """Refuse the waiting requests of every model."""
        for lease in self._leases.values():
            lease.refuse_waiting(refusal)

    async def finish(self) -> None:
        """Tell muxd what was done since it was last told, before the proxy ends."""
        await self._session.finish()

    # Called by the leases

    def start(self, lease: ModelLease) -> None:
        """Start the task that holds the lease."""
        assert self._nursery is not None
        self._nursery.start_soon(lease.hold, self._session, name=f"lease {lease.name}")

    def start_unload(self, lease: ModelLease) -> None:
        """Start a task that tells muxd of an unload."""
        assert self._nursery is not None
        self._nursery.start_soon(lease.unload_unheld, self._session, name=f"unload {lease.name}")

    def pool(self, url: str) -> Pool:
        """Return a new pool of connections to the worker at `url`."""
        return Pool(self.reactor, url, self._most_idle)
