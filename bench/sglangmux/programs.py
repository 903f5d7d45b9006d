"""The two programs: both are started with the same flags and the same launch scripts, and looked at from outside."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from .client import Answer, exchange, get
from .kits import ROOT, Kit
from .wire import Wire

PEER_VERSION = "0.1.1"

#: In the shape of sglangmux's own.
SCRIPT = """\
#!/usr/bin/env bash
set -euo pipefail

MODEL_NAME="{model}"
PORT={port}

{exec}python -m sglang.launch_server \\
  --model-path "$MODEL_NAME" \\
  --port "$PORT" \\
  --enable-memory-saver{flags}
"""


@dataclass(frozen=True, slots=True)
class Program:
    """`argv` is followed by the flags that both have, and the scripts."""

    name: str
    argv: tuple[str, ...]

    @property
    def is_muxd(self) -> bool:
        return self.name == "muxd"


MUXD = Program("muxd", (sys.executable, "-m", "muxd", "start"))


def peer() -> Program | None:
    """sglangmux, where this environment has it in the version that all this is about."""
    try:
        version = metadata.version("sglangmux")
    except metadata.PackageNotFoundError:
        return None
    command = shutil.which("sglangmux", path=str(Path(sys.executable).parent))
    if command is None or version != PEER_VERSION:
        return None
    return Program(f"sglangmux {version}", (command,))


@dataclass(frozen=True, slots=True)
class Script:
    """A launch script; `flags` are further ones of its server."""

    model: str
    flags: str = ""
    exec: bool = True

    @property
    def name(self) -> str:
        return self.model.rpartition("/")[2]

    def text(self, port: int) -> str:
        more = f" \\\n  {self.flags}" if self.flags else ""
        return SCRIPT.format(model=self.model, port=port, exec="exec " if self.exec else "", flags=more)


class Run:
    """A program that runs in a folder of its own, and what the system knows of it; the caller ends it.

    `words` are what comes after the program's own: flags, and scripts.
    """

    def __init__(self, program: Program, kit: Kit, folder: Path, port: int, words: Sequence[str]) -> None:
        self.program = program
        self.folder = folder
        self.port = port
        # muxd's own files go to the folder, too, as under systemd.
        places = {"RUNTIME_DIRECTORY": str(folder), "STATE_DIRECTORY": f"{folder}/state", "PYTHONPATH": str(ROOT)}
        self._env = {**os.environ, **places, "PATH": f"{kit.install(folder).parent}:{os.environ['PATH']}"}
        self._argv = [*program.argv, *words]
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """One more process of the program, with the same words."""
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(self._argv, cwd=self.folder, env=self._env, stdout=log, stderr=log)

    def until_active(self, model: str, seconds: float) -> None:
        """It is, as /health has it; what comes before it in the program's order was there, then."""

        def is_active() -> bool:
            if self.process.poll() is not None:
                raise SystemExit(f"{self.program.name} ended with {self.process.returncode}\n{self.log}")
            return self.active_model() == model

        until(is_active, seconds, lambda: f"{model} is active\n{self.log}")

    def active_model(self) -> str | None:
        """None where the program is not up."""
        answer = ask_simply(self.port, "/health")
        return json.loads(answer.body)["active_model"] if answer.status == 200 else None

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    @property
    def daemon(self) -> int:
        """The process to signal: of sglangmux the Rust daemon, as its Python wrapper passes no signal on."""
        rust = (pid for pid, line in self.processes().items() if "bin/sglangmuxd " in line)
        return next(rust, self.process.pid)

    def signal(self, number: signal.Signals) -> None:
        """Send it, and wait for the program's end."""
        os.kill(self.daemon, number)
        self.process.wait(60)

    def end(self) -> None:
        """All of it, however it is."""
        if self.process.poll() is None and self.program.is_muxd:
            self.signal(signal.SIGTERM)
        while pids := [*self.processes()]:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        self.process.wait()

    def processes(self) -> dict[int, str]:
        """Every living process of this folder: pid -> command line.

        By its environment or its working directory: SGLang's children write their titles over the one.
        """
        mark, found = str(self.folder).encode(), {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with suppress(OSError):
                    is_alive = b"\nState:\tZ" not in (entry / "status").read_bytes()
                    is_here = os.readlink(entry / "cwd") == str(self.folder)
                    if is_alive and (is_here or mark in (entry / "environ").read_bytes()):
                        found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found


class Host(Run):
    """Two or more servers by their scripts; use `hosted`.

    `config` is a configuration for muxd, where an experiment is about what sglangmux has no setting for.
    """

    def __init__(
        self, program: Program, kit: Kit, folder: Path, scripts: Sequence[Script], flags: Sequence[str], config: str
    ) -> None:
        port, *ports = free_ports(1 + len(scripts))
        self.wire = Wire(folder / "wire")
        self.scripts = dict(zip(scripts, ports, strict=True))
        for script, its_port in self.scripts.items():
            (folder / f"{script.name}.sh").write_text(script.text(its_port))
        ready = ["--model-ready-timeout-secs", str(kit.start)]
        words = ["--listen-port", str(port), "--log-dir", "logs", *ready, *flags]
        if config and program.is_muxd:
            (folder / "muxd.toml").write_text(config)
            words += ["--config", "muxd.toml"]
        super().__init__(program, kit, folder, port, [*words, *(f"{script.name}.sh" for script in scripts)])

    def port_of(self, model: str) -> int:
        return next(port for script, port in self.scripts.items() if script.model == model)

    def answers(self, model: str) -> bool:
        """The server itself, asked without the program."""
        return ask_simply(self.port_of(model), "/model_info").status == 200

    def unreachable(self) -> list[str]:
        """The names of the servers that do not answer."""
        return [script.name for script in self.scripts if not self.answers(script.model)]

    def kill_server(self, model: str) -> None:
        """SIGKILL to the process that the script has become, seen to be dead."""
        mark = f"--port {self.port_of(model)} "
        os.kill(min(pid for pid, line in self.processes().items() if mark in line), signal.SIGKILL)
        until(lambda: not self.answers(model), 10, lambda: f"{model} is dead")

    def said(self, model: str) -> str:
        """A server's output, both streams, wherever the program has put it."""
        files = sorted((self.folder / "logs").glob(f"*{model.rpartition('/')[2]}*"))
        return "".join(path.read_text(errors="replace") for path in files)


@contextmanager
def hosted(
    program: Program, kit: Kit, folder: Path, scripts: Sequence[Script], flags: Sequence[str] = (), config: str = ""
) -> Iterator[Host]:
    """Ready: all were loaded in their order, the last one is awake.  Nothing is left of it in the end."""
    folder.mkdir(parents=True)
    host = Host(program, kit, folder, scripts, flags, config)
    try:
        host.until_active(scripts[-1].model, kit.start * len(scripts))
        yield host
    finally:
        host.end()


def ask_simply(port: int, path: str) -> Answer:
    """Where nobody listens, or who does is at its end, the status is 0."""
    try:
        return exchange(port, get(port, path), 5)
    except ConnectionError:
        return Answer(b"", 0, 0)


def until(condition: Callable[[], Any], seconds: float, what: Callable[[], str]) -> None:
    """SystemExit at the deadline."""
    if not within(seconds, condition):
        raise SystemExit(f"not within {seconds:g} s: {what()}")


def within(seconds: float, condition: Callable[[], Any]) -> bool:
    """Whether it comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def free_ports(count: int) -> list[int]:
    """All of them different: each is held until all are found."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports
