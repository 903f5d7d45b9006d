"""The process table as /proc shows it, and signals to exactly one process."""

from __future__ import annotations

import ctypes
import os
import signal

PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_CHILD_SUBREAPER = 1, 15, 36


def prctl(option: int, value: int | bytes) -> None:
    """Call prctl(2) with one argument.  Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_char_p(value) if isinstance(value, bytes) else ctypes.c_ulong(value), 0, 0, 0):
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}): {os.strerror(code)}")


class Process:
    """One line of the process table, as /proc/PID/stat has it.  `start` is in clock ticks since boot."""

    __slots__ = ("alive", "group", "pid", "ppid", "session", "start")

    def __init__(self, pid: int, stat: bytes) -> None:
        fields = stat[stat.rindex(b")") + 2 :].split()
        self.pid = pid
        self.ppid = int(fields[1])
        self.group = int(fields[2])
        self.session = int(fields[3])
        self.start = int(fields[19])
        # The main thread may be gone ("Z") while other threads live.
        self.alive = fields[0] not in b"ZX" or int(fields[17]) > 1


#: Errors of reading /proc/PID when the process has just ended, or is another user's.
GONE = (FileNotFoundError, ProcessLookupError, PermissionError)


def program_of(pid: int) -> str:
    """Return the process's name from /proc/PID/comm, unprintable characters as "?"; "" if the process is gone."""
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            name = file.read().decode(errors="replace").strip()
    except GONE:
        return ""
    return "".join(c if c.isprintable() else "?" for c in name)


def look_up(pid: int) -> Process | None:
    """Return the process with that pid, be it a zombie; None if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return Process(pid, file.read())
    except GONE:
        return None


def is_stopped(pid: int) -> bool:
    """Say whether the process is stopped, by a signal or for a debugger; False if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            return file.read(4096).rpartition(b") ")[2][:1] in b"Tt"
    except OSError:
        return False


def boot_id() -> str:
    """Return the id of this boot of the machine: pids and start times mean nothing beyond it."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def process_table() -> dict[int, Process]:
    """Return every process by pid.  The table is no snapshot: processes come and go while it is read."""
    found = (look_up(int(entry)) for entry in os.listdir("/proc") if entry.isdigit())
    return {process.pid: process for process in found if process}


def descendants(ancestor: int) -> list[Process]:
    """Return the ancestor's living children, their living children, and so on."""
    children: dict[int, list[Process]] = {}
    for process in process_table().values():
        children.setdefault(process.ppid, []).append(process)
    found: list[Process] = []
    generation = children.get(ancestor, [])
    while generation:
        found += generation
        generation = [child for parent in generation for child in children.get(parent.pid, [])]
    return [process for process in found if process.alive]


#: Matches every TCP port, where `listeners` takes one.
ANY_PORT = -1


def listeners(port: int, among: list[Process]) -> list[Process]:
    """Return the processes of `among` that listen on a TCP port, at any address, but not children of such a process.

    Raises OSError if the sockets cannot be listed.
    """
    from .listening import all_listening  # imported here: a shim that never needs it saves `socket`

    sockets = {socket.name for socket in all_listening() if port in (ANY_PORT, socket.port)}
    found = [process for process in among if sockets and has_any(process.pid, sockets)]
    pids = {process.pid for process in found}
    return [process for process in found if process.ppid not in pids]


def has_any(pid: int, sockets: set[str]) -> bool:
    """Say whether the process has one of the sockets open; they are named as in /proc/PID/fd ("socket:[INODE]")."""
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except GONE:
        return False
    for name in names:
        try:
            if os.readlink(f"{folder}/{name}") in sockets:
                return True
        except GONE:
            continue
    return False


def send(process: Process, signum: int) -> bool:
    """Signal exactly this process, never another one that got its pid; return whether it was still there."""
    try:
        send_or_raise(process, signum)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # a set-user-id program: the process is there, and cannot be signalled
    return True


def send_or_raise(process: Process, signum: int) -> None:
    """Signal exactly this process; raises ProcessLookupError if it is gone, and PermissionError."""
    fd = os.pidfd_open(process.pid)
    try:
        now = look_up(process.pid)
        if now is None or now.start != process.start:
            raise ProcessLookupError(f"process {process.pid} has ended, and another one has its pid")
        signal.pidfd_send_signal(fd, signum)
    finally:
        os.close(fd)
