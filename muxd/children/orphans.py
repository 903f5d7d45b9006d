"""Orphans of killed shims: muxd inherits them in init's place, and reaps them when they die."""

import os
import signal
from collections.abc import Set
from math import inf
from typing import Never

import trio

from muxd.shim.processes import PR_SET_CHILD_SUBREAPER, Process, prctl, process_table
from muxd.threads import in_thread

from . import proctree

#: Seconds that a zombie of unknown origin is left alone: other code of this process may be about to wait for it.
REAP_GRACE = 5.0


def become_subreaper() -> None:
    """Make this process inherit orphans of killed shims in init's place; see `reap_orphans`.  Raises OSError."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


async def reap_orphans(shims: Set[int], grace: float) -> Never:
    """Reap this process's dead children for ever, but not those that other code here waits for.

    Those are the pids in `shims`, which may change meanwhile, and any child dead for less than `grace` seconds.
    """
    known: dict[tuple[int, int], float] = {}
    with trio.open_signal_receiver(signal.SIGCHLD) as signals:
        while True:
            now = trio.current_time()
            dead = await in_thread(_dead_children)
            known = {(p.pid, p.start): known.get((p.pid, p.start), now) for p in dead if p.pid not in shims}
            for (pid, _), since in known.items():
                if now - since >= grace:
                    proctree.bury(pid)
            with trio.move_on_after(grace if known else inf):
                await anext(signals)


def _dead_children() -> list[Process]:
    """Return this process's children that are zombies."""
    try:
        if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return []
        return [p for p in process_table().values() if p.ppid == os.getpid() and not p.alive]
    except OSError:  # there is no child; or no descriptor is left, and the next signal tries again
        return []
