"""Starts a server: with a port, folders, keys and an environment of its own; removes what it leaves behind."""

import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from msgspec import Struct, field

from muxd.children import Child, Children, ChildSpec
from muxd.config import Config, Model
from muxd.core.events import Event
from muxd.core.ledger import GpuId
from muxd.engines.engine import SERVER_PID, Engine, LaunchContext, LaunchSpec, ServerKeys
from muxd.engines.engine_client import EngineClient
from muxd.engines.registry import kind_of
from muxd.gpus import Gpus
from muxd.http.keepalive_client import HttpClient
from muxd.launchers.launcher import launcher_for
from muxd.launchers.observed_scripts import ObservedScripts
from muxd.log_names import file_name, log_files
from muxd.missing_folders import make_missing
from muxd.ports import HOST
from muxd.saved_state import StateFile, WorkerRecord
from muxd.shim.shim_spec import CHILD_PID

from .kernel_caches import with_kernel_caches
from .port_ownership import PortOwnership
from .server_tree import ChildTree

#: Bytes of TMPDIR's path, at most.  Engines bind Unix sockets there, whose whole path may have 107 bytes; the longest
#: names are UUIDs, 36 characters after the "/".
TMPDIR_MAX = 107 - len("/") - 36
TMPDIR_NAME = re.compile(r"muxd-[0-9a-f]{12}")

#: Where engines leave files outside their work folder.
SHM = Path("/dev/shm")

