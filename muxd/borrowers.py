"""The processes to which GPUs are lent: none of muxd's, but watched, so that a loan ends with them.

A borrower is a process group, known by its leader's pid, start time and boot.  muxctl starts it; muxd only looks
whether any process of it is left, and ends it where nobody else does.  Who may operate muxd names the group, and muxd
may be root: of an operator who is not, only processes of that user are ended.
"""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import suppress

import msgspec

from .errors import in_words
from .shim.processes import Process, boot_id, look_up, process_table, send_or_raise

log = logging.getLogger(__name__)


class Borrower(msgspec.Struct, frozen=True):
    """A process group, by its leader; for the state file."""

    pid: int
    start: int  # clock ticks since boot; 0: the leader was gone already when it was looked at
    boot_id: str
    uid: int | None = None  # of the user whose processes alone muxd ends; None: all that it may

    @classmethod
    def of(cls, pid: int, uid: int | None = None) -> "Borrower":
        """Return the borrower whose process group the process leads; `uid`: as the attribute."""
        leader = look_up(pid)
        return cls(pid, leader.start if leader is not None else 0, boot_id(), uid)

    def is_alive(self) -> bool:
        """Say whether a process of the group is left; a zombie, or a pid that was given to another process, is none.

        A group of which muxd sees no process, as /proc hides those of others (ProtectProc=invisible), is alive.
        """
        if self.boot_id != boot_id():
            return False
        leader = look_up(self.pid)
        if leader is not None and leader.start != self.start:
            return False
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # another user's
        if leader is not None and leader.alive:
            return True
        members = list(self._members())
        return not members or any(process.alive for process in members)

    def _members(self) -> Iterator[Process]:
        return (process for process in process_table().values() if process.group == self.pid)

    def end(self, *, kill: bool) -> None:
        """Send SIGTERM to the group, or SIGKILL; where muxd's user may not, that is logged."""
        if not self.is_alive():
            return
        number = signal.SIGKILL if kill else signal.SIGTERM
        try:
            if self.uid is None:
                os.killpg(self.pid, number)
            else:
                self._signal_own(self.uid, number)
        except ProcessLookupError:
            pass
        except PermissionError as error:
            log.warning("cannot end the process group %d, to which a GPU is lent: %s", self.pid, in_words(error))

    def _signal_own(self, uid: int, number: signal.Signals) -> None:
        """Send a signal to those processes of the group that are this user's; PermissionError: muxd may not."""
        members = list(self._members())
        if not members:  # they have just ended, or are hidden from muxd
            os.killpg(self.pid, 0)
        for process in members:
            with suppress(FileNotFoundError, ProcessLookupError):
                if os.stat(f"/proc/{process.pid}").st_uid == uid:
                    send_or_raise(process, number)
                elif process.alive:
                    text = "process %d, to which a GPU is lent, is not of the user who borrowed it, and is not ended"
                    log.warning(text, process.pid)
