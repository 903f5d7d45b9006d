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

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

#: One GPU: a card, or a MIG slice of one.  Equal ids are the same memory; nothing else can be read off an id.
GpuId = str

#: What the ledger keeps account of: a GPU, or HOST_RAM.
Resource = str

HOST_RAM: Resource = "host"

#: All of a GPU that sleepers leave.
WHOLE = -1

#: Bytes, or WHOLE, by GPU; bytes of HOST_RAM.
Claim = Mapping[Resource, int]


def in_order(gpus: Iterable[GpuId]) -> list[GpuId]:
    """Return ids in the order to show them: "2" before "10", numbers before longer names."""
    return sorted(gpus, key=lambda gpu: (len(gpu), gpu))


def shown_gpu(gpu: GpuId) -> int | str:
    """Return an id as JSON and TOML have it: an index as a number."""
    return int(gpu) if gpu.isdigit() else gpu


@dataclass(frozen=True, slots=True)
class Holding:
    """What one worker has of the memory, awake (`level` is None) or asleep at a level."""

    claim: Claim
    level: int | None = None

    @property
    def is_loaded(self) -> bool:
        """Say whether its weights are on its GPUs: it may be in another's way there whatever the bytes say."""
        return self.level in (None, 0)


class Ledger:
    """Claims of workers; memory of known capacity is never promised twice.

    `capacity`: bytes of each resource that workers may have together, where it could be read.  A claim in bytes on
    another GPU counts as WHOLE; host RAM that could not be read has no end.
    """

    def __init__(self) -> None:
        self.capacity: dict[Resource, int] = {}
        self.changes = 0  # of what anybody has, so far
        self._holdings: dict[str, Holding] = {}
        self._loaded_on: dict[frozenset[GpuId], tuple[str, ...]] = {}  # found since the last change

    def has(self, worker: str) -> bool:
        """Say whether the worker claims anything."""
        return worker in self._holdings

    def is_awake(self, worker: str) -> bool:
        """Say whether the worker has what it needs to serve."""
        holding = self._holdings.get(worker)
        return holding is not None and holding.level is None

    def is_loaded(self, worker: str) -> bool:
        """Say whether the worker's weights are on its GPUs."""
        holding = self._holdings.get(worker)
        return holding is not None and holding.is_loaded

    def loaded_on(self, gpus: frozenset[GpuId]) -> tuple[str, ...]:
        """Return the workers whose weights are on one of the GPUs, by name.

        They are looked for once between two changes: with 50 models waiting, a decision asks hundreds of times.
        """
        if gpus not in self._loaded_on:
            self._loaded_on[gpus] = tuple(sorted(name for name in self.holders(gpus) if self.is_loaded(name)))
        return self._loaded_on[gpus]

    def holders(self, resources: Iterable[Resource]) -> list[str]:
        """Return the workers with a claim on one of the resources, in the order in which they came."""
        wanted = frozenset(resources)
        return [worker for worker, holding in self._holdings.items() if not wanted.isdisjoint(holding.claim)]

    def shortfall(self, worker: str, claim: Claim, left: Mapping[str, Holding] = {}) -> dict[Resource, int]:
        """Return the bytes that are missing of each resource for `worker` to wake with `claim`; empty where it fits.

        WHOLE stands for a GPU that somebody must leave, however little the other one takes.
        `left`: what each worker would have that is thought asleep or gone.
        """
        others = [h for name, h in self._holdings.items() if name != worker and name not in left]
        others += [holding for name, holding in left.items() if name != worker]
        missing: dict[Resource, int] = {}
        for gpu, amount in claim.items():
            on_it = [h for h in others if gpu in h.claim]
            capacity = self.capacity.get(gpu)
            loaded = [h.claim[gpu] for h in on_it if h.is_loaded]
            if gpu != HOST_RAM and loaded and (capacity is None or amount == WHOLE or WHOLE in loaded):
                missing[gpu] = WHOLE
            elif capacity is not None and amount != WHOLE:
                over = sum(h.claim[gpu] for h in on_it) + amount - capacity
                if over > 0:
                    missing[gpu] = over
        return missing

    def room(self, gpu: GpuId) -> int:
        """Return the bytes of a GPU that nobody claims; where its size is unknown, minus the number of claims."""
        capacity = self.capacity.get(gpu)
        claims = [h.claim[gpu] for h in self._holdings.values() if gpu in h.claim]
        if capacity is None:
            return -len(claims)
        return 0 if WHOLE in claims else capacity - sum(claims)

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
        self.changes += 1
        self._loaded_on.clear()
        if holding is None:
            self._holdings.pop(worker, None)
        else:
            self._holdings[worker] = holding
