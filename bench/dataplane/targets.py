"""What is measured: muxd, its peers, and nothing at all (`direct`); each started as its documentation says.

All of a proxy's processes run on one core.  What they log and count in the state they are
shipped in is left as it is: `Proof` finds it afterwards, so that the table can say what was on.
"""

import grp
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path

from bench.muxd_process import MUXD, running_muxd
from bench.processes import below, command_line, cpu_seconds, pss_mb
from bench.sglangmux.programs import free_ports, within
from muxd import __version__ as muxd_version

from .programs import compiled, pinned

ROOT = Path(__file__).parents[2]
PEERS, LITELLM = (ROOT / f".bench-venvs/{name}/bin" for name in ("peers", "litellm"))
GET_PEERS = "`make dataplane` installs it"

MODEL = "m1"
#: Targets that are muxd and nothing else.
MUXD_ALONE = ("muxd", "muxd-2")

#: Targets on both cores, each with the same on one core; they are measured by the rows of SCALED_ROWS.
ON_BOTH = {"muxd-2": "muxd", "router-2": "sglang-router"}
SCALED_ROWS = ("requests", "quota", "streams-256")

START = 120.0  # seconds that a target may take until it answers
BODY = b'{"model":"m1","messages":[{"role":"user","content":"hi"}]}'


@dataclass(frozen=True, slots=True)
class Place:
    """Where a target runs: its core, the core of model servers, a server that is there already, and a folder."""

    core: int | str
    upstream_core: int
    upstream_port: int
    folder: Path


@dataclass(frozen=True, slots=True)
class Proof:
    """Where a target logs and where it shows metrics; None and "": nowhere, as it is shipped."""

    log: Path | None = None  # files whose names begin so
    metrics: str = ""

    def __str__(self) -> str:
        return f"{self._log()}; {self._metrics()}"

    def _log(self) -> str:
        if self.log is None:
            return "no log"
        files = (path for path in self.log.parent.glob(f"{self.log.name}*") if path.is_file())
        lines = sum(path.read_bytes().count(b"\n") for path in files)
        return f"{lines} lines of log"

    def _metrics(self) -> str:
        try:
            text = fetched(self.metrics).decode() if self.metrics else ""
        except OSError as error:
            return f"no metrics ({error})"
        series = sum(not line.startswith("#") for line in text.splitlines())
        return f"metrics: {series} series" if series else "no metrics"


def version(name: str) -> str:
    """Of the program; "" for what has none."""
    of_peers = dict.fromkeys(("sglang-router", "quiet-router", "router-2", "sglangmux"), PEERS)
    environments = {**of_peers, "litellm": LITELLM}
    package = {"quiet-router": "sglang-router", "router-2": "sglang-router"}.get(name, name)
    if name == "nginx":
        said = subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr
        return said.strip().rpartition("/")[2]
    if name in environments:
        folders = [str(path) for path in environments[name].parent.glob("lib/python*/site-packages")]
        return next((each.version for each in metadata.distributions(name=package, path=folders)), "")
    return muxd_version if name in (*MUXD_ALONE, "muxd-router") else ""


@dataclass(frozen=True, slots=True)
class Running:
    """A target that answers.  `root` is the process whose tree it is; None: there is nothing but the server."""

    name: str
    port: int
    root: int | None
    proof: Proof = field(default_factory=Proof)

    def processes(self) -> list[int]:
        """All of its own: not the model server that it may have started."""
        if self.root is None:
            return []
        server = str(compiled("upstream"))
        return [pid for pid in below(self.root) if _program(pid) not in (server, None)]

    def cpu(self) -> Mapping[int, float]:
        """Seconds of CPU that each process has used."""
        return {pid: cpu_seconds(pid) for pid in self.processes()}

    def pss(self) -> Mapping[int, float]:
        """MB of each process."""
        return {pid: pss_mb(pid) for pid in self.processes()}


def used(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """Seconds of CPU between two looks; processes that are new since then count whole."""
    return sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items())


def is_data_plane(pid: int) -> bool:
    """Of muxd's processes: the proxy.  Its shim has the proxy's command line within its own."""
    line = command_line(pid)
    return "-m muxd proxy" in line and "muxd/shim/" not in line


# The targets


@contextmanager
def direct(place: Place) -> Iterator[Running]:
    yield Running("direct", place.upstream_port, None)


@contextmanager
def relay(place: Place) -> Iterator[Running]:
    """A loop in muxd's interpreter that passes bytes on unread: nobody's proxy, but the least that one of it costs."""
    (port,) = free_ports(1)
    argv = [sys.executable, "-m", "bench.dataplane.relay", port, place.upstream_port]
    with _started("relay", place, port, argv, Proof(), {"PYTHONPATH": str(ROOT)}) as running:
        yield running


