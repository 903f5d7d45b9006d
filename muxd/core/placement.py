"""Where groups find room: whether a group fits, on which GPUs, and who would leave for it; why one never will.

Nothing here changes anything but a group's choice of GPUs, while any will do and none has been settled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations, islice
from math import comb, inf
from typing import TYPE_CHECKING, Any, NamedTuple

from . import eviction
from .group import Group
from .ledger import HOST_RAM, WHOLE, GpuId, Holding, in_order
from .spec import GroupSpec, WorkerSpec
from .states import CHANGING, COMING, DOWN, WorkerState
from .worker import Cost, Worker

if TYPE_CHECKING:
    from .host_state import HostState

GIB = 1 << 30

#: Uses per second of a group that was never wanted: that it leaves costs more than nothing.
RARE = 1e-6


#: So many sets of GPUs are looked at for a group to which any will do: more than all pairs of eight.
GPU_SETS = 32


class Impossible(NamedTuple):
    """What keeps a model from ever being loaded: an error's code, what is wrong, what to do."""

    code: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        """Return a phrase to follow the model's name."""
        return f"can never be loaded: {self.reason}; {self.remedy}"


class Eviction(NamedTuple):
    """A group that must leave for another one, or sleep deeper, and the level to which that leads."""

    group: Group
    level: int

    @property
    def leave_cost(self) -> Cost:
        return self.group.leave_cost(self.level)

    @property
    def comeback_cost(self) -> Cost:
        return self.group.comeback_cost(self.level)


