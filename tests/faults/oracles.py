"""What must hold whatever breaks: a witness asks muxd all the time, and judges in the end."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from muxd.core.states import MOVES, WorkerState
from tests.end_to_end.muxd import Muxd, assert_never_two_awake, eventually

#: Descriptors and threads that may be more than before: a connection that is just being closed, a thread that idles.
SLACK = 2

#: Descriptors of a worker that has processes: its pidfd, its port, and a connection for its probes, kept for a moment.
FILES_OF_A_WORKER = 3


@dataclass
class Witness:
    """Asks for the status 20 times a second, over a connection of its own."""

    muxd: Muxd
    waits: list[float] = field(default_factory=list)  # seconds until each answer
    unanswered: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        transport = httpx.HTTPTransport(uds=str(self.muxd.socket))
        with httpx.Client(transport=transport, base_url="http://muxd", timeout=self.muxd.deadline) as client:
            while not self._over.wait(0.05):
                began = time.monotonic()
                try:
                    assert client.get("/v1/status").status_code == 200
                except (httpx.HTTPError, AssertionError) as error:
                    self.unanswered.append(repr(error))
                self.waits.append(time.monotonic() - began)

    def end(self) -> None:
        self._over.set()

    @property
    def slowest(self) -> float:
        """Seconds that the status took at the most; a busy machine makes that long, so that no test depends on it."""
        return max(self.waits)


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def memory(pid: int) -> int:
    """Bytes of a process that are in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def zombies(parent: int) -> list[int]:
    """The children of a process that have ended and that it has not waited for."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, ppid = stat.read_text().rpartition(")")[2].split()[:2]
            if state == "Z" and int(ppid) == parent:
                found.append(int(stat.parent.name))
    return found


#: What a muxd tells of workers that an earlier one has left, and that it takes over.
TAKEN_OVER = {("unloaded", after) for after in ("ready", "asleep", "backoff", "failed")}


def check_moves(moves: list[tuple[str, str, str]], *, adopts: bool = False) -> None:
    """`adopts`: these moves are all that a muxd has made, after an earlier one that was killed."""
    for model, before, after in moves:
        if adopts and (before, after) in TAKEN_OVER:
            continue
        assert WorkerState(after) in MOVES[WorkerState(before)], f"{model}: {before} -> {after}"


def is_whole_or_an_error(answer: httpx.Response) -> bool:
    """An answer that a client of OpenAI's can take: the whole, or an error of its shape."""
    told: dict[str, Any] = answer.json()
    if answer.status_code == 200:
        return bool(told["choices"])
    return {"message", "type", "code"} <= told["error"].keys()


def workers(muxd: Muxd) -> int:
    """How many have processes."""
    return sum(model["pid"] is not None for model in muxd.status()["models"])


def eventually_back_at(before: int, count: Callable[[], int], of: str) -> None:
    try:
        eventually(lambda: count() <= before + SLACK, f"as many {of} as before")
    except AssertionError as error:
        raise AssertionError(f"{error}: {before} before, {count()} now") from None


@contextmanager
def judged(muxd: Muxd) -> Iterator[Witness]:
    """Whatever the block does to this muxd: it answers all the while, and in the end nothing of the fault is left.

    The models must be at rest before; they take turns on one GPU.
    """
    pid = muxd.status()["pid"]
    files, tasks = open_files(pid) - FILES_OF_A_WORKER * workers(muxd), threads(pid)
    witness = Witness(muxd)
    thread = threading.Thread(target=witness.watch)
    thread.start()
    try:
        eventually(lambda: witness.waits, "it has its connection, and its first answer")
        yield witness
    finally:
        witness.end()
        thread.join()
    assert not witness.unanswered, witness.unanswered[:3]
    eventually(lambda: not zombies(pid), "every child that has ended is waited for")
    files += FILES_OF_A_WORKER * workers(muxd)
    eventually_back_at(files, lambda: open_files(pid), "descriptors")
    eventually_back_at(tasks, lambda: threads(pid), "threads")
    moves = muxd.moves()
    check_moves(moves)
    assert_never_two_awake(moves)
