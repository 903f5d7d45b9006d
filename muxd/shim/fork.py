"""From fork to exec: a copy of the shim becomes the child, and keeps nothing of the shim's."""

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


def become_child(spec: ShimSpec, stdio: tuple[int, int, int], error_pipe: int, shim: int) -> None:
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
        error_pipe = place_fds((*stdio, *spec.listen_fds.values()), error_pipe)
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
        os.write(stderr, f"muxd-shim: not in a cgroup of its own: {reason_of(error)}\n".encode())


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


def child_environment(spec: ShimSpec) -> dict[str, str]:
    env = {key: value for key, value in spec.env.items() if key not in NOT_FOR_CHILDREN}
    env["MUXD_TOKEN"] = spec.token
    # setproctitle writes its titles over the environment, where the token is looked for, unless told not to.
    env.setdefault("SPT_NOENV", "1")
    if spec.listen_fds:
        env |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(spec.listen_fds))}
        env["LISTEN_FDNAMES"] = ":".join(spec.listen_fds)
    return env
