"""Who leaves so that another group fits, and how deep they then sleep: pure functions of what that frees and costs.

The best plan makes nobody leave who has requests in flight, if that can be; then it costs the least: seconds to leave
and to come back, times how often the group was wanted of late.  A group that sleeps already can be made to sleep
deeper, which is a step like any other.  A switch follows the plan that was best when it began.

Plans are looked at in the order of their cost, so that the first one that fits is the best.  Where that takes too many
looks, the cheapest residents are added until the claim fits, and those that turn out not to be needed are taken off
again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from itertools import islice

from msgspec import Struct

#: So many plans of a few microseconds are looked at: all plans for eight residents with one level each.
LOOKS = 256

#: Levels by group: who leaves, and how deep it then sleeps.
Plan = Mapping[str, int]

Fits = Callable[[Plan], bool]

#: What a plan costs: how many leave who have requests in flight, seconds per second, and how many leave.
PlanCost = tuple[int, float, int]


class LevelCost(Struct, frozen=True):
    """A level at which a group could sleep, and the seconds that this costs per second."""

    level: int
    seconds: float

    def at_most(self, seconds: float) -> LevelCost:
        return LevelCost(self.level, min(self.seconds, seconds))


class Resident(Struct, frozen=True):
    """A group that could leave, or sleep deeper; `is_busy`: requests are in flight there."""

    group: str
    is_busy: bool
    options: tuple[LevelCost, ...]  # the shallowest first; never none

    @property
    def cost(self) -> tuple[bool, float, str]:
        return self.is_busy, min(option.seconds for option in self.options), self.group


def plan(residents: Iterable[Resident], fits: Fits) -> Plan | None:
    """Return who must leave and how deep, the cheapest first; None where not even all of them would be enough.

    `fits` says whether the claim fits once these groups sleep at these levels.
    """
    return Plans(residents, fits).cheapest(True)


class Plans:
    """The plans for some residents, each looked at once, whoever asks for room.

    `room`: how much there is for a claim once these groups sleep at these levels.
    """

    def __init__(self, residents: Iterable[Resident], room: Callable[[Plan], int]) -> None:
        self._residents = sorted(residents, key=lambda resident: resident.cost)
        self._room = room
        self._most = room({r.group: r.options[-1].level for r in self._residents})
        self._seen: list[tuple[int, Plan]] = []  # each gives more room than those before it
        self._ahead = islice(_by_cost(self._residents), LOOKS)
        self._next = next(self._ahead, None)

    def cheapest(self, need: int, at_most: PlanCost | None = None) -> Plan | None:
        """Return the cheapest plan that makes so much room; None for none, or where it costs more than `at_most`."""
        if need > self._most:
            return None
        for room, plan in self._seen:
            if room >= need:
                return plan
        while self._next is not None:
            cost, plan = self._next
            if at_most is not None and cost > at_most:
                return None
            self._next = next(self._ahead, None)
            room = self._room(plan)
            if not self._seen or room > self._seen[-1][0]:
                self._seen.append((room, plan))
            if room >= need:
                return plan
        return _good(self._residents, lambda plan: self._room(plan) >= need)

    def can_make(self, need: int) -> bool:
        """Say whether there is a plan that makes so much room."""
        return need <= self._most


def _by_cost(residents: Sequence[Resident]) -> Iterator[tuple[PlanCost, Plan]]:
    """Yield plans in the order of their cost; of two that cost the same, the one that fewer leave for comes first.

    Each plan leads to those that have one group more, of those behind its last one, or its last one's next level.
    """
    options = [sorted(r.options, key=lambda option: (option.seconds, option.level)) for r in residents]
    busy = [int(r.is_busy) for r in residents]
    plans: list[tuple[int, float, int, tuple[tuple[int, int], ...]]] = [(0, 0.0, 0, ())]
    while plans:
        in_flight, seconds, size, steps = heappop(plans)
        yield (in_flight, seconds, size), {residents[i].group: options[i][rank].level for i, rank in steps}
        last, rank = steps[-1] if steps else (-1, 0)
        for i in range(last + 1, len(residents)):
            cost = seconds + options[i][0].seconds
            heappush(plans, (in_flight + busy[i], cost, size + 1, (*steps, (i, 0))))
        if steps and rank + 1 < len(options[last]):
            cost = sum(options[i][r].seconds for i, r in steps[:-1]) + options[last][rank + 1].seconds
            heappush(plans, (in_flight, cost, size, (*steps[:-1], (last, rank + 1))))


def _good(residents: Sequence[Resident], fits: Fits) -> Plan:
    """Add the cheapest until the claim fits, then spare whom it fits without, the dearest first.

    Each who is left sleeps no deeper than is needed.
    """
    chosen: dict[str, int] = {}
    for resident in residents:
        chosen[resident.group] = resident.options[-1].level
        if fits(chosen):
            break
    for resident in reversed(residents[: len(chosen)]):
        others = {group: level for group, level in chosen.items() if group != resident.group}
        shallower = ({**chosen, resident.group: option.level} for option in resident.options)
        chosen = next((plan for plan in (others, *shallower) if fits(plan)), chosen)
    return chosen
