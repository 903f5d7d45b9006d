"""The end of muxd: clients finish what they have until a deadline, workers end, and nothing is begun any more."""

from collections.abc import Iterator
from math import inf

from .commands import Command, FinishShutdown
from .host_state import HostState
from .orders import Orders
from .scaling import Scaler
from .states import WorkerState
from .switching import Switching

WHY = "muxd is shutting down"


class Shutdown:
    """Brings muxd to its end, once that is asked for."""

    def __init__(self, host: HostState, switching: Switching, orders: Orders, scaler: Scaler) -> None:
        self._host = host
        self._switching = switching
        self._orders = orders
        self._scaler = scaler
        self.is_under_way = False
        self._deadline = inf
        self._is_hurried = False  # it was asked for twice
        self._is_finished = False

    def ask(self, deadline: float) -> Iterator[Command]:
        """Begin to end everything, by the deadline; asked again, hurry."""
        self._is_hurried, self.is_under_way = self.is_under_way, True
        self._deadline = min(deadline, self._deadline)
        self._switching.stop_deciding()
        self._scaler.stop_deciding()
        for group in self._host.groups.values():
            yield from self._orders.fail(group, "shutting_down", WHY)
        for group in self._host.groups.values():
            if group.state is WorkerState.READY:
                yield from self._host.drain(group, "shutdown", WHY, self._deadline)
            elif group.state is WorkerState.DRAINING:
                group.drain_deadline = min(group.drain_deadline, self._deadline)
                group.drained_for = ("shutdown", WHY)
                yield from self._host.leases.revoke_all(group, "shutdown", WHY, group.drain_deadline)
            else:
                if self._is_hurried:
                    yield from self._host.hurry(group)
                yield from self._host.stop(group, WHY, kill=True)

    def settle(self) -> Iterator[Command]:
        """End what has nothing left to finish, and tell when nothing is left."""
        for group in self._host.groups.values():
            if group.state is WorkerState.DRAINING:
                yield from self._host.leases.end_overdue(group)
                if not group.granted:
                    yield from self._host.stop(group, WHY, kill=self._is_hurried)
            else:
                yield from self._host.stop(group, WHY, kill=True)
            yield from self._host.rest(group, WorkerState.BACKOFF, WorkerState.FAILED)
        if not self._is_finished and all(
            w.state in (WorkerState.UNLOADED, WorkerState.STUCK) for w in self._host.workers.values()
        ):
            self._is_finished = True
            yield FinishShutdown()
