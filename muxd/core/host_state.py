"""The GPU host as the core sees it: its workers, who holds which GPU, and the leases.

Here is what can be done to a worker or a lease, each with the commands that it takes;
when to do it is decided in `switching` and `scheduler`.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from math import inf
from typing import NamedTuple

from . import eviction
from .commands import (
    Command,
    EndLease,
    GrantLease,
    RecordMove,
    RestoreLease,
    RevokeLease,
    SleepWorker,
    StartWorker,
    StopWorker,
    WakeWorker,
)
from .events import Waiting
from .ledger import WHOLE, GpuId, Ledger, in_order
from .spec import WorkerSpec
from .states import DOWN, WorkerState
from .worker import Lease, Worker

GIB = 1 << 30

#: A holder cuts what is in flight at the deadline; so much later its lease is taken from it.
END_GRACE = 1.0

#: Uses per second of a worker that was never wanted: that it leaves costs more than nothing.
RARE = 1e-6


class Impossible(NamedTuple):
    """What keeps a model from ever being loaded: an error's code, what is wrong, what to do."""

    code: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        """Return a phrase to follow the model's name."""
        return f"can never be loaded: {self.reason}; {self.remedy}"


#: States in which what a worker has of its GPUs changes.
CHANGING = frozenset(
    {
        WorkerState.STARTING,
        WorkerState.WAKING,
        WorkerState.FALLING_ASLEEP,
        WorkerState.STOPPING,
        WorkerState.UNRESPONSIVE,
    }
)


