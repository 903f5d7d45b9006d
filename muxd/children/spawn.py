"""Children and how they are started: each with a locked name, a token, and a shim of its own."""

import errno
import fcntl
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from math import inf
from pathlib import Path
from typing import Never

from msgspec import Struct, field

from muxd import shim
from muxd.errors import CannotSpawn, in_words
from muxd.missing_folders import make_missing
from muxd.own_files import make_way
from muxd.shim.cgroup import cgroup_populated
from muxd.shim.processes import boot_id, look_up
from muxd.shim.shim_spec import KILL, STOP, ShimSpec
from muxd.threads import in_thread

from . import cgroups
from .child import Child
from .orphans import REAP_GRACE, reap_orphans
from .proctree import mark_of, marks_of_removed
from .records import ChildRecord, error_file, is_locked, is_written_by_shim, records_in
from .spare_descriptors import spare
from .sweep import sweep, sweep_strays

#: The script that a shim process executes.
SHIM = Path(shim.__file__).with_name("__main__.py")

#: Variables that Python and its libraries need to start, to write and to tell the time; the locale; Python's switches.
NEEDED = frozenset({"PATH", "HOME", "USER", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV"})
NEEDED_KINDS = ("LC_", "PYTHON")

MEANING = {
    errno.EAGAIN: "the limit on processes is reached (ulimit -u, TasksMax)",
    errno.ENOMEM: "the machine is out of memory",
    errno.EMFILE: "muxd's limit on open files is reached (ulimit -n, LimitNOFILE)",
    errno.ENFILE: "the machine's limit on open files is reached (fs.file-max)",
}


class ChildSpec(Struct, frozen=True):
    """A command to run, and where its output goes.  Times are seconds, sizes bytes."""

    name: str
    argv: tuple[str, ...]
    env: dict[str, str]  # complete; nothing of muxd's own environment is added
    cwd: Path
    stdout: Path
    stderr: Path  # may be the same as stdout
    log_max_bytes: int
    log_backups: int
    stop_timeout: float
    stop_signal: signal.Signals = signal.SIGTERM
    listen_fds: dict[str, int] = field(default_factory=dict)  # sockets to pass on, by name; they stay open here
    stop_port: int = 0  # a stop signals the process that listens there, not the main process
    stop_command: tuple[str, ...] = ()  # ends the child in the stop signal's place; may have CHILD_PID


#: Seconds after which a lock that is held is tried once more: who looks whether it is held has it for microseconds.
LOOK = 0.001

#: The folder of muxd's children within state_dir.
RUN_DIR = "children"


class Children:
    """All of muxd's children.

    No other muxd may use `run_dir`.  With `cgroup`, each child gets a cgroup below it (see `cgroups.enter`).
    """

    def __init__(self, run_dir: Path, cgroup: Path | None = None) -> None:
        self._run_dir = run_dir.absolute()
        self._cgroup = cgroup
        self._shims: set[int] = set()  # pids of the shims that a Child waits for
        self._tokens: dict[int, str] = {}  # of each child, by its shim's pid
        spare()  # reserves them from now on

    def spawn(self, spec: ChildSpec) -> Child:
        """Start a child; if it cannot be executed, its ExitRecord says so.

        Raises CannotSpawn, with nothing started, if the system has no room for a shim, or if a child of the same name
        still runs.
        """
        try:
            with ExitStack() as held:
                return self._spawn(spec, held)
        except OSError as error:
            meaning = MEANING.get(error.errno or 0, "look at the path and its permissions")
            raise CannotSpawn(f"cannot start {spec.name}: {in_words(error)}: {meaning}", name=spec.name) from error

    def _spawn(self, spec: ChildSpec, held: ExitStack) -> Child:
        make_missing(self._run_dir)
        lock_file = self._run_dir / f"{spec.name}.lock"
        exit_file = self._run_dir / f"{spec.name}.exit"
        for path in (lock_file, exit_file, exit_file.with_name(f"{exit_file.name}.tmp"), error_file(lock_file)):
            make_way(path)
        lock_fd = _locked(lock_file, spec.name, held)
        token = mark_of(self._run_dir) + secrets.token_hex(10)
        cgroup = self._fresh_cgroup(spec.name)
        exit_file.unlink(missing_ok=True)
        shim_spec = ShimSpec(
            name=spec.name,
            token=token,
            argv=list(spec.argv),
            env=spec.env,
            cwd=str(spec.cwd.absolute()),
            stdout=str(spec.stdout.absolute()),
            stderr=str(spec.stderr.absolute()),
            log_max_bytes=spec.log_max_bytes,
            log_backups=spec.log_backups,
            stop_timeout=spec.stop_timeout,
            stop_signal=int(spec.stop_signal),
            exit_file=str(exit_file),
            lock_fd=lock_fd,
            cgroup=cgroup,
            listen_fds=spec.listen_fds,
            stop_port=spec.stop_port,
            stop_command=list(spec.stop_command),
        )
        process, pidfd, start = _launch(shim_spec, error_file(lock_file), held)
        self._shims.add(process.pid)
        self._tokens = {pid: known for pid, known in self._tokens.items() if pid in self._shims} | {process.pid: token}
        record = ChildRecord(
            spec.name, process.pid, start, boot_id(), token, str(lock_file), str(exit_file), cgroup
        )  # fmt: skip
        return Child(record, process, pidfd, self._shims)

    def adopt(self, record: ChildRecord) -> Child | None:
        """Return a child that an earlier muxd started and that lives on; None unless that is certain.

        Its shim must be the process of the record, by pid, start time and boot, hold the child's lock, and have written
        the same into it.  Whatever this returns, no process is touched.
        """
        record = record.within(self._run_dir)
        if record.boot_id != boot_id() or not is_locked(Path(record.lock_file)):
            return None
        try:
            pidfd = os.pidfd_open(record.shim_pid)
        except OSError:
            return None
        shim = look_up(record.shim_pid)  # after the descriptor, so that both are of one process
        is_it = shim is not None and shim.alive and shim.start == record.shim_start
        if not is_it or not is_written_by_shim(record):
            os.close(pidfd)
            return None
        self._shims.add(record.shim_pid)
        self._tokens[record.shim_pid] = record.token
        return Child(record, None, pidfd, self._shims)

    def _fresh_cgroup(self, name: str) -> str | None:
        if self._cgroup is None:
            return None
        cgroup = str(cgroups.make(self._cgroup, name))
        if cgroup_populated(cgroup):
            raise CannotSpawn(f"cannot start {name}: its cgroup {cgroup} still has processes", name=name)
        return cgroup

    async def sweep(self, records: Iterable[ChildRecord] = (), patience: float = inf) -> list[str]:
        """Kill all that is left of an earlier muxd's children; return the names of those that something was left of.

        These are the children in `records`, those whose shims' records are in the run directory, and, where neither can
        be read, processes whose token begins with the directory's mark, or that of one that was removed from its path.
        Children of this object are not touched.
        Raises ModelStuck if a process survives SIGKILL for `patience` seconds.
        """
        self._run_dir.mkdir(mode=0o700, exist_ok=True)
        found = [record.within(self._run_dir) for record in (*records_in(self._run_dir), *records)]
        ended = await sweep([record for record in found if record.shim_pid not in self._shims], patience)
        ours = {token for pid, token in self._tokens.items() if pid in self._shims}
        marks = {mark_of(self._run_dir), *await in_thread(partial(marks_of_removed, self._run_dir))}
        return ended + await sweep_strays(marks, ours, patience)

    async def reap_orphans(self, grace: float = REAP_GRACE) -> Never:
        """Reap for ever the dead that this process has inherited as a subreaper or as PID 1.

        Shims, and children dead for less than `grace` seconds, are left to the code that waits for them.
        """
        await reap_orphans(self._shims, grace)


def _locked(lock_file: Path, name: str, held: ExitStack) -> int:
    """Open the lock file, lock and empty it; return its descriptor.  Raises CannotSpawn if it is locked.

    The lock belongs to the open file, so the shim that inherits the descriptor holds it too.
    """
    fd = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    held.callback(os.close, fd)
    if not _lock(fd):
        time.sleep(LOOK)
        if not _lock(fd):
            raise CannotSpawn(f"cannot start {name}: an earlier one of it still holds {lock_file}", name=name)
    os.ftruncate(fd, 0)
    return fd


def _lock(fd: int) -> bool:
    """Lock an open file; return False where somebody else has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _launch(shim_spec: ShimSpec, error_file: Path, held: ExitStack) -> tuple[subprocess.Popen[bytes], int, int]:
    """Start a shim; return its process, a pidfd of it, and its start time in clock ticks since boot.

    Popen runs in the calling thread: trio's run_process forks in a thread that may end before the child.
    The shim reads its spec from a memory file: a pipe would have to wait for its reader, and a file shows secrets.
    """
    spec_fd = os.memfd_create("muxd-spec", os.MFD_CLOEXEC)
    held.callback(os.close, spec_fd)
    with open(spec_fd, "w", closefd=False) as file:
        json.dump(vars(shim_spec), file)
    os.lseek(spec_fd, 0, os.SEEK_SET)
    error_fd = os.open(error_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    held.callback(os.close, error_fd)
    with _signals_blocked():
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-X", "utf8", str(SHIM), shim_spec.name],
            stdin=spec_fd,
            stdout=subprocess.DEVNULL,
            stderr=error_fd,
            cwd="/",
            env={**own_environment(), "MUXD_TOKEN": shim_spec.token},
            start_new_session=True,
            pass_fds=(shim_spec.lock_fd, *shim_spec.listen_fds.values()),
        )
    try:
        itself = look_up(process.pid)
        assert itself  # at least as a zombie
        return process, os.pidfd_open(process.pid), itself.start
    except OSError:
        process.kill()
        process.wait()
        raise


def own_environment() -> dict[str, str]:
    """Return the variables that another process of muxd's own needs; no secrets of models or clients."""
    return {name: value for name, value in os.environ.items() if name in NEEDED or name.startswith(NEEDED_KINDS)}


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block signals in the block: a shim that is started there gets them once it can handle them, and misses none."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {STOP, KILL, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
