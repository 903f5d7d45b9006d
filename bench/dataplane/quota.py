"""A share of a core for a process, and no more, by a cgroup of its own: needs root and the kernel's cpu controller."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

PERIOD = 20_000  # microseconds: a process that has used its share waits for the rest of them
FIRST = {"cpu.shares": "262144", "cpu.weight": "10000"}  # within its share it comes before others


@contextmanager
def capped(pids: Sequence[int], share: float) -> Iterator[None]:
    """Give each process `share` of a core while the scope lasts; raises OSError where that may not be set here."""
    with ExitStack() as stack:
        for number, pid in enumerate(pids):
            stack.enter_context(_group(pid, share, f"muxd-bench-{os.getpid()}-{number}"))
        yield


@contextmanager
def _group(pid: int, share: float, name: str) -> Iterator[None]:
    root, is_v2 = _controller()
    before = _group_of(pid, root, is_v2=is_v2)
    group = root / name
    group.mkdir()
    try:
        quota = round(share * PERIOD)
        if is_v2:
            (group / "cpu.max").write_text(f"{quota} {PERIOD}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        for file, weight in FIRST.items():
            if (group / file).exists():
                (group / file).write_text(weight)
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        with suppress(ProcessLookupError, FileNotFoundError):  # it, or its own group, is gone
            (before / "cgroup.procs").write_text(str(pid))
        group.rmdir()


def _controller() -> tuple[Path, bool]:
    """Return where the cpu controller is mounted, and whether it is that of cgroup v2; raises OSError."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    for _, where, kind, options, *_ in mounts:
        if kind == "cgroup" and "cpu" in options.split(","):
            return Path(where), False
    for _, where, kind, *_ in mounts:
        if kind == "cgroup2" and "cpu" in (Path(where) / "cgroup.controllers").read_text().split():
            (Path(where) / "cgroup.subtree_control").write_text("+cpu")
            return Path(where), True
    raise FileNotFoundError("no cgroup hierarchy with a cpu controller is mounted")


def _group_of(pid: int, root: Path, *, is_v2: bool) -> Path:
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if (not controllers) if is_v2 else ("cpu" in controllers.split(",")):
            return root / path.lstrip("/")
    return root
