"""The ledger: who holds the GPUs.

A worker claims its GPUs whole from the moment it starts or wakes until it is asleep or
gone, with its memory measured free.  What a sleeping process still holds (a CUDA
context, some hundred MiB) is not counted.
"""

from collections.abc import Mapping


class Ledger:
    """Claims of workers on GPUs; at most one worker holds a GPU."""

    def __init__(self, needs: Mapping[str, frozenset[int]]) -> None:
        self._needs = dict(needs)
        self._holder: dict[int, str] = {}

    def needs(self, worker: str) -> frozenset[int]:
        return self._needs[worker]

    def holds(self, worker: str) -> bool:
        return worker in self._holder.values()

    def blockers(self, worker: str) -> frozenset[str]:
        """The other workers that hold a GPU which this one needs."""
        return frozenset(self._holder[g] for g in self._needs[worker] if g in self._holder) - {worker}

    def take(self, worker: str) -> None:
        blockers = self.blockers(worker)
        assert not blockers, f"{worker} would share its GPUs with {sorted(blockers)}"
        for gpu in self._needs[worker]:
            self._holder[gpu] = worker

    def give_back(self, worker: str) -> None:
        self._holder = {gpu: holder for gpu, holder in self._holder.items() if holder != worker}
