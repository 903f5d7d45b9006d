"""Which of the proxy's processes one is, what it gets of their limits, and where they find each other.

The processes of a pool share a folder.  Each has a Unix socket there, at which it says that it lives and what it has
counted, a file with what it has told of that, for its successor, and a file for each key with a rate limit.
"""

import os
from pathlib import Path
from shutil import rmtree

from msgspec import Struct

#: Most processes of "auto".  Each takes about 45 MB, and one alone passes on thousands of requests a second.
MOST_AUTO = 8


def processes_of(wanted: int | None) -> int:
    """Return how many processes a proxy has; None stands for "auto": one for each core, up to MOST_AUTO."""
    return wanted if wanted is not None else min(MOST_AUTO, cores())


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def process_names(count: int) -> list[str]:
    """Return the names of the proxy's processes, which their logs and records have."""
    return ["muxd-proxy"] if count == 1 else [f"muxd-proxy-{number}" for number in range(1, count + 1)]


class PoolShare(Struct, frozen=True):
    """One process of a pool: its number, from 1 on, out of how many, and the folder that all share."""

    number: int
    processes: int
    folder: Path

    def of(self, limit: int) -> int:
        """Return this process's share of a limit: the same for all, rounded up."""
        return -(-limit // self.processes)

    def socket(self, number: int | None = None) -> Path:
        """Return the path of the socket of the process with that number, this one's without a number."""
        return self.folder / f"{number or self.number}.sock"

    def counts(self, number: int | None = None) -> Path:
        """Return the path of what that process has told of its counts."""
        return self.folder / f"{number or self.number}.counts"

    def rate(self, key: str) -> Path:
        """Return the path of the file that has what a key has used of its minute."""
        return self.folder / f"rate-{key}"

    @property
    def others(self) -> list[int]:
        """Return the numbers of the other processes."""
        return [number for number in range(1, self.processes + 1) if number != self.number]


def make_pool_folder(folder: Path) -> None:
    """Make the folder of a pool, empty and this user's alone."""
    rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
