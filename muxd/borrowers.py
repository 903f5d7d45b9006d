"""The processes to which GPUs are lent: none of muxd's, but watched, so that a loan ends with them.

A borrower is a process group, known by its leader's pid, start time and boot.  muxctl starts it; muxd only looks
whether any process of it is left, and ends it where nobody else does.
"""

import logging
import os
import signal

import msgspec

from .errors import in_words
from .shim.processes import boot_id, look_up

log = logging.getLogger(__name__)


class Borrower(msgspec.Struct, frozen=True):
    """A process group, by its leader; for the state file."""

    pid: int
    start: int  # clock ticks since boot; 0: the leader was gone already when it was looked at
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> "Borrower":
        """Return the borrower whose process group the process leads."""
        leader = look_up(pid)
        return cls(pid, leader.start if leader is not None else 0, boot_id())

    def is_alive(self) -> bool:
        """Say whether a process of the group is left; a pid that has been given to another process is none."""
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
            return True  # another user's
        return True

    def end(self, *, kill: bool) -> None:
        """Send SIGTERM to the group, or SIGKILL; where muxd's user may not, that is logged."""
        if not self.is_alive():
            return
        try:
            os.killpg(self.pid, signal.SIGKILL if kill else signal.SIGTERM)
        except ProcessLookupError:
            pass
        except PermissionError as error:
            log.warning("cannot end the process group %d, to which a GPU is lent: %s", self.pid, in_words(error))
