"""The GPUs and the memory of this machine."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pynvml
import trio

from muxd.gpus import GpuMemory, NvmlGpus

#: Returns the GPUs; if there are none, also why.
ReadGpus = Callable[[], tuple[Sequence[GpuMemory], str]]

_MEMORY = Path("/proc/meminfo")
_LIMIT = Path("/sys/fs/cgroup/memory.max")


def read_gpus() -> tuple[Sequence[GpuMemory], str]:
    """Return the GPUs that NVML knows, in its order, and the reason to give if there are none."""
    try:
        found = trio.run(partial(NvmlGpus().read, holders=True))
    except pynvml.NVMLError as error:
        return [], str(error)
    return list(found.values()), "NVML tells of none"


def host_memory() -> int:
    """Return the bytes of RAM that processes here may have; 0 if unknown."""
    total = 0
    for line in _MEMORY.read_text().splitlines():
        if line.startswith("MemTotal:"):
            total = int(line.split()[1]) * 1024
    try:
        limit = int(_LIMIT.read_text())
    except (OSError, ValueError):  # this is no container, or the limit is "max"
        return total
    return min(total, limit)