@contextmanager
def muxd(place: Place, processes: int = 1, name: str = "muxd") -> Iterator[Running]:
    """All of it: the supervisor, which starts the model by a launch script, and its proxy."""
    (port,) = free_ports(1)
    script = _launch_script(place)
    settings = f'metrics_listen = "127.0.0.1:{port}"\nprocesses = {processes}\n'
    settings += f'[models.{MODEL}]\nscript = "{script}"\ngpus = [0]\n'
    started: list[subprocess.Popen[bytes]] = []
    try:
        with running_muxd(settings, pinned(place.core, *MUXD), until_ready=started.append) as built:
            built.ask(MODEL)
            _until_serving(built.folder / "state/proxy", processes)
            proof = Proof(built.folder / "logs/muxd-proxy", f"http://127.0.0.1:{port}/metrics")
            yield Running(name, built.port, built.muxd.pid, proof)
    finally:
        for process in started:  # a house that was not finished, as its proxy does not answer, leaves it behind
            _end(process)


def muxd_2(place: Place) -> AbstractContextManager[Running]:
    """Two processes of the proxy, on both cores; the load and the model server are on one of them, too."""
    return muxd(_on_both(place), 2, "muxd-2")


def _on_both(place: Place) -> Place:
    return replace(place, core=f"{place.core},{place.upstream_core}")


def _until_serving(folder: Path, processes: int) -> None:
    """Until each of several processes has its socket in the folder of their pool."""
    sockets = [folder / f"{number}.sock" for number in range(1, processes + 1)] if processes > 1 else []
    if not within(START, lambda: all(path.exists() for path in sockets)):
        raise SystemExit("not all processes of the proxy came up")


@contextmanager
def muxd_router(place: Place) -> Iterator[Running]:
    """muxd with two replicas behind a sglang-router of its own: the peer's work and muxd's, one behind the other."""
    command = ["taskset", "-c", str(place.upstream_core), str(compiled("upstream")), "{port}"]
    settings = f"""\
[models.{MODEL}]
engine = "openai"
command = {json.dumps(command)}
ready_path = "/v1/models"
replicas = 2
gpus = [0, 1]
router = {{ policy = "round_robin", python = "{PEERS / "python"}" }}
"""
    started: list[subprocess.Popen[bytes]] = []
    try:
        with running_muxd(settings, pinned(place.core, *MUXD), until_ready=started.append) as built:
            built.ask(MODEL)
            yield Running("muxd-router", built.port, built.muxd.pid, Proof(built.folder / "logs/muxd-proxy.stdout.log"))
    finally:
        for process in started:
            _end(process)


@contextmanager
def nginx(place: Place) -> Iterator[Running]:
    """Its access log as it is shipped: `combined`, to a file."""
    (port,) = free_ports(1)
    user = f"{pwd.getpwuid(os.getuid()).pw_name} {grp.getgrgid(os.getgid()).gr_name}"
    text = NGINX.format(folder=place.folder, port=port, upstream=place.upstream_port, user=user)
    (place.folder / "nginx.conf").write_text(text)
    argv = ["nginx", "-p", place.folder, "-c", place.folder / "nginx.conf"]
    with _started("nginx", place, port, argv, Proof(place.folder / "access.log")) as running:
        yield running


