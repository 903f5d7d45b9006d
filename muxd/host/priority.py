"""What a process may have of this machine while others want it: its classes of CPU and disk, and who is killed first.

A process in the background takes only the CPU and the disk that nobody else wants, and is the first to go when the
machine has no memory left.  All its threads, and the processes that it starts, begin as it is.
"""

import ctypes
import os
import resource
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from platform import machine

#: The number of ioprio_set by architecture, and what it is told: one thread, the idle class or none (linux/ioprio.h).
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_ONE_THREAD, _IDLE, _NONE = 1, 3 << 13, 0

#: The bit of CAP_SYS_NICE among a process's capabilities (linux/capability.h).
_SYS_NICE = 23

#: In oom_score_adj: killed before any other.
_FIRST = 1000

_PROCESSES = Path("/proc")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def read_when_idle(thread: int = 0) -> None:
    """Let a thread, by default this one, use disks only when nobody else does, where their scheduler knows classes."""
    _set_io_class(thread, _IDLE)


def send_to_background(pid: int) -> None:
    """Let a process that has one thread, and has started no other process yet, be in the background.

    Its CPU class stays as it is where muxd could not bring it back: that takes CAP_SYS_NICE, or a limit on nice of 20.
    """
    read_when_idle(pid)
    with suppress(OSError):
        (_PROCESSES / str(pid) / "oom_score_adj").write_text(str(_FIRST))
    if _may_be_undone():
        with suppress(OSError):
            os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))


def bring_to_foreground(pids: Iterable[int]) -> None:
    """Let processes, with all their threads, be like any other process of muxd's."""
    try:
        own = (_PROCESSES / "self/oom_score_adj").read_text()
    except OSError:
        own = "0"
    for pid in pids:
        with suppress(OSError):
            (_PROCESSES / str(pid) / "oom_score_adj").write_text(own)
        for thread in _threads(pid):
            _set_io_class(thread, _NONE)
            with suppress(OSError):
                if os.sched_getscheduler(thread) == os.SCHED_IDLE:
                    os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))


def _threads(pid: int) -> Iterator[int]:
    try:
        yield from (int(name) for name in os.listdir(_PROCESSES / str(pid) / "task"))
    except OSError:  # it has ended
        return


def _set_io_class(thread: int, priority: int) -> None:
    if (number := _IOPRIO_SET.get(machine())) is not None:
        _libc.syscall(number, _ONE_THREAD, thread, priority)


def _may_be_undone() -> bool:
    """Say whether this process may give another one of its user a better CPU class than it has (sched(7))."""
    if resource.getrlimit(resource.RLIMIT_NICE)[0] >= 20 - os.nice(0):
        return True
    try:
        lines = (_PROCESSES / "self/status").read_text().splitlines()
        capabilities = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
    except (OSError, ValueError, StopIteration):
        return False
    return bool(capabilities >> _SYS_NICE & 1)
