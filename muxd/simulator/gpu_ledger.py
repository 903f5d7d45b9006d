"""The pretend GPU memory of one host: one file that says which process holds how much on which GPU.

As on a real GPU, memory belongs to a process and comes back when that process is dead, and an allocation of more than
is free raises an out-of-memory error.  The simulator's schedulers write the file, and muxd reads it.  The module
imports the standard library only, so that both sides import it cheaply.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

_GiB = 1 << 30

#: Bytes of the file that are read: a longer one was not written by the simulator, and is no JSON when cut.
LONGEST = 16 << 20


class OutOfMemory(Exception):
    """More memory was asked for than is free; the text is the one that torch prints.  Sizes are in bytes."""

    def __init__(self, gpu: str, wanted: int, free: int, capacity: int) -> None:
        super().__init__(
            f"CUDA out of memory. Tried to allocate {wanted / _GiB:.2f} GiB. GPU {gpu} has a total capacity of "
            f"{capacity / _GiB:.2f} GiB of which {free / _GiB:.2f} GiB is free."
        )
        self.gpu = gpu
        self.wanted = wanted
        self.free = free


def start_time(pid: int) -> int | None:
    """Return when the process started, in clock ticks since boot; None when it is dead, a zombie included."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


@dataclass(slots=True)
class _Holding:
    pid: int
    start: int
    gpu: str
    size: int
    linger: float  # seconds that the memory stays taken after the process is dead
    died: float | None = None  # when somebody first saw it dead; CLOCK_MONOTONIC, the same for all processes

    def counts(self, now: float) -> bool:
        if start_time(self.pid) == self.start:
            return True
        if self.died is None:
            self.died = now
        return now < self.died + self.linger


class GpuLedger:
    """The file of holdings; every call locks the file, reads it and, where needed, writes it.

    `capacity_bytes` is the memory of each GPU.  The file is made on the first use.
    """

    def __init__(self, path: Path | str, capacity_bytes: int) -> None:
        self._path = Path(path)
        self._capacity = capacity_bytes

    @property
    def capacity(self) -> int:
        return self._capacity

    def hold(self, pid: int, start: int, gpu: str, size: int, *, linger: float = 0.0) -> None:
        """Give `size` more bytes to the process that started at `start`; raise OutOfMemory, and change nothing then.

        With `linger` the bytes stay taken for that many seconds after its death, as with a driver in trouble.
        """
        with self._open() as holdings:
            free = self._capacity - sum(h.size for h in holdings if h.gpu == gpu)
            if size > free:
                raise OutOfMemory(gpu, size, free, self._capacity)
            mine = [h for h in holdings if (h.pid, h.start, h.gpu) == (pid, start, gpu)]
            if mine:
                mine[0].size += size
                mine[0].linger = linger
            else:
                holdings.append(_Holding(pid, start, gpu, size, linger))

    def release(self, pid: int, start: int, gpu: str, size: int | None = None) -> None:
        """Take `size` bytes from the process, or all that it holds on this GPU."""
        with self._open() as holdings:
            for holding in holdings:
                if (holding.pid, holding.start, holding.gpu) == (pid, start, gpu):
                    holding.size = 0 if size is None else max(0, holding.size - size)

    def used(self, gpu: str) -> int:
        """Return the bytes that are taken on this GPU."""
        return sum(self.holders(gpu).values())

    def holders(self, gpu: str) -> dict[int, int]:
        """Return the bytes that each process holds on this GPU, by pid."""
        with self._open() as holdings:
            return {h.pid: h.size for h in holdings if h.gpu == gpu and h.size}

    @contextmanager
    def _open(self) -> Iterator[list[_Holding]]:
        """Lock the file and yield the holdings that count; write changes in the list, unless an exception comes."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            before = os.pread(fd, min(os.fstat(fd).st_size, LONGEST), 0).partition(b"\n")[0]
            now = time.monotonic()
            holdings = [h for h in (_Holding(**fields) for fields in json.loads(before or b"[]")) if h.counts(now)]
            yield holdings
            after = json.dumps([asdict(h) for h in holdings if h.size]).encode()
            if after != before:
                _replace(fd, after)
        finally:
            os.close(fd)


def _replace(fd: int, line: bytes) -> None:
    """Write `line` in one call; readers stop at its newline, so a kill before the truncation does no harm."""
    os.pwrite(fd, line + b"\n", 0)
    os.ftruncate(fd, len(line) + 1)
