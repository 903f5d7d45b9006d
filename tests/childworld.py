"""A place to run real children in, and to see that nothing of them is left."""

import os
import random
import secrets
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from muxd.children import Child, Children, ChildSpec
from muxd.shim.processes import Process, process_table

#: For records and marks made by hand: no other test run's.
TOKEN = secrets.token_hex(8)

#: For what takes milliseconds when all is well.
DEADLINE = 20.0


async def eventually(condition: Callable[[], Any], what: str = "") -> Any:
    """The condition's value once it is true; fails at the deadline."""
    with trio.move_on_after(DEADLINE):
        while not (value := condition()):
            await trio.sleep(0.01)
        return value
    raise AssertionError(f"not within {DEADLINE} s: {what or condition}")


class World:
    """A run directory, a log directory, and a number that marks the processes of one test."""

    def __init__(self, root: Path) -> None:
        self.run_dir = root / "run"
        self.run_dir.mkdir()
        self.log_dir = root / "logs"
        self.log_dir.mkdir()
        self.children = Children(self.run_dir)
        self._spawned: list[Child] = []
        signal.signal(signal.SIGALRM, _too_late)
        signal.alarm(90)
        #: `{world.sleep}` in a shell script sleeps for long, and `world.sleepers()` finds it.
        self.sleep = f"sleep {random.randrange(10**8, 10**9)}"

    def spec(self, *argv: str, **other: Any) -> ChildSpec:
        name = other.pop("name", "qwen")
        defaults: dict[str, Any] = {
            "env": {"PATH": os.environ["PATH"]},
            "cwd": self.run_dir,
            "stdout": self.log_dir / f"{name}.stdout.log",
            "stderr": self.log_dir / f"{name}.stderr.log",
            "log_max_bytes": 1 << 20,
            "log_backups": 2,
            "stop_timeout": 30.0,
        }
        return ChildSpec(name, argv, **defaults | other)

    def sh(self, script: str, **other: Any) -> ChildSpec:
        return self.spec("sh", "-c", script, **other)

    def python(self, script: str, **other: Any) -> ChildSpec:
        return self.spec(sys.executable, "-I", "-S", "-c", script, **other)

    def spawn(self, spec: ChildSpec) -> Child:
        child = self.children.spawn(spec)
        self._spawned.append(child)
        return child

    def stdout(self, name: str = "qwen") -> str:
        path = self.log_dir / f"{name}.stdout.log"
        return path.read_text() if path.exists() else ""

    def stderr(self, name: str = "qwen") -> str:
        path = self.log_dir / f"{name}.stderr.log"
        return path.read_text() if path.exists() else ""

    def sleepers(self) -> list[Process]:
        """The living processes that execute `world.sleep`."""
        words = self.sleep.encode().replace(b" ", b"\0") + b"\0"
        return [process for process in process_table().values() if process.alive and _cmdline(process.pid) == words]

    async def asleep(self, count: int) -> list[Process]:
        """The sleepers, once there are `count`."""
        return await eventually(lambda: len(self.sleepers()) == count and self.sleepers(), f"{count} sleepers")

    def clean_up(self) -> None:
        """End what a failed test has left; outside of trio."""
        signal.alarm(0)
        for child in self._spawned:
            child.kill()
            trio.run(child.wait)
        for process in self.sleepers():
            os.kill(process.pid, signal.SIGKILL)


def _too_late(*_: object) -> None:
    raise AssertionError("waited 90 s for what did not come")


def _cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def zombies_of(pid: int) -> list[int]:
    return [process.pid for process in process_table().values() if process.ppid == pid and not process.alive]


def logged(path: Path) -> bytes:
    """A log with all its rotated files, oldest first."""
    return b"".join(file.read_bytes() for file in rotated(path))


def rotated(path: Path) -> list[Path]:
    older = sorted(path.parent.glob(f"{path.name}.*"), key=lambda file: -int(file.suffix[1:]))
    return [*older, path] if path.exists() else older