#: Variables of muxd's own environment that a worker must not see.  With PROMETHEUS_MULTIPROC_DIR all engines would
#: keep their metrics in one folder, and each would report those of all.
OWN_ENVIRONMENT = (
    *("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "JOURNAL_STREAM", "WATCHDOG_USEC"),
    "PROMETHEUS_MULTIPROC_DIR",
)


class WorkerContext(Struct, frozen=True):
    """What all workers share: the configuration, the seams to processes and GPUs, and where events go."""

    config: Config
    children: Children
    gpus: Gpus
    state: StateFile
    http: HttpClient
    tell: Callable[[Event], None]
    scripts: ObservedScripts = field(default_factory=ObservedScripts)
    held_memory: dict[str, dict[str, int]] = field(default_factory=dict)  # bytes by worker and GPU, as last measured
    own_port: Callable[..., PortOwnership] = PortOwnership  # the seam to sockets and /proc
    withheld: set[str] = field(default_factory=set)  # variables of muxd's environment that no worker gets

    def withhold(self, config: Config) -> None:
        """Keep the variables that hold the proxy's API keys out of every worker's environment.

        They stay withheld for good: muxd still has a key in its environment when it is no longer configured.
        """
        self.withheld.update(key.secret_env for key in config.keys if key.secret_env)


class LaunchOrigin(Struct, frozen=True):
    """What a server was launched from, as far as its model as configured does not say it."""

    digest: str  # of the configuration that its processes depend on
    gpus: tuple[GpuId, ...] = ()  # that were chosen for it; none: those that are configured
    level: int | None = None  # the sleep level for which it was launched; None: the configured one


class LaunchedServer(Struct, frozen=True):
    """A server that was started; its record is in the state file."""

    child: Child
    record: WorkerRecord
    link: EngineClient

    @property
    def url(self) -> str:
        """Return the server's address as http://HOST:PORT."""
        return _url(self.record.port)

    def move(self, port: int) -> None:
        """Send calls to this port from now on: the server was found to listen there."""
        self.record.port = port
        self.link.move(self.url)


def launch(
    model: Model, engine: Engine, context: WorkerContext, port: int, free: int, size: int, gate_port: int = 0
) -> LaunchedServer:
    """Start the model's server, with a work folder and an admin key of its own; raise OSError, CannotSpawn.

    `gate_port`: where it is to wait at its engine's gate; 0: it goes on at once.
    `free`: bytes that are free on that of its GPUs which has least, `size`: those that the smallest has in all; 0 where
    nobody could read them.
    """
    config = context.config
    workdir = config.daemon.state_dir / "workers" / f"{file_name(model.name)}-{secrets.token_hex(4)}"
    plan = LaunchContext(
        port=port,
        workdir=workdir,
        tmpdir=_short_tmpdir(workdir),
        admin_key=f"muxd-{secrets.token_hex(16)}",  # plain YAML text, whatever the digits
        daemon=config.daemon,
        free_gpu_memory=free,
        gpu_size=size,
        gate_port=gate_port,
    )
    orders = launcher_for(model).launch(model, engine, plan)
    keys = orders.keys or ServerKeys(plan.admin_key)
    try:
        _write_files(plan, orders)
        spec = _spec(model, orders, plan, context)
        child = context.children.spawn(spec)
    except BaseException:
        _remove(workdir, plan.tmpdir)
        raise
    record = WorkerRecord(
        child=child.record,
        workdir=str(workdir),
        tmpdir=str(plan.tmpdir),
        port=port,
        admin_key=keys.admin,
        api_key=keys.api,
        chosen=orders.chosen,
        gate_port=gate_port,
    )
    context.state.state.workers[model.name] = record
    context.state.save()
    return _followed(model, engine, context, child, record, spec)


def take_over(
    model: Model, engine: Engine, context: WorkerContext, child: Child, record: WorkerRecord
) -> LaunchedServer:
    """Return a server that an earlier muxd has launched, and whose record is in the state file."""
    plan = LaunchContext(
        port=record.port,
        workdir=Path(record.workdir),
        tmpdir=Path(record.tmpdir),
        admin_key=record.admin_key,
        daemon=context.config.daemon,
        chosen=record.chosen,
        released=record.released,
        gate_port=record.gate_port,
    )
    spec = _spec(model, launcher_for(model).launch(model, engine, plan), plan, context)
    return _followed(model, engine, context, child, record, spec)


def _followed(
    model: Model, engine: Engine, context: WorkerContext, child: Child, record: WorkerRecord, spec: ChildSpec
) -> LaunchedServer:
    """Return a server that runs, with a client whose calls are on record while they are under way.

    None waits for that: the state file says since before the first that the server is not at rest.
    """

    def record_intent(call: str | None) -> None:
        record.call = call
        if call is not None:  # that it was answered is written with the next save
            context.state.save(at_leisure=True)  # it is on record already that the server is not at rest

    link = EngineClient(
        context.http,
        _url(record.port),
        record.admin_key,
        record_intent,
        call_timeout=model.call_timeout,
        probe_timeout=model.probe_timeout,
        api_key=record.api_key,
        diagnose=engine.diagnose_answer,
        tree=ChildTree(child, record.port, spec.env, spec.cwd, Path(record.workdir)),
    )
    return LaunchedServer(child, record, link)


def _url(port: int) -> str:
    return f"http://{HOST}:{port}"


def gate_of(server: LaunchedServer) -> EngineClient:
    """Return a client for the gate at which a server waits."""
    return server.link.at(_url(server.record.gate_port))


def worker_log_files(config: Config, model: Model) -> dict[str, Path]:
    """Return where the worker's output goes, under "stdout" and "stderr": both to one file with join_output."""
    files = log_files(config.daemon.log_dir, file_name(model.name))
    return dict.fromkeys(files, files["stdout"]) if model.join_output else files


def remove_traces(record: WorkerRecord) -> None:
    """Delete what a dead worker left on disk and in shared memory."""
    _remove(Path(record.workdir), Path(record.tmpdir))
    for path in record.leftovers:
        with suppress(OSError):
            Path(path).unlink()


def remove_left_outside(record: WorkerRecord) -> None:
    """Delete what a record from the state file names outside of muxd's folders.

    The state file is not trusted with more: only files of muxd's own user, named and placed as muxd's workers name and
    place them, are deleted.
    """
    tmpdir = Path(record.tmpdir)
    if tmpdir.parent == Path(tempfile.gettempdir()) and TMPDIR_NAME.fullmatch(tmpdir.name) and _is_ours(tmpdir):
        _remove(tmpdir)
    for path in map(Path, record.leftovers):
        if path.parent == SHM and _is_ours(path):
            with suppress(OSError):
                path.unlink()


def has_own_traces(record: WorkerRecord, state_dir: Path) -> bool:
    """Say whether a record from the state file names nothing but what a worker of muxd's leaves: it will be deleted."""
    workdir, tmpdir = Path(record.workdir), Path(record.tmpdir)
    is_short = tmpdir.parent == Path(tempfile.gettempdir()) and TMPDIR_NAME.fullmatch(tmpdir.name) is not None
    is_tmpdir = tmpdir == workdir / "tmp" or (is_short and _is_ours(tmpdir))
    return (
        workdir.parent == state_dir / "workers"
        and is_tmpdir
        and all(Path(path).parent == SHM for path in record.leftovers)
        and 0 < record.port < 1 << 16
    )


def _is_ours(path: Path) -> bool:
    try:
        return path.lstat().st_uid == os.geteuid()
    except (OSError, ValueError):
        return False


def _short_tmpdir(workdir: Path) -> Path:
    """Return a folder in the work folder, or in /tmp where a socket's path would be too long (107 bytes at most)."""
    within = workdir / "tmp"
    if len(os.fsencode(within)) <= TMPDIR_MAX:
        return within
    return Path(tempfile.gettempdir()) / f"muxd-{secrets.token_hex(6)}"  # must match TMPDIR_NAME


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _write_files(plan: LaunchContext, orders: LaunchSpec) -> None:
    make_missing(plan.workdir.parent)
    plan.workdir.mkdir(mode=0o700)
    plan.tmpdir.mkdir(mode=0o700)
    for path, text in orders.files.items():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)


