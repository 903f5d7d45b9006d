"""The books of a GPU host: its groups, their workers, their memory, and what was learned of the machine.

Nothing here commands anybody: what is done to groups and workers is in `host_state`.
"""

from collections.abc import Iterable
from math import floor, inf
from operator import attrgetter

from .events import GpusMeasured, HostRamLimited, WeightsSeen
from .group import Group
from .ledger import HOST_RAM, GpuId, Ledger
from .quorum import derived_state
from .spec import GroupSpec, WorkerSpec
from .states import CHANGING, UP, WorkerState
from .worker import Worker

_PLACE = attrgetter("place_in_order")


def in_configured_order(groups: Iterable[Group]) -> list[Group]:
    return sorted(groups, key=_PLACE)


class HostBooks:
    """What is known of the host, and what has changed since somebody last looked."""

    def __init__(self, specs: Iterable[GroupSpec]) -> None:
        self.groups: dict[str, Group] = {}
        self.workers: dict[str, Worker] = {}  # the members of all groups
        self.ledger = Ledger()
        self.now = 0.0
        self.second = 0  # the same in whole seconds
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
        for spec in specs:
            self.add(spec)

    def add(self, spec: GroupSpec) -> None:
        group = self.groups[spec.name] = Group(spec, self.now)
        group.place_in_order = len(self.groups)
        self.workers.update((worker.name, worker) for worker in group.members)
        self._by_state[group.state][group.name] = group
        self.touch(group)
        self.note_kinds()

    def go_on(self, time: float) -> None:
        """Let the time be this, unless it is later by now."""
        if time > self.now:
            self.now, self.second = time, floor(time)

    # Who is looked for, without a look at everybody

    @property
    def all_gpus(self) -> frozenset[GpuId]:
        """Return the GPUs that models may be on, and those that are there."""
        return self.gpus_there.union(*(worker.spec.gpus for worker in self.workers.values()))

    def there(self, spec: WorkerSpec) -> frozenset[GpuId]:
        """Return the GPUs that a worker may be on, without those that are known not to be there."""
        return spec.gpus & self.gpus_there if spec.on_cards and self.gpus_there else spec.gpus

    def need(self, worker: Worker) -> int:
        """Return the bytes that the worker needs on each of its GPUs: as declared, else its weights alone."""
        return worker.spec.need or self.weights.get(worker.group, 0) // worker.spec.gpu_count

    def touch(self, group: Group) -> None:
        """Note that a group is not what it was: whatever was found of it, and of others on its GPUs, is found anew."""
        group.changes += 1
        self.note_change(group)
        for worker in group.serving:
            self.ledger.touch(worker.name)

    def note_change(self, group: Group) -> None:
        """Note that the requests which wait for a group are others, in number or age."""
        name = group.name
        self._touched[name] = self._changed[name] = self._stirred[name] = group

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

    def in_state(self, state: WorkerState) -> list[Group]:
        """Return the groups in the state, as the configuration has them in order."""
        return sorted(self._by_state[state].values(), key=_PLACE)

    def groups_of(self, workers: Iterable[str]) -> list[Group]:
        """Return the groups of the workers, each once."""
        return [self.groups[name] for name in dict.fromkeys(self.workers[name].group for name in workers)]

    def changing_on(self, gpus: frozenset[GpuId]) -> list[Worker]:
        """Return the workers whose memory of one of the GPUs changes."""
        return [worker for worker in self._changing.values() if not gpus.isdisjoint(worker.gpus)]

    def _note_move(self, worker: Worker) -> None:
        """Note the state that a worker has moved to."""
        self.moves += 1
        if worker.state in CHANGING:
            self._changing[worker.name] = worker
        else:
            self._changing.pop(worker.name, None)
        (self.stuck.add if worker.state is WorkerState.STUCK else self.stuck.discard)(worker.name)

    def _enter(self, group: Group, state: WorkerState) -> None:
        del self._by_state[group.state][group.name]
        if state is WorkerState.READY and group.state is not WorkerState.DRAINING:
            group.awake_since = self.now
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

    def fix(self, group: Group, *, held_until: float | None, is_sheltered: bool) -> None:
        """Note whether an operator holds the group, and whether its last use keeps it where it is."""
        group.held_until, group.is_sheltered = held_until, is_sheltered
        self._give_back_of_dead(group)
        self.touch(group)
        self.note_kinds()

    @property
    def exposed(self) -> list[Group]:
        """Return the groups that give way to the one that an operator switches to, however lately they were used."""
        return [group for group in self.groups.values() if group.is_exposed]

    def expose(self, groups: Iterable[Group], *, is_exposed: bool) -> None:
        """Note whether groups are exposed."""
        for group in groups:
            group.is_exposed = is_exposed
            group.is_sheltered = group.is_sheltered_at(self.now)
            self.touch(group)
        self.note_kinds()

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

    def launch_level(self, worker: Worker) -> int:
        """Return the level for which the worker's next process is launched: its own, or that of a validation."""
        level = self.groups[worker.group].launch_level
        return worker.launch_level if level is None else level

    def retry_now(self, group: Group) -> None:
        """End the restart delays of a group: an operator knows better than a back-off."""
        group.retry_now(self.now)
        self.touch(group)
