"""How a server is started: what is set aside for it, what it is given, what it leaves behind."""

import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from muxd.children import Child, Children, ChildSpec
from muxd.config import Config, Model
from muxd.core.events import Event
from muxd.engines import Engine, EngineClient, LaunchContext, LaunchSpec, ServerKeys
from muxd.gpus import Gpus, simulated_ledger_path
from muxd.observed_scripts import ObservedScripts
from muxd.ports import HOST
from muxd.saved_state import StateFile, WorkerRecord

#: SGLang binds sockets named tmpXXXXXXXX there; this leaves room for longer names.
TMPDIR_MAX = 80
TMPDIR_NAME = re.compile(r"muxd-[0-9a-f]{12}")

#: Where engines leave files outside their work folder.
SHM = Path("/dev/shm")

#: Of muxd's own environment, what a worker must not see.  By the last one all engines would keep their metrics in one
#: folder, and each would tell those of all.
OWN_ENVIRONMENT = (
    *("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "JOURNAL_STREAM", "WATCHDOG_USEC"),
    "PROMETHEUS_MULTIPROC_DIR",
)


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """What all workers share."""

    config: Config
    children: Children
    gpus: Gpus
    state: StateFile
    http: httpx.AsyncClient
    tell: Callable[[Event], None]
    scripts: ObservedScripts = field(default_factory=ObservedScripts)
    withheld: set[str] = field(default_factory=set)  # variables of muxd's environment that no worker gets to see

    def withhold(self, config: Config) -> None:
        """What clients show the proxy.  For good: muxd has it in its environment when the key is configured no more."""
        self.withheld.update(key.variable for key in config.keys if key.variable)


@dataclass(frozen=True, slots=True)
class LaunchedServer:
    """A server that was started; its record is in the state file."""

    child: Child
    record: WorkerRecord
    link: EngineClient

    @property
    def url(self) -> str:
        return _url(self.record.port)

    def move(self, port: int) -> None:
        """It was found to listen there."""
        self.record.port = port
        self.link.move(self.url)


def launch(model: Model, engine: Engine, context: WorkerContext, port: int) -> LaunchedServer:
    """Start it, with a work folder and an admin key of its own; raises OSError, CannotSpawn."""
    config = context.config
    workdir = config.daemon.state_dir / "workers" / f"{model.name}-{secrets.token_hex(4)}"
    plan = LaunchContext(
        port=port,
        workdir=workdir,
        tmpdir=_short_tmpdir(workdir),
        admin_key=f"muxd-{secrets.token_hex(16)}",  # plain YAML text, whatever the digits
        simulated_gpu_ledger=simulated_ledger_path(config),
        simulated_gpu_memory=config.daemon.simulated_gpu_memory,
    )
    orders = engine.launch(model, plan)
    keys = orders.keys or ServerKeys(plan.admin_key)
    try:
        _write_files(plan, orders)
        child = context.children.spawn(_spec(model, orders, plan, context))
    except BaseException:
        _remove(workdir, plan.tmpdir)
        raise
    record = WorkerRecord(
        child=child.record,
        workdir=str(workdir),
        tmpdir=str(plan.tmpdir),
        port=port,
        admin_key=keys.admin,
    )
    context.state.state.workers[model.name] = record
    context.state.save()

    def record_intent(call: str | None) -> None:
        record.call = call
        if call is not None:  # that it was answered is written with what comes next: a save takes 0.3 ms
            context.state.save()

    timeouts = {"call_timeout": model.call_timeout, "probe_timeout": model.probe_timeout}
    link = EngineClient(context.http, _url(port), keys.admin, record_intent, **timeouts, api_key=keys.api)
    return LaunchedServer(child, record, link)


def _url(port: int) -> str:
    return f"http://{HOST}:{port}"


def log_files(config: Config, model: Model) -> dict[str, Path]:
    """Where its output goes: "stdout" and "stderr"."""
    return {stream: config.daemon.log_dir / f"{model.name}.{stream}.log" for stream in ("stdout", "stderr")}


def remove_traces(record: WorkerRecord) -> None:
    """Delete what a dead worker left on disk and in shared memory."""
    _remove(Path(record.workdir), Path(record.tmpdir))
    for path in record.leftovers:
        with suppress(OSError):
            Path(path).unlink()


def remove_left_outside(record: WorkerRecord) -> None:
    """What a record that was read from disk names outside of muxd's folders, as far as muxd makes such."""
    tmpdir = Path(record.tmpdir)
    if tmpdir.parent == Path(tempfile.gettempdir()) and TMPDIR_NAME.fullmatch(tmpdir.name) and _is_ours(tmpdir):
        _remove(tmpdir)
    for path in map(Path, record.leftovers):
        if path.parent == SHM and _is_ours(path):
            with suppress(OSError):
                path.unlink()


def _is_ours(path: Path) -> bool:
    try:
        return path.lstat().st_uid == os.geteuid()
    except (OSError, ValueError):
        return False


def _short_tmpdir(workdir: Path) -> Path:
    """In the work folder, unless that is so deep that a socket's path in it would be too long (107 bytes)."""
    within = workdir / "tmp"
    if len(os.fsencode(within)) <= TMPDIR_MAX:
        return within
    return Path(tempfile.gettempdir()) / f"muxd-{secrets.token_hex(6)}"  # as TMPDIR_NAME has it


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _write_files(plan: LaunchContext, orders: LaunchSpec) -> None:
    plan.workdir.mkdir(parents=True, mode=0o700)
    plan.tmpdir.mkdir(mode=0o700)
    for path, text in orders.files.items():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)


def _spec(model: Model, orders: LaunchSpec, plan: LaunchContext, context: WorkerContext) -> ChildSpec:
    logs = log_files(context.config, model)
    kept = context.withheld.union(OWN_ENVIRONMENT)
    own = {name: value for name, value in os.environ.items() if name not in kept}
    return ChildSpec(
        name=model.name,
        argv=orders.argv,
        env=_past_proxies({**own, **orders.env, **model.env}),
        cwd=model.cwd or plan.workdir,
        stdout=logs["stdout"],
        stderr=logs["stderr"],
        log_max_bytes=model.log_max_bytes,
        log_backups=model.log_backups,
        stop_timeout=model.stop_timeout,
        stop_signal=orders.stop_signal,
        stop_port=orders.stop_port,
    )


def _past_proxies(env: dict[str, str]) -> dict[str, str]:
    """An engine talks to itself on loopback, as for its own warm-up: what there is of a proxy must not be asked."""
    if not any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") and env[name] for name in env):
        return env
    names = [name for value in (env.get("no_proxy", ""), env.get("NO_PROXY", "")) for name in value.split(",")]
    without = ",".join(
        dict.fromkeys(name.strip() for name in (*names, "127.0.0.1", "localhost", "::1") if name.strip())
    )
    return {**env, "no_proxy": without, "NO_PROXY": without}
