"""The ledger: who has how much of which GPU, and of host RAM.

A worker claims memory from the moment it starts or wakes until it is asleep or gone, with its memory measured free.
What a sleeping process keeps there stays claimed while it sleeps: at level 0 the weights, at levels 1 and 2 a CUDA
context and captured graphs.

A claim on a GPU is in bytes, or WHOLE where nobody said or measured what the worker takes: such a worker is alone there
among those whose weights are on the GPU, awake or asleep at level 0.  What deeper sleepers keep is not in its way, as
it finds out by itself how much is free.

Host RAM is one more resource, whose claims are always in bytes: a process that can sleep at level 1 has a copy of its
weights there from its launch to its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec import Struct

#: One GPU: a card, or a MIG slice of one.  Equal ids are the same memory; nothing else can be read off an id.
GpuId = str

#: What the ledger keeps account of: a GPU, or HOST_RAM.
Resource = str

HOST_RAM: Resource = "host"

GIB = 1 << 30  # bytes

#: All of a GPU that sleepers leave.
WHOLE = -1

#: More bytes than anybody claims.
ENDLESS = 1 << 62

#: Bytes, or WHOLE, by GPU; bytes of HOST_RAM.
Claim = Mapping[Resource, int]


def in_order(gpus: Iterable[GpuId]) -> list[GpuId]:
    """Return ids in the order to show them: "2" before "10", numbers before longer names."""
    return sorted(gpus, key=lambda gpu: (len(gpu), gpu))


def how_many_fit(slots: Iterable[int], each: int, most: int) -> int:
    """Return how many workers fit on GPUs with so many slots, where one takes a slot on `each` of them; at most `most`.

    So many fit if the slots, of which one GPU gives each worker one, are enough for all.
    """
    there = list(slots)
    return next((n for n in range(most, 0, -1) if sum(min(slot, n) for slot in there) >= each * n), 0)


def shown_gpu(gpu: GpuId) -> int | str:
    """Return an id as JSON and TOML have it: an index as a number."""
    return int(gpu) if gpu.isdigit() else gpu


class Holding(Struct, frozen=True):
    """What one worker has of the memory, awake (`level` is None) or asleep at a level."""

    claim: Claim
    level: int | None = None

    @property
    def is_loaded(self) -> bool:
        """Say whether its weights are on its GPUs: it may be in another's way there whatever the bytes say."""
        return self.level in (None, 0)


class Total(NamedTuple):
    """What some workers have of one resource together."""

    size: int = 0  # bytes of the claims that are in bytes
    loaded: int = 0  # how many have their weights there
    whole: int = 0  # how many claim all of it

    def less(self, others: Iterable[Total]) -> Total:
        """Return what is left without the others."""
        size, loaded, whole = self
        for their_size, their_loaded, their_whole in others:
            size -= their_size
            loaded -= their_loaded
            whole -= their_whole
        return Total(size, loaded, whole)

    def room(self, capacity: int | None) -> int:
        """Return the most bytes that one more may claim of a GPU of this capacity; -1 where that is none at all.

        Of a GPU of unknown capacity (None) that is ENDLESS.
        """
        if self.loaded and (capacity is None or self.whole):
            return -1
        return ENDLESS if capacity is None else capacity - self.size


NOTHING = Total()


def of_resource(holding: Holding | None, resource: Resource) -> Total:
    """Return what one worker has of a resource."""
    amount = holding.claim.get(resource) if holding is not None else None
    if holding is None or amount is None:
        return NOTHING
    return Total(0, holding.is_loaded, 1) if amount == WHOLE else Total(amount, holding.is_loaded, 0)


@dataclass(slots=True)
class Account:
    """What workers have of one resource, added up."""

    holdings: dict[str, Holding] = field(default_factory=dict)  # by worker
    total: Total = NOTHING
    changes: int = 0  # of what is said above, and of those who hold it, so far


