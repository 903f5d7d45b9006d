"""The process tree of one server: a main process, a scheduler per rank, a detokenizer.

The children are forked before the main process imports its HTTP server, so they stay small.  Pipes connect them to the
main process, as sockets do in SGLang.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from mmap import mmap
from struct import Struct

from .command_line import Flags
from .scheduler_process import run_detokenizer, run_scheduler

_STAMP = Struct("d")

SCHEDULER = "sim::scheduler"
DETOKENIZER = "sim::detokenizer"
STRAY = "sim::stray"  # the process that the fault setsid-grandchild starts


def comm(name: str) -> str:
    """Return what /proc/PID/comm holds for a process of this name: the kernel keeps 15 characters."""
    return name[:15]


@dataclass(frozen=True, slots=True)
class ServerProcesses:
    """The main process's side: the children's pids, a command pipe per rank, and the pipe for all replies."""

    schedulers: tuple[int, ...]
    detokenizer: int
    commands: tuple[int, ...]
    replies: int
    steps: mmap  # shared with the schedulers: when each took its last step

    def last_step(self, rank: int) -> float:
        """Return when this rank's scheduler took its last step, in seconds since the epoch; 0 before the first."""
        return float(_STAMP.unpack_from(self.steps, rank * _STAMP.size)[0])

    def kill(self) -> None:
        """Send SIGKILL to all children that are still there."""
        for pid in (*self.schedulers, self.detokenizer):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def fork_children(flags: Flags) -> ServerProcesses:
    """Start the tree below this process, which must have no other thread yet."""
    if flags.faults.has("setsid-grandchild"):
        _fork(STRAY, _stray)
    commands = [os.pipe() for _ in range(flags.tp_size)]
    tokens, replies = os.pipe(), os.pipe()
    steps, is_open = mmap(-1, flags.tp_size * _STAMP.size), mmap(-1, 1)
    ends = {*(end for pipe in (*commands, tokens, replies) for end in pipe)}

    def scheduler(rank: int) -> Callable[[], None]:
        def took_step() -> None:
            _STAMP.pack_into(steps, rank * _STAMP.size, time.time())

        return lambda: run_scheduler(flags, rank, is_open, commands[rank][0], tokens[1], replies[1], took_step)

    schedulers = tuple(
        _fork(SCHEDULER, scheduler(rank), close=ends - {commands[rank][0], tokens[1], replies[1]})
        for rank in range(flags.tp_size)
    )
    detokenizer = _fork(
        DETOKENIZER, lambda: run_detokenizer(flags, tokens[0], replies[1]), close=ends - {tokens[0], replies[1]}
    )
    ours = {*(write for _, write in commands), replies[0]}
    for end in ends - ours:
        os.close(end)
    return ServerProcesses(schedulers, detokenizer, tuple(write for _, write in commands), replies[0], steps)


def leave_temporary_files() -> None:
    """Make what each start of SGLang leaves in TMPDIR for ever: five files and a directory."""
    import tempfile

    for _ in range(5):
        os.close(tempfile.mkstemp()[0])
    tempfile.mkdtemp()


def _fork(name: str, body: Callable[[], None], close: frozenset[int] | set[int] = frozenset()) -> int:
    """Fork a child of this name that closes the pipe ends in `close`, runs `body` and ends; return its pid."""
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return pid
    status = 1
    try:
        with open("/proc/self/comm", "w") as title:
            title.write(comm(name))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for end in close:
            os.close(end)
        body()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _stray() -> None:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    time.sleep(3600)
