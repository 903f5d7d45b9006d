"""Whose turn it is: pure functions of demand, costs and time.

A model that is active but idle gives way at once to the best of those waiting.  A busy
one keeps its turn until the oldest waiter's wait has come so near to its bound that the
drain and the switch just fit, and until its turn has been at least as long as the
switch cost: shorter turns would spend more time switching than serving.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that waits for its turn; all times in seconds."""

    worker: str
    weight: float  # waiting requests, each counted by its priority
    oldest: float  # how long the oldest has waited
    cost: float  # of the switch to it: what must leave and what must come
    turn: float  # how long it would be given at least, once active: its switch cost or its drain


def score(candidate: Candidate, wait_target: float) -> float:
    """Waiting work per second of switch cost, aged by the wait so that nobody is passed over for ever."""
    return candidate.weight / max(candidate.cost, 0.001) * (1.0 + (candidate.oldest / max(wait_target, 0.001)) ** 2)


def ranked(candidates: Iterable[Candidate], wait_target: float) -> list[Candidate]:
    """Best first; ties by name, so that the order is a function of the values."""
    return sorted(candidates, key=lambda c: (-score(c, wait_target), c.worker))


def bound(candidate: Candidate, others: Iterable[Candidate], wait_target: float) -> float:
    """The stated maximum wait of a candidate while `others` wait too, in seconds.

    Its target, one turn and one switch for each of the others, and its own switch.
    """
    return wait_target + sum(o.turn + o.cost for o in others) + candidate.cost


def due_at(candidate: Candidate, others: Iterable[Candidate], *, now: float, drain: float, wait_target: float) -> float:
    """When the wait of `candidate` comes so near to its bound that a drain and its switch just fit.

    On the clock of `now`; `drain`: how long draining the active model is expected to take.
    """
    return now + bound(candidate, others, wait_target) - (candidate.oldest + candidate.cost + drain)


def turn_ends_at(candidate: Candidate, active_since: float) -> float:
    """Until then a busy active model keeps its turn, which is as long as the switch away from it costs."""
    return active_since + candidate.cost
