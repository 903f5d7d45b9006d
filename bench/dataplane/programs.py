"""The two C programs: compiled when they have changed, and run on a core of their own."""

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.sglangmux.programs import until

HERE = Path(__file__).parent
BUILD = HERE / ".build"  # git ignores it
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror")
FIRST = -19  # of nice(1)

Seen = dict[str, float]
"""What `load` printed; load.c says what is in it."""


def compiled(name: str) -> Path:
    """NAME.c as a program in BUILD; raises FileNotFoundError where there is no `cc`."""
    source, program = HERE / f"{name}.c", BUILD / name
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        BUILD.mkdir(exist_ok=True)
        fresh = BUILD / f"{name}.{os.getpid()}"  # two who compile at once do not meet
        subprocess.run(["cc", *FLAGS, "-o", fresh, source], check=True)
        fresh.rename(program)
    return program


def pinned(core: int | str, *argv: object) -> list[str]:
    """To run on that core, or on those ("0,1"), with all that it starts."""
    return ["taskset", "-c", str(core), *map(str, argv)]


@contextmanager
def hurried(pid: int) -> Iterator[None]:
    """Nearly all of a core for the process and what it starts, where others want it, too; needs root.

    Where the kernel shares a core out between sessions first (autogroup), its session is put
    before the others, too.  Not by real time priority: under SCHED_FIFO a round gave figures as
    clean, but one of the processes, when it was killed, kept the core for minutes and did not end.
    """
    with suppress(FileNotFoundError, ProcessLookupError):  # it, or a thread of it, has just ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(task.name), FIRST)
    session = Path(f"/proc/{pid}/autogroup")
    with suppress(OSError):
        session.write_text(str(FIRST))
    try:
        yield
    finally:
        with suppress(OSError):
            session.write_text("0")


def may_hurry() -> bool:
    """Whether this user may; this process is hurried then."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, FIRST)
    except PermissionError:
        return False
    return True


@contextmanager
def upstream(core: int, port: int) -> Iterator[int]:
    """It listens while the scope lasts; its pid."""
    process = subprocess.Popen(pinned(core, compiled("upstream"), port))
    try:
        until(lambda: _listens(port), 20, lambda: f"the model server listens on port {port}")
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Load:
    """`load` against one port, on one core; each method runs to its end and returns what was seen."""

    def __init__(self, core: int, port: int) -> None:
        self._core = core
        self._port = port

    def requests(self, connections: int, seconds: float, prompt_bytes: int = 700, *, unique: bool = False) -> Seen:
        """With `unique` each has an id of its own in its head."""
        own = ["-u"] if unique else []
        return self._run("requests", "-c", connections, "-d", seconds, "-b", prompt_bytes, *own)

    def streams(self, streams: int, events: int, interval_ms: float, stagger_s: float, limit_s: float = 60) -> Seen:
        """`events` for each stream; all have begun after `stagger_s`, evenly."""
        pace = ("-n", events, "-i", round(interval_ms * 1000), "-g", round(stagger_s * 1000))
        return self._run("streams", "-c", streams, *pace, "-l", limit_s)

    def _run(self, what: str, *options: object) -> Seen:
        argv = pinned(self._core, compiled("load"), what, self._port, *options)
        seen: Seen = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
        return seen
