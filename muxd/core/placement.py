"""Where groups find room: whether a group fits, on which GPUs, and who would leave for it; why one never will.

Nothing here changes anything but a group's choice of GPUs, while any will do and none has been settled.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from itertools import combinations, islice
from math import comb, inf

from . import eviction
from .clearing import RARE, Clearing, Eviction, Movables, Offer, all_weights, holders_of, is_stuck, left_at
from .group import Group
from .host_books import HostBooks
from .impossible import Impossible, why_never
from .ledger import GIB, HOST_RAM, WHOLE, GpuId, Holding, in_order
from .spec import GroupSpec
from .spreading import Spreading
from .states import OFF, WorkerState
from .worker import Worker

#: What somebody lacks on each GPU, as `Ledger.shortfall`, once others have left: they have then what is passed.
Lacks = Callable[..., dict[GpuId, int]]

#: So many sets of GPUs are looked at for a group to which any will do: more than all pairs of eight.
GPU_SETS = 32


class Placement:
    """Says who fits where, by the books of a host.

    What was found is kept until something that it depends on has changed: with 100 models waiting, a decision asks
    hundreds of times.
    """

    def __init__(self, host: HostBooks) -> None:
        self._host = host
        self._as_of = (-1, -1)  # the second, and how often something had been learned of the host
        self._movables = Movables(host)
        self._clearings: dict[frozenset[GpuId], Clearing] = {}
        self._evictions: dict[Hashable, tuple[int, list[Eviction]]] = {}  # with the changes of their GPUs, by group
        self._places: dict[Hashable, tuple[int, frozenset[GpuId] | None]] = {}  # with all changes, by need
        self._spreading = Spreading(host, self._clearing, self._fixed)
        self._spreads: dict[Hashable, tuple[int, Mapping[str, frozenset[GpuId]]]] = {}  # likewise, by who comes
        self._never: dict[
            str, tuple[tuple[GroupSpec, tuple[Worker, ...]], Impossible | None]
        ] = {}  # by group, for what

    def forget(self) -> None:
        """Find everything anew from now on."""
        self._as_of = (-1, -1)
        self._forget_found()

    def forget_group(self, group: Group) -> None:
        """Keep nothing of a group that is gone."""
        self._never.pop(group.name, None)
        self._forget_found()

    def _keep_up(self) -> None:
        """Forget what was found before something was learned of the host, or in another second: demand was another."""
        if self._as_of != (as_of := (self._host.second, self._host.learned)):
            if self._as_of[1] != as_of[1]:
                self._never.clear()
            self._as_of = as_of
            self._forget_found()

    def _forget_found(self) -> None:
        self._movables.forget()
        for found in (self._clearings, self._evictions, self._places, self._spreads):
            found.clear()

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

    def likeness(self, group: Group) -> Hashable:
        """Return a key that is equal for groups that need the same, and hold nothing that tells them apart.

        What is found for one of them holds for the others: where it comes to, and who leaves for it.
        """
        worker = group.serving[0]
        if len(group.serving) > 1 or self._host.ledger.holds(worker.name, worker.gpus):
            return group.name
        if HOST_RAM in self._host.ledger.capacity and self.copy_of(worker):
            return group.name
        is_asleep = group.state is WorkerState.ASLEEP
        return worker.share, self._host.need(worker), is_asleep, group.gpus if group.is_placed else _may_be_on(worker)

    def place(self, group: Group, off_limits: frozenset[GpuId] = frozenset()) -> bool:
        """Choose the GPUs of a group to which any will do, and say whether its GPUs are none that is off limits.

        The best are those whose evictions cost least, busy groups first; nobody leaves anywhere before somebody does.
        Then those with most room left: a GPU that is shared serves each model more slowly, and gives its room to one
        that needs a whole GPU at the cost of one more eviction.
        """
        if group.is_placed:
            return group.gpus.isdisjoint(off_limits)
        if len(group.serving) > 1:
            places = self._spread(group, off_limits)
            group.place_each(places)
            return bool(places)
        worker = group.serving[0]
        key = worker.share, self._host.need(worker), _may_be_on(worker), off_limits
        self._keep_up()
        changes = self._host.ledger.changes
        if key not in self._places or self._places[key][0] != changes:
            self._places[key] = changes, self._best(worker.share, self._gpu_sets(worker, off_limits))
        found = self._places[key][1]
        if found is not None:
            group.place(found)
        return found is not None

    def _spread(self, group: Group, off_limits: frozenset[GpuId]) -> Mapping[str, frozenset[GpuId]]:
        """Return the best GPUs of each replica of a group to which any will do; {} where there are not enough."""
        self._keep_up()
        coming, changes = claiming(group), self._host.ledger.changes
        key = group.name, tuple(worker.name for worker in coming), off_limits
        if key not in self._spreads or self._spreads[key][0] != changes:
            self._spreads[key] = changes, self._spreading.spread(coming, off_limits)
        return self._spreads[key][1]

    def has_places(self, group: Group, off_limits: frozenset[GpuId]) -> bool:
        """Say whether there are GPUs enough for all replicas of a group to which any will do, whoever leaves them."""
        return self._spreading.has_places(claiming(group), off_limits)

    def _gpu_sets(self, worker: Worker, off_limits: frozenset[GpuId]) -> Iterable[frozenset[GpuId]]:
        """Return sets of GPUs on which the worker may come; at most GPU_SETS of those that have most room."""
        spec, count = worker.spec, worker.spec.gpu_count
        there = self._host.there(spec) - off_limits or spec.gpus - off_limits
        large = [gpu for gpu in in_order(there) if not self._lacks(worker, gpu)]
        gpus = large if len(large) >= count else in_order(there)
        if comb(len(gpus), count) > GPU_SETS:
            gpus.sort(key=self._host.ledger.room, reverse=True)
        return (frozenset(chosen) for chosen in islice(combinations(gpus, count), GPU_SETS))

    def _lacks(self, worker: Worker, gpu: GpuId) -> bool:
        """Say whether a GPU is too small for the worker, whoever leaves it."""
        return self._host.need(worker) > self._host.ledger.capacity.get(gpu, inf)

    def _best(self, share: int, sets: Iterable[frozenset[GpuId]]) -> frozenset[GpuId] | None:
        """Return the best of some sets of GPUs for one who holds nothing and needs this share, the first of equals."""
        best: Offer | None = None
        found = None
        for gpus in sets:
            offer = self._clearing(gpus).offer_at_most(share, best)
            if offer is not None and self._host.fixed:
                lacks = partial(self._host.ledger.shortfall, "", dict.fromkeys(gpus, share))
                offer = offer.with_stuck(len(self._fixed(gpus, lacks)))
            if offer is not None and (best is None or offer.rank < best.rank):
                best, found = offer, gpus
        return found

    def _clearing(self, gpus: frozenset[GpuId]) -> Clearing:
        found = self._clearings.get(gpus)
        if found is None or found.changes != self._host.ledger.changes_of(gpus):
            found = self._clearings[gpus] = Clearing(self._host, self._movables, gpus)
        return found

    def evictions(self, group: Group) -> list[Eviction]:
        """Return who must leave for the group to fit, by the cheapest plan; those who leave already included."""
        self._keep_up()
        worker = group.serving[0]
        if len(group.serving) == 1 and not self._host.ledger.holds(worker.name, group.gpus):
            return self._clearing(group.gpus).leaving(worker.share)
        coming = tuple((each.name, each.gpus) for each in claiming(group))  # one that is stuck no longer may come again
        changes, key = self._host.ledger.changes_of(group.gpus), (group.name, group.gpus, coming)
        if key not in self._evictions or self._evictions[key][0] != changes:
            self._evictions[key] = changes, self._find_evictions(group)
        return self._evictions[key][1]

    def _find_evictions(self, group: Group) -> list[Eviction]:
        """Return likewise for a group that holds something there itself, or has several workers."""
        if all(worker.share == WHOLE for worker in group.serving):
            return [each for each in all_weights(self._host, group.gpus) if each.group is not group]
        holders = holders_of(self._host, self._shortfall(group), group)
        if not holders:
            return []
        movable = (holder for holder in holders if not holder.is_fixed)
        chosen = self._movables.plans(movable, lambda left: not self._shortfall(group, left)).cheapest(True)
        if chosen is None:
            return [Eviction(holder, 3) for holder in holders]
        return [Eviction(self._host.groups[name], chosen[name]) for name in sorted(chosen)]

    def spared(self, group: Group, blockers: Sequence[Eviction]) -> dict[str, list[Worker]]:
        """Return the replicas whose leaving is enough in their whole groups' place, by group; none where it is not.

        The others of a group serve on, as many as it has at least.
        """
        if not any(may_give_way_in_part(blocker.group) for blocker in blockers):
            return {}
        spared: dict[str, list[Worker]] = {}
        left: dict[str, Holding] = {}
        for blocker in blockers:
            held = [worker for worker in blocker.group.enlisted if not worker.gpus.isdisjoint(group.gpus)]
            others = [worker for worker in blocker.group.answering if worker not in held]
            if may_give_way_in_part(blocker.group) and len(others) >= blocker.group.least:
                spared[blocker.group.name] = held
                left |= {worker.name: worker.holding_asleep(worker.level_for(worker.sleep_level)) for worker in held}
            else:
                left |= left_at(blocker.group, blocker.level)
        return spared if spared and not self._shortfall(group, left) else {}

    def with_room(self, workers: Iterable[Worker], off_limits: frozenset[GpuId]) -> list[Worker]:
        """Return those of the workers for which there is room, though nobody leaves; each finds what others leave.

        One to which any GPUs will do comes to those that have room.
        """
        found: dict[str, Holding] = {}
        chosen = []
        for worker in workers:
            if self._spreading.may_move(worker):
                self._spreading.find_room(worker, off_limits, found)
            if not worker.gpus.isdisjoint(off_limits):
                continue
            if not self._host.ledger.shortfall(worker.name, worker.gpu_claim, found):
                found[worker.name] = Holding(worker.gpu_claim)
                chosen.append(worker)
        return chosen

    def lack_of_room(self, group: Group, wanted: int) -> str:
        """Return who has the memory of those of a group's replicas that are not on their GPUs, as users are told."""
        missing: dict[GpuId, int] = {}
        lent: frozenset[GpuId] = frozenset()
        for worker in group.serving:
            if not self._host.ledger.is_awake(worker.name):
                lent |= self._host.lent & (worker.spec.gpus if self._spreading.may_move(worker) else worker.gpus)
            if self._spreading.may_move(worker):
                claim = dict.fromkeys(worker.spec.gpus, worker.share)
                missing |= self._host.ledger.shortfall(worker.name, claim)
            elif not self._host.ledger.is_awake(worker.name):
                missing |= self._host.ledger.shortfall(worker.name, worker.gpu_claim)
        said = [f"GPU {gpu} is lent" for gpu in in_order(lent)]
        for gpu in in_order(missing.keys() - lent):
            holders = [name for name in self._host.ledger.holders([gpu]) if self._host.ledger.is_loaded(name)]
            states = (f"{name} ({self._host.workers[name].state.replace('_', ' ')})" for name in holders)
            said.append(f"GPU {gpu} has no room: {' and '.join(states) or 'strangers'}")
        return f"there is no room for {wanted}: {', '.join(said)}" if said else f"there is no room for {wanted} now"

    def homeless(self, group: Group) -> list[Worker]:
        """Return the members of a group that is up which could come, had they not lost the room that was theirs."""
        lent, now = self._host.lent, self._host.now
        movers = (worker for worker in group.enlisted if worker.may_come(now) and self._spreading.may_move(worker))
        ledger = self._host.ledger
        return [w for w in movers if not lent.isdisjoint(w.gpus) or ledger.shortfall(w.name, w.gpu_claim)]

    def fixed_in_the_way(self, group: Group) -> list[Group]:
        """Return the groups that leave for nobody, without which the group cannot come, however many others go.

        They are the pinned ones, or, where beside these there is room for it, those that are sheltered for a while.
        """
        if not self._host.fixed or group.state not in OFF | {WorkerState.ASLEEP}:
            return []
        return self._fixed(group.gpus, partial(self._shortfall, group), group)

    def kept_out_by(self, group: Group) -> list[Group]:
        """Return the groups that leave for nobody, without which a group at rest could come somewhere; none: it can."""
        if not self._host.fixed or self.must_start_anew(group):
            return []
        if group.is_placed:
            return self.fixed_in_the_way(group)
        found: dict[str, Group] = {}
        worker = group.serving[0]
        for gpus in self._gpu_sets(worker, frozenset()):
            lacks = partial(self._host.ledger.shortfall, "", dict.fromkeys(gpus, worker.share))
            if not (fixed := self._fixed(gpus, lacks, group)):
                return []
            found |= {other.name: other for other in fixed}
        return list(found.values())

    def _fixed(self, gpus: frozenset[GpuId], lacks: Lacks, but: Group | None = None) -> list[Group]:
        fixed = [other for other in self._host.fixed if other is not but and other.is_fixed]
        pinned = [other for other in fixed if other.is_pinned]
        if len(pinned) in (0, len(fixed)):
            return self._holding(gpus, lacks, fixed)
        # Who keeps it out for some time only is named where those that are pinned leave room for it.
        return self._holding(gpus, lacks, pinned) or [
            other for other in self._holding(gpus, lacks, fixed) if not other.is_pinned
        ]

    def _holding(self, gpus: frozenset[GpuId], lacks: Lacks, fixed: Sequence[Group]) -> list[Group]:
        """Return those of `fixed` that hold what is missing once all but them have left the GPUs."""
        if not fixed:
            return []
        stay = {worker.name for other in fixed for worker in other.serving}
        others = (name for name in self._host.ledger.holders(gpus) if name not in stay)
        missing = lacks(dict.fromkeys(others, Holding({}, 3)))
        holding = set(self._host.ledger.holders(missing))
        return [other for other in fixed if any(worker.name in holding for worker in other.serving)]

    def must_start_anew(self, group: Group) -> bool:
        """Say whether a sleeper can never wake as it is, but a new process of it could come, here or elsewhere.

        Strangers have taken memory that its process had, and a new one takes what it finds; or any GPUs will do for it,
        and those where it sleeps are taken.
        """
        worker = group.serving[0]
        if group.state is not WorkerState.ASLEEP:
            return False
        if len(group.serving) > 1:
            return worker.spec.any_of > 0 and self.is_kept_off(group) and self._could_be_spread(group)
        room, strangers = self._host.ledger.capacity, self._host.strangers
        if strangers and any(gpu in strangers and worker.excess > room.get(gpu, inf) for gpu in worker.gpus):
            return True
        if not worker.spec.any_of or not self.is_kept_off(group):
            return False
        own = worker.gpus
        elsewhere = (gpus for gpus in self._gpu_sets(worker, frozenset()) if gpus != own)
        found = any(self._could_come(group, gpus) for gpus in elsewhere)
        group.place(own)
        return found

    def _could_be_spread(self, group: Group) -> bool:
        """Say whether new processes of a group's replicas could come to other GPUs than those where they sleep."""
        former = {worker.name: worker.gpus for worker in group.serving}
        places = self._spread(group, frozenset())
        group.place_each(places)
        found = bool(places) and not self.is_kept_off(group)
        group.place_each(former)
        return found

    def _could_come(self, group: Group, gpus: frozenset[GpuId]) -> bool:
        group.place(gpus)
        return not self.is_kept_off(group)

    def fits_elsewhere(self, group: Group, gpus: frozenset[GpuId]) -> bool:
        """Say whether a new process of a group, to which any GPUs will do, fits on others than its own among these."""
        worker = group.serving[0]
        claims = ({gpu: worker.spec.share} for gpu in self._host.there(worker.spec) & gpus - worker.gpus)
        free = [claim for claim in claims if not self._host.ledger.shortfall("", claim)]
        return sum(not self._lacks(worker, gpu) for claim in free for gpu in claim) >= worker.spec.gpu_count

    def is_kept_off(self, group: Group) -> bool:
        """Say whether the group cannot come to its GPUs, whoever may leave them."""
        return bool(self.crowded_out(group) or self.fixed_in_the_way(group))

    def plan(self, group: Group) -> list[Eviction]:
        """Return who must leave for the group to come: from its GPUs, and from host RAM where that is worth it."""
        evictions = self.evictions(group)
        demotions = self._demotions(group, evictions) if HOST_RAM in self._host.ledger.capacity else []
        return [*evictions, *demotions] if demotions else evictions

    def _demotions(self, group: Group, evictions: Sequence[Eviction]) -> list[Eviction]:
        """Return the sleepers to be ended, so that the weights of a group that is launched have room in host RAM.

        None where it is cheaper that the group itself sleeps at level 2.
        """
        if not any(self.copy_of(worker) for worker in group.enlisted):
            return []
        gone = {worker: held for b in evictions for worker, held in left_at(b.group, b.level).items()}
        gone |= {w.name: Holding({}, 3) for each in self._host.with_gate if (w := each.serving[0]).is_ahead}
        if not self.lacks_host_ram(group, gone):
            return []
        leaving = [eviction.group for eviction in evictions]
        sleepers = [
            other
            for other in self._host.groups_of(self._host.ledger.holders([HOST_RAM]))
            if other.state is WorkerState.ASLEEP and not (other.wanted or other.is_fixed or other in leaving)
        ]

        def fits(plan: eviction.Plan) -> bool:
            ended = {worker.name: Holding({}, 3) for name in plan for worker in self._host.groups[name].serving}
            return not self.lacks_host_ram(group, gone | ended)

        residents = [
            eviction.Resident(other.name, False, (eviction.LevelCost(3, self._movables.cost(Eviction(other, 3))),))
            for other in sleepers
        ]
        chosen = eviction.plan(residents, fits)
        if chosen is None:
            return []
        cost = sum(resident.cost[1] for resident in residents if resident.group in chosen)
        if cost >= _reload_cost(group) * max(group.demand(self._host.second), RARE):
            return []
        return [Eviction(self._host.groups[name], 3) for name in sorted(chosen)]

    def lacks_host_ram(self, group: Group, left: Mapping[str, Holding] = {}) -> bool:
        """Say whether host RAM has no room for the weights of a group that is launched; `left` as in the ledger."""
        need = sum(self.copy_of(worker) for worker in group.enlisted)
        return need > 0 and bool(self._host.ledger.shortfall("", {HOST_RAM: need}, left))

    def gives_host_ram(self, leaving: Eviction) -> bool:
        """Say whether a victim that is not gone yet will give host RAM back."""
        ends = leaving.level == 3 and not is_stuck(leaving.group)
        return ends and any(worker.copy for worker in leaving.group.serving)

    def copy_of(self, worker: Worker) -> int:
        """Return the bytes of host RAM that a worker's next process takes to sleep at level 1; 0 for one that has one.

        As large as its weights, and where nobody knows these, as all that it needs on its GPUs.
        """
        if not worker.is_down or self._host.launch_level(worker) != 1 or worker.spec.copy is None:
            return 0
        return worker.spec.copy or self._host.weights.get(worker.group, 0) or worker.spec.memory

    def is_quiet(self, group: Group) -> bool:
        """Say whether no memory changes on the GPUs of those members that can come."""
        return all(self.is_quiet_for(worker) for worker in claiming(group))

    def is_quiet_for(self, worker: Worker) -> bool:
        """Say whether no other worker's memory changes on the GPUs of this one: one at a time can be measured."""
        return all(other is worker for other in self._host.changing_on(worker.gpus))

    def changing_beside(self, group: Group) -> list[Worker]:
        """Return the workers of other groups whose memory changes on the group's GPUs: it must wait for them."""
        beside = [worker for worker in self._host.changing_on(group.gpus) if worker.group != group.name]
        return sorted(beside, key=lambda worker: worker.name)

    # Who can never come

    def never_loads(self, group: Group) -> Impossible | None:
        """Return why this host can never load the group as it is configured; None if it is loaded, or nobody knows."""
        if not group.is_down:
            return None
        self._keep_up()
        found_for, never = self._never.get(group.name, (None, None))
        if found_for != (group.spec, group.enlisted):
            never = why_never(self._host, group)
            self._never[group.name] = (group.spec, group.enlisted), never
        return never

    def too_few_places(self, group: Group) -> str:
        """Return why strangers leave no places for all replicas of a group to which any GPUs will do; else "".

        Such a group has no GPUs of which a lack could be told: it keeps those that were last thought of.
        """
        strangers, spec = self._host.strangers, group.serving[0].spec
        is_free = len(group.serving) > 1 and spec.any_of and not group.is_placed and group.state in OFF
        if not (strangers and is_free) or self.has_places(group, frozenset()):
            return ""
        each = "all" if spec.share == WHOLE else f"{spec.share / GIB:.1f} GiB"
        room = self._host.ledger.capacity
        taken = (
            f"GPU {gpu} has {room.get(gpu, 0) / GIB:.1f} GiB for it: {strangers[gpu]}" for gpu in in_order(strangers)
        )
        what = f"each replica needs {each} of {spec.any_of} GPU{'s' if spec.any_of > 1 else ''}"
        return f"cannot be loaded now: {what}, and they do not all fit; {', '.join(taken)}; end that, or wait"

    def crowded_out(self, group: Group) -> str:
        """Return why strangers, or a smaller budget, leave no room for a group that is not on its GPUs; else "".

        A group without a process that its GPUs can never hold is none of these: see `never_loads`.
        """
        if few := self.too_few_places(group):
            return few
        is_asleep, strangers = group.state is WorkerState.ASLEEP, self._host.strangers
        coming = claiming(group) if is_asleep or (strangers and group.state in OFF) else ()
        room, needs = self._host.ledger.capacity, dict[GpuId, int]()
        for worker in coming:
            need = self._host.need(worker)
            for gpu in worker.gpus:
                needs[gpu] = needs.get(gpu, 0) + need
        short = [gpu for gpu, need in needs.items() if need > room.get(gpu, inf) and (is_asleep or gpu in strangers)]
        if not short:
            return ""
        short = in_order(short)
        who = {gpu: strangers.get(gpu, "[gpus] gives no more") for gpu in short}
        wanted = (f"{needs[gpu] / GIB:.1f} GiB of GPU {gpu}" for gpu in short)
        has = (f"{room[gpu] / GIB:.1f} GiB for it: {who[gpu]}" for gpu in short)
        each = ", ".join(f"it needs {need}, which has {left}" for need, left in zip(wanted, has, strict=True))
        return f"cannot be loaded now: {each}; end that, or wait"


def why_kept_out(group: Group, fixed: Sequence[Group]) -> str:
    """Return, as a phrase after its name, that a group cannot come while others stay that leave for nobody."""
    pinned = [other for other in fixed if other.is_pinned]
    names = " and ".join(other.name for other in pinned or fixed)
    are = "are" if len(pinned or fixed) > 1 else "is"
    if not pinned:
        longest = max(other.spec.sheltered_for for other in fixed)
        why = f"{names} {are} in use, and kept for {longest:.0f} s after the last request (evict)"
        return f"cannot be loaded now: {why}; `muxctl switch {group.name}` goes before that"
    how = "pinned" if any(other.spec.pinned for other in pinned) else "held by an operator"
    there = f"{names} {are} {how}, and {group.name} does not fit beside {'them' if len(pinned) > 1 else 'it'}"
    verb = "stop" if pinned[0].spec.pinned else "unhold"
    return f"cannot be loaded: {there}; `muxctl {verb} {pinned[0].name}` makes room"


def _may_be_on(worker: Worker) -> Hashable:
    """Return what says on which GPUs a worker to which any will do may come."""
    return worker.spec.gpus, worker.spec.any_of, worker.spec.on_cards


def may_give_way_in_part(group: Group) -> bool:
    """Say whether some replicas could leave for another group while the others serve on: their number is not fixed."""
    is_free = group.order is None and group.pending_spec is None and not group.retired
    return group.spec.scaling is not None and group.state is WorkerState.READY and is_free


def claiming(group: Group) -> list[Worker]:
    """Return the members that need memory when the group comes: no router, nobody spare, and none that is stuck."""
    return [worker for worker in group.enlisted if worker.state is not WorkerState.STUCK]


def _reload_cost(group: Group) -> float:
    """Return how much longer a wake at level 2 takes than one at level 1; 0 until it was measured.

    Nobody's process is ended for a guess.
    """
    deep, shallow = group.cost(WorkerState.WAKING, 2), group.cost(WorkerState.WAKING, 1)
    return max(0.0, deep.seconds - shallow.seconds) if deep.measured else 0.0
