"""The GPU host as the core sees it: the books of its groups, their workers, the memory and the leases.

Here is what can be done to a group, a worker or a lease, each with the commands that it takes; when to do it is decided
in `switching` and `scheduler`, and who fits where in `placement`.
"""

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from math import floor, inf

from .commands import (
    ActivateStandby,
    Command,
    DrainWorker,
    EndLease,
    GrantLease,
    PrepareStandby,
    RecordMove,
    RecordScale,
    RestoreLease,
    RevokeLease,
    SleepWorker,
    StartWorker,
    StopWorker,
    SyncRouter,
    WakeWorker,
)
from .events import AdoptedWorker, DemandReported, Waiting
from .group import Group, Lease
from .ledger import HOST_RAM, GpuId, Holding, Ledger, in_order
from .placement import Placement, claiming
from .spec import GroupSpec, Troubles
from .states import CHANGING, RUNNING, UP, WorkerState
from .worker import Worker

GIB = 1 << 30

#: Why a worker is in the state in which an earlier muxd has left it.
ADOPTED = "taken over from an earlier muxd"

#: Ages of answers that differ by less, in seconds, are those of the same one: reports take their time.
SAME_AGE = 1.0

#: A holder cuts what is in flight at the deadline; so much later its lease is taken from it.
END_GRACE = 1.0


def _cause(worker: Worker) -> str:
    """Return the code of why a worker is being ended or has failed; "" where nobody knows it, or nothing is wrong."""
    if worker.pending_failure is not None:
        return worker.pending_failure.code
    return worker.ended_code if worker.state in (WorkerState.BACKOFF, WorkerState.FAILED) else ""


def in_configured_order(groups: Iterable[Group]) -> list[Group]:
    return sorted(groups, key=lambda group: group.place_in_order)