class HostState:
    def __init__(self, specs: Iterable[WorkerSpec]) -> None:
        self.workers: dict[str, Worker] = {}
        self.ledger = Ledger()
        self.leases: dict[int, Lease] = {}
        self.now = 0.0
        self.gpus_there: frozenset[GpuId] = frozenset()  # all that there are; none: nobody knows
        self.weights: dict[str, int] = {}  # bytes that a model certainly needs, by its name
        self.gaps: deque[float] = deque(maxlen=1)  # the last of all models: what is expected of one without its own
        self._last_grant = -inf
        for spec in specs:
            self.add(spec)

    def add(self, spec: WorkerSpec) -> None:
        self.workers[spec.name] = Worker(spec, since=self.now)

    def remove(self, worker: Worker) -> None:
        """Forget one that has no process and no lease."""
        assert not worker.granted
        assert not worker.waiting
        self.ledger.give_back(worker.name)
        del self.workers[worker.name]

    def sort(self, names: Iterable[str]) -> None:
        """Let the workers stand in this order, then those that are on their way out."""
        order = [*names, *self.workers]
        self.workers = {name: self.workers[name] for name in order}

    def renew(self, worker: Worker) -> None:
        """Let the pending spec of a worker without a process hold, and forget what the old one did wrong and cost."""
        assert worker.pending_spec is not None
        worker.renew(worker.pending_spec)

    def move(self, worker: Worker, to: WorkerState, reason: str = "") -> RecordMove:
        before = worker.state
        worker.move(to, self.now, reason)
        return RecordMove(worker.name, before, to, reason)

    def fits(self, worker: Worker) -> bool:
        """Say whether the memory that the worker needs to serve is there."""
        return not self.ledger.shortfall(worker.name, worker.spec.claim)

    def evictions(self, worker: Worker) -> list[Worker]:
        """Return who must leave for the worker to fit, by the cheapest plan; those who leave already included."""
        if worker.spec.share == WHOLE:  # whoever is awake there is in its way: there is nothing to choose
            return [self.workers[name] for name in self.ledger.awake_on(worker.spec.gpus) if name != worker.name]
        missing = self.ledger.shortfall(worker.name, worker.spec.claim)
        holders = [self.workers[name] for name in self.ledger.holders(missing) if name != worker.name]
        if not holders:
            return []
        if all(amount == WHOLE for amount in missing.values()):
            holders = [w for w in holders if self.ledger.is_awake(w.name)]
        left = {w.name: w.claim_asleep(3 if w.state is WorkerState.ASLEEP else w.sleep_level) for w in holders}

        def fits(gone: frozenset[str]) -> bool:
            return not self.ledger.shortfall(worker.name, worker.spec.claim, {name: left[name] for name in gone})

        chosen = eviction.plan([_resident(w, self.now) for w in holders], fits)
        return holders if chosen is None else [self.workers[name] for name in sorted(chosen)]

    def is_quiet(self, worker: Worker) -> bool:
        """Say whether no other worker's memory changes on the GPUs of this one: one at a time can be measured."""
        changing = (w for w in self.workers.values() if w.state in CHANGING and w is not worker)
        return not any(worker.spec.gpus & w.spec.gpus for w in changing)

    def never_loads(self, worker: Worker) -> Impossible | None:
        """Return why this host can never load the worker as it is configured; None if it is loaded, or nobody knows."""
        if worker.state not in DOWN:
            return None
        return self._gpu_missing(worker.spec) or self._too_small(worker.spec)

    def _gpu_missing(self, spec: WorkerSpec) -> Impossible | None:
        missing = in_order(spec.gpus - self.gpus_there)
        if not (missing and self.gpus_there and spec.on_cards):
            return None
        there = f"there {'are' if len(self.gpus_there) > 1 else 'is'} {', '.join(in_order(self.gpus_there))}"
        gpus = f"GPU {', '.join(missing)} {'are' if len(missing) > 1 else 'is'} not there"
        return Impossible("gpu_missing", f"{gpus}: {there}", "correct its `gpus`")

    def _too_small(self, spec: WorkerSpec) -> Impossible | None:
        """Return why the worker is too large for its GPUs: by what is declared, else by its weights."""
        sizes = {gpu: self.ledger.capacity[gpu] for gpu in in_order(spec.gpus) if gpu in self.ledger.capacity}
        if spec.memory:
            share = spec.memory // max(1, len(spec.gpus))
            reason, remedy = f"it needs {share / GIB:.1f} GiB on each of its GPUs", "or correct its `memory`"
            small = {gpu: size for gpu, size in sizes.items() if share > size}
        else:
            weights = self.weights.get(spec.name, 0)
            reason, remedy = f"its weights alone need {weights / GIB:.1f} GiB", "or a smaller model"
            small = sizes if len(sizes) == len(spec.gpus) and weights > sum(sizes.values()) else {}
        if not small:
            return None
        has = ", ".join(f"GPU {gpu} has {size / GIB:.1f} GiB in all" for gpu, size in small.items())
        return Impossible("model_too_large", f"{reason}, and {has}", f"give it more GPUs, {remedy}")

    # What is done to a worker

    def activate(self, worker: Worker) -> Iterator[Command]:
        """Wake it if it sleeps, else start it; its GPUs must be free."""
        self.ledger.take(worker.name, worker.spec.claim)
        worker.generation += 1
        if worker.state is WorkerState.ASLEEP:
            yield self.move(worker, WorkerState.WAKING)
            yield WakeWorker(worker.name)
            return
        if worker.state in (WorkerState.BACKOFF, WorkerState.FAILED):
            worker.restarts += 1
        worker.trial = worker.state is WorkerState.FAILED
        yield self.move(worker, WorkerState.STARTING)
        yield StartWorker(worker.name)

    def drain(self, worker: Worker, reason: str, message: str, deadline: float) -> Iterator[Command]:
        """Admit nothing more; holders have until the deadline."""
        worker.drain_deadline = deadline
        yield self.move(worker, WorkerState.DRAINING, message)
        yield from self.revoke_all(worker, reason, message, deadline)

    def deactivate(self, worker: Worker) -> Iterator[Command]:
        """Put a drained worker to sleep, or end it where its level is 3."""
        assert not worker.granted, f"{worker.name} still has leases {sorted(worker.granted)}"
        if worker.sleep_level == 3:
            yield from self.stop(worker, worker.reason, kill=False)
        else:
            yield self.move(worker, WorkerState.FALLING_ASLEEP, worker.reason)
            yield SleepWorker(worker.name)

    def stop(self, worker: Worker, reason: str, *, kill: bool) -> Iterator[Command]:
        yield self.move(worker, WorkerState.STOPPING, reason)
        yield StopWorker(worker.name, kill)

    # What is done to leases

    def ask(self, lease_id: int, worker: Worker, waiting: tuple[Waiting, ...]) -> None:
        lease = Lease(lease_id, worker.name, self.now, waiting)
        self.leases[lease_id] = worker.waiting[lease_id] = lease
        self._note_use(worker)

    def report(self, lease_id: int, in_flight: int, waiting: tuple[Waiting, ...]) -> None:
        lease = self.leases.get(lease_id)
        if lease is not None:
            lease.in_flight, lease.waiting, lease.told = in_flight, waiting, self.now
            self._note_use(self.workers[lease.worker])

    def forget(self, lease_id: int) -> None:
        lease = self.leases.pop(lease_id, None)
        if lease is not None:
            worker = self.workers[lease.worker]
            worker.waiting.pop(lease_id, None)
            if worker.granted.pop(lease_id, None) is not None:
                self._note_use(worker)

    def _note_use(self, worker: Worker) -> None:
        """Note the end of its last answer, and at its next request the gap between the two.

        Where another model has served meanwhile, the request may have come only because that one answered: such a gap
        says nothing about clients who return by themselves.
        """
        if worker.in_use:
            since, worker.idle_since = worker.idle_since, None
            if since is not None or not worker.uses or self.now - worker.uses[-1] >= 1.0:  # else it is wanted all along
                worker.uses.append(self.now)
            if since is not None and (worker.state is WorkerState.READY or self._last_grant <= since):
                self.note_gap(worker, self.now - since)
        elif worker.idle_since is None and worker.state in (WorkerState.READY, WorkerState.DRAINING):
            worker.idle_since = self.now

    def note_gap(self, worker: Worker, seconds: float) -> None:
        """Learn how long its clients took to return; inf: nobody did while it was kept for them.

        A return makes up for one time that nobody came.
        """
        for gaps in (worker.gaps, self.gaps):
            if seconds < inf and inf in gaps:
                gaps.remove(inf)
            gaps.append(seconds)

    def grant_all(self, worker: Worker) -> Iterator[Command]:
        """Admit everybody who waits for a ready worker.

        Until its holder reports, all that waited counts as in flight: nobody is switched
        away between a grant and the requests that it lets through.
        """
        for lease in list(worker.waiting.values()):
            del worker.waiting[lease.id]
            worker.granted[lease.id] = lease
            lease.in_flight, lease.waiting = lease.count, ()
            self._last_grant = self.now
            yield GrantLease(lease.id, worker.url, worker.generation)

    def revoke_all(self, worker: Worker, reason: str, message: str, deadline: float) -> Iterator[Command]:
        for lease in worker.granted:
            yield RevokeLease(lease, reason, message, deadline)

    def restore_all(self, worker: Worker) -> Iterator[Command]:
        for lease in worker.granted:
            yield RestoreLease(lease)

    def end_overdue(self, worker: Worker) -> Iterator[Command]:
        """Take away leases that were not let go, once the drain's deadline is well over."""
        if worker.granted and self.now >= worker.drain_deadline + END_GRACE:
            yield from self.end_all(worker)

    def end_all(self, worker: Worker) -> Iterator[Command]:
        """Take every granted lease away, whether its holder has let go or not."""
        for lease in list(worker.granted):
            self.forget(lease)
            yield EndLease(lease)


def _resident(worker: Worker, now: float) -> eviction.Resident:
    """Describe what the worker's leaving costs: nothing where it leaves already, most where it cannot be had."""
    if worker.leaves:
        return eviction.Resident(worker.name, is_busy=False, seconds=0.0)
    if worker.state is WorkerState.STUCK:
        return eviction.Resident(worker.name, is_busy=True, seconds=inf)
    if worker.state is WorkerState.ASLEEP:
        is_busy = False
        seconds = max(0.0, worker.costs[WorkerState.STARTING].seconds - worker.costs[WorkerState.WAKING].seconds)
    else:
        is_busy = worker.in_use or worker.state in (WorkerState.STARTING, WorkerState.WAKING)
        seconds = worker.leave_cost.seconds + worker.comeback_cost.seconds
    return eviction.Resident(worker.name, is_busy, seconds * max(worker.demand(now), RARE))
