"""Whose turn it is: pure functions of demand, costs and time.

An active model that is busy keeps its turn until the oldest waiter's wait has come so
near to its bound that the drain and the switch just fit, and until its turn has been at
least as long as the switch cost, and as its drain takes: shorter turns would spend more
time switching and draining than serving.  On the way there it gives way once few answers
are under way, beside what is usual for it: a drain is short then, and keeps few waiting.
How few is few enough grows with the wait, as in any search for a moment that must end;
and no such moment is looked for where the model is likely to be idle in time by itself.

One that is idle keeps its turn only for as long as its clients are likely to return
(`linger`): an agent that sends its next request a second after each answer would
otherwise cost a switch there and back for each request.  Disk schedulers know the rule
as anticipatory scheduling.  The oldest waiter's bound ends that wait, too.

A candidate for which only batch requests wait has a bound of its own, `batch_max_wait`, and comes after all others
until then.  An idle model is kept from it for as long as a switch there and back costs: by then it is not likely any
more that somebody who waits for answers returns.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil, expm1, inf, sqrt
from typing import TypeVar

#: How many of the latest gaps between an answer and the next request are remembered: few, so that an agent that has
#: left is forgotten after two lingers.
GAPS = 5

#: The share of clients that a linger waits for.
RETURNING = 0.8

#: How much longer than that gap a linger is: seconds, and in proportion, for gaps are never equal.
SLACK, SLACK_SHARE = 0.1, 0.25

#: The longest usual gap that is waited for, as a share of a switch there and back.  Two closed loops in turns gain
#: nothing beyond a half; a fifth leaves out most clients who ask once, whose gaps are short only by chance.
WORTH = 1 / 5

#: How many times as long as a switch there and back, and the drain, a busy model's turn is to last, so that most of the
#: GPU's time goes to answers; and how many times the configured target the wait may become by that.
STRETCH = 8.5

#: The same where the active model has many requests in flight in the mean: so many times those beyond a `FEW` for each
#: one that waits for another, and at most `MOST_STRETCH`.  Who waits less for it are more than who waits longer.
PER_RATIO, MOST_STRETCH = 60.0, 10.0

#: So many requests in flight are not many, whoever waits.
FEW = 5.0

#: `STRETCH` where answers of the active model differ in length (`DIFFER`): a long one is under way more often than not,
#: and the drain that ends the turn lasts as long as that, whenever it begins.
DIFFERING_STRETCH = 12.0

#: The share of the time after which waiting requests are refused that a stated bound is at most: a drain that takes
#: longer than was expected still ends in time.
OF_TIMEOUT = 0.9

#: The longest turn, in seconds, that a busy model keeps because its drain takes so long.
LONGEST_FOR_DRAIN = 60.0

#: An answer under way is long once it has taken so many times as long as answers of its model usually do.
LONG = 2.5

#: A model is quiet while so few answers are under way, none of which takes unusually long: its drain is short.
QUIET = 1

#: From this share of the time until another model is due a busy one gives way as soon as it is quiet.
QUIET_SHARE = 0.4

#: A busy model is likely to be idle in time by itself where that takes, in the mean, less than the time until another
#: model is due divided by this; by so much less the sooner it is idle than these seconds.
IN_TIME, SOON = 2.0, 60.0

#: Seconds over which it is averaged how many answers of a model are under way.
LOAD_SPAN = 30.0

#: The answers of a model differ where its long ones take more than so many times as long as usual.  Of lengths that are
#: left to chance, as the exponential distribution has it, those beyond `LONG` take 3.2 times as long in the median.
DIFFER = 6.0

#: The power of the wait by which it is decided who comes first: a wait a fifth longer counts as twice as many requests.
WAIT_POWER = 4

#: The linger where no gap has been seen yet: a share of the switch there and back, and at most so many seconds.
UNKNOWN_SHARE, UNKNOWN = 0.05, 0.5


@dataclass(slots=True)
class Candidate:
    """A model that waits for its turn; all times in seconds."""

    name: str
    weight: float  # waiting requests, each counted by its priority
    since: float  # when the oldest of them came
    cost: float  # of the switch to it: what must leave and what must come
    turn: float  # how long it would be given at least, once active: its switch cost or its drain
    is_batch: bool = field(default=False, kw_only=True)  # nobody waits for the answers to its requests
    timeout: float = field(default=inf, kw_only=True)  # so long its requests wait: then they are refused


C = TypeVar("C", bound=Candidate)


def score(candidate: Candidate, wait_target: float, now: float) -> float:
    """Return the waiting work per second of switch cost, times the fourth power of the wait, in wait targets.

    So one who has waited twice as long comes before one for whom less than sixteen times as many wait: a model that few
    ask for has its turn about as often as the others.
    """
    oldest = now - candidate.since
    return candidate.weight / max(candidate.cost, 0.001) * (oldest / max(wait_target, 0.001)) ** WAIT_POWER


def ranked(candidates: Iterable[C], wait_target: float, now: float) -> list[C]:
    """Sort the candidates, best first, batch last; ties by name, so that the order is a function of the values."""
    return sorted(candidates, key=lambda c: (c.is_batch, -score(c, wait_target, now), c.name))


def turns(candidates: Iterable[Candidate]) -> float:
    """Return the seconds that one turn and one switch for each of the candidates take; nobody waits for batch."""
    return sum(c.turn + c.cost for c in candidates if not c.is_batch)


def bound(candidate: Candidate, others: float, wait_target: float) -> float:
    """Return the stated maximum wait of a candidate in seconds: its target, the others' `turns`, its own switch.

    It is within the time after which the candidate's requests are refused: many others, or a high target, would let
    them end so again and again, and their model never come.
    """
    return min(wait_target + others + candidate.cost, OF_TIMEOUT * candidate.timeout)


def stretched(
    wait_target: float, overhead: float, load: float = 0.0, waiting: float = 1.0, *, differ: bool = False
) -> float:
    """Return the wait target where a switch there and back takes `overhead` seconds with its drain.

    `load`: how many answers of the active model are under way in the mean; `waiting`: how many requests wait;
    `differ`: some of the active model's answers take far longer than others.
    """
    times = max(STRETCH, min(MOST_STRETCH, PER_RATIO * (load - FEW) / max(1.0, waiting)))
    if differ:
        times = DIFFERING_STRETCH
    return max(wait_target, times * min(wait_target, overhead))


def due_at(candidate: Candidate, others: float, *, drain: float, wait_target: float) -> float:
    """Return when the wait of `candidate` comes so near to its bound that a drain and its switch just fit.

    On the clock of its `since`; `others`: the `turns` of those who wait too; `drain`: how long draining the active
    model is expected to take.
    """
    return candidate.since + bound(candidate, others, wait_target) - lead(candidate, drain)


def lead(candidate: Candidate, drain: float) -> float:
    """Return how many seconds before its bound a candidate is due: a drain and its switch take them."""
    return candidate.cost + drain


def usual_gap(gaps: Sequence[float]) -> float | None:
    """Return the gap that a linger is to bridge, of the latest seconds between an answer and the next request.

    inf stands for a linger that nobody ended; None: no gap has been seen.
    """
    return sorted(gaps)[ceil(RETURNING * len(gaps)) - 1] if gaps else None


def linger(usual: float | None, there_and_back: float, waiting: float = 1.0) -> float:
    """Return how many seconds an idle active model is kept for its next request while another model waits.

    `usual`: its usual gap.  `there_and_back`: seconds that the switch to the waiting model and the one back cost
    together.  `waiting`: requests for all other models, each of which waits as long: what is saved is shared by them.
    """
    worth = there_and_back / max(1.0, waiting)
    if usual is None:
        return min(UNKNOWN_SHARE * worth, UNKNOWN)
    if usual > WORTH * worth:
        return 0.0
    return min(there_and_back, usual * (1.0 + SLACK_SHARE) + SLACK)


def turn_ends_at(cost: float, active_since: float, drain: float = 0.0) -> float:
    """Return until when a busy active model keeps its turn: as long as the switch away from it costs, or its drain.

    `cost`: the seconds of that switch, but for a guess, which may be far too long.
    Drains that take very long do not lengthen it further: two of them in a row would break the bound of who waits.
    """
    return active_since + max(cost, min(drain, LONGEST_FOR_DRAIN))


def fullness(count: int, load: float) -> float:
    """Return how far a model with `count` answers under way is from quiet, 0, to its mean load, 1, or beyond."""
    return 0.0 if count <= QUIET else (count - QUIET) / max(load - QUIET, 0.001)


def until_idle(load: float, usual: float) -> float:
    """Return the seconds until a busy model is idle by chance, in the mean.

    Of `load` answers under way in the mean, which end after `usual` seconds in the mean while others begin whenever
    they like (the M/M/inf queue): a busy period lasts usual (e^load - 1) / load.
    """
    return usual * expm1(min(load, 50.0)) / max(load, 0.001)


def quiet_from(since: float, due: float, full: float, idle_in: float) -> float:
    """Return from when a busy model gives way that is so full, to one who has waited since then and is due at `due`.

    It grows with the root of the `fullness`: a model that is half as full as usual gives way in the last fifth of the
    wait, when a quieter moment is not likely to come any more.  `idle_in`: as `until_idle`.
    """
    share = QUIET_SHARE + (1.0 - QUIET_SHARE) * sqrt(min(1.0, full))
    return max(since + share * (due - since), due - IN_TIME * idle_in * min(1.0, idle_in / SOON))
