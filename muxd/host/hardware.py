"""The GPUs and the memory of this machine."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import trio

from muxd.gpus import GpuMemory

#: Returns the GPUs; if there are none, also why.
ReadGpus = Callable[[], tuple[Sequence[GpuMemory], str]]

_MEMORY = Path("/proc/meminfo")
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def read_gpus() -> tuple[Sequence[GpuMemory], str]:
    """Return the GPUs that NVML knows, in its order, and the reason to give if there are none."""
    import pynvml

    from muxd.nvml import NvmlGpus

    try:
        found = trio.run(partial(NvmlGpus().read, holders=True))
    except pynvml.NVMLError as error:
        return [], str(error)
    return list(found.values()), "NVML tells of none"


def host_memory() -> int:
    """Return the bytes of RAM that processes here may have; 0 if unknown."""
    return min(_meminfo("MemTotal"), *(limit for limit, _ in _limits()), 1 << 62)


def available_memory() -> int:
    """Return the bytes of RAM that processes here may have beside what others use already; 0 if unknown.

    The file cache counts as free: MemAvailable leaves it out, and so does the working set of a cgroup.
    """
    rooms = (max(0, limit - used) for limit, used in _limits())
    return min(_meminfo("MemAvailable"), *rooms, 1 << 62)


def _meminfo(name: str) -> int:
    """Return one line of /proc/meminfo, in bytes; 0 where there is none."""
    for line in _MEMORY.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def _limits() -> Iterator[tuple[int, int]]:
    """Yield the limit of each cgroup (version 2) that this process is in, up to the root, and its working set."""
    try:
        path = next(line[3:] for line in _OWN_CGROUP.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return
    own = _CGROUPS / path.strip("/")
    for folder in (own, *own.parents):
        if not folder.is_relative_to(_CGROUPS):
            return
        with suppress(OSError, ValueError, StopIteration):  # no controller, or the limit is "max"
            limit, used = (int((folder / name).read_text()) for name in ("memory.max", "memory.current"))
            stat = (folder / "memory.stat").read_text().splitlines()
            yield limit, used - next(int(line.split()[1]) for line in stat if line.startswith("inactive_file "))
