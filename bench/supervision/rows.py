"""Faults of the matrix that all three can be put to, and what each of the three did.

A row's number is that of docs/reliability.md.  `Seen.holds` is what the matrix expects of muxd; None: the row is about
a thing that this program does not have.
"""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.sglangmux.client import CHAT, chat, exchange, post
from bench.sglangmux.programs import within

from .hosts import LOG_BYTES, MODEL, SUPERVISOR, Bench, Keeper, descriptors, is_running

#: Seconds from a fault within which a worker that is kept should answer again; it loads in 0.3 s.
SOON = 12.0


@dataclass(frozen=True, slots=True)
class Seen:
    holds: bool | None
    text: str


@dataclass(frozen=True, slots=True)
class Row:
    number: int
    fault: str
    run: Callable[[Bench], Seen]


def after(seconds: float | None) -> str:
    return "does not serve again" if seconds is None else f"serves again after {seconds:.1f} s"


def left(pids: Iterable[int]) -> str:
    count = sum(map(is_running, pids))
    return f"{count or 'none'} of its processes left"


def lost(host: Keeper, pid: int, number: signal.Signals) -> Seen:
    """One of the worker's processes gets a signal; one client asks until somebody answers."""
    family = host.family()
    os.kill(pid, number)
    within(1, lambda: not is_running(pid) or number == signal.SIGSTOP)
    if number == signal.SIGSTOP:
        within(SOON, lambda: not is_running(pid))  # a client that asks would wait
    back = host.serves_after(SOON)
    within(3, lambda: not any(map(is_running, family)))
    return Seen(back is not None and not any(map(is_running, family)), f"{after(back)}; {left(family)}")


def main_process_killed(bench: Bench) -> Seen:
    with bench.keeper() as host:
        return lost(host, host.main_process, signal.SIGKILL)


def scheduler_killed(bench: Bench) -> Seen:
    with bench.keeper() as host:
        return lost(host, host.scheduler, signal.SIGKILL)


def stray_left(bench: Bench) -> Seen:
    with bench.keeper("--fault setsid-grandchild") as host:
        return lost(host, host.main_process, signal.SIGKILL)


def main_process_stopped(bench: Bench) -> Seen:
    with bench.keeper() as host:
        return lost(host, host.main_process, signal.SIGSTOP)


def port_taken(bench: Bench) -> Seen:
    """Somebody else has the worker's port when the program starts, and gives it back 20 s later."""
    with bench.keeper(waits=False) as host:
        host.end()
        with socket.create_server(("127.0.0.1", host.worker_port)):
            host.process = host.start()
            began = time.monotonic()
            named = within(20, lambda: str(host.worker_port) in host.told() and str(os.getpid()) in host.told())
            within(20 - (time.monotonic() - began), lambda: False)
        back = host.serves_after(90) if host.is_alive else None
    who = "says who has it" if named else "does not say who has it"
    return Seen(named and back is not None, f"{who}; once it is free: {after(back)}")


def crash_loop(bench: Bench) -> Seen:
    """No start succeeds for 15 s; then every start would."""
    with bench.keeper() as host:
        broken = bench.folder / "broken"
        broken.touch()
        os.kill(host.main_process, signal.SIGKILL)
        end = time.monotonic() + 15
        within(15, lambda: host.ask(2).status == 200 or time.monotonic() > end)
        broken.unlink()
        back = host.serves_after(90)
    return Seen(back is not None, f"{after(back)}, without an operator" if back else f"{after(back)} within 90 s")


def term_ignored(bench: Bench) -> Seen:
    """The program is told to end, and its worker ignores SIGTERM."""
    with bench.keeper("--fault ignore-term") as host:
        family, began = host.family(), time.monotonic()
        os.kill(host.daemon, signal.SIGTERM)
        gone = within(20, lambda: not any(map(is_running, family)))
        text = f"all gone after {time.monotonic() - began:.1f} s" if gone else f"{left(family)} after 20 s"
    return Seen(gone, text)


def log_flood(bench: Bench) -> Seen:
    """50 MB/s for some seconds."""
    with bench.keeper("--fault log-flood=50000000") as host:
        began = time.monotonic()
        answers = [host.ask(5).status for _ in range(10)]
        within(5 - (time.monotonic() - began), lambda: False)
        size = sum(file.stat().st_size for file in (bench.folder / "logs").iterdir())
        status = host.status()
    good = size <= 4 * LOG_BYTES and set(answers) == {200} and status is not None
    told = "no status" if status is None else f"status in {1000 * status:.0f} ms"
    return Seen(good, f"{answers.count(200)} of 10 answered, {told}; {size / 1e6:.0f} MB of logs")


def log_disk_full(bench: Bench) -> Seen:
    """The disk of the logs is full for some seconds; needs root."""
    from tests.faults.conftest import SmallDisk

    logs = bench.folder / "logs"
    logs.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", str(logs)], check=False)
    if mounted.returncode != 0:
        return Seen(None, "not run: needs the right to mount a small tmpfs")
    try:
        with bench.keeper("--fault log-flood=200000") as host:
            SmallDisk(logs).spoil()
            within(3, lambda: False)
            answers = [host.ask(5).status for _ in range(5)]
            told = within(2, lambda: "no space left" in host.told().lower())
    finally:
        subprocess.run(["umount", "--lazy", str(logs)], check=True)
    text = f"{answers.count(200)} of 5 answered; the loss is {'told' if told else 'not told'}"
    return Seen(set(answers) == {200} and told, text)


def second_one(bench: Bench) -> Seen:
    """The same program is started once more in the same place."""
    with bench.keeper() as host:
        before = host.main_processes()
        second = host.start()
        try:
            status = second.wait(10)
        except subprocess.TimeoutExpired:
            status = None
        copies, answer = host.main_processes(), host.ask()
        good = bool(status) and copies == before and answer.status == 200
        end = "runs beside the first" if status is None else f"ends with status {status}"
        text = f"it {end}; {len(copies)} copies of the worker, the client gets {answer.status or 'no answer'}"
        if status is None:
            second.kill()
            second.wait()
    return Seen(good, text)


def idle_clients(bench: Bench) -> Seen:
    """1000 clients of the door that an operator uses, half of them in the middle of a request."""
    with bench.keeper() as host, ExitStack() as held:
        refused = 0
        for number in range(1000):
            try:
                client = held.enter_context(host.connect())
                client.send(b"GET / HTTP/1.1\r\nHost: m" if number % 2 else b"")
            except OSError:
                refused += 1
        times = [host.status() for _ in range(5)]
        held.close()
        again = within(5, lambda: host.status() is not None)
    answered = [each for each in times if each is not None]
    slowest = f", {1000 * max(answered):.0f} ms at the most" if answered else ""
    text = f"{len(answered)} of 5 questions for the status answered{slowest}"
    return Seen(len(answered) == 5 and again, text if again else f"{text}; none after they have left")


def slow_heads(bench: Bench) -> Seen:
    """300 clients that never finish the head of their request, and one that does."""
    if bench.program is SUPERVISOR:
        return Seen(None, "it has no proxy")
    with bench.keeper() as host, ExitStack() as held:
        clients = [held.enter_context(socket.create_connection(("127.0.0.1", host.port))) for _ in range(300)]
        for client in clients:
            client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: m\r\nX-Slow: ")
        began = time.monotonic()
        answers = [host.ask(5).status for _ in range(10)]
        within(14 - (time.monotonic() - began), lambda: False)
        waiting = sum(map(is_open, clients))
    text = f"{answers.count(200)} of 10 of others answered; {waiting or 'none'} of 300 still open after 14 s"
    return Seen(set(answers) == {200} and not waiting, text)


def is_open(client: socket.socket) -> bool:
    client.settimeout(0)
    try:
        while data := client.recv(1 << 12):
            del data
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def program_killed(bench: Bench) -> Seen:
    """SIGKILL to the program while a stream runs; then it is started again."""
    with bench.keeper() as host:
        before = host.main_processes()
        body = chat(MODEL, stream=True, max_tokens=600, ignore_eos=True)
        streamed: list[bytes] = []
        client = threading.Thread(
            target=lambda: streamed.append(exchange(host.port, post(host.port, CHAT, body), 20).raw)
        )
        client.start()
        within(0.7, lambda: False)
        daemon = host.daemon
        os.kill(daemon, signal.SIGKILL)
        within(5, lambda: not is_running(daemon))
        host.process.kill()  # sglangmux's wrapper
        host.process.wait()
        host.process = host.start()
        back = host.serves_after(20)
        client.join()
        within(3, lambda: False)  # a second copy would be on its way by now
        copies, status = host.main_processes(), host.status()
        kept = copies == before
        is_known = status is not None and owns(host)
    whole = b"[DONE]" in streamed[0]
    text = f"the stream {'goes on to its end' if whole else 'is cut'}; {after(back)}; "
    text += "the same worker goes on" if kept else f"{len(copies)} copies of the worker run"
    return Seen(
        whole and back is not None and kept and is_known, text + ("" if is_known else ", of which it knows none")
    )


