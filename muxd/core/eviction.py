"""Who leaves so that another group fits: pure functions of what each leaving would free and cost.

The best plan makes nobody leave who has requests in flight, if that can be; then it costs the least: seconds to leave
and to come back, times how often the worker was wanted of late.  A switch follows the plan that was best when it
began.  With few residents every plan is looked at; with many, the cheapest per byte are added until the claim fits, and
those that turn out not to be needed are taken off again.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

#: So many residents are tried in every combination: 2 ** 8 plans of a few microseconds.
FEW = 8


@dataclass(frozen=True, slots=True)
class Resident:
    """A group that could leave: whether requests are in flight, and the seconds that its leaving costs per second."""

    group: str
    is_busy: bool
    seconds: float


def plan(residents: Iterable[Resident], fits: Callable[[frozenset[str]], bool]) -> tuple[str, ...] | None:
    """Return the groups that must leave, the cheapest first; None where not even all of them would be enough.

    `fits` says whether the claim fits once these groups have left.
    """
    ordered = sorted(residents, key=_cost)
    if not fits(frozenset(r.group for r in ordered)):
        return None
    return _best_of_few(ordered, fits) if len(ordered) <= FEW else _good_of_many(ordered, fits)


def _cost(resident: Resident) -> tuple[bool, float, str]:
    return resident.is_busy, resident.seconds, resident.group


def _best_of_few(residents: Sequence[Resident], fits: Callable[[frozenset[str]], bool]) -> tuple[str, ...]:
    """Look at small plans first: of two that cost the same, the one that fewer leave for is kept."""
    best: Sequence[Resident] = residents
    best_cost: tuple[float, float] | None = None
    for size in range(len(residents) + 1):
        for chosen in combinations(residents, size):
            cost = _total(chosen)
            if (best_cost is None or cost < best_cost) and fits(frozenset(r.group for r in chosen)):
                best, best_cost = chosen, cost
    return tuple(r.group for r in best)


def _total(residents: Sequence[Resident]) -> tuple[int, float]:
    return sum(r.is_busy for r in residents), sum(r.seconds for r in residents)


def _good_of_many(residents: Sequence[Resident], fits: Callable[[frozenset[str]], bool]) -> tuple[str, ...]:
    """Add the cheapest until the claim fits, then spare whom it fits without, the dearest first."""
    chosen: list[Resident] = []
    for resident in residents:
        chosen.append(resident)
        if fits(frozenset(r.group for r in chosen)):
            break
    for resident in reversed(chosen[:-1]):
        others = [r for r in chosen if r is not resident]
        if fits(frozenset(r.group for r in others)):
            chosen = others
    return tuple(r.group for r in chosen)
