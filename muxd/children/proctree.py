"""Which processes belong to a child whose shim is gone, and how they are ended.

A living shim does this itself: it is the ancestor of its child's processes.  A killed shim leaves
orphans that no parent ties to it any more.  They are recognised by, in this order: their cgroup; the
session that the main process led; the pipes that are their stdout and stderr; the token in their
environment.  A process that has one of these marks belongs to the child, and so do its children and
its session.  Each mark is checked so that a pid, or the number of a session, that has been used again
is never taken for the old one.
"""

import hashlib
import logging
import os
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from pathlib import Path

import trio
from msgspec import Struct

from muxd.errors import in_words
from muxd.shim.cgroup import cgroup_kill, cgroup_members, cgroup_remove
from muxd.shim.processes import GONE, Process, process_table, send
from muxd.threads import in_thread

from .records import ChildRecord, ShimRecord
from .spare_descriptors import spare

log = logging.getLogger(__name__)

SIGKILL = 9

#: The number of digits that tell whose a token is.
MARK = 12

#: Seconds between attempts to read the process table while it cannot be read.
BLIND = 1.0


class ProcessFingerprint(Struct, frozen=True):
    """The marks by which the processes of one child are recognised."""

    token: str
    cgroup: str | None = None
    leader: tuple[int, int] | None = None  # pid and start time of the main process
    pipes: frozenset[int] = frozenset()
    just_now: bool = False  # the shim lived until now: the session is the main process's even if that is gone


def marks_of(record: ChildRecord, shim_record: ShimRecord | None, *, just_now: bool = False) -> ProcessFingerprint:
    """Return the marks of a child's processes, from its record and, where it could be read, its shim's record."""
    if shim_record is None:
        return ProcessFingerprint(record.token, record.cgroup, just_now=just_now)
    return ProcessFingerprint(
        record.token, record.cgroup, (shim_record.pid, shim_record.start), frozenset(shim_record.pipes), just_now
    )


async def end_all(marks: ProcessFingerprint) -> int:
    """Kill the processes with these marks until none is left; return how many were killed.

    This does not return while one survives SIGKILL; it may be cancelled at any time.  Dead ones that this process
    inherited as a subreaper are reaped.
    """
    killed: set[tuple[int, int]] = set()
    pause = 0.01
    while found := await _find_at_last(marks, killed):
        with spare().lent():
            if marks.cgroup:
                cgroup_kill(marks.cgroup)
            for process in found:
                send(process, SIGKILL)
        killed |= {(process.pid, process.start) for process in found}
        await trio.sleep(pause)
        pause = min(2 * pause, 1.0)
    for pid, _ in killed | ({marks.leader} if marks.leader else set()):
        bury(pid)
    if marks.cgroup:
        cgroup_remove(marks.cgroup)
    return len(killed)


async def _find_at_last(marks: ProcessFingerprint, killed: Collection[tuple[int, int]]) -> list[Process]:
    """Return what `find` returns, and try again for as long as it raises OSError.

    A process table that cannot be read must not be taken for an empty one.
    """
    while True:
        try:
            return await in_thread(partial(find, marks, killed))
        except OSError:  # most likely no descriptor is left
            try:
                with spare().lent():
                    return find(marks, killed)
            except OSError as error:
                log.error("the processes of this machine cannot be seen: %s", in_words(error))
        await trio.sleep(BLIND)


def find(marks: ProcessFingerprint, known: Collection[tuple[int, int]] = ()) -> list[Process]:
    """Return the living processes that have one of the marks or are `known`, with their children and sessions.

    `known` are pids with start times.  Raises OSError if the process table cannot be read.
    """
    table = process_table()
    spared = _ancestry(table)
    others = {pid: process for pid, process in table.items() if pid not in spared}
    members = cgroup_members(marks.cgroup) if marks.cgroup else set()
    found = {
        pid: process
        for pid, process in others.items()
        if pid in members or (pid, process.start) in known or (pid, process.start) == marks.leader
        or _has_mark(pid, marks)
    }  # fmt: skip
    sessions = _leaders_session(marks, table) if not known else set()
    while True:
        sessions |= {p.session for p in found.values() if p.session in found or p.session not in table} - {0}
        more = {
            pid: process
            for pid, process in others.items()
            if pid not in found and (process.ppid in found or process.session in sessions)
        }
        if not more:
            return [process for process in found.values() if process.alive]
        found |= more


