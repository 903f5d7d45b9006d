"""The three programs with one simulated worker each: how each is started, asked, and seen."""

import os
import resource
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from bench.sglangmux import kits
from bench.sglangmux.client import CHAT, Answer, chat, exchange, post
from bench.sglangmux.programs import MUXD, Program, Run, Script, ask_simply, free_ports, peer, until, within

SUPERVISOR_VERSION = "4.3.0"
MODEL = "org/beta"
LOG_BYTES = 1 << 20  # of one log file; one older one is kept

#: A start that fails for as long as there is a file "broken", and what the main process has of descriptors.
KIT = replace(
    kits.SIMULATION,
    python=kits.SIMULATED_PYTHON.replace(
        "shift 2\n", "shift 2\nls -l /proc/self/fd > '{folder}/descriptors'\ntest ! -e '{folder}/broken' || exit 3\n"
    ),
)

#: As quick as the peers are by themselves; everything else is muxd's default.
MUXD_CONFIG = f"""\
[defaults]
probe_interval = "300ms"
probe_timeout = "1s"
stop_timeout = "3s"
log_max_bytes = {LOG_BYTES}
log_backups = 1
"""

SUPERVISOR_CONFIG = """\
[unix_http_server]
file = {folder}/supervisor.sock
[supervisord]
nodaemon = true
logfile = {folder}/supervisord.log
pidfile = {folder}/supervisord.pid
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[program:beta]
command = bash {folder}/beta.sh
autorestart = true
stopasgroup = true
killasgroup = true
stopwaitsecs = 3
stdout_logfile = {folder}/logs/beta.log
redirect_stderr = true
stdout_logfile_maxbytes = {log_bytes}
stdout_logfile_backups = 1
"""

SUPERVISOR = Program(f"supervisor {SUPERVISOR_VERSION}", (sys.executable, "-m", "supervisor.supervisord"))


def programs() -> list[Program]:
    """muxd, supervisor and sglangmux; ends where one of them is not in this environment."""
    theirs = peer()
    try:
        is_here = metadata.version("supervisor") == SUPERVISOR_VERSION and theirs is not None
    except metadata.PackageNotFoundError:
        is_here = False
    if theirs is None or not is_here:
        sys.exit("supervisor and sglangmux are not in this environment: pip install --group peers")
    return [MUXD, SUPERVISOR, theirs]