def owns(host: Keeper) -> bool:
    """Whether the program knows of the worker that runs: it ends when the program is told to end."""
    pids = host.main_processes()
    with suppress(ProcessLookupError):
        os.kill(host.daemon, signal.SIGTERM)
    return within(15, lambda: not any(map(is_running, pids)))


def told_to_end(bench: Bench) -> Seen:
    """SIGTERM while the worker loads."""
    with bench.keeper("--load-time 4", waits=False) as host:
        within(10, lambda: bool(host.worker()))
        within(0.5, lambda: False)
        pids, began = host.worker(), time.monotonic()
        os.kill(host.daemon, signal.SIGTERM)
        gone = within(15, lambda: not any(map(is_running, pids)) and not host.is_alive)
        took, status = time.monotonic() - began, host.process.poll()
        text = f"ended after {took:.1f} s with status {status}" if gone else f"{left(pids)} 15 s later"
    return Seen(gone, text)


def without_descriptors(bench: Bench) -> Seen:
    """The program can open one more file than it has; its worker is killed; 3 s later it may open more again."""
    with bench.keeper() as host:
        daemon = host.daemon
        with descriptors(daemon, 1):
            os.kill(host.main_process, signal.SIGKILL)
            within(3, lambda: False)
            lives = is_running(daemon)
        back = host.serves_after(30) if lives else None
    return Seen(back is not None, f"{'lives' if lives else 'ends'}; {after(back)}")


def bad_reload(bench: Bench) -> Seen:
    """A configuration that is none, and SIGHUP."""
    with bench.keeper() as host:
        if not host.config.exists():
            return Seen(None, "it has no configuration to read again")
        before = host.main_processes()
        host.config.write_text("[[[ no configuration\n")
        os.kill(host.daemon, signal.SIGHUP)
        within(5, lambda: not host.is_alive)
        good = host.is_alive and host.main_processes() == before and host.ask().status == 200
        text = "the former one holds" if good else f"ends with status {host.process.poll()}"
    return Seen(good, text)


def inherited(bench: Bench) -> Seen:
    """What the worker's main process has of descriptors beside its first three, and the one that lists them."""
    with bench.keeper():
        lines = Path(bench.folder, "descriptors").read_text().splitlines()
    found = [line.rpartition(" -> ")[2] for line in lines if " -> " in line]
    more = max(0, len([each for each in found if not each.startswith("/proc/")]) - 3)
    return Seen(more == 0, f"{more} descriptors more" if more else "nothing")


ROWS = (
    Row(1, "the worker's main process is killed", main_process_killed),
    Row(2, "one of its other processes is killed", scheduler_killed),
    Row(3, "the main process ends, a descendant has a session of its own", stray_left),
    Row(4, "the main process hangs (SIGSTOP)", main_process_stopped),
    Row(6, "its port is taken at the start", port_taken),
    Row(8, "no start succeeds for 15 s", crash_loop),
    Row(9, "SIGTERM is ignored by the worker", term_ignored),
    Row(12, "50 MB/s in the log", log_flood),
    Row(13, "the disk of the logs is full", log_disk_full),
    Row(16, "it is started a second time", second_one),
    Row(17, "1000 idle and half-open clients of an operator's door", idle_clients),
    Row(20, "300 clients that never finish a head", slow_heads),
    Row(21, "the program itself is killed, and started again", program_killed),
    Row(22, "SIGTERM during a load", told_to_end),
    Row(27, "no descriptor can be had while the worker dies", without_descriptors),
    Row(28, "a broken configuration, and SIGHUP", bad_reload),
    Row(32, "what the worker inherits", inherited),
)
