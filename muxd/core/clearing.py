"""How room is made on GPUs: what it costs that a group leaves, and who leaves for how much room."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import NamedTuple

from . import eviction
from .cost import Cost
from .group import Group
from .host_books import HostBooks
from .ledger import HOST_RAM, WHOLE, GpuId, Holding, in_order
from .states import COMING, WorkerState

#: Uses per second of a group that was never wanted: that it leaves costs more than nothing.
RARE = 1e-6


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


class Movable(NamedTuple):
    """A group that could leave its GPUs, and what its members have at each level then; true until the group changes."""

    group: Group
    changes: int  # of the group, when this was found
    resident: eviction.Resident
    left: Mapping[int, Mapping[str, Holding]]


class Offer(NamedTuple):
    """What it would take to come to GPUs: who leaves, and how good that is; the least is the best."""

    evictions: list[Eviction]
    rank: tuple[float, ...]  # how many are stuck, how many busy, what it costs, how many leave, minus the room

    def with_stuck(self, more: int) -> Offer:
        """Return the offer where so many more do not leave."""
        return Offer(self.evictions, (self.rank[0] + more, *self.rank[1:]))


class Movables:
    """Says what it would take that groups leave, each looked at once until it changes, or a second has passed."""

    def __init__(self, host: HostBooks) -> None:
        self._host = host
        self._found: dict[str, Movable] = {}
        self._costs: dict[tuple[str, int], tuple[Group, int, float]] = {}  # by group and level, with its changes

    def forget(self) -> None:
        self._found.clear()
        self._costs.clear()

    def of(self, group: Group) -> Movable:
        found = self._found.get(group.name)
        if found is None or found.group is not group or found.changes != group.changes:
            left = {level: left_at(group, level) for level in group.levels_left}
            resident = _resident(group, left, self._host.second)
            found = self._found[group.name] = Movable(group, group.changes, resident, left)
        return found

    def cost(self, leaving: Eviction) -> float:
        """Return what it costs per second that the group leaves."""
        group, level = leaving
        found = self._costs.get((group.name, level))
        if found is None or found[0] is not group or found[1] != group.changes:
            found = group, group.changes, cost_of(group, level, self._host.second)
            self._costs[group.name, level] = found
        return found[2]

    def plans(self, groups: Iterable[Group], room: Callable[[Mapping[str, Holding]], int]) -> eviction.Plans:
        """Return how these groups leave; `room`: how much there is once workers have what is passed, and no more."""
        movable = {group.name: self.of(group) for group in groups}

        def room_after(plan: eviction.Plan) -> int:
            return room({w: held for name, level in plan.items() for w, held in movable[name].left[level].items()})

        return eviction.Plans((each.resident for each in movable.values()), room_after)


class Clearing:
    """How room is made on some GPUs for workers that hold nothing there; true while their accounts do not change."""

    def __init__(self, host: HostBooks, movables: Movables, gpus: frozenset[GpuId]) -> None:
        self.changes = host.ledger.changes_of(gpus)
        self._host = host
        self._movables = movables
        self._gpus = gpus
        self._totals = {gpu: (host.ledger.total(gpu), host.ledger.capacity.get(gpu)) for gpu in in_order(gpus)}
        self._rooms = {gpu: total.room(capacity) for gpu, (total, capacity) in self._totals.items()}
        self._room = -sum(map(host.ledger.room, gpus))
        self._leaving: dict[int, list[Eviction]] = {}  # by share
        self._offers: dict[int, Offer] = {}  # by the id of the list
        self._like: dict[int, tuple[eviction.Plan, list[Eviction]]] = {}  # by the plan's id
        self._plans: dict[frozenset[GpuId], tuple[list[Group], eviction.Plans]] = {}  # by the GPUs that are short

    def leaving(self, share: int) -> list[Eviction]:
        """Return who leaves for a worker that takes this much of each GPU."""
        leaving = self._leaving_at_most(share, None)
        assert leaving is not None
        return leaving

    def offer_at_most(self, share: int, best: Offer | None) -> Offer | None:
        """Return what it would take for such a worker, or None where it is certainly not as good as the best so far."""
        leaving = self._leaving.get(share)
        if leaving is None and (leaving := self._leaving_at_most(share, _at_most(best))) is None:
            return None
        offer = self._offers.get(id(leaving))
        if offer is None:
            offer = self._offers[id(leaving)] = self._offer(leaving)
        return offer

    def _leaving_at_most(self, share: int, at_most: eviction.PlanCost | None) -> list[Eviction] | None:
        if share not in self._leaving:
            leaving = self._find(share, at_most)
            if leaving is None:
                return None
            self._leaving[share] = leaving
        return self._leaving[share]

    def _offer(self, evictions: list[Eviction]) -> Offer:
        """Rank it: nobody should be stuck there, few should be cut off, it should cost little, and leave much room."""
        stuck = sum(each.group.stuck_on(self._gpus) is not None for each in evictions)
        busy = sum(is_busy(each.group) for each in evictions)
        seconds = sum(map(self._movables.cost, evictions))
        return Offer(evictions, (stuck, busy, seconds, len(evictions), self._room))

    def _find(self, share: int, at_most: eviction.PlanCost | None) -> list[Eviction] | None:
        """Return who leaves for the share; None where the cheapest plan costs more than `at_most`."""
        if share == WHOLE:
            return all_weights(self._host, self._gpus)
        short = frozenset(gpu for gpu, room in self._rooms.items() if share > room)
        if not short:
            return []
        if short not in self._plans:
            missing = self._host.ledger.shortfall("", dict.fromkeys(short, share))
            holders = holders_of(self._host, missing)
            movable = (holder for holder in holders if not holder.is_fixed)
            self._plans[short] = holders, self._plans_of([self._movables.of(holder) for holder in movable])
        holders, plans = self._plans[short]
        if not plans.can_make(share):
            return [Eviction(holder, 3) for holder in holders]
        chosen = plans.cheapest(share, at_most)
        if chosen is None:
            return None
        if id(chosen) not in self._like:
            leaving = [Eviction(self._host.groups[name], chosen[name]) for name in sorted(chosen)]
            self._like[id(chosen)] = chosen, leaving
        return self._like[id(chosen)][1]

    def _plans_of(self, movable: Sequence[Movable]) -> eviction.Plans:
        """Return how these leave, by the bytes that a claim may have then of each GPU.

        What each frees is added up, as hundreds of plans may be looked at.
        """
        ledger, gpus = self._host.ledger, list(self._totals)
        freed = {
            (each.group.name, level): [ledger.freed(gpu, then) for gpu in gpus]
            for each in movable
            for level, then in each.left.items()
        }

        def room_after(plan: eviction.Plan) -> int:
            steps = [freed[step] for step in plan.items()]
            return min(
                total.less(step[place] for step in steps).room(capacity)
                for place, (total, capacity) in enumerate(self._totals.values())
            )

        return eviction.Plans((each.resident for each in movable), room_after)


def _at_most(best: Offer | None) -> eviction.PlanCost | None:
    """Return what a plan may cost to be as good as the best so far, with a little more for rounding; None: anything."""
    if best is None or best.rank[0] > 0:
        return None
    _, busy, seconds, size, _ = best.rank
    return int(busy), seconds * (1 + 1e-9), int(size)


def holders_of(host: HostBooks, missing: Mapping[GpuId, int], but: Group | None = None) -> list[Group]:
    """Return the groups that have some of what is missing: where that is whole GPUs, those with their weights there."""
    holders = [group for group in host.groups_of(host.ledger.holders(missing)) if group is not but]
    if any(amount != WHOLE for amount in missing.values()):
        return holders
    return [group for group in holders if any(host.ledger.is_loaded(worker.name) for worker in group.serving)]


def all_weights(host: HostBooks, gpus: frozenset[GpuId]) -> list[Eviction]:
    """Return how all weights leave the GPUs: where one needs all of them, there is nothing to choose."""
    groups = host.groups_of(host.ledger.loaded_on(gpus))
    return [Eviction(group, next(level for level in group.levels_left if level > 0)) for group in groups]


def left_at(group: Group, level: int) -> dict[str, Holding]:
    """Return what each member would have once the group has gone to `level`."""
    return {worker.name: worker.holding_asleep(worker.level_for(level)) for worker in group.serving}


def _resident(group: Group, left: Mapping[int, Mapping[str, Holding]], second: int) -> eviction.Resident:
    """Describe what the group's leaving costs, by the level; a deeper one that frees no more of a GPU is no choice.

    Nobody is ended for a guess: where its sleep or its end was never measured, the sleep is not the dearer of the two.
    """
    options: list[eviction.LevelCost] = []
    before = None
    for level, holdings in left.items():
        kept = [({**holding.claim, HOST_RAM: 0}, holding.is_loaded) for holding in holdings.values()]
        if kept != before:
            cost = cost_of(group, level, second)
            if level == 3:
                options = [each if _is_known(group, each.level) else each.at_most(cost) for each in options]
            options.append(eviction.LevelCost(level, cost))
        before = kept
    return eviction.Resident(group.name, is_busy(group), tuple(options))


def _is_known(group: Group, level: int) -> bool:
    """Say whether what it takes to leave to `level`, to end, and to come back from either was measured."""
    return all(group.leave_cost(each).measured and group.comeback_cost(each).measured for each in (level, 3))


def is_busy(group: Group) -> bool:
    """Say whether the group's leaving would cut off requests, or a load, or cannot be had."""
    is_awake = not group.leaves and group.state is not WorkerState.ASLEEP
    return is_awake and (group.in_use or group.state in COMING or is_stuck(group))


def is_stuck(group: Group) -> bool:
    return any(worker.state is WorkerState.STUCK for worker in group.serving)


def cost_of(group: Group, level: int, second: int) -> float:
    """Return what it costs per second that the group leaves to `level`: seconds by its demand and priority."""
    return seconds_to(group, level) * max(group.demand(second), RARE) * 2.0**group.spec.priority


def seconds_to(group: Group, level: int) -> float:
    """Return what the group's leaving to `level` costs each time that it is wanted: to leave and to come back.

    What is under way already costs nothing more, and what cannot be had costs most.
    """
    there_and_back = group.leave_cost(level).seconds + group.comeback_cost(level).seconds
    if group.leaves:
        least = group.levels_left[0]
        return there_and_back - group.comeback_cost(least).seconds if level > least else 0.0
    if is_stuck(group):
        return inf
    if group.state is WorkerState.ASLEEP:
        return max(0.0, there_and_back - group.return_cost.seconds)
    return there_and_back
