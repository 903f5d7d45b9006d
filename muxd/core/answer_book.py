"""How long a group's answers take, and how many are under way when it gives way: what a drain of it takes.

Of `count` answers that end by chance, as the exponential distribution has it, the last one takes H(count) times as long
as the mean.
"""

from collections import deque
from collections.abc import Collection, Iterable
from math import exp, log

from . import policy
from .cost import NEWEST
from .lease import Lease

#: So many of its last drains tell how long a group's answers take.
DRAINS = 8

#: A load that has changed by at most this share is the same.
SAME_LOAD = 0.02


class AnswerBook:
    """What was learned of the answers of one group."""

    def __init__(self) -> None:
        self.usual: float | None = None  # seconds that one takes, as holders say, or by drains; None: nobody knows
        self.crowd = 0.0  # requests in flight when the group gives way, of late
        self.load = 0.0  # the mean of those in flight while there are some, as decisions go by it
        self.mean_load = 0.0  # the same to the moment `_load_at`, over `policy.LOAD_SPAN`
        self._load_at = 0.0
        self.told: float | None = None  # seconds that answers took of late, in the mean, as holders say
        self._long: deque[float] = deque(maxlen=DRAINS)  # seconds of late unusually long ones
        self._drained_count = 0  # requests in flight when the last drain began
        self._drains: deque[tuple[int, float]] = deque(maxlen=DRAINS)  # of late: requests in flight, seconds

    @property
    def until_all_end(self) -> float | None:
        """Return the seconds until as many as usual have ended, as holders say; None where none does."""
        return None if self.told is None else self.told * _harmonic(max(1.0, self.crowd))

    def long_left(self, age: float) -> float | None:
        """Return the seconds that a long one of this age takes yet, by earlier ones; None where nobody knows."""
        longer = [seconds - age for seconds in self._long if seconds > age]
        return _median(longer) if longer else None

    def note_told(self, leases: Collection[Lease]) -> bool:
        """Learn how many seconds answers take in the mean; return whether that is another figure than before.

        Of several holders, the processes of the proxy, each counts by what it has in flight, as those are the answers
        for which a drain waits.  One that has nothing there counts as if it had one, so that the figure does not jump
        with each answer.
        """
        told = [(max(1, lease.in_flight), lease.usual) for lease in leases if lease.usual is not None]
        if not told:
            return False
        seconds = sum(weight * usual for weight, usual in told) / sum(weight for weight, _ in told)
        if self.told is not None and 0.9 < seconds / max(self.told, 0.001) < 1.1:
            return False
        self.usual = self.told = seconds
        return True

    @property
    def differ(self) -> bool:
        """Say whether some take far longer than others: how short a drain is cannot be told by their number then."""
        return self.usual is not None and bool(self._long) and _median(self._long) > policy.DIFFER * self.usual

    def note_load(self, in_flight: int, now: float) -> bool:
        """Learn how many have been in flight since that was told last; return whether the load is another one.

        A time without one does not count.  The mean changes with each report, and the load only with what matters.
        """
        if in_flight:
            weight = 1.0 - exp((self._load_at - now) / policy.LOAD_SPAN) if self.mean_load else 1.0
            self.mean_load += weight * (in_flight - self.mean_load)
        self._load_at = now
        if abs(self.mean_load - self.load) <= SAME_LOAD * self.load:
            return False
        self.load = self.mean_load
        return True

    def skip_load(self, now: float) -> None:
        """Leave out the time since it was told last how many are in flight: those that were had no GPU then."""
        self._load_at = now

    def note_ended(self, seconds: float) -> None:
        """Learn how long the oldest answer of a holder took in the end, if that was unusually long."""
        if self.told is not None and seconds > policy.LONG * self.told:
            self._long.append(seconds)

    def note_drain_begun(self, in_flight: int, *, is_quiet: bool) -> None:
        """Learn how many requests are in flight when the group gives way; one that is quiet then says nothing."""
        self._drained_count = in_flight
        if not is_quiet:
            self.crowd += (NEWEST if self.crowd else 1.0) * (in_flight - self.crowd)

    def note_drained(self, seconds: float) -> None:
        """Learn how long a drain took, if there was something in flight when it began.

        The median is robust to the one very long answer.
        """
        if self._drained_count:
            self._drains.append((self._drained_count, seconds))
            if self.told is None:
                self.usual = _median(seconds / _harmonic(count) for count, seconds in self._drains)


def _median(values: Iterable[float]) -> float:
    ordered = sorted(values)  # statistics.median would load random, which the core is without
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _harmonic(count: float) -> float:
    """Return the harmonic number 1 + 1/2 + ... + 1/count, to a hundredth; 0 for none."""
    return log(count) + 0.5772 + 1 / (2 * count) - 1 / (12 * count * count) if count > 0 else 0.0
