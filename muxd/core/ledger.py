"""The ledger: who holds the GPUs.

A worker claims its GPUs whole from the moment it starts or wakes until it is asleep or
gone, with its memory measured free.  What a sleeping process still holds (a CUDA
context, some hundred MiB) is not counted.
"""


class Ledger:
    """Claims of workers on GPUs; at most one worker holds a GPU."""

    def __init__(self) -> None:
        self._needs: dict[str, frozenset[int]] = {}
        self._holder: dict[int, str] = {}

    def expect(self, worker: str, gpus: frozenset[int]) -> None:
        """What it needs from now on; it must hold nothing."""
        assert not self.holds(worker), f"{worker} holds GPUs"
        self._needs[worker] = gpus

    def narrow(self, worker: str, gpus: frozenset[int]) -> None:
        """It was seen to need these alone; what it holds besides is free."""
        assert gpus <= self._needs[worker] or not self.holds(worker), f"{worker} holds other GPUs"
        self._needs[worker] = gpus
        self._holder = {gpu: holder for gpu, holder in self._holder.items() if holder != worker or gpu in gpus}

    def forget(self, worker: str) -> None:
        self.give_back(worker)
        self._needs.pop(worker, None)

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
