"""What a server burns that does nothing, awake and asleep, with and without --sleep-on-idle."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from muxd.engines.sglang.engine import SLEEP_ON_IDLE
from tests.real.sglang_cpu import CPU_ARGS, CPU_ENV, eventually, kill_server, read_proc, server_processes

TICKS = os.sysconf("SC_CLK_TCK")
ARGS = [arg for arg in CPU_ARGS if arg != SLEEP_ON_IDLE]
EVERYTHING = {"tags": ["kv_cache", "weights"]}
SECONDS = 6.0


@contextmanager
def serving(home: Path, folder: Path, *flags: str) -> Iterator[tuple[int, httpx.Client]]:
    """A main process's pid and a client, once it is ready."""
    folder.mkdir()
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        argv = [home / "venv/bin/python", "-m", "sglang.launch_server", "--model-path", home / "models" / "tiny-a"]
        argv += ["--host", "127.0.0.1", "--port", str(port), "--enable-memory-saver", *ARGS, *flags]
        env = {**os.environ, **CPU_ENV, "TMPDIR": str(folder)}
        with (folder / "log").open("wb") as out, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
            main_process = subprocess.Popen(argv, env=env, stdout=out, stderr=out, start_new_session=True)
            try:
                eventually(lambda: is_ready(http), 240, "the server is ready")
                yield main_process.pid, http
            finally:
                kill_server(main_process.pid)
                main_process.wait(30)


def is_ready(http: httpx.Client) -> bool:
    try:
        return http.get("/ready").status_code == 200
    except httpx.TransportError:
        return False


def burnt(main_process: int) -> float:
    """Seconds of CPU that its processes have taken so far."""
    stats = [read_proc(pid, "stat").rpartition(")")[2].split() for pid in server_processes(main_process)]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / TICKS


def share(main_process: int) -> float:
    """Of one core, while it is left alone."""
    began, before = time.monotonic(), burnt(main_process)
    time.sleep(SECONDS)
    return (burnt(main_process) - before) / (time.monotonic() - began)


def idle_and_asleep(home: Path, folder: Path, *flags: str) -> tuple[float, float]:
    with serving(home, folder, *flags) as (main_process, http):
        time.sleep(2.0)  # what its start has left to do
        idle = share(main_process)
        for path, body in (("/pause_generation", {"mode": "abort"}), ("/release_memory_occupation", EVERYTHING)):
            assert http.post(path, json=body).status_code == 200
        return idle, share(main_process)


def test_a_server_that_waits_for_requests_burns_far_less_than_one_that_asks_for_them(
    sglang_home: Path, tmp_path: Path
) -> None:
    """SGLang 0.5.23 on a CPU, of one core: idle 89 % without and 1.2 % with it, asleep 67 % and 1.0 %."""
    without = idle_and_asleep(sglang_home, tmp_path / "without")
    waiting = idle_and_asleep(sglang_home, tmp_path / "with", SLEEP_ON_IDLE)
    print(f"cores, idle and asleep: {without} without {SLEEP_ON_IDLE}, {waiting} with it")
    for one, other in zip(waiting, without, strict=True):
        assert one < other / 4
