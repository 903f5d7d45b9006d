"""What could have been said of a switch, while others drain, by somebody who knows how long answers usually take.

How long each of those under way takes is left to chance, given how long it has been under way: such a one says the
figure that is within 25 % of what comes most often.
"""

import heapq
import random
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from .world import SLEEP_SHARE, SLOTS, WAKE_SHARE

#: So many futures are drawn for each switch.
DRAWS = 200


def best_share(
    under_way: Sequence[tuple[Sequence[float], int]],
    usual: Sequence[float],
    cost: float,
    spread: float,
    chance: random.Random,
) -> float:
    """Return how often the best figure is within 25 % of what comes.

    `under_way`: of each engine that drains, the ages of the answers that it writes, in seconds, and how many requests
    wait in it.  `usual`: seconds of answers, sorted, from which those of these are drawn.  `cost`: seconds of a switch,
    whose parts vary by `spread`.
    """
    futures = []
    for _ in range(DRAWS):
        drained = max((_drain(ages, queued, usual, chance) for ages, queued in under_way), default=0.0)
        parts = (cost * share * (1 + chance.uniform(-spread, spread)) for share in (SLEEP_SHARE, WAKE_SHARE))
        futures.append(drained + sum(parts))
    futures.sort()
    near = (bisect_right(futures, least * 1.25 / 0.75) - bisect_left(futures, least) for least in futures)
    return max(near) / DRAWS


def _drain(ages: Sequence[float], queued: int, usual: Sequence[float], chance: random.Random) -> float:
    """Draw how many seconds an engine takes to write all that it has."""
    ends = [0.0]
    for age in ages:
        longer = usual[bisect_right(usual, age) :]
        ends.append(chance.choice(longer) - age if longer else 0.0)
    last = max(ends)
    slots = ends[1:]
    heapq.heapify(slots)
    for _ in range(queued):
        begins = heapq.heappop(slots) if len(slots) >= SLOTS else 0.0
        heapq.heappush(slots, begins + chance.choice(usual))
        last = max(last, *slots)
    return last
