"""The child's way from fork to exec: a copy of the shim becomes the child, and keeps nothing of the shim's."""

from __future__ import annotations

import fcntl
import json
import os
import signal

from .cgroup import tell_cgroup
from .log import reason_of
from .processes import PR_SET_PDEATHSIG, prctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .shim_spec import ShimSpec

#: Variables that muxd's own service manager addresses to muxd.
NOT_FOR_CHILDREN = (
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
)


def become_child(spec: ShimSpec, stdio: tuple[int, int, int], error_pipe: int, shim: int) -> None:
    """Turn this forked process into the child, and never return.

    If that fails, write why as JSON to error_pipe ({"errno": int or null, "error": text}) and exit with status 127.
    `stdio` are the descriptors for stdin, stdout and stderr; `shim` is the shim's pid.
    """
    failure: dict[str, Any] = {"errno": None, "error": "could not be executed"}
    try:
        os.setsid()
        if spec.cgroup:
            join_cgroup(spec.cgroup, stdio[2])
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != shim:
            os._exit(127)  # the shim died before prctl took effect
        reset_signals()
        error_pipe = place_fds((*stdio, *spec.listen_fds.values()), error_pipe)
        os.chdir(spec.cwd)
        os.execvpe(spec.argv[0], spec.argv, child_environment(spec))
    except OSError as error:
        path = error.filename if isinstance(error.filename, str) else spec.argv[0]
        failure = {"errno": error.errno, "error": f"could not be executed: {error.strerror}: {path}"}
    except Exception as error:
        failure = {"errno": None, "error": f"could not be executed: {error!r}"}
    finally:  # this process must never go on as a second shim
        try:
            os.write(error_pipe, json.dumps(failure).encode())
        finally:
            os._exit(127)


def join_cgroup(cgroup: str, stderr: int) -> None:
    """Move this process into the cgroup; on failure, write why to the child's log and go on."""
    try:
        tell_cgroup(f"{cgroup}/cgroup.procs", b"0")
    except OSError as error:  # the child can run: its processes are found without a cgroup too
        os.write(stderr, f"muxd-shim: not in a cgroup of its own: {reason_of(error)}\n".encode())


def reset_signals() -> None:
    """Restore default handlers and an empty mask; the last line delivers a signal that came since the fork."""
    signal.set_wakeup_fd(-1)
    for signum in signal.valid_signals():
        if signal.getsignal(signum) not in (signal.SIG_DFL, None):
            signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def place_fds(fds: tuple[int, ...], error_pipe: int) -> int:
    """Renumber `fds` to 0, 1, 2 ..., close all other descriptors but error_pipe, and return error_pipe's new number."""
    above = max(*fds, error_pipe, len(fds)) + 1
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in (*fds, error_pipe)]
    for number, copy in enumerate(copies[:-1]):
        os.dup2(copy, number, inheritable=True)
    os.dup2(copies[-1], len(fds), inheritable=False)
    os.closerange(len(fds) + 1, os.sysconf("SC_OPEN_MAX"))
    return len(fds)


def child_environment(spec: ShimSpec) -> dict[str, str]:
    """Return the child's complete environment, with its token and its passed sockets (sd_listen_fds(3))."""
    env = {key: value for key, value in spec.env.items() if key not in NOT_FOR_CHILDREN}
    env["MUXD_TOKEN"] = spec.token
    # Without SPT_NOENV, setproctitle writes its titles over the environment, in which muxd looks for the token.
    env.setdefault("SPT_NOENV", "1")
    if spec.listen_fds:
        env |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(spec.listen_fds))}
        env["LISTEN_FDNAMES"] = ":".join(spec.listen_fds)
    return env
