"""A child's parent: starts it, keeps its logs, and sees to it that nothing of it is left.

muxd runs one shim per child, as `python -I -S shim.py NAME`, with a Spec as JSON on
stdin.  It outlives muxd, so a child and its streams do not notice that muxd is gone.  Top to bottom:
what muxd asks for (Spec), the log files (Log), finding and killing processes, the child's way
from fork to exec, and the shim's own life (Shim.live).

One process of this runs beside every child, so it stays small: the standard library only, and of
that neither `typing` nor `dataclasses` nor `subprocess` (0.6, 1.6 and 1.0 MB).  For the same
reason it does not import muxd; muxd imports it, for what both need.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import select
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

#: What a shim is asked by signal: to stop the child, or to kill all of it now.
STOP, KILL = signal.SIGTERM, signal.SIGQUIT

#: Bytes read from a pipe at once, and what is asked for as its size, so that a child can go on writing
#: while a log is written: 100 MB in 0.33 s, and in 0.43 s with the kernel's default of 64 KiB.
CHUNK, PIPE_SIZE = 1 << 16, 1 << 20

#: A log rotates at a line end within this many bytes of its limit; only a longer line is cut in two.
LINE_MARGIN = 1 << 16

#: Variables addressed to muxd by its own service manager.
NOT_FOR_CHILDREN = (
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
)

PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_CHILD_SUBREAPER = 1, 15, 36


def prctl(option: int, value: int | bytes) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_char_p(value) if isinstance(value, bytes) else ctypes.c_ulong(value), 0, 0, 0):
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}): {os.strerror(code)}")


class Spec:
    """What muxd wants done.  Paths are absolute, times are seconds, sizes are bytes."""

    def __init__(
        self,
        *,
        name: str,
        token: str,  # in the child's environment as MUXD_TOKEN
        argv: list[str],
        env: dict[str, str],  # complete, but for what the shim adds
        cwd: str,
        stdout: str,  # log files; they may be the same
        stderr: str,
        log_max_bytes: int,  # of one file
        log_backups: int,  # how many older files are kept, as .1 .2 ...
        stop_timeout: float,
        stop_signal: int,  # what asks the child to end
        exit_file: str,
        lock_fd: int,  # the open lock file, flock held: it identifies this shim
        cgroup: str | None = None,  # an existing cgroup v2 directory, for this child alone
        listen_fds: tuple[int, ...] = (),  # inherited sockets to be passed on, as 3, 4 ...
    ) -> None:
        self.name = name
        self.token = token
        self.argv = argv
        self.env = env
        self.cwd = cwd
        self.stdout = stdout
        self.stderr = stderr
        self.log_max_bytes = log_max_bytes
        self.log_backups = log_backups
        self.stop_timeout = stop_timeout
        self.stop_signal = stop_signal
        self.exit_file = exit_file
        self.lock_fd = lock_fd
        self.cgroup = cgroup
        self.listen_fds = listen_fds


# ---------------------------------------------------------------------------------------- logs


class Log:
    """An append-only file that rotates by size and never raises: what the disk refuses is lost and counted.

    No file grows beyond `max_bytes`.  After a loss the log goes on at a line's start, below a
    line that says how much is missing.  A file that was moved or removed is made anew.
    """

    def __init__(self, path: str, max_bytes: int, backups: int) -> None:
        self.lost = 0  # bytes, since the start
        self._path = path
        self._max_bytes = max(1, max_bytes)
        self._margin = min(LINE_MARGIN, max_bytes // 2)
        self._backups = backups
        self._fd = -1
        self._identity = (0, 0)  # device and inode of what _fd is
        self._size = 0
        self._at_line_start = True
        self._gap = 0  # bytes lost since the last successful write
        self._gap_reason = ""
        self._in_torn_line = False  # the beginning of the present line is lost

    def write(self, data: bytes) -> None:
        data = self._without_torn_line(data)
        if not data:
            return
        done = 0
        try:
            if self._gap:
                self._say_gap()
            for part in self._put(data):
                done += part
        except OSError as error:
            self._close()
            self._lose(data[done:], str(error))

    def note(self, text: str) -> None:
        """A line of the shim's own, below the child's last; that one is ended if the child did not."""
        self._in_torn_line = False
        try:
            if self._gap:
                self._say_gap()
            self._say(text)
        except OSError:
            self._close()

    def _put(self, data: bytes) -> Iterator[int]:
        """Write it all and yield how many bytes each step wrote; raises OSError."""
        start = 0
        while start < len(data):
            self._open()
            share = self._share(data, start)
            if share == 0:
                self._rotate()
                continue
            written = os.write(self._fd, memoryview(data)[start : start + share])
            start += written
            self._size += written
            self._at_line_start = data[start - 1] == 10
            yield written

    def _share(self, data: bytes, start: int) -> int:
        """How much of data[start:] goes into the present file; 0: it is full."""
        left = len(data) - start
        room = self._max_bytes - self._margin - self._size
        if left <= room:
            return left
        whole_lines = data.rfind(b"\n", start, start + max(room, 0)) + 1 - start
        if whole_lines > 0:
            return whole_lines
        if self._at_line_start and self._size:
            return 0
        line_end = data.find(b"\n", start) + 1
        return max(0, min(line_end - start if line_end else left, room + self._margin))

    def _open(self) -> None:
        if self._fd >= 0:
            if self._in_place():
                return
            self._close()
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            self._fd = os.open(self._path, flags, 0o640)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(self._path), mode=0o750, exist_ok=True)
            self._fd = os.open(self._path, flags, 0o640)
        found = os.fstat(self._fd)
        self._identity = (found.st_dev, found.st_ino)
        self._size = found.st_size
        self._at_line_start = True
        if self._size and os.pread(self._fd, 1, self._size - 1) != b"\n":
            self._size += os.write(self._fd, b"\n")

    def _in_place(self) -> bool:
        """Whether the open file is still the one at the path.  One stat for each write: 2 microseconds."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) == self._identity

    def _rotate(self) -> None:
        self._close()
        for number in range(self._backups, 0, -1):
            newer = f"{self._path}.{number - 1}" if number > 1 else self._path
            if os.path.exists(newer):
                os.replace(newer, f"{self._path}.{number}")
        if not self._backups:
            os.unlink(self._path)

    def _close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _lose(self, data: bytes, reason: str) -> None:
        self.lost += len(data)
        self._gap += len(data)
        self._gap_reason = reason
        self._in_torn_line = not data.endswith(b"\n")

    def _without_torn_line(self, data: bytes) -> bytes:
        if not self._in_torn_line:
            return data
        rest = data.find(b"\n") + 1 or len(data)
        self._lose(data[:rest], self._gap_reason)
        return data[rest:]

    def _say_gap(self) -> None:
        self._say(f"{self._gap} bytes of the log were lost here: {self._gap_reason}")
        self._gap = 0

    def _say(self, text: str) -> None:
        newline = b"" if self._at_line_start or self._fd < 0 else b"\n"
        for _ in self._put(newline + f"muxd-shim: {text}\n".encode(errors="replace")):
            pass


