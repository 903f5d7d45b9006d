"""Requests of muxd to a shim: a ShimSpec at its start, signals later."""

from __future__ import annotations

import signal

#: The signals that ask a shim to stop the child, or to kill it and all its descendants now.
STOP, KILL = signal.SIGTERM, signal.SIGQUIT

#: Stands for the child's pid in a stop command.  No word of a command can have a NUL.
CHILD_PID = "\0pid\0"


class ShimSpec:
    """The child to run and the files to keep.  Paths are absolute, times are seconds, sizes are bytes."""

    def __init__(
        self,
        *,
        name: str,
        token: str,  # in the child's environment as MUXD_TOKEN
        argv: list[str],
        env: dict[str, str],  # complete but for the variables that the shim adds
        cwd: str,
        stdout: str,  # log files; they may be the same
        stderr: str,
        log_max_bytes: int,  # the limit of one file
        log_backups: int,  # the number of older files kept, as .1 .2 ...
        stop_timeout: float,
        stop_signal: int,  # asks the child to end
        exit_file: str,
        lock_fd: int,  # the open lock file, flock held: it identifies this shim
        cgroup: str | None = None,  # an existing cgroup v2 directory, for this child alone
        listen_fds: dict[str, int] | None = None,  # inherited sockets to be passed on, as 3, 4 ..., by name
        stop_port: int = 0,  # a stop signals the process that listens there, not the child
        stop_command: list[str] | None = None,  # a stop runs this instead; may have CHILD_PID
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
        self.listen_fds = listen_fds or {}
        self.stop_port = stop_port
        self.stop_command = stop_command or []
