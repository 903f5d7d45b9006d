"""muxd's side of its shims: spawn, watch, stop, sweep.

A child lives under a shim (see `shim`) that outlives muxd.  Nothing here reads a child's output or
waits for it by its pid: the shim is watched by pidfd, and says in a file how the child ended.
"""

import errno
import fcntl
import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Never

import trio

from . import cgroups, proctree, shim
from .childfiles import ChildRecord, Exit, forget, read_card, read_exit, records_in, signal_name
from .errors import CannotSpawn, WorkerStuck

__all__ = ["Child", "ChildRecord", "ChildSpec", "Children", "Exit", "become_subreaper"]

log = logging.getLogger(__name__)

#: Seconds a shim gets to kill its own before it is killed itself and its work done from here.
SHIM_PATIENCE = 5.0

#: Seconds that a zombie of unknown origin is left to whoever may be about to wait for it.
MOURNING = 5.0

MEANING = {
    errno.EAGAIN: "the limit on processes is reached (ulimit -u, TasksMax)",
    errno.ENOMEM: "the machine is out of memory",
    errno.EMFILE: "muxd's limit on open files is reached (ulimit -n, LimitNOFILE)",
    errno.ENFILE: "the machine's limit on open files is reached (fs.file-max)",
}


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run and where its output goes.  Times are seconds, sizes bytes."""

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
    listen_fds: tuple[int, ...] = ()  # sockets to pass on by LISTEN_FDS; they stay open here


def become_subreaper() -> None:
    """Make orphans of killed shims come to this process instead of to init; see `Children.reap_orphans`."""
    shim.prctl(shim.PR_SET_CHILD_SUBREAPER, 1)


class Child:
    """A child that was started; `wait` must be awaited by someone, to its end."""

    def __init__(self, record: ChildRecord, process: subprocess.Popen[bytes], pidfd: int, shims: set[int]) -> None:
        self.name = record.name
        self.record = record
        self.shim_pid = record.shim_pid
        self._process = process
        self._pidfd = pidfd
        self._shims = shims
        self._pid: int | None = None
        self._asked = False
        self._exit: Exit | None = None
        self._ending = trio.Lock()

    @property
    def pid(self) -> int | None:
        """The launcher's, once its shim has forked it."""
        if self._pid is None:
            card = read_card(self.record.lock_file, self.record.token)
            self._pid = card.pid if card else None
        return self._pid

    @property
    def dropped_bytes(self) -> int:
        """How much of its output the disk has refused; up to a second old."""
        if self._exit is not None:
            return self._exit.dropped_bytes
        card = read_card(self.record.lock_file, self.record.token)
        return card.dropped_bytes if card else 0

    def stop(self) -> None:
        """Ask the launcher to end; after stop_timeout kill what is left.  Returns at once; harmless if it has ended."""
        self._ask(shim.STOP)

    def kill(self) -> None:
        """Kill all of it now.  Returns at once, harmless if it has ended."""
        self._ask(shim.KILL)

    async def wait(self) -> Exit:
        """How it ended, once nothing of it is left; it does not return while a process survives SIGKILL.

        Any number of tasks may wait, and any of them may be cancelled.
        """
        async with self._ending:  # a pidfd can be waited for by one task only
            if self._exit is None:
                await trio.lowlevel.wait_readable(self._pidfd)
                self._exit = await self._find_out()
                self._let_go()
            return self._exit

    async def _find_out(self) -> Exit:
        self._process.poll()
        ending = read_exit(self.record.exit_file, self.record.token)
        if ending is not None:
            return ending
        card = read_card(self.record.lock_file, self.record.token)
        swept = await proctree.end_all(proctree.marks_of(self.record, just_now=True))
        return Exit(
            error=self._shims_end(),
            requested=self._asked,
            dropped_bytes=card.dropped_bytes if card else 0,
            swept=swept,
            time=time.time(),
        )

    def _shims_end(self) -> str:
        status = self._process.returncode
        if status is not None and status < 0:
            return f"its shim was killed by {signal_name(-status)}"
        said = _error_file(self.record.lock_file).read_text(errors="replace").strip().splitlines() or ["see its log"]
        return f"its shim failed with status {status}: {said[-1]}"

    def _let_go(self) -> None:
        os.close(self._pidfd)
        self._shims.discard(self.shim_pid)
        forget(self.record)

    def _ask(self, signum: int) -> None:
        if self._exit is None:
            self._asked = True
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signum)
                signal.pidfd_send_signal(self._pidfd, signal.SIGCONT)


