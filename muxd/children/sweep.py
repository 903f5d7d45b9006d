"""End the processes that an earlier muxd has left: by their shims where those live, else from here."""

import logging
import os
import signal
from collections.abc import Iterable, Set
from functools import partial

import trio

from muxd.errors import ModelStuck
from muxd.shim.processes import boot_id, look_up, send
from muxd.shim.shim_spec import KILL
from muxd.threads import in_thread

from . import proctree
from .records import ChildRecord, forget, read_shim_record

log = logging.getLogger(__name__)

#: Seconds that a shim has to kill its child; after that the shim is killed, and its child from here.
SHIM_PATIENCE = 5.0


async def sweep(records: Iterable[ChildRecord], patience: float) -> list[str]:
    """Kill all that is left of these children; return the names of those that something was left of.

    Raises ModelStuck if a process survives SIGKILL for `patience` seconds.
    """
    by_token = {record.token: record for record in records}
    unfinished = {record.name for record in by_token.values()}
    alive: set[str] = set()

    async def sweep_one(record: ChildRecord) -> None:
        if record.boot_id == boot_id() and await _end(record):
            alive.add(record.name)
        forget(record)
        unfinished.discard(record.name)

    with trio.move_on_after(patience):
        async with trio.open_nursery() as nursery:
            for record in by_token.values():
                nursery.start_soon(sweep_one, record, name=f"sweep {record.name}")
    if unfinished:
        names = sorted(unfinished)
        raise ModelStuck(f"processes of {', '.join(names)} from an earlier run survive SIGKILL", names=names)
    return sorted(alive)


async def sweep_strays(marks: Set[str], spared: Set[str], patience: float) -> list[str]:
    """Kill the processes whose token begins with one of `marks` and is not in `spared`; return a description of each.

    Raises ModelStuck if one survives SIGKILL for `patience` seconds.
    """
    strays = await in_thread(partial(proctree.bearers, marks, spared))
    ended: list[str] = []
    with trio.move_on_after(patience):
        for token, names in strays.items():
            await proctree.end_all(proctree.ProcessFingerprint(token))
            ended += names
    if left := sorted({name for names in strays.values() for name in names} - {*ended}):
        raise ModelStuck(f"processes from an earlier run survive SIGKILL: {', '.join(left)}", names=left)
    return ended


async def _end(record: ChildRecord) -> bool:
    """Kill all that is left of one child; return whether anything was."""
    shim_was_alive = await _end_shim(record)
    marks = proctree.marks_of(record, read_shim_record(record.lock_file, record.token))
    return bool(await proctree.end_all(marks)) or shim_was_alive


async def _end_shim(record: ChildRecord) -> bool:
    """Have the shim kill its child and end, or kill the shim if it does not; return whether it was alive."""
    process = look_up(record.shim_pid)
    if process is None or process.start != record.shim_start or not process.alive:
        return False
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        for signum in (KILL, signal.SIGCONT):
            send(process, signum)
        with trio.move_on_after(SHIM_PATIENCE) as scope:
            await trio.lowlevel.wait_readable(pidfd)
        if scope.cancelled_caught:
            log.warning("the shim of %s (pid %d) does not end, killing it", record.name, process.pid)
            send(process, signal.SIGKILL)
            await trio.lowlevel.wait_readable(pidfd)
    finally:
        os.close(pidfd)
    return True
