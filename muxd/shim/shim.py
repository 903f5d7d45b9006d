"""One shim's life: it starts the child, watches it and its output, ends what is left of it, and reports."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import time

from .cgroup import cgroup_kill, cgroup_members, cgroup_populated, cgroup_remove
from .fork import become_child
from .log import Log, reason_of
from .processes import (
    PR_SET_CHILD_SUBREAPER,
    PR_SET_NAME,
    Process,
    boot_id,
    descendants,
    listeners,
    look_up,
    prctl,
    program_of,
    send,
)
from .shim_spec import KILL, STOP, ShimSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Bytes read from a pipe at once, and what is asked for as its size, so that a child can go on writing
#: while a log is written: 100 MB in 0.33 s, and in 0.43 s with the kernel's default of 64 KiB.
CHUNK, PIPE_SIZE = 1 << 16, 1 << 20

#: Seconds that a script has for itself once its server was stopped: for what it traps, and not for another server.
AFTERWARDS = 2.0

#: So many programs that outlived a child are named.
NAMED = 5

#: Seconds until it is tried again to write a log that could not be written.
RETRY = 5.0


class Shim:
    """One child's life."""

    def __init__(self, spec: ShimSpec) -> None:
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
        self._servers: set[int] = set()  # pidfds of those that were asked to end in the child's place
        self._swept: set[tuple[int, int]] = set()  # pid and start of what outlived the child
        self._left: list[str] = []  # what they were called
        self._card: dict[str, Any] = {}
        self._card_due = 0.0
        self._retry_at = 0.0

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
            self._failure = {"errno": error.errno, "error": f"could not be started: {reason_of(error)}"}
            return
        for fd in (stdin, out_end, err_end, error_end, *self._spec.listen_fds.values()):
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
            **self._losses(),
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
        if self._refused:
            at_most = min(at_most, RETRY)
        for fd, _ in self._poll.poll(min(at_most, 3600.0) * 1000 + 1):
            if fd == self._wakeup:
                self._take_signals()
            elif fd in self._servers:
                self._server_ended(fd)
            elif not self._read(fd):
                self._poll.unregister(fd)
                del self._pipes[fd]
                os.close(fd)
        if self._refused and time.monotonic() >= self._retry_at:
            self._retry_at = time.monotonic() + RETRY
            for log in self._logs:
                log.retry()
        if self._card_is_stale and time.monotonic() >= self._card_due:
            self._card |= self._losses()
            self._save_card()

    def _losses(self) -> dict[str, object]:
        return {"dropped_bytes": self._dropped, "dropped_why": self._dropped_why, "dropping": self._refused}

    @property
    def _refused(self) -> bool:
        return any(log.refused for log in self._logs)

    @property
    def _card_is_stale(self) -> bool:
        told = self._card
        return bool(told) and (told["dropped_bytes"] != self._dropped or told["dropping"] != self._refused)

    @property
    def _dropped(self) -> int:
        return sum(log.lost for log in self._logs)

    @property
    def _dropped_why(self) -> str:
        return next((log.why for log in self._logs if log.why), "")

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
            if self._spec.stop_port:
                self._stop_server()
                return
            os.kill(self._pid, self._spec.stop_signal)
            os.kill(self._pid, signal.SIGCONT)

    def _stop_server(self) -> None:
        """The child is a script, which may not hear or not pass it on.  What does not listen yet may be any of its
        group: all of that, as if the script were interrupted at a terminal."""
        try:
            servers = listeners(self._spec.stop_port, descendants(os.getpid()))
        except OSError:  # they cannot be seen
            servers = []
        for server in servers:
            self._watch(server)
            send(server, self._spec.stop_signal)
            send(server, signal.SIGCONT)
        if not servers:
            try:
                os.killpg(self._pid, self._spec.stop_signal)
                os.killpg(self._pid, signal.SIGCONT)
            except ProcessLookupError:  # it has no group of its own yet
                os.kill(self._pid, self._spec.stop_signal)

    def _watch(self, server: Process) -> None:
        try:
            fd = os.pidfd_open(server.pid)
        except OSError:
            return  # it has just ended
        self._servers.add(fd)
        self._poll.register(fd, select.POLLIN)

    def _server_ended(self, fd: int) -> None:
        """Nothing is left to wait for but the end of the script."""
        self._poll.unregister(fd)
        os.close(fd)
        self._servers.discard(fd)
        if not self._servers and self._kill_at is not None:
            self._kill_at = min(self._kill_at, time.monotonic() + AFTERWARDS)

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
        if not self._swept:
            self._left = sorted({name for p in doomed if p.pid != self._pid and (name := program_of(p.pid))})
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
            "dropped_why": self._dropped_why,
            "swept": len(self._swept),
            "left": self._left[:NAMED],
            "requested": self._requested,
        }
        try:
            write_atomically(self._spec.exit_file, ending)
        except OSError as error:
            self._stderr.note(
                f"could not write {self._spec.exit_file}: {reason_of(error)}; it would have said {ending}"
            )
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
        spec = ShimSpec(**json.load(stdin))
    os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)  # takes the place of stdin, which holds secrets
    if os.getsid(0) != os.getpid():
        os.setsid()
    prctl(PR_SET_NAME, b"muxd-shim")
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    Shim(spec).live()