class Placement:
    """Says who fits where, by the books of a host."""

    def __init__(self, host: HostState) -> None:
        self._host = host
        # What was found as of now: with 100 models waiting, a decision asks hundreds of times.
        self._as_of = (0, 0, 0)  # the changes of the ledger and of workers, and what was learned of the host
        self._clearings: dict[frozenset[GpuId], list[Eviction]] = {}
        self._evictions: dict[tuple[frozenset[GpuId], int], list[Eviction]] = {}  # by GPUs and share, where all is free
        self._places: dict[tuple[Any, ...], frozenset[GpuId] | None] = {}  # by what a group needs, and is off limits
        self._never: dict[str, tuple[GroupSpec, Impossible | None]] = {}  # by group, for the spec that it has

    def forget_evictions(self) -> None:
        """Find evictions anew from now on: who is busy, or wanted, may have changed."""
        self._evictions.clear()
        self._places.clear()

    def _keep_up(self) -> None:
        """Forget what was found before the last change."""
        host = self._host
        if self._as_of != (as_of := (host.ledger.changes, host.moves, host.learned)):
            self._as_of = as_of
            self._clearings.clear()
            self.forget_evictions()
            self._never.clear()

    def is_loaded(self, group: Group) -> bool:
        """Say whether weights of a member are on its GPUs."""
        return any(self._host.ledger.is_loaded(worker.name) for worker in group.serving)

    def fits(self, group: Group) -> bool:
        """Say whether the memory that the group needs to serve is there."""
        return not self._shortfall(group)

    def _shortfall(self, group: Group, left: Mapping[str, Holding] = {}) -> dict[GpuId, int]:
        """Return what the group lacks on each GPU, as `Ledger.shortfall`, to which `left` is passed on."""
        if len(group.serving) == 1:
            worker = group.serving[0]
            return self._host.ledger.shortfall(worker.name, worker.gpu_claim, left)
        thought = {**left, **{worker.name: Holding({}, 3) for worker in claiming(group)}}
        missing: dict[GpuId, int] = {}
        for worker in claiming(group):  # each finds there what those before it take
            for gpu, amount in self._host.ledger.shortfall(worker.name, worker.gpu_claim, thought).items():
                missing[gpu] = WHOLE if WHOLE in (amount, missing.get(gpu)) else max(amount, missing.get(gpu, 0))
            thought[worker.name] = Holding(worker.gpu_claim)
        return missing

    def place(self, group: Group, off_limits: frozenset[GpuId] = frozenset()) -> bool:
        """Choose the GPUs of a group to which any will do, and say whether its GPUs are none that is off limits.

        The best are those whose evictions cost least, busy groups first; nobody leaves anywhere before somebody does.
        Then those with most room left: a GPU that is shared serves each model more slowly, and gives its room to one
        that needs a whole GPU at the cost of one more eviction.
        """
        if group.is_placed:
            return not group.gpus & off_limits
        self._keep_up()
        worker, before = group.serving[0], group.gpus
        spec = worker.spec
        key = spec.gpus, spec.any_of, spec.on_cards, spec.need, worker.share, off_limits
        if key not in self._places:
            ranked = [(self._rank(group, gpus), gpus) for gpus in self._gpu_sets(worker, off_limits)]
            self._places[key] = min(ranked, key=lambda each: each[0])[1] if ranked else None
        found = self._places[key]
        group.place(before if found is None else found)
        return found is not None

    def _gpu_sets(self, worker: Worker, off_limits: frozenset[GpuId]) -> Iterable[frozenset[GpuId]]:
        """Return sets of GPUs on which the worker may come; at most GPU_SETS of those that have most room."""
        spec, count = worker.spec, worker.spec.gpu_count
        free = spec.gpus - off_limits
        there = (free & self._host.gpus_there if spec.on_cards and self._host.gpus_there else free) or free
        large = [gpu for gpu in in_order(there) if not self._lacks(worker, gpu)]
        gpus = large if len(large) >= count else in_order(there)
        if comb(len(gpus), count) > GPU_SETS:
            gpus.sort(key=self._host.ledger.room, reverse=True)
        return (frozenset(chosen) for chosen in islice(combinations(gpus, count), GPU_SETS))

    def _lacks(self, worker: Worker, gpu: GpuId) -> bool:
        """Say whether a GPU is too small for the worker, whoever leaves it."""
        return self._need(worker) > self._host.ledger.capacity.get(gpu, inf)

    def _need(self, worker: Worker) -> int:
        """Return the bytes that the worker needs on each of its GPUs: as declared, else its weights alone."""
        weights = self._host.weights.get(worker.group, 0) if not worker.spec.need else 0
        return worker.spec.need or weights // max(1, worker.spec.gpu_count)

    def _rank(self, group: Group, gpus: frozenset[GpuId]) -> tuple[int, int, float, int, int]:
        """Return how good the GPUs are for the group, the least being the best."""
        group.place(gpus)
        leaving = self.evictions(group)
        stuck = sum(b.group.stuck_for(group) is not None for b in leaving) + len(self.fixed_in_the_way(group))
        busy = sum(_is_busy(b.group) for b in leaving)
        seconds = sum(_seconds(b.group, b.level) * max(b.group.demand(self._host.now), RARE) for b in leaving)
        return stuck, busy, seconds, len(leaving), -sum(map(self._host.ledger.room, gpus))

    def evictions(self, group: Group) -> list[Eviction]:
        """Return who must leave for the group to fit, by the cheapest plan; those who leave already included."""
        if all(worker.share == WHOLE for worker in group.serving):
            # All weights that are there are in its way: there is nothing to choose.
            return [eviction for eviction in self._clearing(group.gpus) if eviction.group is not group]
        if len(group.serving) > 1 or self._host.ledger.has(group.serving[0].name):
            return self._find_evictions(group)
        self._keep_up()
        key = group.gpus, group.serving[0].share  # groups that hold nothing and need the same share a plan
        if key not in self._evictions:
            self._evictions[key] = self._find_evictions(group)
        return self._evictions[key]

    def _find_evictions(self, group: Group) -> list[Eviction]:
        missing = self._shortfall(group)
        holders = self._groups_of(self._host.ledger.holders(missing), group)
        if not holders:
            return []
        if all(amount == WHOLE for amount in missing.values()):
            holders = [holder for holder in holders if self.is_loaded(holder)]
        movable = [holder for holder in holders if not holder.is_fixed]
        left = {holder.name: {level: _left(holder, level) for level in holder.levels_left} for holder in movable}

        def fits(plan: eviction.Plan) -> bool:
            then = {worker: held for name, level in plan.items() for worker, held in left[name][level].items()}
            return not self._shortfall(group, then)

        chosen = eviction.plan([_resident(holder, left[holder.name], self._host.now) for holder in movable], fits)
        if chosen is None:
            return [Eviction(holder, 3) for holder in holders]
        return [Eviction(self._host.groups[name], chosen[name]) for name in sorted(chosen)]

    def _clearing(self, gpus: frozenset[GpuId]) -> list[Eviction]:
        """Return how all weights leave the GPUs."""
        self._keep_up()
        if gpus not in self._clearings:
            loaded = dict.fromkeys(self._host.workers[name].group for name in self._host.ledger.loaded_on(gpus))
            groups = [self._host.groups[name] for name in loaded]
            self._clearings[gpus] = [
                Eviction(other, next(level for level in other.levels_left if level > 0)) for other in groups
            ]
        return self._clearings[gpus]

    def fixed_in_the_way(self, group: Group) -> list[Group]:
        """Return the pinned groups without whose leaving the group cannot come to its GPUs, however many others go."""
        if group.state not in DOWN | {WorkerState.ASLEEP}:
            return []
        fixed = [other for other in self._host.pinned if other is not group and other.is_fixed]
        if not fixed:
            return []
        stay = {worker.name for other in fixed for worker in other.serving}
        others = (name for name in self._host.ledger.holders(group.gpus) if name not in stay)
        missing = self._shortfall(group, dict.fromkeys(others, Holding({}, 3)))
        holding = set(self._host.ledger.holders(missing))
        return [other for other in fixed if any(worker.name in holding for worker in other.serving)]

    def must_start_anew(self, group: Group) -> bool:
        """Say whether a sleeper can never wake as it is, but a new process of it could come, here or elsewhere.

        Strangers have taken memory that its process had, and a new one takes what it finds; or any GPUs will do for it,
        and those where it sleeps are taken.
        """
        worker = group.serving[0]
        if group.state is not WorkerState.ASLEEP or len(group.serving) > 1:
            return False
        room, strangers = self._host.ledger.capacity, self._host.strangers
        if any(gpu in strangers and worker.excess > room.get(gpu, inf) for gpu in worker.gpus):
            return True
        if not worker.spec.any_of or not self._is_blocked(group):
            return False
        own = worker.gpus
        elsewhere = (gpus for gpus in self._gpu_sets(worker, frozenset()) if gpus != own)
        found = any(self._could_come(group, gpus) for gpus in elsewhere)
        group.place(own)
        return found

    def _could_come(self, group: Group, gpus: frozenset[GpuId]) -> bool:
        group.place(gpus)
        return not self._is_blocked(group)

    def _is_blocked(self, group: Group) -> bool:
        """Say whether the group cannot come to its GPUs, whoever may leave them."""
        return bool(self.crowded_out(group) or self.fixed_in_the_way(group))

    def plan(self, group: Group) -> list[Eviction]:
        """Return who must leave for the group to come: from its GPUs, and from host RAM where that is worth it."""
        evictions = self.evictions(group)
        return [*evictions, *self._demotions(group, evictions)] if HOST_RAM in self._host.ledger.capacity else evictions

    def _demotions(self, group: Group, evictions: Sequence[Eviction]) -> list[Eviction]:
        """Return the sleepers to be ended, so that the weights of a group that is launched have room in host RAM.

        None where it is cheaper that the group itself sleeps at level 2.
        """
        if not any(self.copy_of(worker) for worker in group.serving):
            return []
        gone = {worker: held for b in evictions for worker, held in _left(b.group, b.level).items()}
        if not self.lacks_host_ram(group, gone):
            return []
        leaving = [eviction.group for eviction in evictions]
        sleepers = [
            other
            for other in self._groups_of(self._host.ledger.holders([HOST_RAM]), group)
            if other.state is WorkerState.ASLEEP and not (other.wanted or other.is_fixed or other in leaving)
        ]

        def fits(plan: eviction.Plan) -> bool:
            ended = {worker.name: Holding({}, 3) for name in plan for worker in self._host.groups[name].serving}
            return not self.lacks_host_ram(group, gone | ended)

        residents = [
            eviction.Resident(
                other.name,
                False,
                (eviction.LevelCost(3, _seconds(other, 3) * max(other.demand(self._host.now), RARE)),),
            )
            for other in sleepers
        ]
        chosen = eviction.plan(residents, fits)
        if chosen is None:
            return []
        cost = sum(resident.cost[1] for resident in residents if resident.group in chosen)
        if cost >= _reload_cost(group) * max(group.demand(self._host.now), RARE):
            return []
        return [Eviction(self._host.groups[name], 3) for name in sorted(chosen)]

    def lacks_host_ram(self, group: Group, left: Mapping[str, Holding] = {}) -> bool:
        """Say whether host RAM has no room for the weights of a group that is launched; `left` as in the ledger."""
        need = sum(self.copy_of(worker) for worker in group.serving)
        return need > 0 and bool(self._host.ledger.shortfall("", {HOST_RAM: need}, left))

    def gives_host_ram(self, leaving: Eviction) -> bool:
        """Say whether a victim that is not gone yet will give host RAM back."""
        ends = leaving.level == 3 and not _is_stuck(leaving.group)
        return ends and any(worker.copy for worker in leaving.group.serving)

    def copy_of(self, worker: Worker) -> int:
        """Return the bytes of host RAM that a worker's next process takes to sleep at level 1; 0 for one that has one.

        As large as its weights, and where nobody knows these, as all that it needs on its GPUs.
        """
        if not worker.is_down or self._host.launch_level(worker) != 1 or worker.spec.copy is None:
            return 0
        return worker.spec.copy or self._host.weights.get(worker.group, 0) or worker.spec.memory

    def _groups_of(self, workers: Iterable[str], but: Group) -> list[Group]:
        """Return the groups of the workers, each once, without that one."""
        names = dict.fromkeys(self._host.workers[name].group for name in workers)
        return [self._host.groups[name] for name in names if name != but.name]

    def is_quiet(self, group: Group) -> bool:
        """Say whether no memory changes on the GPUs of those members that can come."""
        return all(self.is_quiet_for(worker) for worker in claiming(group))

    def is_quiet_for(self, worker: Worker) -> bool:
        """Say whether no other worker's memory changes on the GPUs of this one: one at a time can be measured."""
        return not any(worker.gpus & other.gpus for other in self._changing() if other is not worker)

    def _changing(self) -> Iterator[Worker]:
        return (worker for worker in self._host.workers.values() if worker.state in CHANGING)

    def changing_beside(self, group: Group) -> list[Worker]:
        """Return the workers of other groups whose memory changes on the group's GPUs: it must wait for them."""
        return [w for w in self._changing() if w.group != group.name and not group.gpus.isdisjoint(w.gpus)]

    # Who can never come

    def never_loads(self, group: Group) -> Impossible | None:
        """Return why this host can never load the group as it is configured; None if it is loaded, or nobody knows."""
        if not group.is_down:
            return None
        self._keep_up()
        spec, never = self._never.get(group.name, (None, None))
        if spec is not group.spec:
            never = self._find_never_loads(group)
            self._never[group.name] = group.spec, never
        return never

    def _find_never_loads(self, group: Group) -> Impossible | None:
        each = (self._gpu_missing(w.spec) or self._too_small(w.spec, group.name) for w in group.serving)
        return next((impossible for impossible in each if impossible is not None), None) or self._crowded(group)

    def _gpu_missing(self, spec: WorkerSpec) -> Impossible | None:
        if spec.any_of:
            found = spec.gpus & self._host.gpus_there if spec.on_cards and self._host.gpus_there else spec.gpus
            if len(found) >= spec.any_of:
                return None
            reason = f"it needs {spec.any_of} GPUs, and there {'is' if len(found) == 1 else 'are'} "
            return Impossible("gpu_missing", reason + (", ".join(in_order(found)) or "none"), "correct its `gpus`")
        missing = in_order(spec.gpus - self._host.gpus_there)
        if not (missing and self._host.gpus_there and spec.on_cards):
            return None
        there = (
            f"there {'are' if len(self._host.gpus_there) > 1 else 'is'} {', '.join(in_order(self._host.gpus_there))}"
        )
        gpus = f"GPU {', '.join(missing)} {'are' if len(missing) > 1 else 'is'} not there"
        return Impossible("gpu_missing", f"{gpus}: {there}", "correct its `gpus`")

    def _too_small(self, spec: WorkerSpec, group: str) -> Impossible | None:
        """Return why the worker is too large for its GPUs: by what is declared, else by its weights."""
        largest = (
            sorted(in_order(spec.gpus), key=lambda gpu: -self._host.sizes.get(gpu, 0)) if spec.any_of else spec.gpus
        )
        sizes = {
            gpu: self._host.sizes[gpu] for gpu in in_order([*largest][: spec.gpu_count]) if gpu in self._host.sizes
        }
        if spec.memory:
            share = spec.memory // spec.gpu_count
            reason, remedy = f"it needs {share / GIB:.1f} GiB on each of its GPUs", "or correct its `memory`"
            small = {gpu: size for gpu, size in sizes.items() if share > size}
        else:
            weights = self._host.weights.get(group, 0)
            reason, remedy = f"its weights alone need {weights / GIB:.1f} GiB", "or a smaller model"
            small = sizes if len(sizes) == spec.gpu_count and weights > sum(sizes.values()) else {}
        if not small:
            return None
        has = ", ".join(f"GPU {gpu} has {size / GIB:.1f} GiB in all" for gpu, size in small.items())
        return Impossible("model_too_large", f"{reason}, and {has}", f"give it more GPUs, {remedy}")

    def _crowded(self, group: Group) -> Impossible | None:
        """Return why members of a group, each small enough, can never be on one GPU together."""
        for gpu in in_order(group.gpus):
            shares = [worker.share for worker in group.serving if gpu in worker.gpus]
            capacity = self._host.sizes.get(gpu)
            if len(shares) < 2 or (capacity is not None and WHOLE not in shares and sum(shares) <= capacity):
                continue
            if capacity is None or WHOLE in shares:
                reason = f"{len(shares)} workers cannot share GPU {gpu}, all of which one may take"
            else:
                need = f"{len(shares)} workers on GPU {gpu} need {sum(shares) / GIB:.1f} GiB"
                reason = f"{need}, and GPU {gpu} has {capacity / GIB:.1f} GiB in all"
            return Impossible("model_too_large", reason, "give each a GPU of its own")
        return None

    def crowded_out(self, group: Group) -> str:
        """Return why strangers, or a smaller budget, leave no room for a group that is not on its GPUs; else "".

        A group without a process that its GPUs can never hold is none of these: see `never_loads`.
        """
        is_asleep, strangers = group.state is WorkerState.ASLEEP, self._host.strangers
        coming = claiming(group) if is_asleep or (strangers and group.state in DOWN) else ()
        needs: dict[GpuId, int] = {}
        for worker in coming:
            needs |= {gpu: needs.get(gpu, 0) + self._need(worker) for gpu in worker.gpus}
        short = [
            gpu
            for gpu in in_order(needs)
            if needs[gpu] > self._host.ledger.capacity.get(gpu, inf) and (is_asleep or gpu in strangers)
        ]
        if not short:
            return ""
        room, who = self._host.ledger.capacity, {gpu: strangers.get(gpu, "[gpus] gives no more") for gpu in short}
        wanted = (f"{needs[gpu] / GIB:.1f} GiB of GPU {gpu}" for gpu in short)
        has = (f"{room[gpu] / GIB:.1f} GiB for it: {who[gpu]}" for gpu in short)
        each = ", ".join(f"it needs {need}, which has {left}" for need, left in zip(wanted, has, strict=True))
        return f"cannot be loaded now: {each}; end that, or wait"


