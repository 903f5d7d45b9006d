"""A muxd of its own to measure, in a folder that goes with it."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

MUXD = (sys.executable, "-m", "muxd")

#: Images of containers set it; muxd would be compiled at each start, for twice the CPU.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

CONFIG = """\
[muxd]
socket = "{folder}/muxd.sock"
state_dir = "{folder}/state"
log_dir = "{folder}/logs"
[proxy]
listen = "127.0.0.1:{port}"
managed = {managed}
{models}
"""

SIMULATED = """\
[policy]
wait_target = 0
[defaults]
engine = "simulator"
memory = { weights = "40GiB", kv = "16GiB", overhead = "2GiB" }
simulation = { load_time = 0.1, sleep_time = 0, wake_time = 0, token_rate = 200 }
[models.a]
sleep_level = 1
[models.b]
sleep_level = 2
"""
"""Two models that take turns, and sleep and wake in no time."""

REAL = """\
[policy]
wait_target = 0
[defaults]
engine = "{engine}"
python = "{home}/venv/bin/python"
args = {args}
env = {env}
[models.a]
model_path = "{home}/models/tiny-a"
sleep_level = 1
[models.b]
model_path = "{path}"
sleep_level = {level}
"""


def two_real_models(
    engine: str, home: Path, args: Sequence[str], env: dict[str, str], path: Path | None = None, level: int = 2
) -> str:
    """Return two models of a real engine on the CPU (see tests/real), installed in `home`; `path`, `level`: of b."""
    table = "{ " + ", ".join(f'{key} = "{value}"' for key, value in env.items()) + " }"
    path = path or home / "models/tiny-b"
    return REAL.format(engine=engine, home=home, args=list(args), env=table, path=path, level=level)


Ready = Callable[["subprocess.Popen[bytes]"], None]


class MuxdProcess:
    """A muxd and its proxy; where the proxy is not managed, it is started beside."""

    def __init__(
        self, folder: Path, models: str, argv: Sequence[str], *, managed: bool, until_ready: Ready | None
    ) -> None:
        self.folder = folder
        self.port = _free_port()
        self.socket = folder / "muxd.sock"
        self._argv = argv
        self._config = folder / "muxd.toml"
        written = CONFIG.format(folder=folder, port=self.port, managed=str(managed).lower(), models=models)
        self._config.write_text(written)
        self.muxd = self._run("start")
        if until_ready is not None:
            until_ready(self.muxd)
        self._proxy = None if managed else self._run("proxy")
        until(lambda: self.health() == "connected", 20, lambda: self._log.read_text())

    @property
    def _log(self) -> Path:
        return self.folder / "muxd.log"

    def _run(self, what: str) -> "subprocess.Popen[bytes]":
        with self._log.open("ab") as log:
            argv = [*self._argv, what, "--config", str(self._config)]
            return subprocess.Popen(argv, stdout=log, stderr=log, cwd=self.folder)

    def stop(self) -> None:
        for process in (self._proxy, self.muxd):
            if process is not None:
                process.terminate()
                process.wait(60)

    # The proxy

    def health(self) -> str:
        try:
            return str(json.load(self._answer(self._connection(5), "GET", "/health"))["muxd"])
        except OSError:
            return "no proxy"

    def metrics(self) -> str:
        """Return the page of metrics of the proxy, muxd and the awake engines."""
        return self._answer(self._connection(30), "GET", "/metrics").read().decode()

    def ask(self, model: str, **fields: Any) -> float:
        """A chat to its end; when its last byte was here, on the monotonic clock."""
        list(self.stream(model, **fields))
        return time.monotonic()

    def stream(self, model: str, **fields: Any) -> Iterator[bytes]:
        """The lines of an answer as they come."""
        chat = {"model": model, "messages": [{"role": "user", "content": "hello"}], "temperature": 0, **fields}
        connection = self._connection(600)
        answer = self._answer(connection, "POST", "/v1/chat/completions", chat)
        if answer.status != 200:
            raise SystemExit(f"{model} answered {answer.status}: {answer.read()!r}")
        yield from answer
        connection.close()

    def _connection(self, patience: float) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=patience)

    def _answer(self, connection: HTTPConnection, method: str, path: str, body: Any = None) -> HTTPResponse:
        if body is None:
            connection.request(method, path)
        else:
            connection.request(method, path, json.dumps(body), {"content-type": "application/json"})
        return connection.getresponse()

    # The supervisor

    def status(self) -> dict[str, Any]:
        connection = HTTPConnection("muxd")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self.socket))
        answer: dict[str, Any] = json.load(self._answer(connection, "GET", "/v1/status"))
        connection.close()
        return answer

    def states(self) -> dict[str, str]:
        return {model["name"]: model["state"] for model in self.status()["models"]}


@contextmanager
def running_muxd(
    models: str = SIMULATED, argv: Sequence[str] = MUXD, *, managed: bool = True, until_ready: Ready | None = None
) -> Iterator[MuxdProcess]:
    """`until_ready` is called once muxd has been started, before anything is asked of it."""
    with tempfile.TemporaryDirectory(prefix="muxd-bench-") as folder:
        built = MuxdProcess(Path(folder), models, argv, managed=managed, until_ready=until_ready)
        try:
            yield built
        finally:
            built.stop()


def until(condition: Any, seconds: float, explain: Any = lambda: "") -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {seconds:g} s\n{explain()}")
        time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
