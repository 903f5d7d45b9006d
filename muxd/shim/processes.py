"""What the kernel tells of processes, and what it is asked to do to exactly one of them."""

from __future__ import annotations

import ctypes
import os
import signal

PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_CHILD_SUBREAPER = 1, 15, 36


def prctl(option: int, value: int | bytes) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_char_p(value) if isinstance(value, bytes) else ctypes.c_ulong(value), 0, 0, 0):
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}): {os.strerror(code)}")


class Process:
    """One line of the process table, as /proc/PID/stat has it.  `start` is in clock ticks since boot."""

    __slots__ = ("alive", "pid", "ppid", "session", "start")

    def __init__(self, pid: int, stat: bytes) -> None:
        fields = stat[stat.rindex(b")") + 2 :].split()
        self.pid = pid
        self.ppid = int(fields[1])
        self.session = int(fields[3])
        self.start = int(fields[19])
        # The main thread may be gone ("Z") while others live.
        self.alive = fields[0] not in b"ZX" or int(fields[17]) > 1


#: What reading /proc/PID says of a process that has just ended, or that is none of ours.
GONE = (FileNotFoundError, ProcessLookupError, PermissionError)


def program_of(pid: int) -> str:
    """Its name as /proc/PID/comm has it, printable; "" where it is gone."""
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            name = file.read().decode(errors="replace").strip()
    except GONE:
        return ""
    return "".join(c if c.isprintable() else "?" for c in name)


def look_up(pid: int) -> Process | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return Process(pid, file.read())
    except GONE:
        return None


def is_stopped(pid: int) -> bool:
    """By a signal, or for a debugger."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            return file.read(4096).rpartition(b") ")[2][:1] in b"Tt"
    except OSError:
        return False


def boot_id() -> str:
    """Names this boot of the machine: pids and start times mean nothing beyond it."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def process_table() -> dict[int, Process]:
    """Every process by pid.  Not a moment in time: processes come and go while it is read."""
    found = (look_up(int(entry)) for entry in os.listdir("/proc") if entry.isdigit())
    return {process.pid: process for process in found if process}


def descendants(ancestor: int) -> list[Process]:
    """The living ones of its children, their children, and so on."""
    children: dict[int, list[Process]] = {}
    for process in process_table().values():
        children.setdefault(process.ppid, []).append(process)
    found: list[Process] = []
    generation = children.get(ancestor, [])
    while generation:
        found += generation
        generation = [child for parent in generation for child in children.get(parent.pid, [])]
    return [process for process in found if process.alive]


#: In place of a TCP port.
ANY_PORT = -1


def listeners(port: int, among: list[Process]) -> list[Process]:
    """Those that listen on a TCP port, at whatever address; not the children of one of them."""
    from .listening import all_listening  # a shim that never asks does without `socket`

    sockets = {socket.name for socket in all_listening() if port in (ANY_PORT, socket.port)}
    found = [process for process in among if sockets and has_any(process.pid, sockets)]
    pids = {process.pid for process in found}
    return [process for process in found if process.ppid not in pids]


def has_any(pid: int, sockets: set[str]) -> bool:
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
    """Signal exactly this process, never another one that got its pid; whether it was still there."""
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        now = look_up(process.pid)
        if now is None or now.start != process.start:
            return False
        signal.pidfd_send_signal(fd, signum)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # a set-user-id program: it is there, and we cannot help it
    finally:
        os.close(fd)
    return True
