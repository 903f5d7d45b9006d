"""Which processes belong to a child whose shim is gone, and how they are ended.

While a shim lives it does this itself: it is their ancestor.  Killed, it leaves orphans that nothing
ties to it any more.  They are told by, in this order: their cgroup; the session that the launcher
led; the pipes they were given as stdout and stderr; the token in their environment.  What one of
those is true of takes its children and its session with it.  Each is checked so that a pid,
or the number of a session, that has been used again is never taken for the old one.
"""

import logging
import os
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from muxd.errors import in_words
from muxd.shim.cgroup import cgroup_kill, cgroup_members, cgroup_remove
from muxd.shim.processes import GONE, Process, process_table, send
from muxd.threads import in_thread

from .records import ChildRecord, read_card
from .spare_descriptors import spare

log = logging.getLogger(__name__)

SIGKILL = 9

#: Seconds until the processes are looked at again after they could not be seen.
BLIND = 1.0


@dataclass(frozen=True, slots=True)
class ProcessFingerprint:
    """What one child's processes can be told by."""

    token: str
    cgroup: str | None = None
    leader: tuple[int, int] | None = None  # pid and start time of the launcher
    pipes: frozenset[int] = frozenset()
    just_now: bool = False  # the shim lived until now: the launcher's session is its own even if it is gone itself


def marks_of(record: ChildRecord, *, just_now: bool = False) -> ProcessFingerprint:
    card = read_card(record.lock_file, record.token)
    if card is None:
        return ProcessFingerprint(record.token, record.cgroup, just_now=just_now)
    return ProcessFingerprint(record.token, record.cgroup, (card.pid, card.start), frozenset(card.pipes), just_now)


async def end_all(marks: ProcessFingerprint) -> int:
    """Kill until none is left; how many were killed.  Does not return while one survives SIGKILL.

    Cancellable at any time; what this process inherited of them as a subreaper is reaped.
    """
    killed: set[tuple[int, int]] = set()
    pause = 0.01
    while found := await _look(marks, killed):
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


async def _look(marks: ProcessFingerprint, killed: Collection[tuple[int, int]]) -> list[Process]:
    """What `find` finds.  As long as the machine does not say, nobody may believe that nothing is left."""
    while True:
        try:
            return await in_thread(partial(find, marks, killed))
        except OSError:  # no descriptor, most likely
            try:
                with spare().lent():
                    return find(marks, killed)
            except OSError as error:
                log.error("the processes of this machine cannot be seen: %s", in_words(error))
        await trio.sleep(BLIND)


def find(marks: ProcessFingerprint, known: Collection[tuple[int, int]] = ()) -> list[Process]:
    """The living processes that the marks are true of, that are `known`, or that these brought forth."""
    table = process_table()
    spared = _ancestry(table)
    others = {pid: process for pid, process in table.items() if pid not in spared}
    members = cgroup_members(marks.cgroup) if marks.cgroup else set()
    found = {
        pid: process
        for pid, process in others.items()
        if pid in members or (pid, process.start) in known or (pid, process.start) == marks.leader
        or _bears(pid, marks)
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


def bearers(mark: str, spared: Collection[str]) -> dict[str, list[str]]:
    """By each token that begins with `mark`, but `spared`: the living processes that have it in their environment."""
    table = process_table()
    found: dict[str, list[str]] = {}
    for process in table.values():
        token = _token_of(process.pid) if process.alive else ""
        if token.startswith(mark) and token not in spared and process.pid not in _ancestry(table):
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
    """Reap it, if it is a dead child of this process; whether it was."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is not None
    except ChildProcessError:
        return False


def _leaders_session(marks: ProcessFingerprint, table: dict[int, Process]) -> set[int]:
    """The launcher's session, where its number can mean no other.

    It cannot while the launcher is there, be it as a zombie.  After that a session keeps its number as
    long as it has members, but then the number is free, and whoever gets it may lead a session and leave.
    """
    if marks.leader is None:
        return set()
    pid, start = marks.leader
    now = table.get(pid)
    sure = marks.just_now if now is None else now.start == start
    return {pid} if sure else set()


def _bears(pid: int, marks: ProcessFingerprint) -> bool:
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
    return _token_of(pid) == token


def _token_of(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except GONE:
        return ""
    return next((os.fsdecode(word[11:]) for word in words if word.startswith(b"MUXD_TOKEN=")), "")


def _ancestry(table: dict[int, Process]) -> set[int]:
    """This process and those it comes from: never to be killed, whatever their environment says."""
    line: set[int] = set()
    process = table.get(os.getpid())
    while process and process.pid not in line:
        line.add(process.pid)
        process = table.get(process.ppid)
    return line
