"""Which workers have their next process wait at its engine's gate, so that a start costs what comes after that.

Such a process has no weights: it has imported its modules, and takes some host RAM, which the ledger has.  It is begun
when its worker has ended and is not about to come, one at a time; where somebody waits for the worker already, at once,
while those in its way drain.  It is the first to go where host RAM is short, and where its GPUs are lent.
"""

from collections.abc import Iterator
from math import inf

from .commands import Command
from .group import Group
from .host_state import HostState
from .states import WorkerState
from .switching import Switching
from .worker import Worker


class Standbys:
    def __init__(self, host: HostState, switching: Switching) -> None:
        self._host = host
        self._switching = switching
        self.next = inf  # when another process may be begun of a worker whose last one ended too soon

    def settle(self) -> Iterator[Command]:
        """End the processes that have no place any more, and begin the next one."""
        self.next = inf
        if not self._host.is_started:
            return
        for group in self._host.with_gate:
            worker = group.serving[0]
            if worker.state is WorkerState.STANDBY and (why := self._why_not_to_stay(worker)):
                yield from self._host.stop_worker(worker, why, kill=True)
        if any(w.is_ahead and not w.is_at_gate for w in (group.serving[0] for group in self._host.with_gate)):
            return
        able = [group for group in self._host.with_gate if self._may_begin(group)]
        if self._host.in_state(WorkerState.STARTING):  # somebody waits for that one, and it imports modules, too
            able = [group for group in able if group.wanted]
        for group in sorted(able, key=lambda each: not each.wanted)[:1]:
            yield from self._host.prepare(group.serving[0], is_urgent=group.wanted)

    def _why_not_to_stay(self, worker: Worker) -> str:
        if worker.spec.standby is None:
            return "standby is no longer configured"
        if self._lacks_room(worker):
            return "host RAM is short"
        return ""

    def _lacks_room(self, worker: Worker) -> bool:
        return bool(self._host.ledger.shortfall(worker.name, worker.standby_holding.claim))

    def _may_begin(self, group: Group) -> bool:
        worker = group.serving[0]
        if worker.spec.standby is None or worker.state is not WorkerState.UNLOADED or group.stopped_by_operator:
            return False
        if group.order is not None or group.pending_spec is not None or group.retired:
            return False
        if group.name in self._switching.preload or not self._host.lent.isdisjoint(worker.gpus):
            return False
        if self._lacks_room(worker):
            return False
        if self._host.placement.never_loads(group):
            return False
        if worker.gate_retry_at > self._host.now:
            self.next = min(self.next, worker.gate_retry_at)
            return False
        return True
