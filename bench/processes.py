"""What the kernel says of a process: CPU time used, memory, and those below it."""

import os
import time
from contextlib import suppress
from pathlib import Path


def cpu_seconds(pid: int) -> float:
    """That it has used, with all its threads, to the nanosecond: its CPU clock (clock_getcpuclockid(3))."""
    return time.clock_gettime((~pid << 3) | 2)


def pss_mb(pid: int) -> float:
    """Its own memory and its share of what it shares, in MB of 10**6 bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    (kilobytes,) = (int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kilobytes * 1024 / 1e6


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def below(pid: int) -> list[int]:
    """The process and all that descend from it."""
    return [pid, *(one for child in children(pid) for one in below(child))]


def put_first(pid: int) -> None:
    """Let it and its threads run before all that is not real time; needs root."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setscheduler(int(task.name), os.SCHED_FIFO, os.sched_param(5))


def children(pid: int) -> list[int]:
    """Of any of its threads."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has just ended
            found += [int(child) for child in (task / "children").read_text().split()]
    return found
