"""Real SGLang on a CPU: the flags and environment it needs there, and its processes as the kernel shows them."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

CPU_ARGS = (
    *("--device", "cpu"),
    *("--attention-backend", "torch_native"),
    *("--sampling-backend", "pytorch"),
    *("--grammar-backend", "none"),
    "--disable-overlap-schedule",
    *("--mem-fraction-static", "0.1"),
    *("--max-total-tokens", "16384"),
    *("--context-length", "4096"),
    "--sleep-on-idle",  # without it an idle scheduler keeps a core busy
)
"""What a model's `args` need here."""

CPU_ENV = {
    "SGLANG_USE_CPU_ENGINE": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",  # several servers share few cores
    "PYTHONWARNINGS": "ignore",
}
"""What a model's `env` needs here."""

ROLES = {
    "sglang::scheduler": "scheduler",
    "sglang::detokenizer": "detokenizer",
    "multiprocessing.resource_tracker": "resource_tracker",
    "sglang.launch_server": "main_process",
}


def eventually(condition: Callable[[], T], seconds: float, what: str) -> T:
    """Poll until the condition holds and give its value; AssertionError after the deadline."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)
    return value


def command_line(pid: int) -> str:
    return read_proc(pid, "cmdline").replace("\0", " ").strip()


def environment(pid: int) -> dict[str, str]:
    """What the process shows as its environment: it may have been overwritten by a process title."""
    entries = (entry.partition("=") for entry in read_proc(pid, "environ").split("\0"))
    return {name: value for name, equals, value in entries if equals}


def read_proc(pid: int, name: str) -> str:
    """A file of /proc/PID; empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def running() -> Iterator[tuple[int, int]]:
    """(pid, session) of every process that has not ended; zombies are left out."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := read_proc(int(entry.name), "stat")):
            state, _parent, _group, session = stat.rpartition(")")[2].split()[:4]
            if state not in "ZX":
                yield int(entry.name), int(session)


def server_processes(main_process: int) -> dict[int, str]:
    """{pid: role} of all that belongs to a server, also after its main process died: SGLang stays in one session."""
    return {pid: role(pid) for pid, session in running() if session == main_process}


def role(pid: int) -> str:
    line = command_line(pid)
    return next((role for mark, role in ROLES.items() if mark in line), "unknown")


def process_of(main_process: int, wanted: str) -> int:
    """The one process of a server with this role: main process, scheduler, detokenizer or resource_tracker."""
    (pid,) = (pid for pid, role in server_processes(main_process).items() if role == wanted)
    return pid


def shared_memory_of(main_process: int) -> set[Path]:
    """The files below /dev/shm that a server has mapped and that still exist.

    The scheduler maps its load report while it starts, the main process only when it is first asked for it.
    """
    lines = (line.split() for pid in server_processes(main_process) for line in read_proc(pid, "maps").splitlines())
    return {Path(words[5]) for words in lines if len(words) == 6 and words[5].startswith("/dev/shm/")}


def kill_server(main_process: int) -> None:
    """SIGKILL to every process of a server until none is left; removes the shared memory it would leave."""
    leftovers = shared_memory_of(main_process)
    eventually(lambda: not send_to_all(main_process, signal.SIGKILL), 30, "every process of the server is gone")
    for path in leftovers:
        path.unlink(missing_ok=True)


def send_to_all(main_process: int, number: signal.Signals) -> list[int]:
    """Signal every process of a server; gives those that were there."""
    pids = list(server_processes(main_process))
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    return pids