def mark_of(run_dir: Path) -> str:
    """Return the MARK hexadecimal digits that all tokens of a run directory begin with.  Raises OSError.

    They are a hash of the directory's device and inode: the same on whatever path the directory is reached.
    """
    directory = run_dir.stat()
    return hashlib.sha256(f"{directory.st_dev}:{directory.st_ino}".encode()).hexdigest()[:MARK]


def marks_of_removed(run_dir: Path) -> set[str]:
    """Return the marks of run directories that were removed from this path, but for those of another muxd that lives.

    Their shims still have lock files open that were there, and a living muxd one that was beside them; so has this
    process, where the muxd before an upgrade had it.  In a container that path is another one.
    """
    run_dir, pids = run_dir.resolve(), {int(entry) for entry in os.listdir("/proc") if entry.isdigit()}
    tokens = {pid: token for pid in pids if (token := token_of(pid))}
    shims = [pid for pid in tokens if run_dir in _folders_of_removed_locks(pid) and not is_in_container(pid)]
    lives = shims and any(run_dir.parent in _folders_of_removed_locks(pid) for pid in pids - {os.getpid()})
    return set() if lives else {tokens[pid][:MARK] for pid in shims}


def is_in_container(pid: int) -> bool:
    """Say whether the process has pids of its own, and so most likely files; True also if it is gone."""
    try:
        return not os.path.samefile(f"/proc/{pid}/ns/pid", "/proc/self/ns/pid")
    except GONE:
        return True


def _folders_of_removed_locks(pid: int) -> set[Path]:
    """Return where the lock files were that a process has open and that were removed; none of one that is gone."""
    folders = set()
    with suppress(*GONE):
        for number in os.listdir(f"/proc/{pid}/fd"):
            with suppress(*GONE):
                path = os.readlink(f"/proc/{pid}/fd/{number}")
                if path.endswith(".lock (deleted)"):
                    folders.add(Path(path).parent)
    return folders


def bearers(marks: Collection[str], spared: Collection[str]) -> dict[str, list[str]]:
    """Return, for each token that begins with one of `marks`, the living processes that have it in their environment.

    The processes are described in words, for the log; tokens in `spared` are left out.  Raises OSError.
    """
    table = process_table()
    found: dict[str, list[str]] = {}
    for process in table.values():
        token = token_of(process.pid) if process.alive else ""
        if token[:MARK] in marks and token not in spared and process.pid not in _ancestry(table):
            found.setdefault(token, []).append(
                f"process {process.pid} ({_name_of(process.pid)}), which no record names"
            )
    return found


def _name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except GONE:
        return "gone meanwhile"


def bury(pid: int) -> bool:
    """Reap the process if it is a dead child of this one; return whether it was."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is not None
    except ChildProcessError:
        return False


def _leaders_session(marks: ProcessFingerprint, table: dict[int, Process]) -> set[int]:
    """Return the number of the main process's session, or nothing if that number may mean another session by now.

    The number means the main process's session while the main process is there, be it as a zombie.  After that the
    session keeps its number as long as it has members.  Without members the number is free: another process
    may get it as its pid, lead a session of that number, and end before its session does.
    """
    if marks.leader is None:
        return set()
    pid, start = marks.leader
    now = table.get(pid)
    sure = marks.just_now if now is None else now.start == start
    return {pid} if sure else set()


def _has_mark(pid: int, marks: ProcessFingerprint) -> bool:
    return _has_pipe(pid, marks.pipes) or _has_token(pid, marks.token)


def _has_pipe(pid: int, inodes: frozenset[int]) -> bool:
    for number in (1, 2):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{number}")
        except GONE:
            continue
        if target.startswith("pipe:[") and int(target[6:-1]) in inodes:
            return True
    return False


def _has_token(pid: int, token: str) -> bool:
    return token_of(pid) == token


def token_of(pid: int) -> str:
    """Return MUXD_TOKEN of the process's environment; "" without one, or if the process is gone."""
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except GONE:
        return ""
    return next((os.fsdecode(word[11:]) for word in words if word.startswith(b"MUXD_TOKEN=")), "")


def _ancestry(table: dict[int, Process]) -> set[int]:
    """Return the pids of this process and its ancestors, which are never killed, whatever their environment says."""
    line: set[int] = set()
    process = table.get(os.getpid())
    while process and process.pid not in line:
        line.add(process.pid)
        process = table.get(process.ppid)
    return line