class Children:
    """All of muxd's children.  `run_dir` is its alone; with `cgroup` each gets one in there (see `cgroups.enter`)."""

    def __init__(self, run_dir: Path, cgroup: Path | None = None) -> None:
        self._run_dir = run_dir.absolute()
        self._cgroup = cgroup
        self._shims: set[int] = set()  # children of this process that someone waits for

    def spawn(self, spec: ChildSpec) -> Child:
        """Start a child; whether it can be executed is told by its Exit.

        Raises CannotSpawn, and nothing was started, when the system lacks what it takes for a shim, or when
        something of the same name still runs.
        """
        try:
            with ExitStack() as held:
                return self._spawn(spec, held)
        except OSError as error:
            meaning = MEANING.get(error.errno or 0, "look at the path and its permissions")
            raise CannotSpawn(f"cannot start {spec.name}: {error}: {meaning}", name=spec.name) from error

    def _spawn(self, spec: ChildSpec, held: ExitStack) -> Child:
        lock_file = self._run_dir / f"{spec.name}.lock"
        exit_file = self._run_dir / f"{spec.name}.exit"
        token = secrets.token_hex(16)
        lock_fd = _locked(lock_file, spec.name, held)
        cgroup = self._fresh_cgroup(spec.name)
        exit_file.unlink(missing_ok=True)
        order = shim.Spec(
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
        )
        process, pidfd, start = _launch(order, _error_file(lock_file), held)
        self._shims.add(process.pid)
        record = ChildRecord(
            spec.name, process.pid, start, shim.boot_id(), token, str(lock_file), str(exit_file), cgroup
        )  # fmt: skip
        return Child(record, process, pidfd, self._shims)

    def _fresh_cgroup(self, name: str) -> str | None:
        if self._cgroup is None:
            return None
        cgroup = str(cgroups.make(self._cgroup, name))
        if shim.cgroup_populated(cgroup):
            raise CannotSpawn(f"cannot start {name}: its cgroup {cgroup} still has processes", name=name)
        return cgroup

    async def sweep(self, records: Iterable[ChildRecord] = (), patience: float = inf) -> list[str]:
        """Kill all that is left of an earlier muxd's children; the names of those that something was left of.

        They are the records', and those whose cards are in the run directory; what was spawned here is not
        touched.  Raises WorkerStuck when something survives SIGKILL for `patience` seconds.
        """
        found = (*records_in(self._run_dir), *records)
        by_token = {record.token: record for record in found if record.shim_pid not in self._shims}
        unfinished = {record.name for record in by_token.values()}
        alive: set[str] = set()

        async def sweep_one(record: ChildRecord) -> None:
            if record.boot_id == shim.boot_id() and await _end(record):
                alive.add(record.name)
            forget(record)
            unfinished.discard(record.name)

        with trio.move_on_after(patience):
            async with trio.open_nursery() as nursery:
                for record in by_token.values():
                    nursery.start_soon(sweep_one, record, name=f"sweep {record.name}")
        if unfinished:
            names = sorted(unfinished)
            raise WorkerStuck(f"processes of {', '.join(names)} from an earlier run survive SIGKILL", names=names)
        return sorted(alive)

    async def reap_orphans(self, mourning: float = MOURNING) -> Never:
        """Bury what comes to this process as a subreaper, or as PID 1, and dies here.

        Not what others here wait for: a shim, or anything that has not been dead for `mourning` seconds.
        """
        known: dict[tuple[int, int], float] = {}
        with trio.open_signal_receiver(signal.SIGCHLD) as signals:
            while True:
                now = trio.current_time()
                dead = await trio.to_thread.run_sync(_dead_children)
                known = {(p.pid, p.start): known.get((p.pid, p.start), now) for p in dead if p.pid not in self._shims}
                for (pid, _), since in known.items():
                    if now - since >= mourning:
                        proctree.bury(pid)
                with trio.move_on_after(mourning if known else inf):
                    await anext(signals)


def _locked(lock_file: Path, name: str, held: ExitStack) -> int:
    """The lock file, locked and empty.  The lock is the open file's: it passes to the shim that inherits it."""
    fd = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    held.callback(os.close, fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CannotSpawn(f"cannot start {name}: an earlier one of it still holds {lock_file}", name=name) from None
    os.ftruncate(fd, 0)
    return fd


def _launch(order: shim.Spec, error_file: Path, held: ExitStack) -> tuple[subprocess.Popen[bytes], int, int]:
    """Start a shim: its process, a pidfd of it, and its start time.

    Popen, in the thread that calls: trio's own way forks in a thread that may end before the child.
    The order is read from a memory file: a pipe would have to wait for its reader, and a file would show secrets.
    """
    spec_fd = os.memfd_create("muxd-spec", os.MFD_CLOEXEC)
    held.callback(os.close, spec_fd)
    with open(spec_fd, "w", closefd=False) as file:
        json.dump(vars(order), file)
    os.lseek(spec_fd, 0, os.SEEK_SET)
    with open(error_file, "wb") as errors, _signals_blocked():
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-X", "utf8", shim.__file__, order.name],
            stdin=spec_fd,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            cwd="/",
            start_new_session=True,
            pass_fds=(order.lock_fd, *order.listen_fds),
        )
    try:
        itself = shim.look_up(process.pid)
        assert itself  # at least as a zombie
        return process, os.pidfd_open(process.pid), itself.start
    except OSError:
        process.kill()
        process.wait()
        raise


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """A process started in here gets its signals when it asks for them: a shim, once it can handle them."""
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, {shim.STOP, shim.KILL, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}
    )
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def _end(record: ChildRecord) -> bool:
    """Kill all that is left of it; whether anything was."""
    shim_was_alive = await _end_shim(record)
    return bool(await proctree.end_all(proctree.marks_of(record))) or shim_was_alive


async def _end_shim(record: ChildRecord) -> bool:
    """Have the shim kill all of its child and end; if it does not, kill it.  Whether it was alive."""
    process = shim.look_up(record.shim_pid)
    if process is None or process.start != record.shim_start or not process.alive:
        return False
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        for signum in (shim.KILL, signal.SIGCONT):
            shim.send(process, signum)
        with trio.move_on_after(SHIM_PATIENCE) as scope:
            await trio.lowlevel.wait_readable(pidfd)
        if scope.cancelled_caught:
            log.warning("the shim of %s (pid %d) does not end, killing it", record.name, process.pid)
            shim.send(process, signal.SIGKILL)
            await trio.lowlevel.wait_readable(pidfd)
    finally:
        os.close(pidfd)
    return True


def _error_file(lock_file: str | Path) -> Path:
    """What the shim itself had to complain of."""
    return Path(lock_file).with_suffix(".err")


def _dead_children() -> list[shim.Process]:
    """Zombies that wait for this process."""
    try:
        if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return []
    except ChildProcessError:
        return []
    return [p for p in shim.process_table().values() if p.ppid == os.getpid() and not p.alive]
