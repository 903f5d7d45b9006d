"""Whose requests of one model may be at its worker: the places of concurrency_limit, dealt to the holders of leases.

A holder uses no more places than it was told, and tells how many it uses.  What is taken from one is given to another
only once the first has told that it does not use it any more, so that no more requests than the limit are ever at the
worker.  While there are enough places nothing is taken.  Where there are not, each holder gets as many as any other, as
far as it wants them; where there are fewer places than holders, they go round.
"""

from collections.abc import Mapping
from dataclasses import dataclass

#: Seconds until a worker has noticed that a proxy with requests there is gone: so long their places are not given on.
NOTICED = 1.0

#: Seconds for which a holder has its place where there are fewer places than holders that want one.
ROUND = 0.25


@dataclass(slots=True)
class _Holder:
    wanted: int  # requests of its that are at the worker, or want to be
    used: int  # places that it may be using: those that it was told, or more until it has told that it uses fewer
    told: int | None = 0  # None: as many as it likes
    deal: int = 0  # the number of what it was told last, which its reports repeat
    is_granted: bool = False
    turn: float = 0.0  # when it last got its first place, or lost its last one


class ModelPlaces:
    """The places of one model, and who has them.  Leases are called by the core's numbers."""

    def __init__(self, limit: int) -> None:
        """Deal out `limit` places; 0: no limit."""
        self.limit = limit
        self._holders: dict[int, _Holder] = {}
        self._closed_until = -1.0
        self._left: list[tuple[float, int]] = []  # places that those have used who are gone, and until when
        self._is_joined = False  # somebody was granted a lease since the last deal

    def __bool__(self) -> bool:
        """Say whether anybody has a lease."""
        return bool(self._holders)

    def join(self, lease: int, wanted: int, used: int | None = 0) -> None:
        """Count a lease that was asked for, or re-claimed with so many places in use; None: it had no limit."""
        self._holders[lease] = _Holder(wanted, wanted if used is None else used, used)

    def grant(self, lease: int) -> None:
        """Note that the holder may send requests, with as many places as it has after the next deal."""
        self._holders[lease].is_granted = True
        self._is_joined = True

    def report(self, lease: int, wanted: int, used: int, deal: int) -> None:
        """Note what a holder wants, and how many places it uses at most until it is told of more.

        `deal`: the number of what it had been told.  Where that is not the last, it may use as many as it was told
        meanwhile.
        """
        holder = self._holders[lease]
        holder.wanted = wanted
        if holder.told is None:
            holder.used = wanted
        elif deal == holder.deal:
            holder.used = max(used, holder.told)

    def leave(self, lease: int, *, lost_at: float | None = None) -> None:
        """Forget a lease that is over: nothing of its holder is at the worker, unless the holder was lost just then."""
        holder = self._holders.pop(lease)
        if lost_at is not None and holder.used and self.limit:
            self._left.append((lost_at + NOTICED, holder.used))

    def close(self, until: float) -> None:
        """Give nobody more places until then: holders of an earlier muxd may not have told yet what they use."""
        self._closed_until = until

    def told(self, lease: int) -> tuple[int | None, int]:
        """Return how many places a holder is told that it has, None for no limit, and the deal's number."""
        return self._holders[lease].told, self._holders[lease].deal

    def is_short(self) -> bool:
        """Say whether another deal is due a ROUND later: somebody wants a place and has none, or has lost some."""
        return bool(self._left) or any(
            holder.is_granted and holder.wanted and holder.told == 0 for holder in self._holders.values()
        )

    def deal(self, now: float) -> list[int]:
        """Deal the places anew; return the leases whose holders are to be told."""
        if not self.limit:
            bound = {lease: each for lease, each in self._holders.items() if each.is_granted and each.told is not None}
            for holder in bound.values():
                holder.told = None
            return list(bound)
        self._left = [(until, used) for until, used in self._left if until > now]
        if not self._is_joined and all(map(_has_enough, self._holders.values())) and self._used() <= self.limit:
            return []
        self._is_joined = False
        wanted = {lease: holder.wanted for lease, holder in self._in_order(now)}
        return self._move_to(fair_shares(self.limit, wanted), now)

    def _used(self) -> int:
        return sum(holder.used for holder in self._holders.values()) + sum(used for _, used in self._left)

    def _in_order(self, now: float) -> list[tuple[int, _Holder]]:
        """Return the holders, those first who come first where places are few.

        These are who has a place for less than a ROUND, who has none for the longest time, and the others.
        """

        def rank(item: tuple[int, _Holder]) -> tuple[int, float]:
            holder = item[1]
            return (1 if not holder.told else 0 if now - holder.turn < ROUND else 2), holder.turn

        return sorted(self._holders.items(), key=rank)

    def _move_to(self, shares: Mapping[int, int], now: float) -> list[int]:
        """Take from those who have more than their share, and give what is free to those who have less."""
        before = {lease: holder.told for lease, holder in self._holders.items()}
        for lease, share in shares.items():
            holder = self._holders[lease]
            if holder.told is None or holder.told > share:
                self._set(holder, share, now)
        for lease, share in shares.items():
            holder = self._holders[lease]
            if holder.is_granted and holder.told is not None and share > holder.told:
                free = max(0, self.limit - self._used()) if now >= self._closed_until else 0
                self._set(holder, min(share, max(holder.used, holder.told) + free), now)
        return [lease for lease, told in before.items() if self._holders[lease].told != told]

    def _set(self, holder: _Holder, places: int, now: float) -> None:
        if bool(holder.told) != bool(places):
            holder.turn = now
        if places != holder.told:
            holder.told, holder.deal = places, holder.deal + 1
        holder.used = max(holder.used, places)


def _has_enough(holder: _Holder) -> bool:
    return not holder.is_granted or (holder.told is not None and holder.told >= holder.wanted)


def fair_shares(limit: int, wanted: Mapping[int, int]) -> dict[int, int]:
    """Return how many of `limit` places each gets: as many as any other, as far as it wants them.

    What nobody wants is dealt out evenly, too, so that the next request finds a place.  Where the places do not come
    out even, those who are first in `wanted` have one more.
    """
    shares = dict.fromkeys(wanted, 0)
    left = _fill(shares, limit, {lease: count for lease, count in wanted.items() if count})
    if left and shares:
        each, more = divmod(left, len(shares))
        for place, lease in enumerate(shares):
            shares[lease] += each + (place < more)
    return shares


def _fill(shares: dict[int, int], limit: int, wanted: Mapping[int, int]) -> int:
    """Give each what it wants, or as much as any other; return what is left of `limit`."""
    left, open_ = limit, dict(wanted)
    while open_:
        each, more = divmod(left, len(open_))
        modest = [lease for lease, count in open_.items() if count <= each]
        if not modest:
            shares |= {lease: each + (place < more) for place, lease in enumerate(open_)}
            return 0
        for lease in modest:
            shares[lease] = open_.pop(lease)
            left -= shares[lease]
    return left
