"""What can be done to a group or a worker of the host, each with the commands that it takes.

When to do it is decided in `switching` and `scheduler`, who fits where in `placement`; what is done to leases is in
`lease_book`.  All of these read, and note what changes in, the host's books.
"""

from collections.abc import Iterable, Iterator

from .commands import (
    ActivateStandby,
    Command,
    RecordMove,
    RestoreLease,
    SleepWorker,
    StartWorker,
    StopWorker,
    WakeWorker,
)
from .group import Group
from .host_books import HostBooks
from .lease_book import LeaseBook
from .ledger import GIB, HOST_RAM, in_order
from .placement import Placement, claiming
from .quorum import derived_state
from .spec import GroupSpec
from .states import LOST, RUNNING, WorkerState
from .worker import Worker


class HostState(HostBooks):
    """The books of a host, its leases and places, and what is done to its groups and workers."""

    def __init__(self, specs: Iterable[GroupSpec]) -> None:
        super().__init__(specs)
        self.placement = Placement(self)
        self.leases = LeaseBook(self)

    def remove(self, group: Group) -> None:
        super().remove(group)
        self.placement.forget_group(group)

    def move(self, worker: Worker, to: WorkerState, reason: str = "") -> Iterator[Command]:
        """Let a worker change its state, and its group with it."""
        before = worker.state
        worker.move(to, self.now, reason)
        self._note_move(worker)
        yield RecordMove(worker.name, before, to, reason, worker.cause)
        group = self.groups[worker.group]
        if worker is group.router and to is not WorkerState.READY:
            group.told, group.routed, group.listed = None, frozenset(), frozenset()
        yield from self.derive(group, reason)

    def derive(self, group: Group, reason: str = "") -> Iterator[Command]:
        """Take in what the states of its members make of a group.

        A worker that died has no claim any more, unless it comes back to where it was: the group is up, or pinned, and
        does not do without it.
        """
        self.touch(group)
        before, state = group.state, derived_state(group)
        if state is not before:
            self._enter(group, state)
            if len(group.members) > 1:
                why = reason or (group.reason if state in LOST or state is WorkerState.BACKOFF else "")
                yield RecordMove(group.name, before, state, why)
        self._give_back_of_dead(group)

    # What is done to a group

    def activate(self, group: Group) -> Iterator[Command]:
        """Wake its members that sleep and start the others; the memory for all of them must be free."""
        for worker in claiming(group):
            self._claim(worker)
        for worker in group.members:
            if not worker.is_spare and worker.may_come(self.now) and self.placement.is_quiet_for(worker):
                yield from self._bring(worker)

    def complete(self, group: Group) -> Iterator[Command]:
        """Bring those members of a group that is up who died, or had to wait for others that change their memory."""
        for worker in group.members:
            if worker.is_spare or not worker.may_come(self.now) or not self.placement.is_quiet_for(worker):
                continue
            if not self.lent.isdisjoint(worker.gpus):
                continue
            if not worker.is_router and self.ledger.shortfall(worker.name, worker.gpu_claim):
                continue  # others have come to its GPU, who are none of ours
            if not worker.is_router and not self.ledger.is_awake(worker.name):
                self._claim(worker)
            yield from self._bring(worker)

    def _claim(self, worker: Worker) -> None:
        """Take the memory that a worker needs.

        One that is to sleep at 1, and has no room there, will sleep at 2, or end where it woke wrong from that.
        """
        if worker.is_down:
            worker.copy = self.placement.copy_of(worker)
            level, is_validated = self.launch_level(worker), self.groups[worker.group].launch_level is not None
            is_otherwise = level != worker.spec.sleep_level
            worker.launched = level if is_otherwise or worker.distrust or is_validated else None
            is_for_validation = is_validated and is_otherwise
            worker.launch_note = (
                f"sleeps at {level}: launched to be validated" if is_for_validation else worker.distrust
            )
            missing = self.ledger.shortfall(worker.name, {HOST_RAM: worker.copy}) if worker.copy else {}
            if missing:
                sizes = (f"{size / GIB:.1f}" for size in (max(0, worker.copy - missing[HOST_RAM]), worker.copy))
                worker.launched, worker.copy = 3 if 2 in worker.distrusted else 2, 0
                worker.launch_note = f"sleeps at {worker.launched}: host RAM has {' of '.join(sizes)} GiB"
        self.ledger.take(worker.name, worker.claim)

    def _bring(self, worker: Worker) -> Iterator[Command]:
        """Wake it if it sleeps, else start it."""
        worker.generation += 1
        if worker.state is WorkerState.ASLEEP:
            yield from self.move(worker, WorkerState.WAKING)
            yield WakeWorker(worker.name)
            return
        if worker.state is WorkerState.STANDBY:
            yield from self.move(worker, WorkerState.STARTING)
            yield ActivateStandby(worker.name)
            return
        if worker.state in (WorkerState.BACKOFF, WorkerState.FAILED):
            worker.restarts += 1
        worker.trial = worker.state is WorkerState.FAILED
        if not worker.is_router:
            self._claim(worker)
        yield from self.move(worker, WorkerState.STARTING, worker.launch_note)
        yield StartWorker(worker.name, worker.launched, tuple(in_order(worker.gpus)) if worker.spec.any_of else ())

    def drain(self, group: Group, reason: str, message: str, deadline: float) -> Iterator[Command]:
        """Admit nothing more; holders have until the deadline.  Members that only come are ended."""
        group.drain_deadline, group.drained_for = deadline, (reason, message)
        is_quiet = group.is_quiet(self.now)
        group.answers.note_drain_begun(group.in_flight, is_quiet=is_quiet)
        for worker in group.serving:
            if worker.state is WorkerState.READY:
                worker.drains_requests = not is_quiet
                yield from self.move(worker, WorkerState.DRAINING, message)
        for worker in group.serving:
            if worker.state in (WorkerState.STARTING, WorkerState.WAKING):
                yield from self.stop_worker(worker, message, kill=True)
        yield from self.leases.revoke_all(group, reason, message, deadline)

    def deactivate(self, group: Group, level: int) -> Iterator[Command]:
        """Put a drained group to sleep at `level`, or end it at level 3: each member when its GPUs are quiet."""
        assert not group.granted, f"{group.name} still has leases {sorted(group.granted)}"
        for worker in group.serving:
            if worker.state is WorkerState.DRAINING:
                yield from self.deactivate_worker(worker, level)

    def deactivate_worker(self, worker: Worker, level: int) -> Iterator[Command]:
        """Put a worker that has nothing left to sleep at `level`, or end it, once its GPUs are quiet."""
        if not self.placement.is_quiet_for(worker):
            return
        if 3 in (level, worker.sleep_level) or not worker.can_sleep_at(level):
            yield from self.stop_worker(worker, worker.reason, kill=False)
        else:
            yield from self._fall_asleep(worker, level, worker.reason)

    def deepen(self, group: Group, level: int, reason: str) -> Iterator[Command]:
        """Let those members that sleep shallower go to `level`, each when its GPUs are quiet; level 3 ends all."""
        if level == 3:
            yield from self.stop(group, reason, kill=True)  # nothing runs in it; one that is paused cannot drain
            return
        for worker in group.serving:
            if worker.state is not WorkerState.ASLEEP or worker.level >= level:
                continue
            if (at := worker.level_for(level)) == 3:
                yield from self.stop_worker(worker, reason, kill=True)
            elif self.placement.is_quiet_for(worker):
                yield from self._fall_asleep(worker, at, reason)

    def _fall_asleep(self, worker: Worker, level: int, reason: str) -> Iterator[Command]:
        worker.level = level
        yield from self.move(worker, WorkerState.FALLING_ASLEEP, reason)
        yield SleepWorker(worker.name, level)

    def stop(self, group: Group, reason: str, *, kill: bool) -> Iterator[Command]:
        """End every process of the group that is not being ended already."""
        for worker in group.members:
            if worker.state in RUNNING:
                yield from self.stop_worker(worker, reason, kill=kill)

    def stop_worker(self, worker: Worker, reason: str, *, kill: bool) -> Iterator[Command]:
        yield from self.move(worker, WorkerState.STOPPING, reason)
        yield StopWorker(worker.name, kill)

    def hurry(self, group: Group) -> Iterator[Command]:
        """Kill what is being ended."""
        for worker in group.members:
            if worker.state is WorkerState.STOPPING:
                yield StopWorker(worker.name, kill=True)

    def rest(self, group: Group, *states: WorkerState, reason: str | None = None) -> Iterator[Command]:
        """Let members in these states, which wait for another start, wait for somebody to want the group instead."""
        for worker in group.members:
            if worker.state in states:
                yield from self.move(worker, WorkerState.UNLOADED, worker.reason if reason is None else reason)

    def resume(self, group: Group, reason: str) -> Iterator[Command]:
        """Let a group serve again that drains for nothing any more, with the leases that are still held.

        Leases on a router that is to be started anew end all the same.
        """
        for worker in group.enlisted:
            if worker.state is WorkerState.DRAINING:
                yield from self.move(worker, WorkerState.READY, reason)
        if not group.is_cut_off:
            yield from map(RestoreLease, group.granted)
