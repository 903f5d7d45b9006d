"""The GPU host as the core sees it: the books of its groups, their workers, the memory and the leases.

Here is what can be done to a group or a worker, each with the commands that it takes, and in `lease_book` what is done
to leases; when to do it is decided in `switching` and `scheduler`, and who fits where in `placement`.
"""

from collections.abc import Iterable, Iterator
from math import floor, inf

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
from .events import GpusMeasured, HostRamLimited, WeightsSeen
from .group import Group
from .lease_book import LeaseBook
from .ledger import GIB, HOST_RAM, GpuId, Ledger, in_order
from .placement import Placement, claiming
from .quorum import derived_state
from .spec import GroupSpec, WorkerSpec
from .states import CHANGING, RUNNING, UP, WorkerState
from .worker import Worker


def in_configured_order(groups: Iterable[Group]) -> list[Group]:
    return sorted(groups, key=lambda group: group.place_in_order)


class HostState:
    def __init__(self, specs: Iterable[GroupSpec]) -> None:
        self.groups: dict[str, Group] = {}
        self.workers: dict[str, Worker] = {}  # the members of all groups
        self.ledger = Ledger()
        self.now = 0.0
        self.is_started = False  # until then nobody knows what an earlier muxd has left, and nothing comes by itself
        self._touched: dict[str, Group] = {}  # groups that are not what they were when doubts were last ended
        self._changed: dict[str, Group] = {}  # likewise, when `take_changed` was last called
        self._stirred: dict[str, Group] = {}  # likewise, when `take_stirred` was last called
        self._by_state: dict[WorkerState, dict[str, Group]] = {state: {} for state in WorkerState}
        self._changing: dict[str, Worker] = {}  # workers whose memory changes
        self.stuck: set[str] = set()  # names of workers
        self.lent: frozenset[GpuId] = frozenset()  # to which nobody comes
        self.gpus_there: frozenset[GpuId] = frozenset()  # all that there are; none: nobody knows
        self.sizes: dict[GpuId, int] = {}  # bytes that workers may have together where strangers leave them
        self.strangers: dict[GpuId, str] = {}  # who else has memory of a GPU, as users are told
        self.weights: dict[str, int] = {}  # bytes that a worker of a group certainly needs, by the group's name
        self.moves = 0  # of all workers so far
        self.renewals = 0  # how often a new configuration has taken hold of a group
        self.learned = 0  # how often something was learned of the host itself
        self._undoubted = -1  # how often that had been when doubts were last ended
        self.fixed: list[Group] = []  # those that leave for no other group, unless an order takes them away
        self.validating: list[Group] = []  # those with an order to be validated, in the order of these
        self.composed: list[Group] = []  # those of several workers
        self.scalable: list[Group] = []  # those of which more or fewer replicas may serve
        self.with_gate: list[Group] = []  # those whose only worker has, or had, its next process wait at a gate
        self.placement = Placement(self)
        self.leases = LeaseBook(self)
        for spec in specs:
            self.add(spec)

    def add(self, spec: GroupSpec) -> None:
        group = self.groups[spec.name] = Group(spec, self.now)
        group.place_in_order = len(self.groups)
        self.workers.update((worker.name, worker) for worker in group.members)
        self._by_state[group.state][group.name] = group
        self.touch(group)
        self.note_kinds()

    # Who is looked for, without a look at everybody

    @property
    def all_gpus(self) -> frozenset[GpuId]:
        """Return the GPUs that models may be on, and those that are there."""
        return self.gpus_there.union(*(worker.spec.gpus for worker in self.workers.values()))

    def there(self, spec: WorkerSpec) -> frozenset[GpuId]:
        """Return the GPUs that a worker may be on, without those that are known not to be there."""
        return spec.gpus & self.gpus_there if spec.on_cards and self.gpus_there else spec.gpus

    @property
    def second(self) -> int:
        """Return the time in whole seconds."""
        return floor(self.now)

    def need(self, worker: Worker) -> int:
        """Return the bytes that the worker needs on each of its GPUs: as declared, else its weights alone."""
        weights = self.weights.get(worker.group, 0) if not worker.spec.need else 0
        return worker.spec.need or weights // max(1, worker.spec.gpu_count)

    def touch(self, group: Group) -> None:
        """Note that a group is not what it was: whatever was found of it, and of others on its GPUs, is found anew."""
        self.note_change(group)
        for worker in group.serving:
            self.ledger.touch(worker.name)

    def note_change(self, group: Group) -> None:
        """Note likewise what concerns a group alone, and nobody else on its GPUs."""
        group.changes += 1
        self._touched[group.name] = self._changed[group.name] = self._stirred[group.name] = group

    def take_changed(self) -> dict[str, Group]:
        """Return the groups that have changed since this was last called, those that are gone included."""
        changed, self._changed = self._changed, {}
        return changed

    def take_stirred(self) -> dict[str, Group]:
        """Return likewise the groups that have changed since this was last called."""
        stirred, self._stirred = self._stirred, {}
        return stirred

    def doubtful(self) -> list[Group]:
        """Return the groups that may have become hopeless since doubts were last ended: in good times the touched ones.

        Where somebody is stuck, pinned, or no worker of this host, a change of one group may leave others without hope.
        """
        bad_times = self.stuck or self.fixed or self.strangers or self.lent or self._undoubted != self.learned
        return in_configured_order((self.groups if bad_times else self._touched).values())

    def end_doubts(self) -> None:
        """Note that the doubtful groups have been looked at."""
        self._undoubted = self.learned
        self._touched.clear()

    def in_state(self, *states: WorkerState) -> list[Group]:
        """Return the groups in one of the states, as the configuration has them in order."""
        return in_configured_order(group for state in states for group in self._by_state[state].values())

    def groups_of(self, workers: Iterable[str]) -> list[Group]:
        """Return the groups of the workers, each once."""
        return [self.groups[name] for name in dict.fromkeys(self.workers[name].group for name in workers)]

    def changing_on(self, gpus: frozenset[GpuId]) -> list[Worker]:
        """Return the workers whose memory of one of the GPUs changes."""
        return [worker for worker in self._changing.values() if not gpus.isdisjoint(worker.gpus)]

    def _enter(self, group: Group, state: WorkerState) -> None:
        del self._by_state[group.state][group.name]
        if state is WorkerState.READY and group.state is not WorkerState.DRAINING:
            group.awake_since, group.is_exposed = self.now, False
        if group.state is WorkerState.DRAINING and state in (WorkerState.FALLING_ASLEEP, WorkerState.STOPPING):
            group.answers.note_drained(self.now - group.since)
        group.state, group.since = state, self.now
        self._by_state[state][group.name] = group

    def note_kinds(self) -> None:
        self.fixed = [group for group in self.groups.values() if group.is_pinned or group.is_sheltered]
        self.composed = [group for group in self.groups.values() if len(group.members) > 1]
        self.scalable = [group for group in self.groups.values() if group.is_scalable]
        self.with_gate = [group for group in self.groups.values() if group.has_gate]

    def remove(self, group: Group) -> None:
        """Forget one that has no process and no lease."""
        assert not group.granted
        assert not group.waiting
        self._remove_members(group)
        del self.groups[group.name]
        del self._by_state[group.state][group.name]
        self._touched.pop(group.name, None)
        self.placement.forget_group(group)
        self.note_kinds()

    def _remove_members(self, group: Group) -> None:
        for worker in group.members:
            self.ledger.give_back(worker.name)
            self._changing.pop(worker.name, None)
            self.stuck.discard(worker.name)
            del self.workers[worker.name]

    def sort(self, names: Iterable[str]) -> None:
        """Let the groups of a new configuration stand in its order, then those that are on their way out."""
        order = [*names, *self.groups]
        self.groups = {name: self.groups[name] for name in order}
        for place, group in enumerate(self.groups.values()):
            group.place_in_order = place
            self.touch(group)

    def renew(self, group: Group) -> None:
        """Let the pending spec of a group without a process hold, and forget what the old one did wrong and cost."""
        self.renewals += 1
        self._remove_members(group)
        group.renew(self.now)
        if (state := derived_state(group)) is not group.state:
            self._enter(group, state)
        self.workers.update((worker.name, worker) for worker in group.members)
        self.touch(group)
        self.note_kinds()

    def update(self, group: Group, spec: GroupSpec) -> None:
        """Let a spec hold that needs no other processes, but perhaps less memory than was thought."""
        group.update(spec)
        for worker in group.members:
            self.ledger.narrow(worker.name, worker.gpus)
        self._give_back_of_dead(group)
        self.touch(group)
        self.moves += 1  # its levels may be others now
        self.note_kinds()

    def fix(self, group: Group, *, held_until: float | None, is_sheltered: bool, is_exposed: bool = False) -> None:
        """Note whether an operator holds the group, and whether its last use keeps it where it is."""
        group.held_until, group.is_sheltered = held_until, is_sheltered
        group.is_exposed = group.is_exposed or is_exposed
        self._give_back_of_dead(group)
        self.touch(group)
        self.note_kinds()

    def move(self, worker: Worker, to: WorkerState, reason: str = "") -> Iterator[Command]:
        """Let a worker change its state, and its group with it."""
        before = worker.state
        worker.move(to, self.now, reason)
        self.moves += 1
        if to in CHANGING:
            self._changing[worker.name] = worker
        else:
            self._changing.pop(worker.name, None)
        (self.stuck.add if to is WorkerState.STUCK else self.stuck.discard)(worker.name)
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
                yield RecordMove(group.name, before, state, reason)
        self._give_back_of_dead(group)

    def _give_back_of_dead(self, group: Group) -> None:
        keeps = group.state in UP or group.keeps_place
        for worker in group.members:
            if worker.is_down and (not keeps or worker.is_spare or self.ledger.has_no_weights(worker.name)):
                self.ledger.give_back(worker.name)

    def learn(self, event: GpusMeasured | HostRamLimited | WeightsSeen) -> None:
        """Take in what was learned of the host itself."""
        match event:
            case GpusMeasured(_, totals, there, strangers, left):
                self.sizes |= totals
                self.gpus_there = there or self.gpus_there
                self.ledger.capacity |= {**self.sizes, **left}
                self.forget_excess()
                self.strangers = dict(strangers)
            case HostRamLimited(_, size):
                self.ledger.capacity[HOST_RAM] = size
            case WeightsSeen(_, sizes):
                self.weights = dict(sizes)
        self.learned += 1

    def forget_excess(self) -> None:
        """Forget what was measured of processes that had more than workers may have: each is alone on its GPUs then.

        Nobody held them to less, and strangers or a new configuration may have taken some of it.
        """
        for worker in self.workers.values():
            if worker.peak and any(worker.peak > self.ledger.capacity.get(gpu, inf) for gpu in worker.gpus):
                worker.excess, worker.peak = worker.peak, 0

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

    def launch_level(self, worker: Worker) -> int:
        """Return the level for which the worker's next process is launched: its own, or that of a validation."""
        level = self.groups[worker.group].launch_level
        return worker.launch_level if level is None else level

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

    def retry_now(self, group: Group) -> None:
        """End the restart delays of a group: an operator knows better than a back-off."""
        group.retry_now(self.now)
        self.touch(group)
