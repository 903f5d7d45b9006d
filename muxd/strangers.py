"""What processes that are not muxd's have on the GPUs: named where their memory is told by process, else reckoned.

NVML tells memory by process on a host.  In a container it tells none, or pids that mean nothing there: then what a GPU
has in use beyond what muxd's workers were last seen to have is a stranger's, and is about right, as long as no worker
comes or goes.
"""

from collections.abc import Callable, Container, Mapping

from msgspec import Struct

from .core.ledger import GpuId
from .gpus import NOISE, GpuMemory
from .shim.processes import look_up, program_of

GiB = 1 << 30

#: Bytes below which a reckoned figure counts as nothing: drivers keep some, and workers grow a little as they serve.
RECKONED_NOISE = GiB


#: Says whether a pid is a worker's; None where there is no such process here.
IsOurs = Callable[[int], bool | None]


class Stranger(Struct, frozen=True):
    """A process that is not muxd's, with bytes that it has on one GPU."""

    pid: int
    program: str
    size: int

    def __str__(self) -> str:
        return f"{self.program or 'a process'} (pid {self.pid})"


class Strangers(Struct, frozen=True):
    """What all strangers have on one GPU, in bytes; no `processes`: nobody tells which they are."""

    size: int
    processes: tuple[Stranger, ...] = ()  # those with most come first

    def __str__(self) -> str:
        """Return a phrase for users, such as "12.0 GiB held by python3 (pid 4711), not muxd's"."""
        held = f"{self.size / GiB:.1f} GiB held by"
        if not self.processes:
            return f"about {held} others than muxd"
        more = f" and {len(self.processes) - 3} more" if len(self.processes) > 3 else ""
        return f"{held} {', '.join(map(str, self.processes[:3]))}{more}, not muxd's"


class StrangerWatch:
    """Looks at one reading of the GPUs after the other, and keeps what it found where a new one tells nothing."""

    def __init__(self) -> None:
        self.found: dict[GpuId, Strangers] = {}

    def look(self, reading: Mapping[GpuId, GpuMemory], is_ours: IsOurs, ours: Mapping[GpuId, int | None]) -> None:
        """Take in a reading; `ours`: bytes of workers by GPU, None where one comes or goes, or was not measured."""
        for gpu, memory in reading.items():
            known = ours.get(gpu, 0)
            found = strangers_among(memory.holders, is_ours, has_workers=known != 0)
            if found is None and known is not None:
                found = reckoned(memory.used - known)
            if found is not None and abs(found.size - self._size_of(gpu, found)) > NOISE:
                self.found[gpu] = found
            if found is not None and not found.size:
                self.found.pop(gpu, None)

    def _size_of(self, gpu: GpuId, found: Strangers) -> int:
        """Return the bytes that are known of the same strangers; -NOISE - 1 at least where others are known."""
        known = self.found.get(gpu)
        if known is None:
            return 0
        same = [p.pid for p in known.processes] == [p.pid for p in found.processes]
        return known.size if same else -(found.size + NOISE + 1)


def reckoned(rest: int) -> Strangers:
    """Return strangers of whom nobody tells which they are, by the bytes that are in use and no worker's."""
    return Strangers(rest if rest >= RECKONED_NOISE else 0)


def strangers_among(holders: Mapping[int, int] | None, is_ours: IsOurs, *, has_workers: bool) -> Strangers | None:
    """Return the strangers among the processes that hold memory, by pid; None where that does not tell.

    It tells nothing where a pid is not known here, or where workers have memory and none of them is listed.
    """
    if holders is None:
        return None
    whose = {pid: is_ours(pid) for pid in holders}
    if None in whose.values() or (has_workers and True not in whose.values()):
        return None
    found = [Stranger(pid, program_of(pid), size) for pid, size in holders.items() if not whose[pid] and size >= NOISE]
    found.sort(key=lambda stranger: (-stranger.size, stranger.pid))
    return Strangers(sum(stranger.size for stranger in found), tuple(found))


def is_below(pid: int, shims: Container[int], sessions: Container[int | None]) -> bool | None:
    """Say whether a process is below a shim, or in one of the sessions; None where there is no such process."""
    process = look_up(pid)
    if process is None:
        return None
    while process is not None and process.pid > 1:
        if process.pid in shims or process.session in sessions:
            return True
        process = look_up(process.ppid)
    return False
