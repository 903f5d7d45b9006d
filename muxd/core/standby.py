"""Which workers have their next process wait at its engine's gate, so that a start costs what comes after that.

Such a process has no weights: it has imported its modules, and takes some host RAM, which the ledger has.  It is begun
when its worker has ended and is not about to come, one at a time; where somebody waits for the worker already, at once,
while those in its way drain.  It is the first to go where host RAM is short, and where its GPUs are lent.
"""

from collections.abc import Callable, Iterator
from math import inf

from .commands import Command, PrepareStandby
from .group import Group
from .host_state import HostState
from .ledger import HOST_RAM, Holding
from .states import WorkerState
from .worker import Worker


class Standbys:
    def __init__(self, host: HostState, is_to_be_preloaded: Callable[[Group], bool]) -> None:
        self._host = host
        self._is_to_be_preloaded = is_to_be_preloaded
        self.next = inf  # when another process may be begun of a worker whose last one ended too soon

    def settle(self) -> Iterator[Command]:
        """End the processes that have no place any more, and begin the next one."""
        self.next = inf
        if not (self._host.is_started and self._host.with_gate):
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
            yield from self._prepare(group.serving[0], is_urgent=group.wanted)

    def _prepare(self, worker: Worker, *, is_urgent: bool) -> Iterator[Command]:
        """Have the next process of a worker that has none wait at its engine's gate; there must be room for it."""
        self._host.ledger.keep(worker.name, worker.standby_holding)
        worker.is_ahead = True
        yield from self._host.move(worker, WorkerState.STANDBY)
        yield PrepareStandby(worker.name, is_urgent)

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
        if self._is_to_be_preloaded(group) or not self._host.lent.isdisjoint(worker.gpus):
            return False
        if self._lacks_room(worker):
            return False
        if self._host.placement.never_loads(group):
            return False
        if worker.gate_retry_at > self._host.now:
            self.next = min(self.next, worker.gate_retry_at)
            return False
        return True


def prepared(host: HostState, worker: Worker, size: int | None) -> None:
    """Note that a worker's process has come to its gate, and what it was measured to take there.

    Where host RAM is not reckoned for its engine, as for pretend ones, that counts for nothing.
    """
    worker.is_at_gate = True
    if size is not None and worker.spec.standby:
        worker.gate_size = size
    host.ledger.keep(worker.name, worker.standby_holding)
    host.touch(host.groups[worker.group])


def in_the_way(host: HostState, wanted: Group) -> list[Worker]:
    """Return the workers whose processes at gates have to end, so that a group's weights find room in host RAM.

    None where their ends would not be enough; the largest first, and those that are being ended already.
    """
    waiting = [group.serving[0] for group in host.with_gate if group is not wanted and group.serving[0].is_ahead]
    waiting = [worker for worker in waiting if host.ledger.holds(worker.name, [HOST_RAM])]
    waiting.sort(key=lambda worker: (worker.state is WorkerState.STANDBY, -worker.standby_holding.claim[HOST_RAM]))
    left: dict[str, Holding] = {}
    for count, worker in enumerate(waiting, 1):
        left[worker.name] = Holding({}, 3)
        if not host.placement.lacks_host_ram(wanted, left):
            return waiting[:count]
    return []