NGINX = """\
# A reverse proxy for model servers: one worker, as it gets one core; streams are not buffered.
user {user};
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 30000; }}
http {{
    access_log {folder}/access.log combined;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 64m;
    keepalive_requests 100000000;
    upstream server {{
        server 127.0.0.1:{upstream};
        keepalive 2000;
        keepalive_requests 100000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://server;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""


@contextmanager
def sglang_router(place: Place, *options: str, name: str = "sglang-router") -> Iterator[Running]:
    """As it is shipped it logs a line for each request."""
    port, shown = free_ports(2)
    argv = [PEERS / "python", "-m", "sglang_router.launch_router", "--host", "127.0.0.1", "--port", port]
    argv += ["--worker-urls", f"http://127.0.0.1:{place.upstream_port}"]
    argv += ["--prometheus-host", "127.0.0.1", "--prometheus-port", shown, *options]
    proof = Proof(place.folder / "log", f"http://127.0.0.1:{shown}/metrics")
    with _started(name, place, port, argv, proof) as running:
        yield running


def quiet_router(place: Place) -> AbstractContextManager[Running]:
    """sglang-router without these lines: what it costs where it does less than the others."""
    return sglang_router(place, "--log-level", "error", name="quiet-router")


def router_2(place: Place) -> AbstractContextManager[Running]:
    """sglang-router on both cores, as `muxd_2`: its threads go where the kernel puts them."""
    return sglang_router(_on_both(place), name="router-2")


@contextmanager
def sglangmux(place: Place) -> Iterator[Running]:
    (port,) = free_ports(1)
    argv = [PEERS / "sglangmux", "--host", "127.0.0.1", "--listen-port", port]
    argv += ["--log-dir", place.folder / "logs", _launch_script(place)]
    with _started("sglangmux", place, port, argv, Proof(place.folder / "log")) as running:
        yield running


@contextmanager
def litellm(place: Place) -> Iterator[Running]:
    (port,) = free_ports(1)
    config = place.folder / "litellm.yaml"
    config.write_text(LITELLM_CONFIG.format(model=MODEL, upstream=place.upstream_port))
    argv = [LITELLM / "litellm", "--config", config, "--host", "127.0.0.1", "--port", port, "--num_workers", 1]
    with _started("litellm", place, port, argv, Proof(place.folder / "log"), LITELLM_ENV) as running:
        yield running


LITELLM_CONFIG = """\
model_list:
  - model_name: {model}
    litellm_params: {{model: openai/{model}, api_base: "http://127.0.0.1:{upstream}/v1", api_key: none}}
litellm_settings: {{telemetry: false, drop_params: true}}
"""

#: As its page on production has it, and nothing that wants the internet.
LITELLM_ENV = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    "NO_DOCS": "True",
    "OTEL_SDK_DISABLED": "true",
}

OPEN: dict[str, Callable[[Place], AbstractContextManager[Running]]] = {
    "muxd": muxd,
    "muxd-2": muxd_2,
    "muxd-router": muxd_router,
    "nginx": nginx,
    "sglang-router": sglang_router,
    "quiet-router": quiet_router,
    "router-2": router_2,
    "sglangmux": sglangmux,
    "litellm": litellm,
    "relay": relay,
    "direct": direct,
}


def missing(name: str) -> str | None:
    """How to get it, where it is not here."""
    needed: dict[str, tuple[str | Path, str]] = {
        "nginx": ("nginx", "install the system's package `nginx`"),
        "muxd-router": (PEERS / "sglang-router", GET_PEERS),
        "sglang-router": (PEERS / "sglang-router", GET_PEERS),
        "router-2": (PEERS / "sglang-router", GET_PEERS),
        "quiet-router": (PEERS / "sglang-router", GET_PEERS),
        "sglangmux": (PEERS / "sglangmux", GET_PEERS),
        "litellm": (LITELLM / "litellm", GET_PEERS),
    }
    program, how = needed.get(name, (sys.executable, ""))
    return None if shutil.which(program) else how


# Starting and ending


def _launch_script(place: Place) -> Path:
    """A model server of the target's own, on the other core."""
    (port,) = free_ports(1)
    script = place.folder / f"{MODEL}.sh"
    serve = f'exec taskset -c {place.upstream_core} {compiled("upstream")} "$PORT"'
    script.write_text(f'#!/bin/bash\nMODEL_NAME="{MODEL}"\nPORT={port}\n{serve}\n')
    script.chmod(0o755)
    return script


@contextmanager
def _started(
    name: str, place: Place, port: int, argv: list[object], proof: Proof, env: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """A peer that has answered; nothing of it is left in the end.  Its output goes to `log` in the folder."""
    with (place.folder / "log").open("wb") as log:
        process = subprocess.Popen(
            pinned(place.core, *argv), cwd=place.folder, env={**os.environ, **(env or {})}, stdout=log, stderr=log
        )
    try:
        if not within(START, lambda: process.poll() is not None or _answers(port)) or process.poll() is not None:
            raise SystemExit(f"{name} did not answer\n{(place.folder / 'log').read_text(errors='replace')[-2000:]}")
        yield Running(name, port, process.pid, proof)
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """All of its tree, as some leave children behind: five seconds for SIGTERM, then SIGKILL."""
    pids = below(process.pid) if process.poll() is None else []
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + 5
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
    process.wait()


def _answers(port: int) -> bool:
    try:
        return b'"choices"' in fetched(f"http://127.0.0.1:{port}/v1/chat/completions", BODY)
    except OSError:
        return False


def fetched(url: str, body: bytes | None = None) -> bytes:
    """Raises OSError where the answer is no 200, too."""
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        content: bytes = answer.read()
        return content


def _program(pid: int) -> str | None:
    """None: it has just ended."""
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return None
