"""Which GPUs the replicas of a group come to, where any of several will do for each.

Each comes where least has to leave for it, as a model with one worker does; of equal GPUs to those that have fewest of
its own group, then to those with most room.  So replicas are spread over GPUs that are free, and share one, as far as
their sizes are known and let them, before anybody else leaves for them.  A group that is packed prefers GPUs that have
most of its own, then those with least room.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import combinations, islice
from math import inf

from .clearing import Clearing, Offer
from .group import Group
from .host_books import HostBooks
from .ledger import WHOLE, GpuId, Holding, how_many_fit, in_order
from .worker import Worker

#: So many sets of GPUs are looked at for a replica: more than all pairs of eight.
GPU_SETS = 32


class Spreading:
    """Chooses the GPUs of replicas to which any of several will do.

    `clearing` gives what it would take to come to some GPUs, `fixed` who would never leave them.
    """

    def __init__(
        self,
        host: HostBooks,
        clearing: Callable[[frozenset[GpuId]], Clearing],
        fixed: Callable[[frozenset[GpuId], Callable[..., dict[GpuId, int]]], list[Group]],
    ) -> None:
        self._host = host
        self._clearing = clearing
        self._fixed = fixed

    def may_move(self, worker: Worker) -> bool:
        """Say whether the worker may come to other GPUs than it was to: it has no process, and no memory is its own."""
        return worker.spec.any_of > 0 and worker.is_down and not self._host.ledger.holds(worker.name, worker.gpus)

    def has_places(self, workers: Sequence[Worker], off_limits: frozenset[GpuId]) -> bool:
        """Say whether all of these workers, which are alike, would fit, whoever leaves."""
        if not workers:
            return True
        slots = self._slots(workers[0], off_limits)
        return how_many_fit(slots.values(), workers[0].spec.any_of, len(workers)) == len(workers)

    def spread(self, workers: Sequence[Worker], off_limits: frozenset[GpuId]) -> dict[str, frozenset[GpuId]]:
        """Return the GPUs of each of these workers, which are alike; {} where they do not all fit, whoever leaves."""
        if not self.has_places(workers, off_limits):
            return {}
        places: dict[str, frozenset[GpuId]] = {}
        slots, own = self._slots(workers[0], off_limits) if workers else {}, Counter[GpuId]()
        for number, worker in enumerate(workers, start=1):
            gpus = self._best(worker, slots, own, len(workers) - number)
            if gpus is None:
                return {}
            places[worker.name] = gpus
            own.update(gpus)
            slots = _less(slots, gpus)
        return places

    def find_room(self, worker: Worker, off_limits: frozenset[GpuId], left: Mapping[str, Holding]) -> None:
        """Let a worker that may move come to GPUs that have room, if there are such; `left` as in the ledger."""
        group, ledger = self._host.groups[worker.group], self._host.ledger
        beside = (w for w in group.serving if w is not worker and (w.name in left or ledger.is_awake(w.name)))
        own = Counter(gpu for other in beside for gpu in other.gpus)
        sets = self._sets(worker, self._slots(worker, off_limits), own)
        free = (gpus for gpus in sets if not ledger.shortfall(worker.name, dict.fromkeys(gpus, worker.share), left))
        sign = self._sign(worker)
        found = min(free, key=lambda gpus: (sign * _most(own, gpus), -sign * sum(map(ledger.room, gpus))), default=None)
        if found is not None:
            group.place_each({worker.name: found})

    def _sign(self, worker: Worker) -> int:
        """Return 1 where few of its own and much room are good, -1 where they are not."""
        return -1 if self._host.groups[worker.group].spec.is_packed else 1

    def _slots(self, worker: Worker, off_limits: frozenset[GpuId]) -> dict[GpuId, int]:
        """Return how many such workers would fit on each of the GPUs if everybody else left."""
        gpus = self._host.there(worker.spec) or worker.spec.gpus
        return {gpu: self._slots_on(gpu, worker) for gpu in in_order(gpus - off_limits)}

    def _slots_on(self, gpu: GpuId, worker: Worker) -> int:
        capacity = self._host.ledger.capacity.get(gpu, inf)
        if worker.spec.share == WHOLE or capacity == inf:
            return int(self._host.need(worker) <= capacity)
        return int(capacity // worker.spec.share)

    def _sets(self, worker: Worker, slots: Mapping[GpuId, int], own: Mapping[GpuId, int]) -> Iterable[frozenset[GpuId]]:
        """Return sets of GPUs on which the worker fits, the best first as to its own and to room."""
        fits = [gpu for gpu, count in slots.items() if count > 0]
        sign = self._sign(worker)
        fits.sort(key=lambda gpu: (sign * own.get(gpu, 0), -sign * self._host.ledger.room(gpu)))
        return (frozenset(chosen) for chosen in islice(combinations(fits, worker.spec.any_of), GPU_SETS))

    def _best(
        self, worker: Worker, slots: Mapping[GpuId, int], own: Mapping[GpuId, int], others: int
    ) -> frozenset[GpuId] | None:
        """Return the best GPUs of a worker that leave enough for so many others like it; None where there are none."""
        best: Offer | None = None
        found: frozenset[GpuId] | None = None
        best_rank: tuple[float, ...] = (inf,)
        sign = self._sign(worker)
        for gpus in self._sets(worker, slots, own):
            if how_many_fit(_less(slots, gpus).values(), worker.spec.any_of, others) < others:
                continue
            share = worker.share if worker.share == WHOLE else worker.share * (1 + _most(own, gpus))
            offer = self._clearing(gpus).offer_at_most(share, best)
            if offer is None:
                continue
            if self._host.fixed:
                lacks = partial(self._host.ledger.shortfall, "", dict.fromkeys(gpus, share))
                offer = offer.with_stuck(len(self._fixed(gpus, lacks)))
            rank = (*offer.rank[:-1], sign * _most(own, gpus), sign * offer.rank[-1])
            if rank < best_rank:
                best, found, best_rank = offer, gpus, rank
        return found


def _less(slots: Mapping[GpuId, int], gpus: frozenset[GpuId]) -> dict[GpuId, int]:
    return {gpu: count - (gpu in gpus) for gpu, count in slots.items()}


def _most(own: Mapping[GpuId, int], gpus: frozenset[GpuId]) -> int:
    return max(own.get(gpu, 0) for gpu in gpus)