class Ledger:
    """Claims of workers; memory of known capacity is never promised twice.

    `capacity`: bytes of each resource that workers may have together, where it could be read.  A claim in bytes on
    another GPU counts as WHOLE; host RAM that could not be read has no end.
    """

    def __init__(self) -> None:
        self.capacity: dict[Resource, int] = {}
        self.changes = 0  # of all accounts together
        self._holdings: dict[str, Holding] = {}
        self._accounts: dict[Resource, Account] = {}

    def is_awake(self, worker: str) -> bool:
        """Say whether the worker has what it needs to serve."""
        holding = self._holdings.get(worker)
        return holding is not None and holding.level is None

    def is_loaded(self, worker: str) -> bool:
        """Say whether the worker's weights are on its GPUs."""
        holding = self._holdings.get(worker)
        return holding is not None and holding.is_loaded

    def has_no_weights(self, worker: str) -> bool:
        """Say whether all that the worker has is what its process takes before it has loaded anything."""
        holding = self._holdings.get(worker)
        return holding is not None and holding.level == 3

    def idle(self, gpus: Iterable[GpuId]) -> frozenset[GpuId]:
        """Return those of the GPUs on which nobody's weights are."""
        return frozenset(gpu for gpu in gpus if gpu not in self._accounts or not self._accounts[gpu].total.loaded)

    def loaded_on(self, gpus: Iterable[GpuId]) -> list[str]:
        """Return the workers whose weights are on one of the GPUs, by name."""
        return sorted(worker for worker in self.holders(gpus) if self._holdings[worker].is_loaded)

    def holders(self, resources: Iterable[Resource]) -> list[str]:
        """Return the workers with a claim on one of the resources, in the order in which they came."""
        found = {worker for resource in resources for worker in self._account(resource).holdings}
        return [worker for worker in self._holdings if worker in found] if len(found) > 1 else [*found]

    def holds(self, worker: str, resources: Iterable[Resource]) -> bool:
        """Say whether the worker claims something of one of the resources."""
        return worker in self._holdings and not self._holdings[worker].claim.keys().isdisjoint(resources)

    def changes_of(self, resources: Iterable[Resource]) -> int:
        """Return a number that grows whenever the resources, or those who hold them, are not what they were."""
        changes = 0
        for resource in resources:
            account = self._accounts.get(resource)
            changes += account.changes if account is not None else 0
        return changes

    def touch(self, worker: str) -> None:
        """Note that a holder is not what it was: busier, or dearer to move."""
        if worker in self._holdings:
            self.changes += 1
            for resource in self._holdings[worker].claim:
                self._account(resource).changes += 1

    def shortfall(self, worker: str, claim: Claim, left: Mapping[str, Holding] = {}) -> dict[Resource, int]:
        """Return the bytes that are missing of each resource for `worker` to wake with `claim`; empty where it fits.

        WHOLE stands for a GPU that somebody must leave, however little the other one takes.
        `left`: what each worker would have that is thought asleep or gone.
        """
        missing: dict[Resource, int] = {}
        for resource, amount in claim.items():
            size, loaded, whole = self._others(resource, worker, left)
            capacity = self.capacity.get(resource)
            if resource != HOST_RAM and loaded and (capacity is None or amount == WHOLE or whole):
                missing[resource] = WHOLE
            elif capacity is not None and amount != WHOLE and size + amount > capacity:
                missing[resource] = size + amount - capacity
        return missing

    def _others(self, resource: Resource, worker: str, left: Mapping[str, Holding]) -> Total:
        """Return what others than the worker have of the resource; `left` as in `shortfall`."""
        account = self._account(resource)
        if not left and worker not in account.holdings:
            return account.total
        others = {name: holding for name, holding in left.items() if name != worker}
        return account.total.less([self.freed(resource, others), of_resource(account.holdings.get(worker), resource)])

    def total(self, resource: Resource) -> Total:
        """Return what all workers have of the resource."""
        return self._account(resource).total

    def freed(self, resource: Resource, left: Mapping[str, Holding]) -> Total:
        """Return what it frees of the resource that these workers have then what is said."""
        holdings = self._account(resource).holdings
        now = NOTHING.less(of_resource(holdings.get(name), resource) for name in left)
        then = NOTHING.less(of_resource(holding, resource) for holding in left.values())
        return then.less([now])

    def room(self, gpu: GpuId) -> int:
        """Return the bytes of a GPU that nobody claims; where its size is unknown, minus the number of claims."""
        account, capacity = self._account(gpu), self.capacity.get(gpu)
        if capacity is None:
            return -len(account.holdings)
        return 0 if account.total.whole else capacity - account.total.size

    def take(self, worker: str, claim: Claim) -> None:
        """Let `worker` have what it needs to serve; what it does not have already must be there."""
        had = self._holdings[worker].claim if worker in self._holdings else {}
        missing = {r: size for r, size in self.shortfall(worker, claim).items() if had.get(r) != claim[r]}
        assert not missing, f"{worker} lacks {missing}"
        self._hold(worker, Holding(claim))

    def keep(self, worker: str, holding: Holding) -> None:
        """Note what `worker` still has, now that it is asleep."""
        self._hold(worker, holding)

    def give_back(self, worker: str) -> None:
        """Note that nothing is left of `worker`'s processes."""
        self._hold(worker, None)

    def narrow(self, worker: str, gpus: frozenset[GpuId]) -> None:
        """Note that `worker` was seen to use these GPUs alone; what it has of others is free."""
        holding = self._holdings.get(worker)
        if holding is not None:
            claim = {gpu: size for gpu, size in holding.claim.items() if gpu in (*gpus, HOST_RAM)}
            self._hold(worker, Holding(claim, holding.level))

    def _hold(self, worker: str, holding: Holding | None) -> None:
        """Note what the worker has from now on; None for nothing."""
        former = self._holdings.get(worker)
        if former is None and holding is None:
            return
        self.changes += 1
        if holding is None:
            del self._holdings[worker]
        else:
            self._holdings[worker] = holding
        for resource in {
            **(former.claim if former is not None else {}),
            **(holding.claim if holding is not None else {}),
        }:
            account = self._account(resource)
            before, after = of_resource(former, resource), of_resource(holding, resource)
            account.total = account.total.less([before, NOTHING.less([after])])
            account.changes += 1
            if holding is not None and resource in holding.claim:
                account.holdings[worker] = holding
            else:
                del account.holdings[worker]

    def _account(self, resource: Resource) -> Account:
        account = self._accounts.get(resource)
        if account is None:
            account = self._accounts[resource] = Account()
        return account