def claiming(group: Group) -> list[Worker]:
    """Return the members that need memory when the group comes: not the router, and none that is stuck."""
    return [worker for worker in group.serving if worker.state is not WorkerState.STUCK]


def _left(group: Group, level: int) -> dict[str, Holding]:
    """Return what each member would have once the group has gone to `level`."""
    return {worker.name: worker.holding_asleep(worker.level_for(level)) for worker in group.serving}


def _resident(group: Group, left: Mapping[int, Mapping[str, Holding]], now: float) -> eviction.Resident:
    """Describe what the group's leaving costs, by the level; a deeper one that frees no more of a GPU is no choice."""
    options: list[eviction.LevelCost] = []
    before = None
    for level, holdings in left.items():
        kept = [({**holding.claim, HOST_RAM: 0}, holding.is_loaded) for holding in holdings.values()]
        if kept != before:
            options.append(eviction.LevelCost(level, _seconds(group, level) * max(group.demand(now), RARE)))
        before = kept
    return eviction.Resident(group.name, _is_busy(group), tuple(options))


def _is_busy(group: Group) -> bool:
    """Say whether the group's leaving would cut off requests, or a load, or cannot be had."""
    is_awake = not group.leaves and group.state is not WorkerState.ASLEEP
    return is_awake and (group.in_use or group.state in COMING or _is_stuck(group))


def _reload_cost(group: Group) -> float:
    """Return how much longer a wake at level 2 takes than one at level 1; 0 until it was measured.

    Nobody's process is ended for a guess.
    """
    deep, shallow = group.cost(WorkerState.WAKING, 2), group.cost(WorkerState.WAKING, 1)
    return max(0.0, deep.seconds - shallow.seconds) if deep.measured else 0.0


def _is_stuck(group: Group) -> bool:
    return any(worker.state is WorkerState.STUCK for worker in group.serving)


def _seconds(group: Group, level: int) -> float:
    """Return what the group's leaving to `level` costs each time that it is wanted: to leave and to come back.

    What is under way already costs nothing more, and what cannot be had costs most.
    """
    there_and_back = group.leave_cost(level).seconds + group.comeback_cost(level).seconds
    if group.leaves:
        least = group.levels_left[0]
        return there_and_back - group.comeback_cost(least).seconds if level > least else 0.0
    if _is_stuck(group):
        return inf
    if group.state is WorkerState.ASLEEP:
        return max(0.0, there_and_back - group.return_cost.seconds)
    return there_and_back