class Keeper(Run):
    """One of the three, which keeps one worker; use `kept`.  `flags` are further ones of the worker."""

    def __init__(self, program: Program, folder: Path, flags: str) -> None:
        listen, self.worker_port = free_ports(2)
        self.config = folder / "none"
        (folder / "beta.sh").write_text(Script(MODEL, flags).text(self.worker_port))
        (folder / "logs").mkdir(exist_ok=True)
        words = ["--listen-port", str(listen), "--log-dir", "logs"]
        self.door: Path | tuple[str, int] = ("127.0.0.1", listen)  # who operates it asks here
        if program.is_muxd:
            self.config, self.door = folder / "muxd.toml", folder / "muxd.sock"
            self.config.write_text(MUXD_CONFIG)
            words += ["--config", str(self.config)]
        if program is SUPERVISOR:
            self.config, self.door, listen = folder / "conf", folder / "supervisor.sock", self.worker_port
            self.config.write_text(SUPERVISOR_CONFIG.format(folder=folder, log_bytes=LOG_BYTES))
            words = ["-c", str(self.config)]
        super().__init__(program, KIT, folder, listen, words if program is SUPERVISOR else [*words, "beta.sh"])

    # The worker

    def worker(self) -> list[int]:
        """The processes that have the server's command line: each copy's main process, and what that has forked."""
        mark = f"--port {self.worker_port} "
        return sorted(p for p, line in self.processes().items() if mark in line and "bench.sglangmux.worker" in line)

    def main_processes(self) -> list[int]:
        """One for each copy that runs."""
        pids = self.worker()
        return [pid for pid in pids if parent(pid) not in pids and not name(pid).startswith("sim::")]

    @property
    def main_process(self) -> int:
        return self.main_processes()[0]

    def family(self) -> list[int]:
        """The main process, and whatever descends from it."""
        return [self.main_process, *descendants(self.main_process)]

    @property
    def scheduler(self) -> int:
        return next(pid for pid in self.family() if name(pid).startswith("sim::sched"))

    def ask(self, patience: float = 10, **fields: object) -> Answer:
        """A chat, as a client of this program sends it; status 0 where nobody listens."""
        try:
            return exchange(self.port, post(self.port, CHAT, chat(MODEL, **fields)), patience)
        except OSError:
            return Answer(b"", 0, 0)

    def serves_after(self, patience: float) -> float | None:
        """Seconds from now until a client is answered, who asks again and again; None where it is not in time."""
        began = time.monotonic()
        if within(patience, lambda: self.ask(patience).status == 200):
            return time.monotonic() - began
        return None

    # The program

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def status(self) -> float | None:
        """Seconds until who operates it is told how it is; None where that takes longer than 5 s, or is refused."""
        began = time.monotonic()
        if isinstance(self.door, tuple):
            answered = ask_simply(self.port, "/health").status == 200
        elif self.program.is_muxd:
            answered = b"beta" in self._asked(STATUS)
        else:
            answered = b"beta" in self._asked(ALL_PROCESSES)
        return time.monotonic() - began if answered else None

    def _asked(self, request: bytes) -> bytes:
        """The answer at the Unix socket; nothing where there is none within 5 s."""
        answer = b""
        with suppress(OSError), self.connect() as client:
            client.sendall(request)
            while data := client.recv(1 << 16):
                answer += data
        return answer

    def told(self) -> str:
        """All that it says of itself: its log, and muxd its model's status."""
        status = self._asked(STATUS).decode(errors="replace") if self.program.is_muxd else ""
        return self.log + status

    def connect(self) -> socket.socket:
        """A connection as who operates it has one."""
        if isinstance(self.door, tuple):
            return socket.create_connection(self.door, 5)
        client = socket.socket(socket.AF_UNIX)
        try:
            # Not settimeout: a connect that does not block fails at once where many others connect.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 5, 0))
            client.connect(str(self.door))
            client.settimeout(5)
        except OSError:
            client.close()
            raise
        return client


STATUS = b"GET /v1/status HTTP/1.1\r\nHost: muxd\r\nConnection: close\r\n\r\n"

_CALL = b"<?xml version='1.0'?><methodCall><methodName>supervisor.getAllProcessInfo</methodName></methodCall>"
ALL_PROCESSES = b"POST /RPC2 HTTP/1.0\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n%b" % (len(_CALL), _CALL)


def parent(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def name(pid: int) -> str:
    """What the kernel calls it, 15 characters at most."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def descendants(pid: int) -> Iterator[int]:
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield int(child)
            yield from descendants(int(child))


def is_running(pid: int) -> bool:
    """Say whether it lives, and is no zombie."""
    with suppress(OSError):
        return b"\nState:\tZ" not in Path(f"/proc/{pid}/status").read_bytes()
    return False


@dataclass(frozen=True, slots=True)
class Bench:
    """Where one program is tried."""

    program: Program
    folder: Path

    @contextmanager
    def keeper(self, flags: str = "", *, waits: bool = True) -> Iterator[Keeper]:
        """`waits`: until the worker answers.  Nothing is left in the end."""
        self.folder.mkdir(parents=True, exist_ok=True)
        host = Keeper(self.program, self.folder, flags)
        try:
            if waits:
                until(lambda: host.ask().status == 200, 30, lambda: f"it serves\n{host.log}")
            yield host
        finally:
            host.end()


@contextmanager
def descriptors(pid: int, more: int) -> Iterator[None]:
    """Meanwhile the process may have so many more descriptors than it has."""
    limit = len(os.listdir(f"/proc/{pid}/fd")) + more
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
