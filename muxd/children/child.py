"""A running child as muxd sees it: stop it, and learn how it ended."""

import os
import signal
import subprocess
import time
from contextlib import suppress

import trio

from muxd.errors import in_words
from muxd.shim.processes import descendants, look_up, process_table
from muxd.shim.shim_spec import KILL, STOP

from . import proctree
from .records import (
    ChildRecord,
    Dropped,
    ExitRecord,
    ShimRecord,
    error_file,
    forget,
    read_exit,
    read_shim_record,
    signal_name,
)
from .spare_descriptors import spare


class Child:
    """A child that was started, by this muxd or an earlier one; some task must await `wait` to its end."""

    def __init__(
        self, record: ChildRecord, process: subprocess.Popen[bytes] | None, pidfd: int, shims: set[int]
    ) -> None:
        """Take a child and the process of its shim, None where an earlier muxd started that."""
        self.name = record.name
        self.record = record
        self.shim_pid = record.shim_pid
        self._process = process
        self._pidfd = pidfd
        self._shims = shims
        self._asked = False
        self._exit: ExitRecord | None = None
        self._shim_record: ShimRecord | None = None  # as last read
        self._record_mtime = 0  # the mtime that it had then, in nanoseconds
        self._ending = trio.Lock()

    @property
    def pid(self) -> int | None:
        """Return the main process's pid; None until its shim has forked it."""
        if self._shim_record is None:
            self._read_shim_record()
        return self._shim_record.pid if self._shim_record is not None else None

    @property
    def dropped(self) -> Dropped:
        """Return what the disk refused of the child's output, up to a second old."""
        if self._exit is not None:
            return Dropped(self._exit.dropped_bytes, self._exit.dropped_why)
        known = self._read_shim_record()
        return Dropped(known.dropped_bytes, known.dropped_why, known.dropping) if known is not None else Dropped()

    def pids(self) -> list[int]:
        """Return the child's processes: all below its shim or, where that was killed, the main process's session.

        Raises OSError if the process table cannot be read.
        """
        shim = look_up(self.shim_pid)
        if shim is not None and shim.start == self.record.shim_start and shim.alive:
            return [process.pid for process in descendants(shim.pid)]
        return [process.pid for process in process_table().values() if process.session == self.pid]

    def _read_shim_record(self, *, anew: bool = False) -> ShimRecord | None:
        """Return the shim's record, the last one where it can no longer be read; None until it is written.

        It is read only if it was written since the last call, or `anew`: it seldom is, and calls are frequent.
        """
        written = _mtime_of(self.record.lock_file)
        if anew or self._shim_record is None or written != self._record_mtime:
            self._record_mtime = written
            self._shim_record = read_shim_record(self.record.lock_file, self.record.token) or self._shim_record
        return self._shim_record

    def stop(self) -> None:
        """Ask the main process to end; the shim kills what is left after stop_timeout.  Returns at once."""
        self._ask(STOP)

    def kill(self) -> None:
        """Have the shim kill the child and all its descendants now.  Returns at once."""
        self._ask(KILL)

    async def wait(self) -> ExitRecord:
        """Wait until no process of the child is left, and return how the child ended.

        This does not return while a process survives SIGKILL.

        Any number of tasks may wait, and any of them may be cancelled.
        """
        async with self._ending:  # only one task at a time may wait for a descriptor
            if self._exit is None:
                await trio.lowlevel.wait_readable(self._pidfd)
                self._exit = await self._read_end()
                self._release()
            return self._exit

    async def _read_end(self) -> ExitRecord:
        """Read the shim's report.  Where there is none, end all that is left of the child, and make up a report."""
        if self._process is not None:
            self._process.poll()
        unreadable = ""
        with spare().lent():
            try:
                ending = read_exit(self.record.exit_file, self.record.token)
            except OSError as error:
                ending, unreadable = None, f"it ended, but how cannot be read: {in_words(error)}"
            if ending is not None:
                return ending
            shim_record = self._read_shim_record(anew=True)
            marks = proctree.marks_of(self.record, shim_record, just_now=True)
            how = unreadable or self._shims_end()
        swept = await proctree.end_all(marks)
        return ExitRecord(
            error=how,
            requested=self._asked,
            dropped_bytes=shim_record.dropped_bytes if shim_record else 0,
            dropped_why=shim_record.dropped_why if shim_record else "",
            swept=swept,
            time=time.time(),
        )

    def _shims_end(self) -> str:
        """Return a phrase on how the shim itself ended, with the last line of its stderr."""
        if self._process is None:
            return "its shim ended without a report"
        status = self._process.returncode
        if status is not None and status < 0:
            return f"its shim was killed by {signal_name(-status)}"
        try:
            said = error_file(self.record.lock_file).read_text(errors="replace").strip().splitlines()
        except OSError as error:
            said = [f"why cannot be read: {in_words(error)}"]
        return f"its shim failed with status {status}: {said[-1] if said else 'see its log'}"

    def _release(self) -> None:
        os.close(self._pidfd)
        self._shims.discard(self.shim_pid)
        with spare().lent():
            forget(self.record)

    def _ask(self, signum: int) -> None:
        if self._exit is None:
            self._asked = True
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signum)
                signal.pidfd_send_signal(self._pidfd, signal.SIGCONT)


def _mtime_of(path: str) -> int:
    """Return the file's mtime in nanoseconds; 0 if it cannot be read."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0
