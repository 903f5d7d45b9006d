"""Orphans of killed shims come to muxd instead of to init, and are buried here when they die."""

import os
import signal
from collections.abc import Set
from math import inf
from typing import Never

import trio

from muxd.shim.processes import PR_SET_CHILD_SUBREAPER, Process, prctl, process_table
from muxd.threads import in_thread

from . import proctree

#: Seconds that a zombie of unknown origin is left to whoever may be about to wait for it.
REAP_GRACE = 5.0


def become_subreaper() -> None:
    """Make orphans of killed shims come to this process instead of to init; see `reap_orphans`."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


async def reap_orphans(shims: Set[int], mourning: float) -> Never:
    """Bury what comes to this process and dies here, but not what others here wait for.

    That is any of `shims`, which may change meanwhile, and whatever has not been dead for `mourning` seconds.
    """
    known: dict[tuple[int, int], float] = {}
    with trio.open_signal_receiver(signal.SIGCHLD) as signals:
        while True:
            now = trio.current_time()
            dead = await in_thread(_dead_children)
            known = {(p.pid, p.start): known.get((p.pid, p.start), now) for p in dead if p.pid not in shims}
            for (pid, _), since in known.items():
                if now - since >= mourning:
                    proctree.bury(pid)
            with trio.move_on_after(mourning if known else inf):
                await anext(signals)


def _dead_children() -> list[Process]:
    """Zombies that wait for this process."""
    try:
        if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return []
        return [p for p in process_table().values() if p.ppid == os.getpid() and not p.alive]
    except OSError:  # no child; or no descriptor is left, and the next signal will do
        return []
