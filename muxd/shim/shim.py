"""One shim's life: start the child, watch it and its output, end what is left of it, and report."""

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
from .shim_spec import CHILD_PID, KILL, STOP, ShimSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Bytes read from a pipe at once, and the size that a pipe is given.  The child goes on writing into the pipe while
#: the shim writes a log: 100 MB take 0.33 s, and 0.43 s with the kernel's default size of 64 KiB.
CHUNK, PIPE_SIZE = 1 << 16, 1 << 20

#: Seconds that a script has after its server was stopped: time for its own clean-up, not for another server.
AFTERWARDS = 2.0

#: Seconds for the stop command where the child is gone already: a muxd that starts waits that long for a shim.
CLEANUP = 4.0

#: At most this many programs that outlived a child are named in the report.
NAMED = 5

#: Seconds between attempts to write a log that could not be written.
RETRY = 5.0

#: Nanoseconds within which what comes to one log has come at one time.
MOMENT = 1_000_000

#: A pipe that was read waits behind the one that has become readable meanwhile: so what a child writes to stdout and
#: stderr is read in the order in which it was written, but for what it writes while the shim reads.
_ONCE = select.EPOLLIN | select.EPOLLONESHOT


class Shim:
    """The parent of one child: `live` starts the child and returns once nothing of it is left."""

    def __init__(self, spec: ShimSpec) -> None:
        self._spec = spec
        logs = {path: Log(path, spec.log_max_bytes, spec.log_backups) for path in (spec.stdout, spec.stderr)}
        self._stdout, self._stderr = logs[spec.stdout], logs[spec.stderr]
        self._logs = logs.values()
        self._last_log: Log | None = None  # the log that was written last
        self._came = 0  # nanoseconds since 1970 at which that came
        self._poll = select.epoll()  # tells what is readable in the order in which it became so
        self._pipes: dict[int, Log] = {}  # the log of each read end
        self._error_pipe = -1
        self._wakeup = -1  # signals arrive here, one byte each
        self._pid = 0
        self._status: int | None = None  # the child's exit code, once it has ended
        self._failure: dict[str, Any] = {}  # why the child could not be executed
        self._requested = False
        self._stop_error = -1  # why a stop command could not be executed
        self._stopper = 0  # pid of the stop command that runs
        self._is_stopped = False  # a stop command has ended well
        self._kill_at: float | None = None  # on the monotonic clock
        self._servers: set[int] = set()  # pidfds of the servers that were asked to end in the child's place
        self._swept: set[tuple[int, int]] = set()  # pid and start of each process that outlived the child
        self._left: list[str] = []  # their program names
        self._record: dict[str, Any] = {}
        self._card_due = 0.0
        self._retry_at = 0.0

    def live(self) -> None:
        """Run the child from its start to the report of its end."""
        self._catch_signals()
        self._start_child()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        while self._runs and (seconds := self._seconds_until_kill()) > 0:
            self._wait(seconds)
        self._sweep()
        if self._error_pipe >= 0 and self._pid:
            self._failure = read_failure(self._error_pipe)
        self._clean_up()
        self._drain()
        self._report()

    @property
    def _runs(self) -> bool:
        """Return whether the child runs, or a stop command that ends it."""
        return (self._status is None or bool(self._stopper)) and not self._failure

    # -- beginning

    def _catch_signals(self) -> None:
        """Route signals to the wakeup pipe.

        muxd starts a shim with its signals blocked; they stay blocked until the child runs, so none is missed.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self._wakeup, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        for signum in (STOP, KILL, signal.SIGCHLD):
            signal.signal(signum, lambda *_: None)  # the wakeup pipe says which signal came
        for signum in (signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)
        self._poll.register(self._wakeup, select.EPOLLIN)

    def _start_child(self) -> None:
        try:
            stdin = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            out, out_end = log_pipe()
            err, err_end = (out, out_end) if self._stdout is self._stderr else log_pipe()
            self._error_pipe, error_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            shim = os.getpid()
            self._pid = os.fork()
            if self._pid == 0:
                become_child(self._spec, (stdin, out_end, err_end), error_end, shim)
        except OSError as error:
            self._failure = {"errno": error.errno, "error": f"could not be started: {reason_of(error)}"}
            return
        for fd in {stdin, out_end, err_end, error_end, *self._spec.listen_fds.values()}:
            os.close(fd)
        for fd, log in {out: self._stdout, err: self._stderr}.items():
            self._listen_to(fd, log)
        self._write_card([os.fstat(out).st_ino, os.fstat(err).st_ino])

    def _write_card(self, pipes: list[int]) -> None:
        """Write the shim's record into the lock file: muxd finds the child by it, even if the shim was killed."""
        itself, child = look_up(os.getpid()), look_up(self._pid)
        assert itself
        assert child  # at least as a zombie: only _reap removes it
        self._record = {
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
        padded = json.dumps(self._record).encode().ljust(4096)  # so that each write replaces the whole one before it
        try:
            os.pwrite(self._spec.lock_fd, padded, 0)
        except OSError:
            return  # a later muxd then finds the child by its environment and its cgroup only

    def _listen_to(self, pipe: int, log: Log) -> None:
        """Have what is written to this pipe written to this log."""
        self._pipes[pipe] = log
        self._poll.register(pipe, _ONCE)

    # -- while it runs

    def _seconds_until_kill(self) -> float:
        """Return the seconds until the child is killed; 0 or less means now, infinity that no stop was asked for."""
        return float("inf") if self._kill_at is None else self._kill_at - time.monotonic()

    def _wait(self, at_most: float) -> None:
        """Wait at most `at_most` seconds for output or signals and handle them; then do what is due: logs, record."""
        if self._card_is_stale:
            at_most = min(at_most, max(0.0, self._card_due - time.monotonic()))
        if self._refused:
            at_most = min(at_most, RETRY)
        for fd, _ in self._poll.poll(min(at_most, 3600.0) + 0.001):
            if fd == self._wakeup:
                self._take_signals()
            elif fd in self._servers:
                self._server_ended(fd)
            elif not self._read(fd):
                self._poll.unregister(fd)
                del self._pipes[fd]
                os.close(fd)
            else:
                self._poll.modify(fd, _ONCE)
        if self._refused and time.monotonic() >= self._retry_at:
            self._retry_at = time.monotonic() + RETRY
            for log in self._logs:
                log.retry(self._time_for(log))
        if self._card_is_stale and time.monotonic() >= self._card_due:
            self._record |= self._losses()
            self._save_card()

    def _losses(self) -> dict[str, object]:
        return {"dropped_bytes": self._dropped, "dropped_why": self._dropped_why, "dropping": self._refused}

    @property
    def _refused(self) -> bool:
        return any(log.refused for log in self._logs)

    @property
    def _card_is_stale(self) -> bool:
        told = self._record
        return bool(told) and (told["dropped_bytes"] != self._dropped or told["dropping"] != self._refused)

    @property
    def _dropped(self) -> int:
        return sum(log.lost for log in self._logs)

    @property
    def _dropped_why(self) -> str:
        return next((log.why for log in self._logs if log.why), "")

    def _read(self, fd: int) -> int:
        """Move a chunk from the pipe into its log; return its size in bytes, 0 at the end of the pipe."""
        data, log = os.read(fd, CHUNK), self._pipes[fd]
        log.write(data, self._time_for(log))
        return len(data)

    def _time_for(self, log: Log) -> int:
        """Return the time at which something comes to this log now, another one than for the log that was written last.

        So the lines of stdout and stderr can be put in the order in which they came.
        """
        now = time.time_ns()
        if log is not self._last_log or not 0 <= now - self._came < MOMENT:
            self._last_log, self._came = log, now
        return self._came

    def _note(self, text: str) -> None:
        """Write a line for people into the child's log."""
        self._stderr.note(text, self._time_for(self._stderr))

    def _take_signals(self) -> None:
        for signum in os.read(self._wakeup, 4096):
            if signum == STOP:
                self._stop()
            elif signum == KILL:
                self._requested = True
                self._kill_at = 0.0
        self._reap()

    def _stop(self) -> None:
        """Ask the child to end, and set the deadline after which it is killed.

        The signal goes to the child alone, which knows best how to end its own descendants; SIGCONT follows, since a
        stopped process cannot handle a signal.
        """
        self._requested = True
        if self._kill_at is None and self._pid and self._status is None:
            self._kill_at = time.monotonic() + self._spec.stop_timeout
            if self._spec.stop_command:
                self._run_stop_command()
                return
            if self._spec.stop_port:
                self._stop_server()
                return
            os.kill(self._pid, self._spec.stop_signal)
            os.kill(self._pid, signal.SIGCONT)

    def _run_stop_command(self) -> None:
        """Start the stop command, with the child's environment and folder; its output goes to the child's log."""
        argv = [word.replace(CHILD_PID, str(self._pid)) for word in self._spec.stop_command]
        spec = ShimSpec(**{**vars(self._spec), "argv": argv, "listen_fds": {}, "cgroup": None})
        try:
            stdin = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            said, said_end = log_pipe()
            self._stop_error, error_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            shim = os.getpid()
            self._stopper = os.fork()
            if self._stopper == 0:
                become_child(spec, (stdin, said_end, said_end), error_end, shim)
        except OSError as error:
            self._stop_failed(f"could not be started: {reason_of(error)}")
            return
        for fd in (stdin, said_end, error_end):
            os.close(fd)
        self._listen_to(said, self._stderr)

    def _stopper_ended(self, status: int) -> None:
        self._stopper = 0
        failure = read_failure(self._stop_error)
        os.close(self._stop_error)
        self._is_stopped = status == 0
        if status:
            how = f"exited with status {status}" if status > 0 else f"was killed by signal {-status}"
            self._stop_failed(failure.get("error", how))
        elif not self._stop_takes_pid():  # it has ended a server elsewhere; the child only waits for that
            self._send_stop_signal()

    def _stop_failed(self, how: str) -> None:
        """Tell the child's log that the stop command failed; a child that still runs gets the stop signal instead."""
        self._note(f"the stop command of {self._spec.name} {how}")
        self._send_stop_signal()

    def _stop_takes_pid(self) -> bool:
        return any(CHILD_PID in word for word in self._spec.stop_command)

    def _send_stop_signal(self) -> None:
        if self._status is None:
            os.kill(self._pid, self._spec.stop_signal)
            os.kill(self._pid, signal.SIGCONT)

    def _clean_up(self) -> None:
        """Run the stop command for what a child leaves that is no process of its own: a container outlives its client.

        Not where the command has ended well already, nor where it takes a pid, which is nobody's by now.
        """
        if not self._spec.stop_command or self._is_stopped or self._failure or self._stop_takes_pid():
            return
        self._run_stop_command()
        end = time.monotonic() + CLEANUP
        while self._stopper and (left := end - time.monotonic()) > 0:
            self._wait(left)
        if self._stopper:
            self._sweep()

    def _stop_server(self) -> None:
        """Send the stop signal to the server that the child, a script, has started.

        The script itself may not handle the signal or not pass it on.  A server that does not listen yet may be any
        process of the script's group: then the whole group gets the signal, as from ^C at a terminal.
        """
        try:
            servers = listeners(self._spec.stop_port, descendants(os.getpid()))
        except OSError:  # the listening sockets cannot be listed
            servers = []
        for server in servers:
            self._watch(server)
            send(server, self._spec.stop_signal)
            send(server, signal.SIGCONT)
        if not servers:
            try:
                os.killpg(self._pid, self._spec.stop_signal)
                os.killpg(self._pid, signal.SIGCONT)
            except ProcessLookupError:  # the child has no process group of its own yet
                os.kill(self._pid, self._spec.stop_signal)

    def _watch(self, server: Process) -> None:
        try:
            fd = os.pidfd_open(server.pid)
        except OSError:
            return  # the server has just ended
        self._servers.add(fd)
        self._poll.register(fd, select.EPOLLIN)

    def _server_ended(self, fd: int) -> None:
        """Take note that a server has ended; after the last one, the script has AFTERWARDS seconds left."""
        self._poll.unregister(fd)
        os.close(fd)
        self._servers.discard(fd)
        if not self._servers and self._kill_at is not None:
            self._kill_at = min(self._kill_at, time.monotonic() + AFTERWARDS)

    def _reap(self) -> bool:
        """Reap the dead, the child's orphans too; return whether any child of this shim is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._pid:
                self._status = os.waitstatus_to_exitcode(status)
            elif pid == self._stopper:
                self._stopper_ended(os.waitstatus_to_exitcode(status))

    # -- the end

    def _sweep(self) -> None:
        """Kill until nothing of the child is left.  A process that survives SIGKILL keeps the shim and its lock."""
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
        """Send SIGKILL to all descendants and cgroup members, and remember which outlived the child."""
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
        """Save the output that is left in the pipes.

        At most a pipe's capacity is read, not to its end: a pipe that strangers hold open may never end.
        """
        left = {fd: fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) for fd in self._pipes}
        while ready := [fd for fd, _ in self._poll.poll(0.0) if fd in left]:
            for fd in ready:
                count = self._read(fd)
                left[fd] -= count
                if count and left[fd] > 0:
                    self._poll.modify(fd, _ONCE)

    def _report(self) -> None:
        """Write the exit file, and notes for people into the child's log; exit with status 1 if that file fails."""
        if self._failure:
            self._note(f"{self._spec.name} {self._failure['error']}")
        if self._swept:
            self._note(f"killed {len(self._swept)} processes that outlived {self._spec.name}")
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
            self._note(f"could not write {self._spec.exit_file}: {reason_of(error)}; it would have said {ending}")
            os._exit(1)


def log_pipe() -> tuple[int, int]:
    """Make a pipe for the child's output, of PIPE_SIZE bytes if allowed; return its read and its write end."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    except OSError:
        return read_end, write_end  # the user's limit on pipe memory is reached
    return read_end, write_end


def read_failure(error_pipe: int) -> dict[str, Any]:
    """Return what failed before the child's exec; {} if exec succeeded.  The pipe does not block."""
    try:
        told: dict[str, Any] = json.loads(os.read(error_pipe, CHUNK) or b"{}")
    except BlockingIOError:
        return {}
    return told


def write_atomically(path: str, value: dict[str, Any]) -> None:
    """Replace the file by `value` as JSON.  Raises OSError."""
    unfinished = f"{path}.tmp"
    with open(unfinished, "w") as file:
        json.dump(value, file)
    os.replace(unfinished, path)


def main() -> None:
    """Read a ShimSpec from stdin and run its child; the process is a subreaper, named muxd-shim in `ps`."""
    with open(0, "rb") as stdin:
        spec = ShimSpec(**json.load(stdin))
    os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)  # takes the place of stdin, which holds secrets
    if os.getsid(0) != os.getpid():
        os.setsid()
    prctl(PR_SET_NAME, b"muxd-shim")
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    if os.getpriority(os.PRIO_PROCESS, 0) < 0:
        os.setpriority(os.PRIO_PROCESS, 0, 0)  # its unit has muxd go before others, and no child of muxd's
    Shim(spec).live()