def _spec(model: Model, orders: LaunchSpec, plan: LaunchContext, context: WorkerContext) -> ChildSpec:
    logs = worker_log_files(context.config, model)
    withheld = context.withheld.union(OWN_ENVIRONMENT)
    inherited = {name: value for name, value in os.environ.items() if name not in withheld}
    env = _with_modules({**inherited, **orders.env, **model.env}, orders.modules)
    if not (kind := kind_of(model)).is_pretend:
        env = with_kernel_caches(env, context.config.daemon.cache_dir, kind.caches, model.env)
    return ChildSpec(
        name=file_name(model.name),
        argv=orders.argv,
        env=_past_proxies(env),
        cwd=model.cwd or plan.workdir,
        stdout=logs["stdout"],
        stderr=logs["stderr"],
        log_max_bytes=model.log_max_bytes,
        log_backups=model.log_backups,
        stop_timeout=model.stop_timeout,
        stop_signal=orders.stop_signal,
        stop_port=orders.stop_port,
        stop_command=tuple(word.replace(SERVER_PID, CHILD_PID) for word in orders.stop_command),
    )


def _with_modules(env: dict[str, str], folder: Path | None) -> dict[str, str]:
    """Return `env` with the folder before those where Python looks for modules by PYTHONPATH."""
    if folder is None:
        return env
    return {**env, "PYTHONPATH": os.pathsep.join(filter(None, (str(folder), env.get("PYTHONPATH"))))}


def _past_proxies(env: dict[str, str]) -> dict[str, str]:
    """Return `env` with loopback in no_proxy, where it names an HTTP proxy.

    An engine calls itself on loopback, for its own warm-up, and those calls must not go to the proxy.
    """
    if not any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") and env[name] for name in env):
        return env
    names = [name for value in (env.get("no_proxy", ""), env.get("NO_PROXY", "")) for name in value.split(",")]
    without = ",".join(
        dict.fromkeys(name.strip() for name in (*names, "127.0.0.1", "localhost", "::1") if name.strip())
    )
    return {**env, "no_proxy": without, "NO_PROXY": without}