# ----------------------------------------------------------------------------------- processes


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


def look_up(pid: int) -> Process | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return Process(pid, file.read())
    except GONE:
        return None


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


def cgroup_members(cgroup: str) -> set[int]:
    """The pids in it and below; empty where it does not exist."""
    pids: set[int] = set()
    for directory, _, _ in os.walk(cgroup):
        try:
            with open(f"{directory}/cgroup.procs", "rb") as file:
                pids.update(map(int, file.read().split()))
        except OSError:
            continue  # it went away
    return pids


def cgroup_populated(cgroup: str) -> bool:
    try:
        with open(f"{cgroup}/cgroup.events", "rb") as file:
            return b"populated 1" in file.read()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return False
        raise


def cgroup_kill(cgroup: str) -> None:
    """SIGKILL all in it and below, atomically.  Linux 5.14; without it, each by its pid."""
    try:
        tell_cgroup(f"{cgroup}/cgroup.kill", b"1")
    except OSError:
        for member in map(look_up, cgroup_members(cgroup)):
            if member:
                send(member, signal.SIGKILL)


def tell_cgroup(path: str, value: bytes) -> None:
    """Write to one of a cgroup's files; where it is none, nothing is created."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value)
    finally:
        os.close(fd)


def cgroup_remove(cgroup: str) -> None:
    """Remove it and what is below; what is not empty stays."""
    for directory, _, _ in os.walk(cgroup, topdown=False):
        try:
            os.rmdir(directory)
        except OSError:
            continue


# ------------------------------------------------------------------------- from fork to exec


def become_child(spec: Spec, stdio: tuple[int, int, int], error_pipe: int, shim: int) -> None:
    """In the forked process: become the child, or tell through error_pipe what failed.  Does not return."""
    told: dict[str, Any] = {"errno": None, "error": "could not be executed"}
    try:
        os.setsid()
        if spec.cgroup:
            join_cgroup(spec.cgroup, stdio[2])
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != shim:
            os._exit(127)  # the shim died before the line above
        reset_signals()
        error_pipe = place_fds((*stdio, *spec.listen_fds), error_pipe)
        os.chdir(spec.cwd)
        os.execvpe(spec.argv[0], spec.argv, child_environment(spec))
    except OSError as error:
        what = error.filename if isinstance(error.filename, str) else spec.argv[0]
        told = {"errno": error.errno, "error": f"could not be executed: {error.strerror}: {what}"}
    except Exception as error:
        told = {"errno": None, "error": f"could not be executed: {error!r}"}
    finally:  # whatever happens, this process must not go on as a second shim
        try:
            os.write(error_pipe, json.dumps(told).encode())
        finally:
            os._exit(127)


def join_cgroup(cgroup: str, stderr: int) -> None:
    try:
        tell_cgroup(f"{cgroup}/cgroup.procs", b"0")
    except OSError as error:  # not worth a refusal: its processes are found without one
        os.write(stderr, f"muxd-shim: not in a cgroup of its own: {error}\n".encode())


def reset_signals() -> None:
    """Default handlers and an empty mask; a signal that came since the fork strikes at the last line."""
    signal.set_wakeup_fd(-1)
    for signum in signal.valid_signals():
        if signal.getsignal(signum) not in (signal.SIG_DFL, None):
            signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def place_fds(fds: tuple[int, ...], error_pipe: int) -> int:
    """Make them 0, 1, 2 ... and close everything else but error_pipe, which is returned at its new place."""
    above = max(*fds, error_pipe, len(fds)) + 1
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in (*fds, error_pipe)]
    for number, copy in enumerate(copies[:-1]):
        os.dup2(copy, number, inheritable=True)
    os.dup2(copies[-1], len(fds), inheritable=False)
    os.closerange(len(fds) + 1, os.sysconf("SC_OPEN_MAX"))
    return len(fds)


def child_environment(spec: Spec) -> dict[str, str]:
    env = {key: value for key, value in spec.env.items() if key not in NOT_FOR_CHILDREN}
    env["MUXD_TOKEN"] = spec.token
    # setproctitle writes its titles over the environment, where the token is looked for, unless told not to.
    env.setdefault("SPT_NOENV", "1")
    if spec.listen_fds:
        env |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(spec.listen_fds))}
    return env


# -------------------------------------------------------------------------------------- the shim


class Shim:
    """One child's life."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        logs = {path: Log(path, spec.log_max_bytes, spec.log_backups) for path in (spec.stdout, spec.stderr)}
        self._stdout, self._stderr = logs[spec.stdout], logs[spec.stderr]
        self._logs = logs.values()
        self._poll = select.poll()
        self._pipes: dict[int, Log] = {}  # read ends
        self._error_pipe = -1
        self._wakeup = -1  # signals arrive here, one byte each
        self._pid = 0
        self._status: int | None = None  # the child's, once it has ended
        self._failure: dict[str, Any] = {}  # why it could not be executed
        self._requested = False
        self._kill_at: float | None = None  # on the monotonic clock
        self._swept: set[tuple[int, int]] = set()  # pid and start of what outlived the child
        self._card: dict[str, Any] = {}
        self._card_due = 0.0

    def live(self) -> None:
        self._catch_signals()
        self._start_child()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        while self._status is None and not self._failure and (patience := self._patience()) > 0:
            self._wait(patience)
        self._sweep()
        self._drain()
        self._report()

    # -- beginning

    def _catch_signals(self) -> None:
        """They stay blocked, as muxd blocks them for a new shim, until the child is on its own: none is missed."""
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self._wakeup, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        for signum in (STOP, KILL, signal.SIGCHLD):
            signal.signal(signum, lambda *_: None)  # the wakeup pipe tells
        for signum in (signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)
        self._poll.register(self._wakeup, select.POLLIN)

    def _start_child(self) -> None:
        try:
            stdin = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            out, out_end = log_pipe()
            err, err_end = log_pipe()
            self._error_pipe, error_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            shim = os.getpid()
            self._pid = os.fork()
            if self._pid == 0:
                become_child(self._spec, (stdin, out_end, err_end), error_end, shim)
        except OSError as error:
            self._failure = {"errno": error.errno, "error": f"could not be started: {error}"}
            return
        for fd in (stdin, out_end, err_end, error_end, *self._spec.listen_fds):
            os.close(fd)
        for fd, log in ((out, self._stdout), (err, self._stderr)):
            self._pipes[fd] = log
            self._poll.register(fd, select.POLLIN)
        self._write_card([os.fstat(out).st_ino, os.fstat(err).st_ino])

    def _write_card(self, pipes: list[int]) -> None:
        """Into the lock file: what a later muxd can tell the child by, also when this process has been killed."""
        itself, child = look_up(os.getpid()), look_up(self._pid)
        assert itself
        assert child  # be it dead: only _reap takes it away
        self._card = {
            "name": self._spec.name,
            "token": self._spec.token,
            "boot_id": boot_id(),
            "shim_pid": itself.pid,
            "shim_start": itself.start,
            "exit_file": self._spec.exit_file,
            "cgroup": self._spec.cgroup,
            "pid": child.pid,
            "start": child.start,
            "pipes": pipes,
            "dropped_bytes": 0,
        }
        self._save_card()

    def _save_card(self) -> None:
        self._card_due = time.monotonic() + 1.0
        padded = json.dumps(self._card).encode().ljust(4096)  # each write replaces all of the one before
        try:
            os.pwrite(self._spec.lock_fd, padded, 0)
        except OSError:
            return  # then only the environment and the cgroup tell

    # -- while it runs

    def _patience(self) -> float:
        """Seconds until the child is killed; none left: now."""
        return float("inf") if self._kill_at is None else self._kill_at - time.monotonic()

    def _wait(self, at_most: float) -> None:
        """Handle what comes next: output or signals."""
        if self._card_is_stale:
            at_most = min(at_most, max(0.0, self._card_due - time.monotonic()))
        for fd, _ in self._poll.poll(min(at_most, 3600.0) * 1000 + 1):
            if fd == self._wakeup:
                self._take_signals()
            elif not self._read(fd):
                self._poll.unregister(fd)
                del self._pipes[fd]
                os.close(fd)
        if self._card_is_stale and time.monotonic() >= self._card_due:
            self._card["dropped_bytes"] = self._dropped
            self._save_card()

    @property
    def _card_is_stale(self) -> bool:
        return bool(self._card) and self._card["dropped_bytes"] != self._dropped

    @property
    def _dropped(self) -> int:
        return sum(log.lost for log in self._logs)

    def _read(self, fd: int) -> int:
        """Move a chunk from the pipe into its log; 0 at its end."""
        data = os.read(fd, CHUNK)
        self._pipes[fd].write(data)
        return len(data)

    def _take_signals(self) -> None:
        for signum in os.read(self._wakeup, 4096):
            if signum == STOP:
                self._stop()
            elif signum == KILL:
                self._requested = True
                self._kill_at = 0.0
        self._reap()

    def _stop(self) -> None:
        """To the child alone: it knows best how to end its own; CONT, lest it is stopped and cannot hear."""
        self._requested = True
        if self._kill_at is None and self._pid and self._status is None:
            self._kill_at = time.monotonic() + self._spec.stop_timeout
            os.kill(self._pid, self._spec.stop_signal)
            os.kill(self._pid, signal.SIGCONT)

    def _reap(self) -> bool:
        """Bury the dead, the child's orphans too; whether any child is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._pid:
                self._status = os.waitstatus_to_exitcode(status)

    # -- the end

    def _sweep(self) -> None:
        """Kill until nothing is left.  What SIGKILL does not end keeps this process, and its lock, here."""
        pause = 0.01
        while self._anything_left():
            self._kill_all()
            self._wait(pause)
            pause = min(2 * pause, 1.0)
        if self._spec.cgroup:
            cgroup_remove(self._spec.cgroup)

    def _anything_left(self) -> bool:
        return self._reap() or (self._spec.cgroup is not None and cgroup_populated(self._spec.cgroup))

    def _kill_all(self) -> None:
        doomed = descendants(os.getpid())
        if self._spec.cgroup:
            doomed += filter(None, map(look_up, cgroup_members(self._spec.cgroup)))
            cgroup_kill(self._spec.cgroup)
        for process in doomed:
            send(process, signal.SIGKILL)
        self._swept |= {(p.pid, p.start) for p in doomed if p.alive and p.pid != self._pid}

    def _drain(self) -> None:
        """Save what the dead had written.  A pipe that was passed to strangers may never end, so not until its end."""
        for fd in self._pipes:
            os.set_blocking(fd, False)
            left = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
            try:
                while left > 0 and (count := self._read(fd)):
                    left -= count
            except BlockingIOError:
                continue

    def _report(self) -> None:
        if self._error_pipe >= 0 and self._pid:
            self._failure = read_failure(self._error_pipe)
        if self._failure:
            self._stderr.note(f"{self._spec.name} {self._failure['error']}")
        if self._swept:
            self._stderr.note(f"killed {len(self._swept)} processes that outlived {self._spec.name}")
        status = None if self._failure else self._status
        ending = {
            "token": self._spec.token,
            "pid": self._pid or None,
            "status": status if status is not None and status >= 0 else None,
            "signal": -status if status is not None and status < 0 else None,
            "error": self._failure.get("error"),
            "errno": self._failure.get("errno"),
            "time": time.time(),
            "dropped_bytes": self._dropped,
            "swept": len(self._swept),
            "requested": self._requested,
        }
        try:
            write_atomically(self._spec.exit_file, ending)
        except OSError as error:
            self._stderr.note(f"could not write {self._spec.exit_file}: {error}; it would have said {ending}")
            os._exit(1)


def log_pipe() -> tuple[int, int]:
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    except OSError:
        return read_end, write_end  # the user's share of pipe memory is used up
    return read_end, write_end


def read_failure(error_pipe: int) -> dict[str, Any]:
    """What the child told before exec; {} when it got that far.  It has ended, so this does not wait."""
    try:
        told: dict[str, Any] = json.loads(os.read(error_pipe, CHUNK) or b"{}")
    except BlockingIOError:
        return {}
    return told


def write_atomically(path: str, value: dict[str, Any]) -> None:
    unfinished = f"{path}.tmp"
    with open(unfinished, "w") as file:
        json.dump(value, file)
    os.replace(unfinished, path)


def main() -> None:
    with open(0, "rb") as stdin:
        spec = Spec(**json.load(stdin))
    os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)  # takes the place of stdin, which holds secrets
    if os.getsid(0) != os.getpid():
        os.setsid()
    prctl(PR_SET_NAME, b"muxd-shim")
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    Shim(spec).live()


if __name__ == "__main__":
    main()