class HostState:
    def __init__(self, specs: Iterable[GroupSpec]) -> None:
        self.groups: dict[str, Group] = {}
        self.workers: dict[str, Worker] = {}  # the members of all groups
        self.ledger = Ledger()
        self.leases: dict[int, Lease] = {}
        self.now = 0.0
        self.is_started = False  # until then nobody knows what an earlier muxd has left, and nothing comes by itself
        self.asked: dict[str, Group] = {}  # groups for which leases wait
        self.wanted: dict[str, Group] = {}  # those of them for which requests wait
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
        self.gaps: deque[float] = deque(maxlen=1)  # the last of all models: what is expected of one without its own
        self.gaps_noted = 0  # so far, of anybody's clients
        self._last_grant = -inf
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
        for spec in specs:
            self.add(spec)

    def add(self, spec: GroupSpec) -> None:
        group = self.groups[spec.name] = Group(spec, self.now)
        group.place_in_order = len(self.groups)
        self.workers.update((worker.name, worker) for worker in group.members)
        self._by_state[group.state][group.name] = group
        self.touch(group)
        self._note_kinds()

    # Who is looked for, without a look at everybody

    @property
    def all_gpus(self) -> frozenset[GpuId]:
        """Return the GPUs that models may be on, and those that are there."""
        return self.gpus_there.union(*(worker.spec.gpus for worker in self.workers.values()))

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
        self._note_change(group)
        for worker in group.serving:
            self.ledger.touch(worker.name)

    def _note_change(self, group: Group) -> None:
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
            group.note_drained(self.now - group.since)
        group.state, group.since = state, self.now
        self._by_state[state][group.name] = group

    def _note_kinds(self) -> None:
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
        self._note_kinds()

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
        if (state := group.derived_state()) is not group.state:
            self._enter(group, state)
        self.workers.update((worker.name, worker) for worker in group.members)
        self.touch(group)
        self._note_kinds()

    def resize(self, group: Group, spec: GroupSpec) -> Iterator[Command]:
        """Let a spec with other workers hold for a group with processes; those that stay are left as they are."""
        self.renewals += 1
        reason, before, former = "the configuration says so", len(group.enlisted), group.spec
        group.resize(spec, self.now)
        self.workers.update((worker.name, worker) for worker in group.members)
        size = before if spec.replicas == former.replicas and spec.scaling is not None else spec.replicas
        size = max(group.least, min(size or group.most, group.most))
        more = [worker for worker in group.spares if not worker.retired][: max(0, size - len(group.enlisted))]
        group.enlist(more)
        group.let_spare(group.enlisted[size:], self.now + spec.drain_timeout)
        self.moves += 1
        self._note_kinds()
        if len(group.enlisted) != before:
            yield RecordScale(group.name, before, len(group.enlisted), reason)
        for worker in more:
            if worker.state is WorkerState.DRAINING and group.state is not WorkerState.DRAINING:
                yield from self.move(worker, WorkerState.READY, reason)
        yield from self.derive(group, reason)

    def dismiss(self, group: Group) -> list[str]:
        """Forget the workers that the configuration has no more and that have ended; return their names."""
        gone = [worker for worker in group.serving if worker.retired and worker.is_down]
        for worker in gone:
            self.ledger.give_back(worker.name)
            del self.workers[worker.name]
        if gone:
            group.dismiss(gone)
            self.moves += 1
            self.touch(group)
            self._note_kinds()
        return [worker.name for worker in gone]

    def update(self, group: Group, spec: GroupSpec) -> None:
        """Let a spec hold that needs no other processes, but perhaps less memory than was thought."""
        group.update(spec)
        for worker in group.members:
            self.ledger.narrow(worker.name, worker.gpus)
        self._give_back_of_dead(group)
        self.touch(group)
        self.moves += 1  # its levels may be others now
        self._note_kinds()

    def fix(self, group: Group, *, held_until: float | None, is_sheltered: bool, is_exposed: bool = False) -> None:
        """Note whether an operator holds the group, and whether its last use keeps it where it is."""
        group.held_until, group.is_sheltered = held_until, is_sheltered
        group.is_exposed = group.is_exposed or is_exposed
        self._give_back_of_dead(group)
        self.touch(group)
        self._note_kinds()

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
        yield RecordMove(worker.name, before, to, reason, _cause(worker))
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
        before, state = group.state, group.derived_state()
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

    def prepare(self, worker: Worker, *, is_urgent: bool) -> Iterator[Command]:
        """Have the next process of a worker that has none wait at its engine's gate; there must be room for it."""
        self.ledger.keep(worker.name, worker.standby_holding)
        worker.is_ahead = True
        yield from self.move(worker, WorkerState.STANDBY)
        yield PrepareStandby(worker.name, is_urgent)

    def prepared(self, worker: Worker, size: int | None) -> None:
        """Note that a worker's process has come to its gate, and what it was measured to take there.

        Where host RAM is not reckoned for its engine, as for pretend ones, that counts for nothing.
        """
        worker.is_at_gate = True
        if size is not None and worker.spec.standby:
            worker.gate_size = size
        self.ledger.keep(worker.name, worker.standby_holding)
        self.touch(self.groups[worker.group])

    def end_standbys(self, wanted: Group) -> list[Worker]:
        """Return the workers whose processes at gates have to end, so that a group's weights find room in host RAM.

        None where their ends would not be enough; the largest first, and those that are being ended already.
        """
        waiting = [group.serving[0] for group in self.with_gate if group is not wanted and group.serving[0].is_ahead]
        waiting = [worker for worker in waiting if self.ledger.holds(worker.name, [HOST_RAM])]
        waiting.sort(key=lambda worker: (worker.state is WorkerState.STANDBY, -worker.standby_holding.claim[HOST_RAM]))
        left: dict[str, Holding] = {}
        for count, worker in enumerate(waiting, 1):
            left[worker.name] = Holding({}, 3)
            if not self.placement.lacks_host_ram(wanted, left):
                return waiting[:count]
        return []

    def recall_troubles(self, worker: Worker, troubles: Troubles) -> Iterator[Command]:
        """Let a worker go on with what went wrong with it under an earlier muxd."""
        worker.recall_troubles(troubles, self.now)
        if troubles.waits:
            self.moves += 1
            yield RecordMove(worker.name, WorkerState.UNLOADED, worker.state, worker.reason, _cause(worker))
        yield from self.derive(self.groups[worker.group], worker.reason)

    def resume_size(self, group: Group, size: int, awake: Collection[str]) -> None:
        """Let a group have so many replicas as under an earlier muxd: those that are awake first."""
        order = sorted(group.serving, key=lambda worker: worker.name not in awake)
        size = max(group.least, min(size, len(order)))
        group.enlist(order[:size])
        group.let_spare(order[size:], self.now)

    def adopt(self, group: Group, members: Iterable[AdoptedWorker]) -> Iterator[Command]:
        """Let members of a group without a process be what was found of them; end those whose memory is another's."""
        homeless = []
        for found in members:
            worker = self.workers[found.worker]
            if found.gpus:
                group.place_each({found.worker: frozenset(found.gpus)})
            if not self._adopt_worker(worker, found):
                homeless.append(worker)
            if worker is group.router:
                group.routed = frozenset(found.routed)
            yield RecordMove(worker.name, WorkerState.UNLOADED, worker.state, ADOPTED)
        group.awake_since = self.now
        yield from self.derive(group, ADOPTED)
        for worker in homeless:
            yield from self.stop_worker(worker, "there is no room for it any more", kill=True)

    def _adopt_worker(self, worker: Worker, found: AdoptedWorker) -> bool:
        """Let a worker be what was found of it; return whether there is room for it."""
        worker.launched, worker.url, worker.generation = found.launched, found.url, worker.generation + 1
        if found.waits:
            return self._adopt_standby(worker, found)
        worker.unproved, worker.peak = found.unproved, found.peak
        if not worker.is_router:
            worker.copy = self.placement.copy_of(worker)
        if found.level is not None and found.kept is not None:
            worker.kept[found.level] = found.kept
        fits = True
        if not worker.is_router:
            holding = Holding(worker.claim) if found.level is None else worker.holding_asleep(found.level)
            fits = not holding.is_loaded or not self.ledger.shortfall(worker.name, holding.claim)
            self.ledger.keep(worker.name, holding)
        worker.level = 3 if found.level is None else found.level
        worker.adopt(WorkerState.READY if found.level is None else WorkerState.ASLEEP, self.now, ADOPTED)
        self.moves += 1
        return fits

    def _adopt_standby(self, worker: Worker, found: AdoptedWorker) -> bool:
        worker.url, worker.is_ahead = "", True
        worker.adopt(WorkerState.STANDBY, self.now, ADOPTED)
        self.prepared(worker, found.gate_size)
        self.moves += 1
        return True

    def drain(self, group: Group, reason: str, message: str, deadline: float) -> Iterator[Command]:
        """Admit nothing more; holders have until the deadline.  Members that only come are ended."""
        group.drain_deadline, group.drained_for = deadline, (reason, message)
        group.note_crowd(self.now)
        for worker in group.serving:
            if worker.state is WorkerState.READY:
                worker.drains_requests = not group.is_quiet(self.now)
                yield from self.move(worker, WorkerState.DRAINING, message)
        for worker in group.serving:
            if worker.state in (WorkerState.STARTING, WorkerState.WAKING):
                yield from self.stop_worker(worker, message, kill=True)
        yield from self.revoke_all(group, reason, message, deadline)

    def deactivate(self, group: Group, level: int) -> Iterator[Command]:
        """Put a drained group to sleep at `level`, or end it at level 3: each member when its GPUs are quiet."""
        assert not group.granted, f"{group.name} still has leases {sorted(group.granted)}"
        for worker in group.serving:
            if worker.state is WorkerState.DRAINING:
                yield from self._deactivate(worker, level)

    def _deactivate(self, worker: Worker, level: int) -> Iterator[Command]:
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

    def tend_router(self, group: Group) -> Iterator[Command]:
        """Tell the group's router which members serve, or end it with the last of them."""
        router = group.router
        if router is None:
            return
        if router.state in RUNNING and all(w.is_down or w.state is WorkerState.STUCK for w in group.serving):
            yield from self.stop_worker(router, "no worker of its group is left", kill=True)
        elif router.state is WorkerState.READY:
            serve = (WorkerState.READY, WorkerState.DRAINING)
            urls = tuple(worker.url for worker in group.enlisted if worker.state in serve)
            if urls != group.told:
                group.told, group.routed = urls, group.routed.intersection(urls)
                yield SyncRouter(group.name, urls)

    # How many of its replicas serve

    def enlist(self, group: Group, workers: Sequence[Worker], reason: str) -> Iterator[Command]:
        """Let some spare workers of a group serve with the others; where it is up, they come as room allows."""
        yield from self._resize(group, workers, (), reason)

    def let_spare(self, group: Group, workers: Sequence[Worker], reason: str) -> Iterator[Command]:
        """Let a group do without some of its workers: those that serve finish what they have, others are ended."""
        yield from self._resize(group, (), workers, reason)

    def _resize(self, group: Group, more: Sequence[Worker], fewer: Sequence[Worker], reason: str) -> Iterator[Command]:
        before = len(group.enlisted)
        group.enlist(more)
        group.let_spare(fewer, self.now + group.spec.drain_timeout)
        self.moves += 1
        yield RecordScale(group.name, before, len(group.enlisted), reason)
        for worker in fewer:
            if worker.state is WorkerState.READY:
                yield from self.move(worker, WorkerState.DRAINING, reason)
            elif worker.state in (WorkerState.STARTING, WorkerState.WAKING):
                yield from self.stop_worker(worker, reason, kill=True)
        for worker in more:
            if worker.state is WorkerState.DRAINING and group.state is not WorkerState.DRAINING:
                yield from self.move(worker, WorkerState.READY, reason)
        yield from self.derive(group, reason)

    def tend_spare(self, group: Group) -> Iterator[Command]:
        """Bring the spare workers of a group off their GPUs, each once the router passes it no more and it is idle."""
        for worker in group.spares:
            match worker.state:
                case WorkerState.READY:
                    yield from self.move(worker, WorkerState.DRAINING, f"{group.name} does without it")
                case WorkerState.DRAINING:
                    yield from self._tend_draining(group, worker)
                case WorkerState.STARTING | WorkerState.WAKING:
                    yield from self.stop_worker(worker, f"{group.name} does without it", kill=True)
                case WorkerState.ASLEEP | WorkerState.STANDBY if worker.retired:
                    yield from self.stop_worker(worker, f"{group.name} does without it", kill=True)
                case WorkerState.BACKOFF | WorkerState.FAILED:
                    yield from self.move(worker, WorkerState.UNLOADED, worker.reason)

    def _tend_draining(self, group: Group, worker: Worker) -> Iterator[Command]:
        is_let_go = worker.url not in group.listed
        if is_let_go and (worker.is_drained or group.idle or self.now >= worker.drain_deadline):
            yield from self._deactivate(worker, 3 if worker.retired else worker.sleep_level)
        elif self.now >= worker.drain_deadline + END_GRACE:
            yield from self.stop_worker(worker, worker.reason, kill=True)
        elif is_let_go and not worker.is_drain_watched:
            worker.is_drain_watched = True
            yield DrainWorker(worker.name)

    # What is done to leases

    def ask(self, lease_id: int, group: Group, waiting: tuple[Waiting, ...]) -> None:
        lease = Lease(lease_id, group.name, self.now, waiting)
        self.leases[lease_id] = group.waiting[lease_id] = lease
        group.is_put_away = False
        self._note_leases(group)
        self._note_use(group)

    def grant_again(
        self, lease_id: int, group: Group, in_flight: int, waiting: tuple[Waiting, ...]
    ) -> Iterator[Command]:
        """Take a lease on a ready group for granted, as an earlier muxd did."""
        lease = Lease(lease_id, group.name, self.now, waiting, in_flight)
        self.leases[lease_id] = group.granted[lease_id] = lease
        self._note_use(group)
        yield GrantLease(lease_id, group.url, group.generation)

    def report(self, said: DemandReported) -> None:
        lease = self.leases.get(said.lease)
        if lease is not None:
            group = self.groups[lease.group]
            lease.in_flight, lease.waiting, lease.batch, lease.told = said.in_flight, said.waiting, said.batch, self.now
            since = inf if said.oldest is None else said.time - said.oldest
            if not abs(since - lease.oldest_since) < SAME_AGE:
                group.note_ended(lease.oldest_since, self.now)
                lease.oldest_since = since
            lease.usual = lease.usual if said.usual is None else said.usual
            if group.note_usual():
                self.touch(group)
            self._note_leases(group)
            self._note_use(group)

    def forget(self, lease_id: int) -> None:
        lease = self.leases.pop(lease_id, None)
        if lease is not None:
            group = self.groups[lease.group]
            group.waiting.pop(lease_id, None)
            was_granted = group.granted.pop(lease_id, None) is not None
            group.note_ended(lease.oldest_since, self.now)
            self._note_leases(group)
            if was_granted:
                self._note_use(group)

    def _note_leases(self, group: Group) -> None:
        """Note who waits for the group, and whether it is in use, by its leases."""
        was = group.use
        group.oldest_since = min((lease.oldest_since for lease in group.granted.values()), default=inf)
        group.idle = not any(lease.busy for lease in group.granted.values())
        group.wanted = any(lease.waiting for lease in group.waiting.values())
        group.is_batch = group.wanted and all(w.is_batch for lease in group.waiting.values() for w in lease.waiting)
        for index, belongs in ((self.asked, bool(group.waiting)), (self.wanted, group.wanted)):
            if belongs:
                index[group.name] = group
            else:
                index.pop(group.name, None)
        if was != group.use:
            self.touch(group)
        else:
            self._note_change(group)

    def _note_use(self, group: Group) -> None:
        """Note the end of its last answer, and at its next request the gap between the two.

        Where another model has served meanwhile, the request may have come only because that one answered: such a gap
        says nothing about clients who return by themselves.
        """
        if group.in_use:
            since, group.idle_since = group.idle_since, None
            if since is not None or not group.uses or self.now - group.uses[-1] >= 1.0:  # else it is wanted all along
                group.uses.append(self.now)
                self.touch(group)
            if since is not None and (group.state is WorkerState.READY or self._last_grant <= since):
                self.note_gap(group, self.now - since)
        elif group.idle_since is None and group.state in (WorkerState.READY, WorkerState.DRAINING):
            group.idle_since = self.now
            self.touch(group)

    def note_gap(self, group: Group, seconds: float) -> None:
        """Learn how long its clients took to return; inf: nobody did while it was kept for them.

        A return makes up for one time that nobody came.
        """
        self.gaps_noted += 1
        self.touch(group)
        for gaps in (group.gaps, self.gaps):
            if seconds < inf and inf in gaps:
                gaps.remove(inf)
            gaps.append(seconds)

    def grant_all(self, group: Group) -> Iterator[Command]:
        """Admit everybody who waits for a ready group.

        Until its holder reports, all that waited counts as in flight: nobody is switched
        away between a grant and the requests that it lets through.
        """
        admitted = list(group.waiting.values())
        if not admitted:
            return
        group.waiting.clear()
        for lease in admitted:
            group.granted[lease.id] = lease
            lease.in_flight, lease.batch, lease.waiting = lease.count, lease.batch_count, ()
        self._last_grant = self.now
        self._note_leases(group)
        for lease in admitted:
            yield GrantLease(lease.id, group.url, group.generation)

    def revoke_all(self, group: Group, reason: str, message: str, deadline: float) -> Iterator[Command]:
        for lease in group.granted:
            yield RevokeLease(lease, reason, message, deadline)

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

    def end_overdue(self, group: Group) -> Iterator[Command]:
        """Take away leases that were not let go, once the drain's deadline is well over."""
        if group.granted and self.now >= group.drain_deadline + END_GRACE:
            yield from self.end_all(group)

    def end_all(self, group: Group) -> Iterator[Command]:
        """Take every granted lease away, whether its holder has let go or not."""
        for lease in list(group.granted):
            self.forget(lease)
            yield EndLease(lease)
