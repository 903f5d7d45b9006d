"""A child that was started, as muxd sees it: to be asked to end, and how it ended."""

import os
import signal
import subprocess
import time
from contextlib import suppress

import trio

from muxd.errors import in_words
from muxd.shim.shim_spec import KILL, STOP

from . import proctree
from .records import ChildRecord, Dropped, ExitRecord, error_file, forget, read_card, read_exit, signal_name
from .spare_descriptors import spare


class Child:
    """A child that was started; `wait` must be awaited by someone, to its end."""

    def __init__(self, record: ChildRecord, process: subprocess.Popen[bytes], pidfd: int, shims: set[int]) -> None:
        self.name = record.name
        self.record = record
        self.shim_pid = record.shim_pid
        self._process = process
        self._pidfd = pidfd
        self._shims = shims
        self._pid: int | None = None
        self._asked = False
        self._exit: ExitRecord | None = None
        self._dropped = Dropped()
        self._card_of = 0  # the time of the card that it is from
        self._ending = trio.Lock()

    @property
    def pid(self) -> int | None:
        """The launcher's, once its shim has forked it."""
        if self._pid is None:
            card = read_card(self.record.lock_file, self.record.token)
            self._pid = card.pid if card else None
        return self._pid

    @property
    def dropped(self) -> Dropped:
        """Up to a second old.  The card is read where it was written since: that is seldom, and this is asked often."""
        if self._exit is None:
            written = _written_at(self.record.lock_file)
            if written == self._card_of:
                return self._dropped
            self._card_of = written
            card = read_card(self.record.lock_file, self.record.token)
            self._dropped = Dropped(card.dropped_bytes, card.dropped_why, card.dropping) if card else Dropped()
            return self._dropped
        return Dropped(self._exit.dropped_bytes, self._exit.dropped_why)

    def stop(self) -> None:
        """Ask the launcher to end; after stop_timeout kill what is left.  Returns at once; harmless if it has ended."""
        self._ask(STOP)

    def kill(self) -> None:
        """Kill all of it now.  Returns at once, harmless if it has ended."""
        self._ask(KILL)

    async def wait(self) -> ExitRecord:
        """How it ended, once nothing of it is left; it does not return while a process survives SIGKILL.

        Any number of tasks may wait, and any of them may be cancelled.
        """
        async with self._ending:  # a pidfd can be waited for by one task only
            if self._exit is None:
                await trio.lowlevel.wait_readable(self._pidfd)
                self._exit = await self._find_out()
                self._let_go()
            return self._exit

    async def _find_out(self) -> ExitRecord:
        """Whatever keeps its report from being read, it is made sure that nothing of it is left."""
        self._process.poll()
        unreadable = ""
        with spare().lent():
            try:
                ending = read_exit(self.record.exit_file, self.record.token)
            except OSError as error:
                ending, unreadable = None, f"it ended, but how cannot be read: {in_words(error)}"
            if ending is not None:
                return ending
            card = read_card(self.record.lock_file, self.record.token)
            marks = proctree.marks_of(self.record, just_now=True)
            how = unreadable or self._shims_end()
        swept = await proctree.end_all(marks)
        return ExitRecord(
            error=how,
            requested=self._asked,
            dropped_bytes=card.dropped_bytes if card else 0,
            dropped_why=card.dropped_why if card else "",
            swept=swept,
            time=time.time(),
        )

    def _shims_end(self) -> str:
        status = self._process.returncode
        if status is not None and status < 0:
            return f"its shim was killed by {signal_name(-status)}"
        try:
            said = error_file(self.record.lock_file).read_text(errors="replace").strip().splitlines()
        except OSError as error:
            said = [f"why cannot be read: {in_words(error)}"]
        return f"its shim failed with status {status}: {said[-1] if said else 'see its log'}"

    def _let_go(self) -> None:
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


def _written_at(path: str) -> int:
    """In nanoseconds; 0 where that cannot be told."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0
