"""What one scheduler holds on its GPUs: which tags are mapped, which were released, and whose weights they hold.

Every mistake that ends SGLang raises here, and the scheduler dies of the exception.  The rules were read in SGLang
0.5.23 (`weight_updater.py`) and seen on real processes without a GPU; what CUDA does with memory that is not mapped
is from torch_memory_saver's source.
"""

import os
import time
from collections.abc import Iterable

from .gpu_ledger import GpuLedger, start_time

KV, WEIGHTS, GRAPH = "kv_cache", "weights", "cuda_graph"
ALL_TAGS = (KV, WEIGHTS, GRAPH)
GARBAGE = "\0"  # the identity of weights that hold nothing sensible


class Fatal(Exception):
    """A mistake by which CUDA ends the process."""


class RankMemory:
    """The memory of one rank.  `sizes` are bytes per tag on each GPU; `overhead` bytes stay until the process ends.

    `saver` is --enable-memory-saver, `backup` --enable-weights-cpu-backup, `lag` the seconds until released memory is
    free, `linger` the seconds that memory stays taken after the process is dead.
    """

    def __init__(
        self,
        ledger: GpuLedger | None,
        gpus: tuple[str, ...],
        sizes: dict[str, int],
        overhead: int,
        *,
        saver: bool,
        backup: bool,
        lag: float = 0.0,
        linger: float = 0.0,
    ) -> None:
        self._ledger = ledger
        self._gpus = gpus
        self._sizes = sizes
        self._overhead = overhead
        self._saver = saver
        self._backup = backup
        self._lag = lag
        self._linger = linger
        self._pid = os.getpid()
        self._start = start_time(self._pid) or 0
        self._offloaded: set[str] = set()  # the released tags as SGLang counts them
        self._unmapped: set[str] = set()  # the released tags as torch_memory_saver counts them
        self._freeing: dict[str, float] = {}  # tag -> when its memory will be free, by time.monotonic
        self.weights = GARBAGE  # the path of the model whose weights are loaded

    def load(self, model_path: str) -> None:
        """Take the weights and the overhead; raise OutOfMemory."""
        self._take(self._overhead)
        self._take(self._sizes[WEIGHTS])
        self.weights = model_path

    def make_pool(self) -> None:
        """Take the KV cache, once the weights are loaded; raise OutOfMemory."""
        self._take(self._sizes[KV])

    def release(self, tags: Iterable[str], busy: int) -> None:
        """Give up `tags`, all where none are named; raise AssertionError or Fatal where SGLang dies."""
        assert not busy, "release_memory_occupation should be called only when server is idle."
        tags = set(tags) or set(ALL_TAGS)
        self._offloaded |= tags
        for tag in ALL_TAGS if self._saver else ():
            if tag in tags:
                self._unmap(tag)

    def resume(self, tags: Iterable[str]) -> None:
        """Take `tags` back, all where none are named; raise KeyError, Fatal or OutOfMemory where SGLang dies."""
        tags = tuple(dict.fromkeys(tags)) or ALL_TAGS
        for tag in tags:
            self._offloaded.remove(tag)
        for tag in (GRAPH, WEIGHTS, KV) if self._saver else ():
            if tag in tags:
                self._map(tag)

    def reload(self, model_path: str) -> None:
        """Read the weights from disk; raise Fatal where their memory was released."""
        self._touch({WEIGHTS})
        self.weights = model_path

    def compute(self) -> None:
        """Make a forward pass; raise Fatal where its memory was released, which SGLang does not check first."""
        self._touch({WEIGHTS, KV})

    def free_due(self) -> float | None:
        """Free the memory whose lag is over; return the seconds until the next is due, None when nothing lags."""
        now = time.monotonic()
        for tag in [tag for tag, when in self._freeing.items() if when <= now]:
            del self._freeing[tag]
            self._give(self._sizes.get(tag, 0))
        return min(self._freeing.values()) - now if self._freeing else None

    def _unmap(self, tag: str) -> None:
        if tag in self._unmapped:
            raise Fatal(f"torch_memory_saver: cannot pause {tag!r}: not active")
        self._unmapped.add(tag)
        self._freeing[tag] = time.monotonic() + self._lag
        if tag == WEIGHTS and not self._backup:
            self.weights = GARBAGE
        if not self._lag:
            self.free_due()

    def _map(self, tag: str) -> None:
        if tag not in self._unmapped:
            raise Fatal(f"torch_memory_saver: cannot resume {tag!r}: not paused")
        if self._freeing.pop(tag, None) is None:
            self._take(self._sizes.get(tag, 0))
        self._unmapped.remove(tag)

    def _touch(self, tags: set[str]) -> None:
        if gone := tags & self._unmapped:
            raise Fatal(f"CUDA error: an illegal memory access was encountered ({', '.join(sorted(gone))})")

    def _take(self, size: int) -> None:
        for gpu in self._gpus if self._ledger and size else ():
            assert self._ledger
            self._ledger.hold(self._pid, self._start, gpu, size, linger=self._linger)

    def _give(self, size: int) -> None:
        for gpu in self._gpus if self._ledger and size else ():
            assert self._ledger
            self._ledger.release(self._pid, self._start, gpu, size)
